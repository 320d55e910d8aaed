"""Stores with rows in every table, and archives made by hand: what tests of archives share."""

from __future__ import annotations

import hashlib
import json
import zipfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from rlhf_hitl.formats import archive
from rlhf_hitl.store import Store, table_copy
from rlhf_hitl.store.db import list_schema_versions
from rlhf_hitl.store.tables import Utc, metadata
from rlhf_hitl.store.tokens import TokenKind
from rlhf_hitl.types import (
    Answer,
    Completion,
    Event,
    ImagePart,
    Message,
    OverlapRule,
    Prompt,
    Role,
    Route,
    Scope,
    Split,
    TextPart,
    TutorialExample,
    Verdict,
    make_content_id,
    messages_to_dicts,
    parse_messages,
    parse_tools,
)
from rlhf_hitl.types.images import read_image

TEXTS = ['a\n"b"\\\t\u2028', "Grüße, 世界 🙂", " B ", "", "Zebra", "éclair", "_x", "a-b", "x" * 100_000, "\x7f"]
VALUES = [{"b": 0.1, "a": [1, None, "é\u0000"]}, [], {}, ["\ud800"], {"deep": [[[{"z": -0.0}]]]}, [10**20, 1e-310]]
FLOATS = [0.1, -0.0, 1e-310, 1.7976931348623157e308, 3.0, float("inf")]
TIMES = [datetime(2026, 1, 2, 3, 4, 5, us, tzinfo=UTC) for us in (0, 1, 100_000, 999_999)]


def value(column: sa.Column[Any], i: int) -> Any:
    """Return the i-th value for a column that refers to nothing: awkward values in turn, all different."""
    if column.nullable and i % 5 == 3:
        return None
    match column.type:
        case sa.Boolean():
            return i % 2 == 1
        case sa.BigInteger():
            return 2**62 - i
        case sa.Integer():
            return 1 + i % 3 if column.name == "strength" else 3 * i + 5
        case sa.Float():
            return FLOATS[i % len(FLOATS)]
        case Utc():
            return TIMES[i % len(TIMES)] + timedelta(days=i)
        case sa.JSON():
            return VALUES[i % len(VALUES)]
    length = getattr(column.type, "length", None)
    return f"{TEXTS[i % len(TEXTS)][: length - 3 if length else None]}{i}"


def fill_every_table(store: Store, n: int = 12) -> None:
    """Insert rows in every table that is copied, each referring to existing rows."""
    rows = make_rows(n)
    with store.write() as conn:
        conn.execute(metadata.tables["secrets"].delete())
        for table in metadata.sorted_tables:
            if table.name in table_copy.TABLE_COLUMNS:
                conn.execute(table.insert(), rows[table.name])
    for image in (make_image(i) for i in range(n)):
        store.images.save(image)


@cache
def make_image(i: int) -> ImagePart:
    """Return the i-th of the images, each of another colour."""
    id, png = read_image(Image.new("RGB", (3, 2), (i, 0, 0)))
    return ImagePart(id, "a colour", png)


def make_rows(n: int) -> dict[str, list[dict[str, Any]]]:
    """Return n rows for every table: awkward values wherever the types of the domain allow them."""
    kept: dict[str, list[dict[str, Any]]] = {}
    for name, table in ((t.name, t) for t in metadata.sorted_tables if t.name in table_copy.TABLE_COLUMNS):
        kept[name] = []
        for i in range(n):
            row = {c.name: value(c, i) for c in table.columns}
            for key in table.foreign_keys:
                if row[key.parent.name] is not None:
                    row[key.parent.name] = kept[key.column.table.name][(i * 5) % n][key.column.name]
            kept[name].append(row | make_domain_values(name, i, n, kept))
    kept["golds"] = [gold for gold, comparison in zip(kept["golds"], kept["comparisons"]) if comparison["is_gold"]]
    return kept


def routing_seq(i: int) -> int:
    return 3 * i + 5


