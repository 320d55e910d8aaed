"""`raters check`, `findings` and `overrule` on the command line."""

import json

import numpy as np

from command_line import run_command
from rlhf_hitl.store.judgments import judgment_to_row
from rlhf_hitl.store.tables import judgments
from rlhf_hitl.types import Answer, Route, Verdict, utc_now


def test_checks_are_run_listed_and_overruled(sqlite_store, sqlite_url, add_comparisons, add_raters):
    def run(*args):
        return json.loads(run_command("raters", *args, "--store", sqlite_url, "--json").stdout)["findings"]

    assert "Nothing new was found." in run_command("raters", "check", "--store", sqlite_url).stdout
    ids, rng, rows = add_raters(sqlite_store, 6), np.random.default_rng(0), []
    for comparison in add_comparisons(sqlite_store, 40):
        a, b = rng.permutation([c.id for c in comparison.completions]).tolist()
        for n, rater in enumerate(ids):
            shown = [a, b] if rng.random() < 0.5 else [b, a]
            better = shown[0] if n == 0 else a if rng.random() < 0.85 else b
            answer = Answer(Verdict.RANKED, ((better,), (b if better == a else a,)))
            columns = {"comparison_id": comparison.id, "rater_id": rater, "order_shown": shown, "source": ""}
            columns |= {"route": Route.HUMAN.value, "simulated": True, "idempotency_key": comparison.id}
            rows.append(judgment_to_row(answer, **columns, created_at=utc_now()))
    with sqlite_store.write() as conn:
        conn.execute(judgments.insert(), rows)
    found = run("check")
    assert {f["name"] for f in found} == {"rater 0"}
    assert "one_side" in {f["check"] for f in found}
    assert run("findings", "rater 0") == found
    listed = run_command("raters", "findings", "--store", sqlite_url).stdout.splitlines()
    column = next(line.index("why") for line in listed if "why" in line)
    assert any(line.startswith("Chose the answer shown", column) for line in listed), "sentences stand on the left"
    refused = run_command("raters", "overrule", "rater 1", "--because", "so", "--store", sqlite_url)
    assert refused.returncode == 2
    assert "against whom a finding stands" in refused.stderr
    overruled = run("overrule", "rater 0", "--because", "Reads Hebrew.")
    assert {f["overruled_because"] for f in overruled} == {"Reads Hebrew."}
    assert run("check") == []
