"""Imports point down only, and heavy things stay out of what must be light."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from checkout import ROOT

#: From the bottom up. What shares a layer may import each other. Change docs/architecture.md with it.
LAYERS = [
    {"errors", "files", "types", "config", "client", "stats", "bundled"},
    {"store"},
    {"formats", "labels"},
    {
        "models",
        "arguments",
    },  # where weights are on disk or come from: no text is read here, so reward and policy both stand on it
    {"reward"},
    {"routing", "policy"},
    {"loop", "kpis", "kpi_report_html", "simulate"},
    {"api", "ui", "cli", "scripts", "configs"},
]
#: Packages above the package that holds them: the model imports neither training nor evaluation, nor they each other.
SUBPACKAGES_ABOVE = {"rlhf_hitl.reward": {"rlhf_hitl.reward.training", "rlhf_hitl.reward.evaluation"}}
PARENT = {subpackage: package for package, above in SUBPACKAGES_ABOVE.items() for subpackage in above}
HEIGHT = {unit: height for height, layer in enumerate(LAYERS) for unit in layer}
#: The folders of the checkout that are not under rlhf_hitl/ but installed there.
MAPPED = ("ui", "scripts", "configs")

#: Package → the layer units that may import it.
ONLY_IN = {"gradio": {"ui"}} | {
    heavy: {unit for unit, height in HEIGHT.items() if height >= HEIGHT["models"]}
    for heavy in ("torch", "transformers", "trl", "accelerate", "peft")
}


def modules(root: Path) -> dict[str, Path]:
    """Module name → file, of everything that is installed."""
    found = {}
    for folder, package in [("rlhf_hitl", "rlhf_hitl"), *((m, f"rlhf_hitl.{m}") for m in MAPPED)]:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def unit_of(module: str) -> str | None:
    """The layer unit a module belongs to: `store` for rlhf_hitl.store.queue. None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else None


