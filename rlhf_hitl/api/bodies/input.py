"""Bodies of the scope `input`: prompts, completions, comparisons, imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from rlhf_hitl.api.bodies.fields import MAX_COMPLETIONS, MAX_ITEMS, Body, Id, JsonValues, Name, Overlap, Tags
from rlhf_hitl.api.bodies.messages import Chat, MessageOut, ToolsField
from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import DEFAULT_PROJECT, Comparison, Completion, Prompt, Route, Split, messages_to_dicts
from rlhf_hitl.types.names import check_label
from rlhf_hitl.visible import UNSEEN_RANGE


class PromptBody(Body):
    messages: Chat
    tools: ToolsField = Field(default_factory=list)
    tags: Tags = Field(default_factory=dict, examples=[{"language": "en"}])
    split: Split | None = Field(None, description="If left out, a hash of the opening turn decides it.")


class PromptsBody(Body):
    prompts: list[PromptBody] = Field(min_length=1, max_length=MAX_ITEMS)


class CompletionBody(Body):
    prompt_id: Id
    messages: Chat
    policy: Annotated[str, StringConstraints(pattern=f"^[^{UNSEEN_RANGE}]+$", max_length=500)] = Field(
        examples=["sft-3"]
    )
    sampling: JsonValues = Field(default_factory=dict, examples=[{"temperature": 0.7}])


class CompletionsBody(Body):
    completions: list[CompletionBody] = Field(min_length=1, max_length=MAX_ITEMS)


class ComparisonBody(Body):
    prompt_id: Id
    completion_ids: list[Id] = Field(min_length=2, max_length=MAX_COMPLETIONS)
    overlap: Overlap = 1
    route: Route = Route.HUMAN

    def to_comparison(
        self, prompts: Mapping[str, Prompt], completions: Mapping[str, Completion], project: str, batch: str
    ) -> Comparison:
        """Return the comparison that this body describes.

        Raises:
            BadInput: a completion belongs to another prompt, or two are the same.
        """
        prompt, compared = prompts[self.prompt_id], [completions[i] for i in self.completion_ids]
        for completion in compared:
            if completion.prompt_id != prompt.id:
                raise BadInput(
                    f"completion {completion.id}", expected=f"one of prompt {prompt.id}", fix="correct the ids"
                )
        return Comparison.create(prompt, compared, self.overlap, self.route, project, check_label("batch", batch))


class ComparisonsBody(Body):
    comparisons: list[ComparisonBody] = Field(min_length=1, max_length=MAX_ITEMS)
    project: Id = DEFAULT_PROJECT
    batch: Name = ""


class Added(BaseModel):
    """The ids in the order sent, and how many of them are new to the store."""

    ids: list[str]
    new: int


class Imported(BaseModel):
    """How much an import added, and how many rows it read."""

    prompts: int
    completions: int
    comparisons: int
    judgments: int
    ratings: int
    images: int
    raters: int
    rows: int
    repeated_rows: int = Field(description="Rows that added nothing new.")
    repeated_votes: int = Field(description="A rater's second, different vote on a comparison; the first is kept.")
    identical_sides: int = Field(description="Comparisons of fewer than two different completions; they are left out.")
    splits_kept: int = Field(description="Prompt families that were in another split already and stayed in it.")
    bad_lines: int = Field(description="Lines that were left out; 0, since a bad line refuses a file that is sent.")
    unread: dict[str, int] = Field(description="Columns and keys of messages that are not read, with their number.")
    noted: dict[str, int] = Field(description="What was decided, with its number: a rating contradicts the choice.")


class CompletionOut(BaseModel):
    id: str
    policy: str
    messages: list[MessageOut]
    sampling: dict[str, Any]


class ComparisonOut(BaseModel):
    id: str
    project: str
    batch: str
    prompt_id: str
    split: Split
    tags: dict[str, str]
    prompt: list[MessageOut]
    tools: list[dict[str, Any]]
    completions: list[CompletionOut]
    overlap: int
    route: Route


class ComparisonPage(BaseModel):
    items: list[ComparisonOut]
    next: str | None = Field(description="Send this as `after` to get the next page; null at the end.")


def comparison_to_json(c: Comparison) -> dict[str, Any]:
    """Return the fields of `ComparisonOut`."""
    return {
        "id": c.id,
        "project": c.project,
        "batch": c.batch,
        "prompt_id": c.prompt.id,
        "split": c.prompt.split,
        "tags": dict(c.prompt.tags),
        "prompt": messages_to_dicts(c.prompt.messages),
        "tools": [tool.to_plain() for tool in c.prompt.tools],
        "completions": [
            {"id": a.id, "policy": a.policy, "messages": messages_to_dicts(a.messages), "sampling": dict(a.sampling)}
            for a in c.completions
        ],
        "overlap": c.overlap,
        "route": c.route,
    }
