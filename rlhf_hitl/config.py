"""Settings: one place for what an installation may change. Environment variables `RLHF_HITL_*`, then flags."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="RLHF_HITL_", extra="forbid")

    store: str = "sqlite:///workspace/preferences.db"
    workspace: Path = Path("workspace")  # features, reward models, policies, exports, the session key
    lease_seconds: int = Field(default=30 * 60, gt=0)
    guideline_version: str = "default-1"
    rater_price_per_hour: float = Field(default=15.0, ge=0)  # what a rater's hour costs, in `currency`
    machine_price_per_hour: float = Field(default=0.5, ge=0)  # what an hour of the loop's machine costs
    currency: str = "USD"
