"""Draws the documentation's tables from `results/*.json`, between `<!-- figures: NAME -->` and `<!-- /figures -->`.

python benchmarks/figures.py            write them            (make docs-figures)
python benchmarks/figures.py --check    fail if one is stale  (a test)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MARK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- /figures -->)", re.DOTALL)


def replay(f: dict[str, Any]) -> str:
    def row(name: str, key: str) -> str:
        cells = []
        for part in ("", "crossed."):
            interval = f" ({f[f'{part}{key}.low']:.3f} to {f[f'{part}{key}.high']:.3f})" if key == "accuracy" else ""
            cells.append(f"{f[part + key]:.3f}{interval}")
        return f"| {name} | {cells[0]} | {cells[1]} |\n"

    return (
        f"| accuracy (95 % interval) | held-out questions | {f['crossed.questions']} others, cross-validated |\n"
        "| --- | ---: | ---: |\n"
        + row("reward model (head on SmolLM2-135M)", "accuracy")
        + row("floor: the longer answer wins", "floor.longer")
        + row("floor: bag of words", "floor.bag_of_words")
        + f"| labels | {f['heldout_labels']} | {f['crossed.labels']} |\n"
        f"\nTies are not in it. Calibration error on the held-out questions {f['ece']:.3f}.\n"
    )


def loop_time(f: dict[str, Any]) -> str:
    shares = {
        "Model accuracy before human review": f["report.accuracy_before_review"],
        "Human intervention rate": f["report.intervention_rate"],
        "Error reduction by review": f["report.error_reduction"],
    }
    accepted_nothing = f["report.intervention_rate"] == 1
    rows = "".join(f"| {k} | {'not known yet' if v is None else f'{v:.0%}'} |\n" for k, v in shares.items())
    return (
        f"{f['rounds']:.0f} rounds with SmolLM2-135M took {f['minutes']:.0f} minutes. "
        "Its report, with *simulated* raters:\n\n"
        "| figure | value |\n| --- | ---: |\n"
        + rows
        + f"| Average review time | {f['report.review_seconds']:.1f} s |\n"
        f"| Cost per processed comparison | {f['report.cost_per_comparison']:.3f} USD |\n"
        + ("\nThe router accepted nothing: so few labels cannot show its bound.\n" if accepted_nothing else "")
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"replay": replay, "loop_time": loop_time}


def drawn(text: str) -> str:
    """A document with its tables drawn anew. A table whose benchmark has not been run is an error."""

    def table(match: re.Match[str]) -> str:
        path = Path(__file__).parent / "results" / f"{match[2]}.json"
        if not path.exists():
            sys.exit(f"{path.name} is not there: run `python benchmarks/{match[2]}.py`")
        result = json.loads(path.read_text(encoding="utf-8"))
        m = result["machine"]
        where = f"<sub>`{result['command']}`, {result['date']}, {m['cores']} cores, {m['gpu'] or 'no GPU'}</sub>\n"
        return match[1] + TABLES[match[2]](result["figures"]) + "\n" + where + match[3]

    return MARK.sub(table, text)


def main() -> None:
    stale = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        if (new := drawn(text)) != text:
            stale.append(document.name)
            if "--check" not in sys.argv:
                document.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"stale figures in {', '.join(stale)}: run `make docs-figures`")


if __name__ == "__main__":
    main()
