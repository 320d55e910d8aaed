"""Settings: one place for what an installation may change. Environment variables `RLHF_HITL_*`, then flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rlhf_hitl.errors import BadInput

PREFIX = "RLHF_HITL_"
#: Variables with our prefix that are no settings: where models are kept, and what only the tests read.
OTHERS = ("RLHF_HITL_MODELS", "RLHF_HITL_DATA", "RLHF_HITL_SCREENSHOTS")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")

    store: str = "sqlite:///workspace/preferences.db"
    workspace: Path = Path("workspace")  # features, reward models, policies, exports
    features_gb: float = Field(default=20.0, gt=0)  # of the workspace's cache of hidden states, at the most
    lease_seconds: int = Field(default=30 * 60, gt=0)
    session_hours: float = Field(default=12.0, gt=0, le=24 * 90)  # then one signs in anew
    trusted_proxies: str = "127.0.0.1"  # whose X-Forwarded-For and -Proto are believed; * for all
    log: Literal["quiet", "json"] = "quiet"  # json: a line a request on stderr
    max_body_mb: float = Field(default=16.0, gt=0)  # of one request
    max_import_mb: float = Field(default=10_240.0, gt=0)  # of one streamed import
    rater_price_per_hour: float = Field(default=15.0, ge=0)  # what a rater's hour costs, in `currency`
    machine_price_per_hour: float = Field(default=0.5, ge=0)  # what an hour of the loop's machine costs
    currency: str = "USD"


def load_settings() -> Settings:
    """The settings of the environment.

    Raises:
        BadInput: a variable has a value that cannot be used, or no setting has its name.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(name for name in os.environ if name.upper().startswith(PREFIX)):
        if name.upper() not in known and name not in OTHERS and not name.startswith(f"{PREFIX}TEST_"):
            raise BadInput(name, expected="one of " + ", ".join(sorted(known)), fix="correct its name or unset it")
    try:
        return Settings()
    except ValidationError as e:
        first = e.errors()[0]
        raise BadInput(
            f"{PREFIX}{str(first['loc'][0]).upper()}={first['input']}",
            expected=first["msg"][0].lower() + first["msg"][1:],
            fix="change or unset this variable",
        ) from e
