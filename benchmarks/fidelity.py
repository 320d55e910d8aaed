"""Measure whether messages come through whole: from a file of each format to the page, the export and the tokens.

    python benchmarks/fidelity.py

Hostile texts (drawn by hypothesis, and those that the tests attack the pages with) become questions and answers in a
file of each format. The file is imported with `--skip-bad`; then every comparison of the store is looked at

- in the store: its question and answers are the ones that were written;
- on the page: the raw view of its card has every character of them, and of tools and tool calls;
- in an export of Parquet and of JSON lines: its rows hold the same messages, and an import of it gives the same ids;
- in an export for Argilla, Label Studio and reward-bench: an import of it gives the same texts;
- in tokens: what a tokenizer of bytes and a plain chat template make of it reads as the same text.

What is not there, or is another text, has to be named by the summary of the import: a row that is skipped, whose sides
are the same, or whose text a note says to be changed. Each such row is imported again by itself, so that what is named
of one row hides nothing of another. `unnamed` counts what is not, over all formats and steps; it has to be 0. `--quick`
takes a few texts of each.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from record import write_result

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.reward.rendering import Conversation, Renderer
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.export_query import read_ratings
from rlhf_hitl.types import Comparison, Completion, Prompt, Split, parse_messages, parse_tools
from rlhf_hitl.types.messages import list_images
from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.rating_cards import draw_card
from rlhf_hitl.visible import show_unseen

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from hostile_texts import HOSTILE

#: Tags, and the marks that the raw view puts in place of spaces at the end of a line.
_TAGS = re.compile(r"""<span class="blanks">.*?</span>|<[^>]*>""")
SEED = 0
LONGEST = 3000  # characters of one text
#: Pieces that formats, templates and pages give a meaning to.
PIECES = (
    "\n\nHuman: ", "\n\nAssistant: ", "<|im_end|>", "<|im_start|>user\n", "</s>", "[INST]", "<think>", "</think>",
    '[{"role": "user", "content": "x"}]', "[{'role': 'user', 'content': 'x'}]", "{{ messages }}", "{% raw %}", "\r\n",
    "\r", "\u2028", "\ufeff", "\u200b", "\u202e", '"', '""', "'", ",", ";", "\t", "\\n", "\\", "```", "$x$", "| a |",
    "null", "NaN", "true", "0", "-", " ", "\n", "<!-- -->", "&amp;", "__init__", "**",
    "👩‍👩‍👧", "e\u0301", "é", "<image>",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A question, with two answers, of which the first is better."""

    question: str
    answers: tuple[str, str]


Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=300, help="of each format")
    parser.add_argument("--formats", nargs="+", choices=sorted(WRITERS), default=sorted(WRITERS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n = 12 if args.quick else args.examples
    figures: dict[str, float | int | None] = {"formats": len(args.formats), "examples_each": n}
    total: Counter[str] = Counter()
    for name in args.formats:
        with tempfile.TemporaryDirectory() as folder:
            examples = draw_examples(n)
            if name in TRANSCRIPTS:
                examples = [Example(drop_turns(e.question), tuple(map(drop_turns, e.answers))) for e in examples]  # type: ignore[arg-type]
            if name in UNPAIRED:
                examples = [e for e in examples if len(set(e.answers)) == 2]
            found = measure(name, examples, Path(folder))
        for fault in found.faults[:3]:
            print(f"{name}: {fault}", file=sys.stderr)
        counts = {"unnamed": len(found.faults), "skipped": found.skipped, "whole": found.whole}
        figures |= {f"{name}.{key}": value for key, value in counts.items()}
        total.update(counts)
    figures |= dict(total)
    notes = "`unnamed` are texts that were lost or changed and that no summary names. Votes and texts are made up."
    write_result("fidelity", figures, seeds=[SEED], notes=notes, quick=args.quick)
    sys.exit(1 if total["unnamed"] else 0)


@dataclass
class Findings:
    faults: list[str]
    skipped: int = 0
    whole: int = 0


def draw_examples(n: int) -> list[Example]:
    """Return examples that all differ in their questions."""
    anything = st.text(st.characters(exclude_categories=()), max_size=60)
    pieces = st.lists(st.sampled_from(PIECES) | anything, min_size=1, max_size=6).map("".join)
    texts = pieces | st.sampled_from([text[:LONGEST] for text in HOSTILE.values()])
    drawn: list[Example] = []

    @settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=tuple(HealthCheck))  # type: ignore[arg-type]  # fmt: skip
    @given(texts, texts, texts)
    def draw(question: str, first: str, second: str) -> None:
        drawn.append(Example(f"{len(drawn)} {question}", (first, second)))

    draw()
    return drawn


def measure(name: str, examples: Sequence[Example], folder: Path) -> Findings:
    """Import the examples as a file of a format, and follow each through the product."""
    path = WRITERS[name](examples, folder)
    with Store.open(f"sqlite:///{folder}/store.db", create=True) as store:
        try:
            report = import_path(store, path, skip_bad=True)
        except BadInput:  # no row can be used: each has to be named
            return compare_with_store(examples, [], "auto", name, folder)
        comparisons = list(find_comparisons(store))
        if name in UNPAIRED:
            comparisons = list(compare_rated(store))
        findings = compare_with_store(examples, comparisons, report.format, name, folder)
        findings.faults += compare_with_page(comparisons)
        if name not in UNPAIRED:
            findings.faults += compare_with_exports(store, comparisons, folder)
            findings.faults += compare_with_second_import(comparisons, folder)
            findings.faults += compare_with_exports_elsewhere(store, comparisons, folder)
        findings.faults += compare_with_tokens(comparisons)
    return findings


def compare_with_store(
    examples: Sequence[Example], comparisons: Sequence[Comparison], format: str, name: str, folder: Path
) -> Findings:
    stored = {
        (c.prompt.messages[-1].text, frozenset(a.messages[-1].text for a in c.completions)): c for c in comparisons
    }
    missing = [e for e in examples if (e.question, frozenset(e.answers)) not in stored]
    findings, changed = Findings([], len(missing), len(examples) - len(missing)), 0
    with Store.open(f"sqlite:///{folder}/alone.db", create=True) as store:
        for example in missing:
            named = name_loss(example, format, name, folder / "alone", store)
            changed += named == "changed"
            if not named:
                wanted = f"{example.question[:60]!r} → {[a[:60] for a in example.answers]!r}"
                findings.faults.append(f"written {wanted}, not in the store, and not named")
    written = {(e.question, frozenset(e.answers)) for e in examples}
    others = [key for key in stored if key not in written]
    if len(others) > changed:
        findings.faults += [f"in the store and not written: {key!r:.200}" for key in others]
    return findings


def name_loss(example: Example, format: str, name: str, folder: Path, store: Store) -> str:
    """Return what an import of one example says of it: "left out", "changed", or nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = WRITERS[name]([example], folder)
    try:
        report = import_path(store, path, format=format, skip_bad=True)
    except BadInput:  # an import of nothing is refused, and the error says why
        return "left out"
    if report.bad_lines or report.identical_sides:
        return "left out"
    return "changed" if any(words in note for note in report.noted for words in TEXT_CHANGES) else ""


def compare_rated(store: Store) -> Iterator[Comparison]:
    """Yield the prompts of a store with the completions that were rated one by one, as comparisons."""
    rated: dict[str, tuple[Prompt, dict[str, Completion]]] = {}
    for split in Split:
        for row in (row for rows in read_ratings(store, split=split) for row in rows):
            prompt = Prompt.create(parse_messages(row["prompt"]))
            completion = Completion.create(prompt.id, parse_messages(row["completion"]), row["policy"])
            rated.setdefault(prompt.id, (prompt, {}))[1][completion.id] = completion
    for prompt, completions in rated.values():
        if len(completions) == 2:
            yield Comparison.create(prompt, list(completions.values()))


def compare_with_page(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield the texts that cannot be read on the card, in its raw view where it has one."""
    for c in comparisons:
        chats = [a.messages for a in c.completions]
        card = draw_card("c", "rate", c.prompt.messages, chats, lambda id: f"/images/{id}", tools=c.prompt.tools)
        drawn = [card["prompt"], *(answer["html"] for answer in card["answers"])]
        for chat, html in zip([c.prompt.messages, *chats], drawn):
            shown = unescape(_TAGS.sub("", html.replace("<br>", "\n")))
            texts = [t for m in chat for t in (m.text, m.reasoning_content)]
            for call in (call for m in chat for call in m.tool_calls):
                # Its name and its arguments are within the call as it is written.
                texts += [call.as_json, json.dumps(call.arguments, ensure_ascii=False), call.name]
            if chat is c.prompt.messages:
                texts += [tool.as_json for tool in c.prompt.tools]
            for text in texts:
                raw = show_unseen(text[: markdown.SHOWN_LIMIT])
                if "".join(raw.split()) not in "".join(shown.split()):
                    yield f"on the page {raw[:80]!r} is {shown[:120]!r}"


def compare_with_exports(store: Store, comparisons: Sequence[Comparison], folder: Path) -> Iterator[str]:
    from datasets import disable_progress_bars, load_dataset

    if not any(c for c in comparisons if len(c.completions) == 2):
        return
    disable_progress_bars()
    wanted = {c.id: (c.prompt.messages, {a.messages for a in c.completions}, c.prompt.tools) for c in comparisons}
    export_snapshot(store, folder / "parquet")
    export_snapshot(store, folder / "jsonl", format="jsonl")
    parquet: Any = load_dataset(str(folder / "parquet"), cache_dir=str(folder / "cache"))
    lines = [json.loads(t) for p in (folder / "jsonl").glob("*.jsonl") for t in p.read_text().split("\n") if t]
    for kind, rows in (("parquet", [row for split in parquet.values() for row in split]), ("jsonl", lines)):
        ids = [row["comparison_id"] for row in rows]
        if set(ids) != set(wanted):
            yield f"{kind}: {len(set(wanted) - set(ids))} comparisons are missing"
        for row in rows:
            images = iter(row.get("images") or ())  # in the order of their places
            question, *sides = (parse_messages(fill_places(row[name], images)) for name in ("prompt", *SIDES))
            if (question, set(sides), parse_tools(row.get("tools"))) != wanted[row["comparison_id"]]:
                yield f"{kind}: {row['comparison_id']} has other messages"


def compare_with_second_import(comparisons: Sequence[Comparison], folder: Path) -> Iterator[str]:
    """Yield what is not the same in a store that an export fills: ids are hashes of all that is in messages."""
    for kind in ("parquet", "jsonl"):
        if not (folder / kind).exists():
            continue
        with Store.open(f"sqlite:///{folder}/{kind}.db", create=True) as second:
            import_path(second, folder / kind)
            ids = {c.id for c in find_comparisons(second)}
        if lost := {c.id for c in comparisons} ^ ids:
            yield f"{kind}: {len(lost)} comparisons are others after an import of the export"


def compare_with_exports_elsewhere(store: Store, comparisons: Sequence[Comparison], folder: Path) -> Iterator[str]:
    """Yield what an import of the export for another tool does not give back, of what the tool can hold."""
    plain = [c for c in comparisons if is_of_texts(c)]
    wanted = {(c.prompt.messages, frozenset(a.messages for a in c.completions)) for c in plain}
    for kind in ("argilla", "label_studio", "rewardbench") if wanted else ():
        manifest = export_snapshot(store, folder / kind, format=kind, include_ties=True)
        left_out = sum(
            n for why, n in manifest["filters"].items() if "more than texts" in why or "does not know" in why
        )
        if left_out != len(comparisons) - len(plain):
            yield f"{kind}: {left_out} comparisons are counted as left out, of {len(comparisons) - len(plain)}"
        with Store.open(f"sqlite:///{folder}/{kind}.db", create=True) as again:
            for place in sorted((folder / kind).glob("*_answers")) if kind == "argilla" else [folder / kind]:
                import_path(again, place, skip_bad=True)
            found = {(c.prompt.messages, frozenset(a.messages for a in c.completions)) for c in find_comparisons(again)}
        for prompt, sides in list(wanted - found)[:3]:
            yield f"{kind}: {[m.text[:60] for m in prompt]} → {[s[0].text[:60] for s in sides]} does not come back"
        yield from (f"{kind}: another comparison is not of these" for _ in list(wanted - found)[3:])


def is_of_texts(comparison: Comparison) -> bool:
    sides = [a.messages for a in comparison.completions]
    plain = all(m.is_plain for chat in (comparison.prompt.messages, *sides) for m in chat)
    return plain and all(len(side) == 1 for side in sides) and not comparison.prompt.tools


def fill_places(chat: list[Row], images: Iterator[Any]) -> list[Row]:
    """Return a chat with the images of a column in the places that it has for them."""
    return [
        m | {"content": [{**p, "image": next(images)} if p == {"type": "image"} else p for p in m["content"]]}
        if isinstance(m["content"], list)
        else m
        for m in chat
    ]


def compare_with_tokens(comparisons: Sequence[Comparison]) -> Iterator[str]:
    renderer = Renderer(make_tokenizer(), max_length=10**6)
    for c in comparisons:
        for completion in c.completions:
            if completion.is_empty or any(list_images(c.prompt.messages, completion.messages)):
                continue  # refused by name: it has nothing to be scored, or images, which these tokens cannot be
            rendered = renderer.render(Conversation(c.prompt.messages, completion.messages))
            text = renderer.tokenizer.decode(rendered.ids, clean_up_tokenization_spaces=False)
            for message in (*c.prompt.messages, *completion.messages):
                for part in (message.text, message.reasoning_content, *(call.as_json for call in message.tool_calls)):
                    if part.strip() not in text:
                        yield f"in tokens {part[:60]!r} is missing"


def make_tokenizer() -> Any:
    """Return a tokenizer of bytes with a template that writes each message as it is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0, "<pad>": 1} | {letter: i + 2 for i, letter in enumerate(alphabet)}
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content }}{{ m.content }}"
        "{% for call in m.tool_calls %}{{ call | tojson }}{% endfor %}\n{% endfor %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", chat_template=template
    )  # fmt: skip


# One writer for each format: examples → a file.


def write_lines(make_row: Callable[[int, Example], Row | list[Row]]) -> Callable[[Sequence[Example], Path], Path]:
    def write(examples: Sequence[Example], folder: Path) -> Path:
        made = [make_row(i, e) for i, e in enumerate(examples)]
        rows = [row for item in made for row in (item if isinstance(item, list) else [item])]
        path = folder / "file.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def drop_turns(text: str) -> str:
    """Return a text without what begins a turn of a transcript, which no message of one can hold."""
    return text.replace("Human:", "Human").replace("Assistant:", "Assistant")


def write_table(delimiter: str, suffix: str) -> Callable[[Sequence[Example], Path], Path]:
    def write(examples: Sequence[Example], folder: Path) -> Path:
        path = folder / f"file.{suffix}"
        with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as f:
            writer = csv.writer(f, delimiter=delimiter)
            writer.writerow(["prompt", "chosen", "rejected"])
            writer.writerows([e.question, *e.answers] for e in examples)
        return path

    return write


def write_parquet(examples: Sequence[Example], folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet

    rows = [{"prompt": e.question, "chosen": e.answers[0], "rejected": e.answers[1]} for e in examples]
    kept = [row for row in rows if _is_utf8("".join(row.values()))]  # Arrow holds no other text
    pyarrow.parquet.write_table(pa.Table.from_pylist(kept), folder / "file.parquet")
    return folder / "file.parquet"


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def write_json(examples: Sequence[Example], folder: Path) -> Path:
    rows = [{"prompt": e.question, "chosen": e.answers[0], "rejected": e.answers[1]} for e in examples]
    (folder / "file.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "file.json"


def say(role: str, text: Any, **more: Any) -> Row:
    return {"role": role, "content": text, **more}


def chat(question: str, answer: str) -> list[Row]:
    return [say("user", question), say("assistant", answer)]


def parts(text: str) -> list[Row]:
    return [{"type": "text", "text": text}, {"type": "text", "text": ""}]


PIXEL = io.BytesIO()
Image.new("RGB", (2, 2)).save(PIXEL, "PNG")
PICTURE = {"type": "image", "image": "data:image/png;base64," + base64.b64encode(PIXEL.getvalue()).decode()}


def call(text: str) -> list[Row]:
    return [{"id": text[:20], "type": "function", "function": {"name": "f", "arguments": {"z": text, "a": [text]}}}]


def rich(text: str) -> list[Row]:
    """Return an answer that thinks, calls a tool, and says the text in parts."""
    turns = [say("assistant", None, tool_calls=call(text)), say("tool", text, tool_call_id=text[:20] or "c", name="f")]
    return [*turns, say("assistant", parts(text), reasoning_content=text or "hm")]


def oasst(i: int, e: Example) -> Row:
    def node(id: str, role: str, text: str, **more: Any) -> Row:
        return {"message_id": id, "text": text, "role": role, "lang": "en", "replies": [], "deleted": False, **more}

    replies = [node(f"{i}-{n}", "assistant", t, parent_id=f"{i}", rank=n) for n, t in enumerate(e.answers)]
    root = node(f"{i}", "prompter", e.question, parent_id=None)
    return {"message_tree_id": f"{i}", "tree_state": "ready_for_export", "prompt": root | {"replies": replies}}


def write_argilla(examples: Sequence[Example], folder: Path) -> Path:
    """Write records as `dataset.records.to_json` does."""
    ranks = [{"value": "response1", "rank": 1}, {"value": "response2", "rank": 2}]
    rows = [
        {
            "id": str(i), "metadata": {}, "suggestions": {}, "vectors": {}, "status": "completed",
            "fields": {"prompt": e.question, "response1": e.answers[0], "response2": e.answers[1]},
            "responses": {"ranking": [{"value": ranks, "user_id": "u", "status": "submitted"}]},
        }
        for i, e in enumerate(examples)
    ]  # fmt: skip
    (folder / "records.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "records.json"


def write_label_studio(examples: Sequence[Example], folder: Path) -> Path:
    """Write tasks as Label Studio's JSON export has them."""
    result = {"from_name": "pair", "to_name": "a", "type": "pairwise", "value": {"selected": "left"}}
    rows = [
        {
            "id": i, "data": {"prompt": e.question, "answer1": e.answers[0], "answer2": e.answers[1]},
            "annotations": [{"id": i, "completed_by": {"email": "ann@example.org"}, "result": [result]}],
        }
        for i, e in enumerate(examples)
    ]  # fmt: skip
    (folder / "tasks.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "tasks.json"


WRITERS: dict[str, Callable[[Sequence[Example], Path], Path]] = {
    "native": write_lines(lambda i, e: {
        "messages": [say("user", e.question)], "votes": [{"rater": "ann", "ranking": [[0], [1]]}],
        "completions": [{"messages": [say("assistant", a)], "policy": p} for a, p in zip(e.answers, "pq")]}),
    "native_rich": write_lines(lambda i, e: {
        "messages": [say("user", [*parts(e.question), PICTURE])], "tools": [{"name": "f", "parameters": {"z": 1}}],
        "votes": [{"rater": "ann", "ranking": [[0], [1]]}],
        "completions": [{"messages": rich(a), "policy": p} for a, p in zip(e.answers, "pq")]}),
    "kwise": write_lines(lambda i, e: {
        "prompt": e.question, "completions": list(e.answers), "ranking": [[0], [1]], "rater": "ann"}),
    "trl_text": write_lines(lambda i, e: {"prompt": e.question, "chosen": e.answers[0], "rejected": e.answers[1]}),
    "trl_messages": write_lines(lambda i, e: {
        "prompt": [say("user", e.question)], **{s: [say("assistant", a)] for s, a in zip(SIDES, e.answers)}}),
    "trl_whole": write_lines(lambda i, e: {s: chat(e.question, a) for s, a in zip(SIDES, e.answers)}),
    "trl_rich": write_lines(lambda i, e: {
        "prompt": [say("user", e.question)], **{s: rich(a) for s, a in zip(SIDES, e.answers)}}),
    "question_column": write_lines(lambda i, e: {
        "system": "Be brief.", "question": e.question, "chosen": e.answers[0], "rejected": e.answers[1]}),
    "messages_as_text": write_lines(lambda i, e: {
        s: json.dumps(chat(e.question, a)) for s, a in zip(SIDES, e.answers)}),
    "csv": write_table(",", "csv"),
    "tsv": write_table("\t", "tsv"),
    "semicolons": write_table(";", "csv"),
    "json": write_json,
    "parquet": write_parquet,
    "hh": write_lines(lambda i, e: {
        s: f"\n\nHuman: {e.question}\n\nAssistant: {a}" for s, a in zip(SIDES, e.answers)}),
    "llmfao": write_lines(lambda i, e: {
        "text": e.question, "prompt": str(i), "model_x": "1", "model_y": "2", "result_x": e.answers[0],
        "result_y": e.answers[1], "golden": "left"}),
    "llmbar": write_lines(lambda i, e: {
        "input": e.question, "output_1": e.answers[0], "output_2": e.answers[1], "label": 1}),
    "mt_bench": write_lines(lambda i, e: {
        "question_id": i, "model_a": "m1", "model_b": "m2", "judge": "ann", "turn": 1, "winner": "model_a",
        "conversation_a": chat(e.question, e.answers[0]), "conversation_b": chat(e.question, e.answers[1])}),
    "rewardbench": write_lines(lambda i, e: {
        "prompt": e.question, "chosen": e.answers[0], "chosen_model": "m", "rejected": e.answers[1],
        "rejected_model": "n", "subset": "s", "id": i}),
    "arena": write_lines(lambda i, e: {
        "id": str(i), "model_a": "m1", "model_b": "m2", "winner": "model_a", "evaluation_session_id": "s",
        "evaluation_order": 1, "language": "en", "timestamp": "2025-05-29T14:48:41",
        "conversation_a": chat(e.question, e.answers[0]), "conversation_b": chat(e.question, e.answers[1])}),
    "arena55k": write_lines(lambda i, e: {
        "id": i, "model_a": "m1", "model_b": "m2", "prompt": json.dumps([e.question]),
        "response_a": json.dumps([e.answers[0]]), "response_b": json.dumps([e.answers[1]]),
        "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}),
    "several_votes": write_lines(lambda i, e: {
        "instruction": e.question, "input": "", "response1": e.answers[0], "response2": e.answers[1],
        "annotator1": 1, "annotator2": 1, "annotator3": 2}),
    "sharegpt": write_lines(lambda i, e: {
        "conversations": [{"from": "human", "value": e.question}],
        **{s: {"from": "gpt", "value": a} for s, a in zip(SIDES, e.answers)}}),
    "alpaca": write_lines(lambda i, e: {"instruction": e.question, "input": "", "output": list(e.answers)}),
    "nectar": write_lines(lambda i, e: {
        "prompt": f"\n\nHuman: {e.question}\n\nAssistant: ", "turns": 1, "num_responses": 2, "source": ["x"],
        "good_natured": True,
        "answers": [{"answer": a, "model": "m", "rank": r} for r, a in enumerate(e.answers, 1)]}),
    "shp": write_lines(lambda i, e: {
        "post_id": str(i), "domain": "askx_train", "history": e.question, "human_ref_A": e.answers[0],
        "human_ref_B": e.answers[1], "labels": 1, "score_A": 5, "score_B": 3, "upvote_ratio": 0.9,
        "c_root_id_A": "a", "c_root_id_B": "b", "created_at_utc_A": 1600000000, "created_at_utc_B": 1600000001,
        "seconds_difference": 1.0, "score_ratio": 1.7}),
    "oasst": write_lines(oasst),
    "helpsteer2": write_lines(lambda i, e: {
        "prompt": e.question, "response_1": e.answers[0], "response_2": e.answers[1], "preference_strength": -2,
        "all_preferences_unprocessed": [{"strength": -2, "justification_for_preference": "better"}]}),
    "helpsteer3": write_lines(lambda i, e: {
        "context": [say("user", e.question)], "response1": e.answers[0], "response2": e.answers[1],
        "overall_preference": -2, "individual_preference": [{"score": -2, "reasoning": "better"}]}),
    "ultrafeedback": write_lines(lambda i, e: {
        "source": "x", "instruction": e.question, "models": ["m", "n"], "completions": [
            {"model": m, "response": a, "overall_score": s, "annotations": {}}
            for m, a, s in zip("mn", e.answers, (8.0, 3.0))]}),
    "ultrafeedback_binarized": write_lines(lambda i, e: {
        "prompt": e.question, "prompt_id": str(i), "chosen": chat(e.question, e.answers[0]),
        "rejected": chat(e.question, e.answers[1]), "messages": chat(e.question, e.answers[0]), "score_chosen": 8.0,
        "score_rejected": 3.0}),
    "kto": write_lines(lambda i, e: [
        {"prompt": e.question, "completion": a, "label": label} for a, label in zip(e.answers, (True, False))]),
    "argilla": write_argilla,
    "label_studio": write_label_studio,
}  # fmt: skip
SIDES = ("chosen", "rejected")
#: Formats of transcripts: "\n\nHuman:" begins a turn.
TRANSCRIPTS = ("hh", "nectar")
#: Formats that compare nothing: each answer is rated by itself.
UNPAIRED = ("kto",)
#: What is said of a text that is read otherwise than it is written.
TEXT_CHANGES = ("read as empty", "prompts taken from")

if __name__ == "__main__":
    main()
