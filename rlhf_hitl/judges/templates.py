"""Prompt templates of judges: how two completions are put to a model, and how its answer is read.

A template is a YAML file: those of the package are in `configs/judges/`, others are given by path. Its version is a
hash of its content, and every call of a judge keeps it.

Completions are data. They stand between markers with a code that is a hash of all that is shown, so that no text can
hold it and close its own marker, and the template says that nothing between the markers is an instruction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.types import Comparison, Messages
from rlhf_hitl.types.messages import ImagePart, TextPart, Tools

Answered = Literal["first", "tie", "second"]
#: The order of probabilities, everywhere.
OUTCOMES: tuple[Answered, ...] = get_args(Answered)
MOST_TOKENS = 4000
_KEYS = ("about", "system", "question", "answers", "reads", "max_tokens")
_SHOWN = re.compile(r"{[{%].*?\b(prompt|first|second)\b.*?[}%]}", re.DOTALL)


@dataclass(frozen=True)
class Template:
    """A question about two completions.

    Attributes:
        system, question: Jinja templates with `prompt`, `first`, `second`, `guideline` and `code`.
        answers: letter → what it says.
        reads: a regular expression whose first group is the letter; the last match counts.
        rationale: what stands before the letter is kept as the judgment's rationale.
        max_tokens: of the answer.
    """

    name: str
    version: str
    about: str
    system: str
    question: str
    answers: Mapping[str, Answered]
    reads: str
    rationale: bool = False
    max_tokens: int = 5

    @cached_property
    def shows_guideline(self) -> bool:
        return "guideline" in self.system + self.question

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.reads)

    def find_letter(self, text: str) -> tuple[str, int] | None:
        """Return the letter that a text answers, and where in the text it stands; None where it names none."""
        found = list(self._pattern.finditer(text))
        if not found or (letter := found[-1].group(1).upper()) not in self.answers:
            return None
        return letter, found[-1].start(1)


@dataclass(frozen=True)
class Question:
    """One question to a judge: `content` is text, with the images that belong in its places."""

    template: Template
    system: str
    content: tuple[str | ImagePart, ...]

    @property
    def images(self) -> list[ImagePart]:
        return [part for part in self.content if isinstance(part, ImagePart)]

    @property
    def texts(self) -> list[str]:
        return [self.system, *(part for part in self.content if isinstance(part, str))]


def list_template_names() -> list[str]:
    """Return the names of the templates that come with the package."""
    folder = resources.files("rlhf_hitl.configs") / "judges"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_template(name: str) -> Template:
    """Load a template of the package by name, or a file by its path.

    Raises:
        NotFound: there is none.
        BadInput: the file is no template.
    """
    import yaml

    known = list_template_names()
    if name in known:
        text = (resources.files("rlhf_hitl.configs") / "judges" / f"{name}.yaml").read_text(encoding="utf-8")
    elif name.endswith((".yaml", ".yml")) and Path(name).is_file():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as e:
            raise BadInput(f"template {name}", expected="text in UTF-8", fix="save it as UTF-8") from e
    else:
        expected = f"one of {', '.join(known)}, or the path of a .yaml file"
        raise NotFound(f"template {name!r}", expected=expected, fix="check the name")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise BadInput(f"template {name}", expected="YAML", fix=f"correct it ({' '.join(str(e).split())[:200]})") from e
    return _make_template(name, values)


def _make_template(name: str, values: Any) -> Template:
    missing = [key for key in _KEYS if not isinstance(values, dict) or key not in values]
    unknown = sorted(map(str, values.keys() - {*_KEYS, "rationale"})) if isinstance(values, dict) else []
    if missing or unknown:
        wrong = f"without {', '.join(missing)}" if missing else f"with {', '.join(unknown)}"
        raise BadInput(f"template {name} {wrong}", expected=f"the keys {', '.join(_KEYS)}", fix="see configs/judges/")

    def refuse(key: str, expected: str) -> BadInput:
        return BadInput(f"template {name}: {key} = {str(values[key])[:60]!r}", expected=expected, fix="correct it")

    for key in ("about", "system", "question", "reads"):
        if not isinstance(values[key], str):
            raise refuse(key, "text")
    answers = values["answers"]
    if (
        not isinstance(answers, dict)
        or not all(isinstance(letter, str) and re.fullmatch("[A-Z0-9]", letter) for letter in answers)
        or not {"first", "second"} <= set(answers.values()) <= set(OUTCOMES)
        or len(set(answers.values())) < len(answers)
    ):
        raise refuse("answers", "a capital letter or digit for first, for second and, where it may be said, for tie")
    if set(_SHOWN.findall(values["question"])) != {"prompt", "first", "second"}:
        raise refuse("question", "{{ prompt }}, {{ first }} and {{ second }} in it")
    try:
        groups = re.compile(values["reads"]).groups
    except re.error as e:
        raise refuse("reads", f"a regular expression ({e})") from e
    if groups < 1:
        raise refuse("reads", "a regular expression with a group, which is the letter")
    most = values["max_tokens"]
    if type(most) is not int or not 1 <= most <= MOST_TOKENS:
        raise refuse("max_tokens", f"1 to {MOST_TOKENS}")
    version = hashlib.sha256(repr(sorted((k, str(v)) for k, v in values.items())).encode()).hexdigest()[:12]
    rationale = values.get("rationale", False) is True
    return Template(name, version, values["about"], values["system"], values["question"], answers, values["reads"],
                    rationale, most)  # fmt: skip


def ask_about(template: Template, comparison: Comparison, first: str, second: str, guideline: str = "") -> Question:
    """Return the question about two completions of a comparison, in the order in which they are shown.

    It shows what raters are shown and nothing else: no policy, no tag, no split and no reward.

    Args:
        comparison: as raters of its guideline see it (`keep_seen_of_comparison`).
        first, second: ids of two of its completions.
        guideline: the text that raters follow.

    Raises:
        BadInput: the template does not work.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    images: list[ImagePart] = []
    prompt, tools = comparison.prompt.messages, comparison.prompt.tools
    chats = [prompt, *(comparison.find_completion(i).messages for i in (first, second))]
    texts = [_write_chat(chat, images, tools if chat is prompt else ()) for chat in chats]
    code = _make_code([*texts, guideline])
    shown = dict(zip(("prompt", "first", "second"), (text.replace(_IMAGE, f"{_IMAGE}{code} ") for text in texts)))
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    try:
        system, question = (
            environment.from_string(source).render(**shown, guideline=guideline, code=code).strip()
            for source in (template.system, template.question)
        )
    except TemplateError as e:
        raise BadInput(f"template {template.name}", expected=f"a working template ({e})", fix="correct it") from e
    return Question(template, system, _place_images(question, images, code))


