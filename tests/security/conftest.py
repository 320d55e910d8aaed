"""What several tests of attacks share."""

from __future__ import annotations

import pytest

from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store


@pytest.fixture
def app(sqlite_store: Store, tmp_path):
    return create_headless_app(sqlite_store, Settings(store=sqlite_store.url, workspace=tmp_path / "workspace"))
