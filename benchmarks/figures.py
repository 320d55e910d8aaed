"""Draw the documentation's tables from `results/*.json`, between `<!-- figures: NAME -->` and `<!-- /figures -->`.

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

import labels_figures
import reward_figures
import routing_figures
import serving_figures
import tuning_figures
import whole_figures

ROOT = Path(__file__).parent.parent
MARK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- /figures -->)", re.DOTALL)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    **labels_figures.TABLES,
    **reward_figures.TABLES,
    **routing_figures.TABLES,
    **serving_figures.TABLES,
    **tuning_figures.TABLES,
    **whole_figures.TABLES,
}


def draw_tables(text: str) -> str:
    """Return a document with new tables. Exits if the benchmark of a table has not been run."""

    def draw_table(match: re.Match[str]) -> str:
        path = Path(__file__).parent / "results" / f"{match[2]}.json"
        if not path.exists():
            sys.exit(f"{path.name} does not exist: run `python benchmarks/{match[2]}.py`")
        result = json.loads(path.read_text(encoding="utf-8"))
        m = result["machine"]
        where = f"<sub>`{result['command']}`, {result['date']}, {m['cores']} cores, {m['gpu'] or 'no GPU'}</sub>\n"
        return match[1] + TABLES[match[2]](result["figures"]) + "\n" + where + match[3]

    return MARK.sub(draw_table, text)


def main() -> None:
    stale = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        if (new := draw_tables(text)) != text:
            stale.append(document.name)
            if "--check" not in sys.argv:
                document.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"stale figures in {', '.join(stale)}: run `make docs-figures`")


if __name__ == "__main__":
    main()
