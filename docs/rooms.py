"""Draw `images/rooms.svg`, the picture of the packages, from the imports of the code.

python docs/rooms.py            draw it                          (make docs-figures)
python docs/rooms.py --check    fail if the picture is stale     (a test)

A room is a package or a single file of one layer. An arrow says that one room imports another; an arrow that follows
from two others is left out. `tests/test_layers.py` takes the layers and the imports from here and fails where an import
points up.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = Path(__file__).parent / "images" / "rooms.svg"

#: The layers from the bottom up. Rooms of one layer may import each other, but for those that stand APART.
LAYERS = [
    {
        "errors",
        "extras",
        "files",
        "types",
        "config",
        "client",
        "stats",
        "bundled",
        "visible",
        "terminal",
        "workspace",
        "wording",
        "hub",
        "validation",
    },
    {"store"},
    {"formats", "labels", "report_page", "plots"},
    # Where weights come from; no text is read here, so reward and policy both stand on it.
    {"models", "model_fetching", "arguments", "endpoints"},
    {"reward"},
    {"reward.training", "reward.evaluation"},
    {"routing", "policy", "judges"},
    {
        "loop",
        "kpis",
        "kpi_changes",
        "kpi_facts",
        "kpi_forecast",
        "kpi_groups",
        "kpi_others",
        "kpi_plots",
        "kpi_powered",
        "kpi_report",
        "kpi_report_html",
        "kpi_savings",
        "alerts",
        "simulate",
    },
    {"api", "ui", "cli", "scripts", "configs"},
]
APART = [{"reward.training", "reward.evaluation"}]
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}
#: The folders at the top of the checkout that are installed under rlhf_hitl.
MAPPED = ("ui", "scripts", "configs")


def find_modules(root: Path) -> dict[str, Path]:
    """Return module name → file for everything that is installed."""
    modules = {}
    for folder, package in [("rlhf_hitl", "rlhf_hitl"), *((name, f"rlhf_hitl.{name}") for name in MAPPED)]:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            modules[".".join([package, *parts]).removesuffix(".__init__")] = path
    return modules


def room_of(module: str) -> str | None:
    """Return the room of a module: `store` for rlhf_hitl.store.queue, None for the top package and other packages."""
    package, *parts = module.split(".")
    if package != "rlhf_hitl" or not parts or parts[0] == "__main__":
        return None
    return next((room for n in (2, 1) if (room := ".".join(parts[:n])) in HEIGHT), parts[0])


def find_imports(path: Path, module: str) -> list[tuple[int, str]]:
    """Return (line, module) of every import in a file, those inside functions and relative ones included.

    `from rlhf_hitl.store import queue` counts as an import of rlhf_hitl.store.queue.
    """
    imports = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            if base.split(".")[0] == "rlhf_hitl":
                imports += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
            else:
                imports.append((node.lineno, base))
    return imports


def find_arrows(root: Path) -> dict[str, set[str]]:
    """Return room → the rooms it imports, itself left out."""
    arrows: dict[str, set[str]] = {room: set() for room in HEIGHT}
    for module, path in find_modules(root).items():
        room = room_of(module)
        if room is not None:
            targets = {room_of(target) for _, target in find_imports(path, module)}
            arrows.setdefault(room, set()).update(target for target in targets if target in HEIGHT and target != room)
    return arrows


def without_implied(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Leave out an arrow where another way down leads to the same room."""

    def reachable(start: str, seen: set[str]) -> set[str]:
        for target in arrows.get(start, ()):
            if target not in seen and HEIGHT[target] < HEIGHT[start]:
                seen.add(target)
                reachable(target, seen)
        return seen

    return {
        room: {t for t in targets if not any(t in reachable(o, set()) for o in targets if o != t)}
        for room, targets in arrows.items()
    }


# Sizes in the picture, in pixels.
WIDTH, MARGIN, GAP, LINE, HEAD, COLUMN = 1280, 16, 14, 15, 24, 172
BAND_GAP, NARROWEST = 34, 112


