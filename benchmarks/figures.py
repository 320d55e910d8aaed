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
    return (
        "| on held-out questions | accuracy | 95 % interval |\n| --- | ---: | ---: |\n"
        f"| reward model (head on SmolLM2-135M) | {f['accuracy']:.3f} "
        f"| {f['accuracy.low']:.3f} to {f['accuracy.high']:.3f} |\n"
        f"| floor: the longer answer wins | {f['floor.longer']:.3f} | |\n"
        f"| floor: bag of words | {f['floor.bag_of_words']:.3f} | |\n\n"
        f"{f['heldout_labels']} labels with a preference ({f['heldout_ties']} ties are not in it), trained on "
        f"{f['train_labels']} labels. Calibration error {f['ece']:.3f}.\n"
    )


def loop_time(f: dict[str, Any]) -> str:
    shares = {
        "Model accuracy before human review": f["report.accuracy_before_review"],
        "Human intervention rate": f["report.intervention_rate"],
        "Error reduction by review": f["report.error_reduction"],
    }
    rows = "".join(f"| {k} | {'not known yet' if v is None else f'{v:.0%}'} |\n" for k, v in shares.items())
    return (
        f"{f['rounds']:.0f} rounds with SmolLM2-135M took {f['minutes']:.0f} minutes. "
        "Its report, with *simulated* raters:\n\n"
        "| figure | value |\n| --- | ---: |\n"
        + rows
        + f"| Average review time | {f['report.review_seconds']:.1f} s |\n"
        f"| Cost per processed comparison | {f['report.cost_per_comparison']:.3f} USD |\n"
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
