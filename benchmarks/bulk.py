"""Measure the memory and the judgments a second of importing and exporting a million judgments.

    python benchmarks/bulk.py

A file of simulated votes on a quarter of a million comparisons, four raters each, is imported into a new store, on
SQLite and then on PostgreSQL. The store is exported as an archive, as JSON lines and as a dataset; the archive fills
another store, which has to give the same archive again. Every step is a process of its own; its start counts too.
`--quick` does it with 2,000 judgments.

Figures without a prefix are the archive's on SQLite; `jsonl.` and `trl.` are the other formats', `postgres.` the other
database's. `peak_mb` is the most any of the processes had in memory at once.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from record import write_result
from servers import start_postgres

SEED = 0
RATERS = 200
VOTES = 4  # on each comparison
VOCABULARY = """
the a of to and in is it for on with as by at from that this be are was or an if not you can will one use more when how
water people city number answer question example list step model sea sun year first second because however therefore
please explain short longer better worse true false maybe always never often simple plain clear exact
"""
WORDS = VOCABULARY.split()
MODELS = ("small", "large", "tuned", "base")
WINNERS = ("model_a", "model_b", "tie", "tie (bothbad)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=250_000)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgres"], default=["sqlite", "postgres"])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    comparisons = 500 if args.quick else args.comparisons
    figures: dict[str, float | int | None] = {"judgments": comparisons * VOTES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "votes.jsonl").open("w") as f:
            f.writelines(generate_votes(comparisons))
        figures["votes_file_mb"] = (folder / "votes.jsonl").stat().st_size / 1e6
        for database in args.databases:
            prefix = "" if database == "sqlite" else f"{database}."
            with name_new_stores(database, folder) as (first, second):
                measured = import_and_export(
                    first, second, folder / "votes.jsonl", folder / database, comparisons * VOTES
                )
            figures |= {prefix + key: value for key, value in measured.items()}
    figures["peak_mb"] = max(v for k, v in figures.items() if k.endswith("peak_mb") and v is not None)
    notes = f"All judgments are simulated: {VOTES} raters on each of {comparisons} comparisons."
    write_result("bulk", figures, seeds=[SEED], notes=notes, quick=args.quick)


def generate_votes(comparisons: int) -> Iterator[str]:
    """Yield lines of an MT-Bench file: two answers of 10 to 80 words to a question of 5 to 40, and a rater's vote."""
    rng = random.Random(SEED)
    for i in range(comparisons):
        question = {"role": "user", "content": f"{i}: {_make_text(rng, 5, 40)}?"}
        answers = [{"role": "assistant", "content": f"{_make_text(rng, 10, 80)}."} for _ in "ab"]
        model_a, model_b = rng.sample(MODELS, 2)
        lean = rng.random()  # how likely a rater who sees a difference prefers the first
        for rater in rng.sample(range(RATERS), VOTES):
            winner = rng.choices(WINNERS, (lean * 0.8, (1 - lean) * 0.8, 0.15, 0.05))[0]
            row = {
                "question_id": i, "model_a": model_a, "model_b": model_b, "winner": winner, "turn": 1,
                "judge": f"simulated rater {rater}", "conversation_a": [question, answers[0]],
                "conversation_b": [question, answers[1]],
            }  # fmt: skip
            yield json.dumps(row) + "\n"


def _make_text(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


@contextmanager
def name_new_stores(database: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the URLs of two stores that do not exist yet."""
    if database == "sqlite":
        yield f"sqlite:///{folder}/first.db", f"sqlite:///{folder}/second.db"
    else:
        with start_postgres() as server:
            yield server.create_database("first"), server.create_database("second")


def import_and_export(first: str, second: str, votes: Path, out: Path, judgments: int) -> dict[str, float]:
    """Import, export in every format, and restore the archive in the second store."""
    figures: dict[str, float] = {}

    def measure_step(key: str, *args: str | Path) -> None:
        seconds, figures[key.replace("rows_per_s", "peak_mb")] = measure_command(*args)
        figures[key] = judgments / seconds

    archive, again = out.with_suffix(".archive"), out.with_suffix(".again")
    measure_step("jsonl.import_rows_per_s", "import", votes, "--store", first)
    measure_step("export_rows_per_s", "export", archive, "--format", "archive", "--store", first)
    measure_step("import_rows_per_s", "import", archive, "--store", second)
    measure_command("export", again, "--format", "archive", "--store", second)
    if not filecmp.cmp(archive, again, shallow=False):
        sys.exit("the store that was filled from the archive gives another archive")
    for format in ("jsonl", "trl"):
        folder = out.with_suffix(f".{format}")
        measure_step(f"{format}.export_rows_per_s", "export", folder, "--format", format, "--store", first)
        counts = json.loads((folder / "manifest.json").read_text())["judgments"]
        if sum(counts.values()) != judgments:
            sys.exit(f"{judgments} judgments went in and {counts} came out as {format}")
    return figures | {"archive_mb": archive.stat().st_size / 1e6}


def measure_command(*args: str | Path) -> tuple[float, float]:
    """Run an `rlhf-hitl` command. Returns its seconds and its peak memory in MB."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "rlhf_hitl", *map(str, args), "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"rlhf-hitl {' '.join(map(str, args))}: exit {process.returncode} {output.decode()}")
    return time.monotonic() - start, usage.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