def draw(root: Path) -> str:
    """Return the picture as SVG: a band a layer, the highest on top, a box a room with the files in it."""
    files = {room: [] for room in HEIGHT}
    for module, path in find_modules(root).items():
        if (room := room_of(module)) is not None and path.name != "__init__.py" and "versions" not in path.parts:
            name = module.removeprefix("rlhf_hitl.").removeprefix(room).strip(".")
            files[room].append(name or room)
    # A folder within a room is one name: `bodies/`.
    files = {
        room: sorted({name.split(".")[0] + "/" * ("." in name) for name in names if name != room})
        for room, names in files.items()
    }
    boxes: dict[str, tuple[float, float, float, float]] = {}
    columns: dict[str, int] = {}
    y = float(MARGIN)
    for layer in reversed(LAYERS):
        rooms = sorted(layer, key=lambda room: (-len(files[room]), room))
        free = WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)
        for most_rows in range(5, 99):  # as flat as columns of a readable width allow
            columns |= {room: max(1, _rows(files[room], most_rows)) for room in rooms}
            total = sum(columns[room] for room in rooms)
            if free / total >= NARROWEST:
                break
        width = min(free / total, COLUMN)
        height = HEAD + LINE * max(_rows(files[room], columns[room]) for room in rooms) + 8
        x = (WIDTH - width * total - GAP * (len(rooms) - 1)) / 2
        for room in rooms:
            boxes[room] = (x, y, width * columns[room], height)
            x += width * columns[room] + GAP
        y += height + BAND_GAP
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - BAND_GAP + MARGIN:.0f}" '
        'font-family="system-ui, sans-serif" role="img" aria-label="The packages of rlhf_hitl and their imports">',
        "<style>rect{fill:#fff;stroke:#3b5bdb}text{fill:#1b1f2a}.f{font-size:11.5px;fill:#495057}.r{font-size:14px;"
        "font-weight:600}path{fill:none;stroke:#868e96;stroke-width:1.2}</style>",
        '<rect width="100%" height="100%" style="fill:#f8f9fa;stroke:none"/>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" style="fill:#868e96;stroke:none"/></marker></defs>',
    ]
    for room, targets in sorted(without_implied(find_arrows(root)).items()):
        for target in sorted(targets, key=lambda t: (HEIGHT[t], t)):
            out.append(_arrow(boxes[room], boxes[target], HEIGHT[room] == HEIGHT[target]))
    for room, (x, top, width, height) in boxes.items():
        out.append(f'<rect x="{x:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6"/>')
        out.append(f'<text class="r" x="{x + 10:.0f}" y="{top + 17:.0f}">{escape(room)}</text>')
        rows = _rows(files[room], columns[room])
        for i, name in enumerate(files[room]):
            at_x, at_y = x + 10 + i // rows * width / columns[room], top + HEAD + LINE * (i % rows) + 10
            out.append(f'<text class="f" x="{at_x:.0f}" y="{at_y:.0f}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>", ""])


def _rows(names: list[str], columns: int) -> int:
    return -(-len(names) // columns)


def _arrow(start: tuple[float, ...], end: tuple[float, ...], same_layer: bool) -> str:
    x1, y1, w1, h1 = start
    x2, y2, w2, _ = end
    if same_layer:
        left = x1 < x2
        return (
            f'<path marker-end="url(#a)" d="M{x1 + w1 if left else x1:.0f} {y1 + 12:.0f} '
            f'L{x2 - 1 if left else x2 + w2 + 1:.0f} {y2 + 12:.0f}"/>'
        )
    # Start and end lean towards each other, so that arrows of one room spread.
    from_x = x1 + w1 * min(0.9, max(0.1, (x2 + w2 / 2 - x1) / w1))
    to_x = x2 + w2 * min(0.9, max(0.1, (x1 + w1 / 2 - x2) / w2))
    bottom, middle = y1 + h1, (y1 + h1 + y2) / 2
    curve = f"C{from_x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {y2 - 2:.0f}"
    return f'<path marker-end="url(#a)" d="M{from_x:.0f} {bottom:.0f} {curve}"/>'


def main(arguments: list[str]) -> int:
    picture = draw(ROOT)
    if "--check" in arguments:
        if not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture:
            print(f"{PICTURE.name}: it is not of today's imports. Fix: make docs-figures", file=sys.stderr)
            return 1
        return 0
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
