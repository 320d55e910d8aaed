"""A client that `openapi-python-client` makes of our description of the API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings


def test_a_client_is_made_of_the_description_and_can_be_imported(sqlite_store, tmp_path):
    tool = shutil.which("openapi-python-client", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if tool is None:
        pytest.skip("openapi-python-client is not installed: pip install openapi-python-client")
    app = create_headless_app(sqlite_store, Settings(store=sqlite_store.url, workspace=tmp_path))
    description = TestClient(app).get("/api/v1/openapi.json").json()
    (tmp_path / "openapi.json").write_text(json.dumps(description))
    # The tool knows no other kinds of content; its own setting says what they are.
    kinds = ("application/x-ndjson", "image/png", "application/gzip", "application/zip")
    config = {"content_type_overrides": dict.fromkeys(kinds, "application/octet-stream")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = [tool, *"generate --path openapi.json --output-path client --meta none --config config.json".split()]  # noqa: SIM905
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "will not be generated" not in done.stdout + done.stderr
    made = {path.stem for path in (tmp_path / "client" / "api").rglob("*.py")} - {"__init__"}
    operations = [o for path in description["paths"].values() for o in path.values()]
    assert len(made) == len(operations)
    code = (
        "import client, importlib, pkgutil\n"
        "for module in pkgutil.walk_packages(client.__path__, 'client.'): importlib.import_module(module.name)"
    )
    python = Path(os.path.realpath(tool)).parent / "python"
    done = subprocess.run([str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
