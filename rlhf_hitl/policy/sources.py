"""Where completions come from: a model on this machine, an endpoint, or a file of completions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.completing import Drawer
from rlhf_hitl.policy.completion_files import CompletionFile
from rlhf_hitl.policy.draws import DrawJournal
from rlhf_hitl.policy.endpoint_settings import EndpointSettings
from rlhf_hitl.policy.sampling import BATCH_TOKENS, GenerationBackend, Sampling
from rlhf_hitl.store.policies import PolicyMethod
from rlhf_hitl.types import Prompt
from rlhf_hitl.types.names import check_label, make_name_key


@dataclass(frozen=True)
class DrawnPolicy:
    """A policy whose answers are drawn.

    Attributes:
        identity: what tells its draws from those of another one, or of the same name after it has changed.
        place: a folder on this machine, a hub id, or an endpoint's address.
        folder: with its weights; None where they are elsewhere.
        open: returns its drawer; `keep_all` as of `complete_prompts`.
    """

    name: str
    identity: str
    place: str
    folder: Path | None
    open: Callable[[Sequence[Sampling], DrawJournal, bool], Drawer]

    @property
    def method(self) -> PolicyMethod:
        """How it came to raters, for all that is known without a record of its training."""
        return PolicyMethod.ENDPOINT if self.folder is None else PolicyMethod.BASE

    @property
    def policies(self) -> tuple[str, ...]:
        return (self.name,)

    def may_answer(self, prompt: Prompt) -> bool:
        """Return whether it can be asked: anything, unlike a file."""
        return True

    def name_journal(self, samplings: Sequence[Sampling]) -> str:
        """Return the name of the journal of its draws, which do not depend on how many there are of each prompt."""
        how = sorted({(s.temperature, s.top_p, s.max_new_tokens, s.seed, s.stop) for s in samplings})
        return hashlib.sha256(repr((self.identity, how)).encode()).hexdigest()[:16]


PolicySource = DrawnPolicy | CompletionFile


def find_policy(
    policy: str,
    *,
    backend: GenerationBackend = "transformers",
    batch_tokens: int = BATCH_TOKENS,
    batch_size: int | None = None,
) -> PolicySource:
    """Return a policy by what it is called: a model folder, with an adapter or whole, a hub id, a short name, or a file
    of completions. Loads no model.

    Raises:
        BadInput: there is none, or the file cannot be read.
    """
    if is_completion_file(policy):
        return CompletionFile(Path(policy).expanduser())
    from rlhf_hitl.models import get_display_name, locate_model_folder

    def open(samplings: Sequence[Sampling], _journal: DrawJournal, _keep_all: bool) -> Drawer:
        from rlhf_hitl.policy.model_drawer import open_model

        return open_model(policy, samplings, backend=backend, batch_tokens=batch_tokens, batch_size=batch_size)

    folder = locate_model_folder(policy)
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()]
    identity = repr((str(folder.resolve()), files, backend))
    given = Path(policy).expanduser()
    place = str(given.resolve()) if given.is_dir() else policy
    return DrawnPolicy(check_label("policy", get_display_name(policy)), identity, place, folder, open)


def find_endpoint(settings: EndpointSettings) -> DrawnPolicy:
    """Return a model behind an endpoint as a policy. Asks nothing yet."""

    def open(_: Sequence[Sampling], journal: DrawJournal, keep_all: bool) -> Drawer:
        from rlhf_hitl.policy.endpoint_drawer import EndpointDrawer

        return EndpointDrawer(settings, journal, takes_silence=keep_all)

    identity = repr((settings.address, settings.model))
    return DrawnPolicy(check_label("policy", settings.name), identity, settings.address, None, open)


def is_completion_file(policy: str) -> bool:
    return policy.endswith((".jsonl", ".ndjson")) and not Path(policy).expanduser().is_dir()


def check_names(sources: Sequence[PolicySource]) -> None:
    """Check that no two policies have one name: raters' judgments could not be told apart.

    Raises:
        BadInput: a name is given twice.
    """
    seen: dict[str, str] = {}
    for name in (name for source in sources for name in source.policies):
        if (other := seen.get(make_name_key(name))) is not None:
            raise BadInput(
                f"policy {name!r}" + ("" if name == other else f" and {other!r}"),
                expected="each policy once, and names that differ",
                fix="leave one out, or rename its folder: a policy is called by its folder, hub id, model or file",
            )
        seen[make_name_key(name)] = name
