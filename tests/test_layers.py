"""Imports point down only, and heavy things stay out of what must be light."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from checkout import ROOT
from rooms import APART, HEIGHT, MAPPED, draw, find_imports, find_modules, room_of

#: Package → the rooms that may import it.
ONLY_IN = {"gradio": {"ui"}} | {
    heavy: {unit for unit, height in HEIGHT.items() if height >= HEIGHT["models"]}
    for heavy in ("torch", "transformers", "trl", "accelerate", "peft")
}


def violations(root: Path) -> list[str]:
    """Return what the layers forbid, as `file:line: why`."""
    out = []
    for module, path in find_modules(root).items():
        room = room_of(module)
        if room is None:
            continue
        where = path.relative_to(root)
        if room not in HEIGHT:
            out.append(f"{where}:1: {room} is in no layer; add it to LAYERS in docs/rooms.py")
            continue
        for line, target in find_imports(path, module):
            top, other = target.split(".")[0], room_of(target)
            if top in MAPPED:
                out.append(f"{where}:{line}: imports {top}; write rlhf_hitl.{top}")
            elif top in ONLY_IN and room not in ONLY_IN[top]:
                out.append(f"{where}:{line}: {room} imports {top}; only {', '.join(sorted(ONLY_IN[top]))} may")
            elif top == "rlhf_hitl" and HEIGHT.get(other or "", 0) > HEIGHT[room]:
                out.append(f"{where}:{line}: {room} imports {other}, which is above it")
            elif top == "rlhf_hitl" and {room, other} in APART:
                out.append(f"{where}:{line}: {room} imports {other}; the two stand apart")
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
            "reward imports reward.training, which is above it",
        ),
        (
            "rlhf_hitl/reward/training/a.py",
            "from rlhf_hitl.reward.evaluation.b import c",
            "reward.training imports reward.evaluation; the two",
        ),
        (
            "rlhf_hitl/reward/evaluation/a.py",
            "import rlhf_hitl.reward.training.b",
            "reward.evaluation imports reward.training; the two",
        ),
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


def test_the_picture_of_the_rooms_is_of_todays_imports():
    assert (ROOT / "docs" / "images" / "rooms.svg").read_text(encoding="utf-8") == draw(ROOT), "run `make docs-figures`"


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
    for module, path in find_modules(ROOT).items():
        for line, target in find_imports(path, module):
            top = target.split(".")[0]
            if top in sys.stdlib_module_names or top == "rlhf_hitl":
                continue
            owners = {d.lower().replace("_", "-") for d in distributions.get(top, [top])}
            if not owners & declared:
                missing[top] = f"{path.relative_to(ROOT)}:{line}"
    assert missing == {}


def test_every_package_of_the_checkout_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {m for m, path in find_modules(ROOT).items() if path.name == "__init__.py"}
    without_init = {str(p.parent) for p in find_modules(ROOT).values() if not (p.parent / "__init__.py").exists()}
    assert packages == set(listed)
    assert without_init == set()