def imports(path: Path, module: str) -> list[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions and relative ones too.

    `from rlhf_hitl import x` counts as an import of rlhf_hitl.x.
    """
    out = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            out += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            if base in ("rlhf_hitl", *SUBPACKAGES_ABOVE):
                out += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
            else:
                out.append((node.lineno, base))
    return out


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def subpackage_above(target: str) -> str | None:
    """The package of SUBPACKAGES_ABOVE that an imported module is in."""
    return next((subpackage for subpackage in PARENT if is_within(target, subpackage)), None)


def violations(root: Path) -> list[str]:
    """What the layers forbid, as `file:line: why`."""
    out = []
    for module, path in modules(root).items():
        unit = unit_of(module)
        if unit is None:
            continue
        where = path.relative_to(root)
        if unit not in HEIGHT:
            out.append(f"{where}:1: {unit} is in no layer; add it to LAYERS and to docs/architecture.md")
            continue
        for line, target in imports(path, module):
            top = target.split(".")[0]
            if top in MAPPED:
                out.append(f"{where}:{line}: imports {top}; write rlhf_hitl.{top}")
            elif top in ONLY_IN and unit not in ONLY_IN[top]:
                out.append(f"{where}:{line}: {unit} imports {top}; only {', '.join(sorted(ONLY_IN[top]))} may")
            elif (
                (above := subpackage_above(target))
                and is_within(module, PARENT[above])
                and not is_within(module, above)
            ):
                out.append(f"{where}:{line}: {module} imports {above}, which is above it")
            elif top == "rlhf_hitl" and HEIGHT.get(other := unit_of(target) or "", 0) > HEIGHT[unit]:
                out.append(f"{where}:{line}: {unit} imports {other}, which is above it")
    return out


def test_imports_point_down_only():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "code", "complaint"),
    [
        ("rlhf_hitl/store/a.py", "from rlhf_hitl.reward import model", "store imports reward, which is above it"),
        ("rlhf_hitl/store/a.py", "from rlhf_hitl import reward", "store imports reward, which is above it"),
        ("rlhf_hitl/store/a.py", "from ..reward import model", "store imports reward, which is above it"),
        ("rlhf_hitl/store/a.py", "def f():\n    import rlhf_hitl.cli", "a.py:2: store imports cli"),
        ("rlhf_hitl/labels/a.py", "import torch.nn as nn", "labels imports torch"),
        ("rlhf_hitl/api/a.py", "import gradio as gr", "api imports gradio; only ui may"),
        ("rlhf_hitl/loop.py", "from rlhf_hitl.ui import rate", "loop imports ui, which is above it"),
        ("rlhf_hitl/api/a.py", "from ui import rate", "write rlhf_hitl.ui"),
        (
            "rlhf_hitl/reward/a.py",
            "from rlhf_hitl.reward.training import b",
            "reward.a imports rlhf_hitl.reward.training",
        ),
        (
            "rlhf_hitl/reward/training/a.py",
            "from rlhf_hitl.reward.evaluation.b import c",
            "imports rlhf_hitl.reward.eval",
        ),
        ("rlhf_hitl/reward/evaluation/a.py", "import rlhf_hitl.reward.training.b", "imports rlhf_hitl.reward.training"),
        (
            "rlhf_hitl/reward/training/a.py",
            "from rlhf_hitl.reward.training import b\nimport rlhf_hitl.reward.model",
            None,
        ),
        ("rlhf_hitl/novel/a.py", "", "novel is in no layer"),
        ("ui/a.py", "import gradio\nfrom rlhf_hitl.store import queue\nfrom rlhf_hitl.api import app", None),
        ("rlhf_hitl/routing/a.py", "import torch\nfrom rlhf_hitl.reward import model\nfrom . import b", None),
    ],
)
def test_the_walk_sees_each_kind_of_violation_and_nothing_else(tmp_path, path, code, complaint):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(code)
    found = violations(tmp_path)
    assert len(found) == (complaint is not None)
    assert complaint is None or complaint in found[0]


HEAVY = ("torch", "transformers", "trl", "datasets", "gradio", "sklearn", "scipy", "matplotlib", "pandas")


@pytest.mark.parametrize(
    ("program", "forbidden"),
    [
        ("import rlhf_hitl", (*HEAVY, "numpy", "sqlalchemy", "pydantic", "typer")),
        ("import rlhf_hitl.types, rlhf_hitl.errors", (*HEAVY, "numpy", "sqlalchemy", "pydantic", "typer")),
        ("import rlhf_hitl.store", (*HEAVY, "numpy")),
        ("import sys; sys.argv = ['rlhf-hitl', '--help']\nfrom rlhf_hitl.cli import main\nmain()", HEAVY),
    ],
    ids=["rlhf_hitl", "types", "store", "help"],
)
def test_what_is_light_loads_nothing_heavy(program, forbidden):
    # By what is loaded, not by the clock: what is on this list is what takes the time.
    report = f"import atexit, sys\natexit.register(lambda: print('LOADED', *sys.modules))\n{program}"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.rpartition("LOADED ")[2].split()}
    assert "rlhf_hitl" in loaded
    assert loaded.isdisjoint(forbidden), sorted(loaded & set(forbidden))


def test_every_distribution_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [d for name, extra in project["optional-dependencies"].items() if name != "dev" for d in extra]
    declared = {re.split(r"[^\w.-]", d)[0] for d in project["dependencies"] + extras}
    distributions = importlib.metadata.packages_distributions()
    missing = {}
    for module, path in modules(ROOT).items():
        for line, target in imports(path, module):
            top = target.split(".")[0]
            if top in sys.stdlib_module_names or top == "rlhf_hitl":
                continue
            owners = {d.lower().replace("_", "-") for d in distributions.get(top, [top])}
            if not owners & declared:
                missing[top] = f"{path.relative_to(ROOT)}:{line}"
    assert missing == {}


def test_every_package_of_the_checkout_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {m for m, path in modules(ROOT).items() if path.name == "__init__.py"}
    without_init = {str(p.parent) for p in modules(ROOT).values() if not (p.parent / "__init__.py").exists()}
    assert packages == set(listed)
    assert without_init == set()