#: Marks the place of an image until the images are put in; a text that holds it is none of ours, for it lacks the code.
_IMAGE = "\x00image "


def _write_chat(messages: Messages, images: list[ImagePart], tools: Tools = ()) -> str:
    """Return messages as text. The role stands before each, but for a lone turn of a user or an assistant."""
    is_lone = len(messages) == 1 and messages[0].role in ("user", "assistant") and not messages[0].name
    parts = []
    for message in messages:
        said = [f"(reasoning) {message.reasoning_content}".replace("\x00", "")] if message.reasoning_content else []
        content = message.content if isinstance(message.content, tuple) else (TextPart(message.content or ""),)
        body = ""
        for part in content:
            if isinstance(part, ImagePart):
                images.append(part)
                body += _IMAGE
            else:
                body += part.text.replace("\x00", "")
        said += [body] if body else []
        said += [f"(calls a tool) {call.as_json}" for call in message.tool_calls]
        text = "\n".join(said)
        name = message.role + (f" {message.name}" if message.name else "")
        parts.append(text if is_lone else f"{name}: {text}")
    if tools:
        parts.append("(tools that the answer may call)\n" + "\n".join(tool.as_json for tool in tools))
    return "\n\n".join(parts)


def _make_code(texts: Sequence[str]) -> str:
    """Return a code that stands in none of the texts: the start of a hash of them, and longer where it must be."""
    digest = hashlib.sha256("\x00".join(texts).encode()).hexdigest()
    return next(digest[:n] for n in range(8, 65) if not any(digest[:n] in text for text in texts))


def _place_images(question: str, images: list[ImagePart], code: str) -> tuple[str | ImagePart, ...]:
    parts: list[str | ImagePart] = []
    pieces = question.split(f"{_IMAGE}{code} ")
    for n, piece in enumerate(pieces):
        last = n == len(pieces) - 1
        parts.append(piece if last else f"{piece}[image {n + 1}]")
        if not last:
            parts.append(images[n])
    return tuple(parts)
