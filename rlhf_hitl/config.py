"""Settings of an installation: defaults, overridden by environment variables `RLHF_HITL_*` and then by flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rlhf_hitl.errors import BadInput

#: The model that commands and configurations use unless another is named: a small one that runs on a CPU.
DEFAULT_MODEL = "smollm2-135m-instruct"

PREFIX = "RLHF_HITL_"
#: Variables with the prefix that are not settings: the folder of models, and what only the tests read.
NOT_SETTINGS = ("RLHF_HITL_MODELS", "RLHF_HITL_DATA", "RLHF_HITL_SCREENSHOTS")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")

    store: str = "sqlite:///workspace/preferences.db"
    workspace: Path = Path("workspace")  # features, reward models, policies, exports
    features_gb: float = Field(default=20.0, gt=0)  # upper limit of the workspace's cache of hidden states
    lease_seconds: int = Field(default=30 * 60, gt=0)
    session_hours: float = Field(default=12.0, gt=0, le=24 * 90)  # after which a user has to sign in again
    trusted_proxies: str = "127.0.0.1"  # proxies whose X-Forwarded-For and -Proto headers are trusted; * for all
    log: Literal["quiet", "json"] = "quiet"  # json: one line for each request on stderr
    max_body_mb: float = Field(default=16.0, gt=0)  # of one request body
    max_import_mb: float = Field(default=10_240.0, gt=0)  # of one streamed import
    rater_price_per_hour: float = Field(default=15.0, ge=0)  # what a rater's hour costs, in `currency`
    machine_price_per_hour: float = Field(default=0.5, ge=0)  # what an hour of the loop's machine costs
    currency: str = "USD"


def load_settings() -> Settings:
    """Return the settings, with those the environment sets.

    Raises:
        BadInput: a variable has a value that cannot be used, or its name is not that of a setting.
    """
    setting_names = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(name for name in os.environ if name.upper().startswith(PREFIX)):
        if name.upper() not in setting_names and name not in NOT_SETTINGS and not name.startswith(f"{PREFIX}TEST_"):
            raise BadInput(
                name, expected="one of " + ", ".join(sorted(setting_names)), fix="correct its name or unset it"
            )
    try:
        return Settings()
    except ValidationError as e:
        first = e.errors()[0]
        raise BadInput(
            f"{PREFIX}{str(first['loc'][0]).upper()}={first['input']}",
            expected=first["msg"][0].lower() + first["msg"][1:],
            fix="change or unset this variable",
        ) from e