def make_domain_values(table: str, i: int, n: int, kept: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the columns of a row that have to make sense to the program."""
    text, route = f"{TEXTS[i % len(TEXTS)]}{i}", list(Route)[i % len(Route)].value
    match table:
        case "projects":
            filters = [["batch"], [], ["tags.é"]][i % 3]
            qualification = {"golds": 8, "pass_mark": 0.75} if i % 2 else None
            quality = {
                "gold_every": (0, 2, 7)[i % 3],
                "qualification": qualification,
                "overlap_rule": OverlapRule(1 + i % 5, 1000).to_plain(),
            }
            return {"id": f"project-{i}", "repeat_every": (0, 2, 7)[i % 3], "rater_filters": filters} | quality
        case "secrets":
            return {"name": "draws" if i == 0 else f"another {i}", "value": f"{i:064x}"}
        case "lanes":
            return {"project_id": f"project-{i}"}
        case "raters":
            languages = None if i % 5 == 3 else ["en", "pt-br"][: i % 3]
            quality = {"attributes": {text: text} if i % 2 else None, "vote_weight": (None, 0.1, 1.0)[i % 3]}
            role = list(Role)[i % len(Role)].value
            return {"role": role, "languages": languages, "quota": i + 1 if i % 2 else None} | quality
        case "prompts":
            shown = (TextPart("é\u2028"), make_image(i)) if i % 2 else "é\u2028"
            tools = parse_tools([{"name": text, "b": 1, "a": 2}]) if i % 3 == 1 else ()
            prompt = Prompt.create(
                (Message("user", text), Message("assistant", ""), Message("user", shown)), {}, None, tools
            )
            tags = {"language": "en", text[:30]: text[:50]}
            return {"id": prompt.id, "family": prompt.family, "split": list(Split)[i % 3].value, "tags": tags,
                    "messages": messages_to_dicts(prompt.messages),
                    "tools": [tool.to_plain() for tool in tools] or None}  # fmt: skip
        case "images":
            return {"id": make_image(i).id, "bytes": len(make_image(i).png or b"")}
        case "ratings":
            finite = [0.1, -0.0, 1e-310, 3.0]
            return {"value": finite[i % 4], "lowest": finite[i % 4] if i % 2 else None, "highest": None}
        case "completions":  # two of each prompt
            prompt_id = kept["prompts"][i // 2]["id"]
            visible = "".join(c for c in text[:20] if c.isprintable())
            calls = parse_messages(
                [{"role": "assistant", "tool_calls": [{"name": text, "arguments": {"z": 1, "a": "{"}}]}]
            )
            messages = (Message("assistant", text),) if i % 3 else calls
            made = Completion.create(prompt_id, messages, f"policy {visible}")
            more = {"messages": messages_to_dicts(made.messages), "sampling": {"deep": [[[{"z": 0.5}]]], "n": 10**20}}
            return {"id": made.id, "prompt_id": prompt_id, "policy": made.policy} | more
        case "comparisons":  # the same pair, in each project
            pair = sorted(c["id"] for c in kept["completions"][:2])
            lane = kept["lanes"][i]
            id = make_content_id("x", pair, {"project": lane["project_id"]})
            where = {"prompt_id": kept["prompts"][0]["id"], "lane_id": lane["id"], "repeat_of": None}
            where |= {"is_gold": i % 2 == 1}
            accepted = {"accepted_seq": routing_seq(i) if route == Route.AUTO else None}
            return {"id": id, "completion_ids": pair, "route": route} | where | accepted
        case "leases":
            comparison = kept["comparisons"][i]
            times = {"leased_at": TIMES[i % 4], "expires_at": TIMES[i % 4] + timedelta(minutes=i)}
            return {"comparison_id": comparison["id"], "order_shown": comparison["completion_ids"][::-1],
                    "route": route} | times  # fmt: skip
        case "judgments":
            comparison = kept["comparisons"][i]
            first, second = comparison["completion_ids"]
            rating: dict[str, Any] = {"verdict": "ranked", "ranking": [[first], [second]], "reason": None}
            if i % 3 == 1:
                rating = {"verdict": "flagged", "ranking": [], "strength": None, "reason": "unsafe"}
            elif i % 3 == 2:
                rating = {"verdict": "ranked", "ranking": [[second, first]], "strength": None, "reason": None}
            more = {"scores": {text[:20]: {first: 3}}, "active_seconds": (None, 0.1, 1e-310, 3.0)[i % 4]}
            more |= {"role": (None, "judge", "lead")[i % 3], "probabilities": [0.5, 0.25, 0.25] if i % 3 == 1 else None}
            return {"seq": i + 5, "comparison_id": comparison["id"], "order_shown": [second, first] if i % 2 else [],
                    "route": route, "supersedes": None} | rating | more  # fmt: skip
        case "places":
            judgment, lease = kept["judgments"][i], kept["leases"][i]
            comparison = kept["comparisons"][i]
            role = ("", "judge", "lead")[i % 3]
            filled = {"role": role, "judgment_id": judgment["id"] if i % 2 else None, "rater_id": lease["rater_id"]}
            return {"comparison_id": comparison["id"], "n": i, "lane_id": comparison["lane_id"],
                    "lease_id": lease["id"]} | filled  # fmt: skip
        case "golds":
            comparison = kept["comparisons"][i]
            first, second = comparison["completion_ids"]
            right = {"verdict": "ranked", "ranking": [[second], [first]], "purpose": ("hidden", "qualification")[i % 2]}
            return {"comparison_id": comparison["id"], "project_id": f"project-{i}"} | right
        case "slices":
            return {"filter": {"words": text[:400], "tag": [text]}}
        case "findings":
            numbers = {"statistic": FLOATS[i % 3], "p_value": None if i % 2 else 0.01, "false_alarm_rate": 0.01}
            return numbers | {"evidence": {text: i}, "action": ("none", "down_weighted", "paused")[i % 3]}
        case "out_of_fold":
            comparison = kept["comparisons"][i]
            first, second = comparison["completion_ids"]
            sides = {"comparison_id": comparison["id"], "first": first, "second": second}
            return sides | {"p_first": 0.5, "p_tie": 1e-310, "p_second": 0.5}
        case "judges":
            return {"kind": ("endpoint", "local")[i % 2], "settings": {text: i}, "budget": (None, 0.1)[i % 2]}
        case "judge_calls":
            comparison = kept["comparisons"][i]
            outcomes = ("answered", "refused", "unreadable", "failed", "timed_out")
            said = {"outcome": outcomes[i % 5], "probabilities": None if i % 5 else [0.0, 0.0, 1.0]}
            numbers = {"cost": 0.1, "seconds": 3.0, "order_shown": comparison["completion_ids"][::-1]}
            return {"comparison_id": comparison["id"]} | said | numbers
        case "guidelines":
            axes = [{"id": f"axis-{i}", "title": text, "description": ""}]
            words = {"scores": ("offered", "required", "off")[i % 3], "rationale": ("offered", "required")[i % 2]}
            return {"version": f"v{i}", "axes": axes, "reasoning": ("shown", "hidden")[i % 2]} | words
        case "examples":
            messages, sides = (Message("user", text),), [(Message("assistant", side),) for side in ("a", "b")]
            answer, project = Answer(Verdict.RANKED, (("1",), ("0",)), 2), f"project-{i}"
            made_example = TutorialExample.create(project, messages, sides, answer, text)
            return {"id": made_example.id, "project_id": project, "messages": messages_to_dicts(messages),
                    "completions": [messages_to_dicts(side) for side in sides], "verdict": "ranked",
                    "ranking": [[1], [0]], "strength": 2, "explanation": text}  # fmt: skip
        case "example_answers":
            return {"verdict": "all_bad", "ranking": [], "strength": None}
        case "scores":
            comparison = kept["comparisons"][i]
            chosen, rejected = comparison["completion_ids"]
            numbers = {"uncertainty": abs(FLOATS[i % len(FLOATS)]), "probability": i / n, "rewards": {chosen: 1e-310}}
            return {"comparison_id": comparison["id"], "chosen": chosen, "rejected": rejected} | numbers
        case "routings":
            return {
                "seq": routing_seq(i),
                "comparison_id": kept["comparisons"][i]["id"],
                "route": route,
                "proposed": route,
            }
        case "audits":
            outcome = {"number": i + 1, "outcome": ("right", "wrong", "tie")[i % 3], "decided_at": TIMES[i % 4]}
            undecided = {"number": None, "outcome": None, "decided_at": None}
            routing, bound = kept["routings"][i], {"max_error": 0.1, "delta": 1e-310}
            sides = {"seq": routing["seq"], "comparison_id": routing["comparison_id"]}
            return sides | bound | (outcome if i % 4 else undecided)
        case "automation":
            return {"project_id": f"project-{i}", "state": ("running", "paused", "stopped")[i % 3], "after_decision": i}
        case "promotions":
            tag = {"tag": text, "outcomes": 3, "win_rate": 0.1, "low": 0.0, "high": 0.5, "is_regression": i % 2 == 0}
            more = {"counts": {text[:30]: i}, "length_controlled": {"value": 0.5} if i % 2 else None, "tags": [tag]}
            decision = ("promote", "reject", "undecided")[i % 3]
            numbers = {"win_rate": None if i % 2 else 1e-310, "low": 0.1, "high": 1.0}
            numbers |= {"evidence_for": 1e-310, "evidence_against": 3.0}
            return {"settings": {text[:30]: [1, None, "é\u0000"]}, "decision": decision} | more | numbers
        case "promotion_draws":
            return {"n": i, "prediction": None if i % 2 else 1e-310}
        case "alerts":
            return {"figures": {text[:30]: 0.1}}
        case "tokens":
            kind = list(TokenKind)[i % 3]
            holder = {"rater_id": kept["raters"][i]["id"], "role": None}
            holder = {"rater_id": None, "role": "lead"} if kind is TokenKind.INVITE else holder
            return {"kind": kind.value, "scopes": [s.value for s in Scope][: i % 3]} | holder
        case "webhooks":
            return {"events": [e.value for e in Event][: 1 + i % 3]}
        case "deliveries":
            return {"event": list(Event)[i % len(Event)].value}
        case "policies":
            methods = ("base", "dpo", "ppo", "rloo", "grpo", "import", "endpoint")
            return {"method": methods[i % len(methods)], "settings_digest": f"{i:064x}" if i % 2 else ""}
        case "runs":
            outcome = (None, "finished", "failed", "interrupted")[i % 4]
            return {"seconds": abs(FLOATS[i % len(FLOATS)]), "outcome": outcome}
        case "audit" | "reward_models" | "steps":
            column = {"audit": "details", "reward_models": "figures", "steps": "result"}[table]
            return {column: {text[:30]: [1, None, "é\u0000", "\ud800", 1e-310]}} | (
                {"seconds": abs(FLOATS[i % len(FLOATS)])} if table == "steps" else {}
            )
    return {}


Tables = dict[str, list[list[Any]]]


def craft(path: Path, tables: Tables, **manifest: Any) -> Path:
    """Write an archive with the given rows and correct hashes, as somebody could who knows the format."""
    entries = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for table, columns in table_copy.TABLE_COLUMNS.items():
            text = "".join(json.dumps(line) + "\n" for line in [columns, *tables.get(table, [])])
            entries[table] = {"rows": text.count("\n") - 1, "sha256": hashlib.sha256(text.encode()).hexdigest()}
            z.writestr(f"{table}.ndjson", text)
        whole = {
            "kind": archive.KIND,
            "schema_version": list_schema_versions()[0],
            "tables": entries,
        } | manifest
        named = {make_image(i).id: make_image(i).png or b"" for i in range(12)}
        for id in {row[0] for row in tables.get("images", [])} & named.keys():
            z.writestr(f"{archive.IMAGES}{id}.png", named[id])
        z.writestr(archive.MANIFEST, json.dumps(whole))
    return path
