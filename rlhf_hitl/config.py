"""Settings of an installation: defaults, overridden by environment variables `RLHF_HITL_*` and then by flags."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rlhf_hitl.errors import BadInput
from rlhf_hitl.validation import make_bad_input

#: The model that commands and configurations use unless another is named: a small one that runs on a CPU.
DEFAULT_MODEL = "smollm2-135m-instruct"

PREFIX = "RLHF_HITL_"
#: Variables with the prefix that are not settings: the folder of models, the password of the mail server, what a
#: command tells the processes that it launches, and what only the tests read.
NOT_SETTINGS = (
    "RLHF_HITL_MODELS",
    "RLHF_HITL_SMTP_PASSWORD",
    "RLHF_HITL_LAUNCHED",
    "RLHF_HITL_DATA",
    "RLHF_HITL_SCREENSHOTS",
)


class TrustedProxies:
    """Addresses of proxies that are believed about whom they ask for: `10.0.0.7, 172.20.0.0/16`, or `*` for all.

    Raises:
        ValueError: a part is neither an address nor a network.
    """

    def __init__(self, text: str):
        self._parts = [part.strip() for part in text.split(",") if part.strip()]
        self._networks = [ip_network(part) for part in self._parts if part != "*"]

    def __contains__(self, address: object) -> bool:
        try:
            ip = ip_address(str(address))
        except ValueError:  # a Unix socket
            return "*" in self._parts
        return "*" in self._parts or any(ip in network for network in self._networks)

    def __str__(self) -> str:
        return ",".join(self._parts)


#: Below which path of a site the server is: parts of letters, digits, `-`, `_`, `~` and, not at their beginning, `.`.
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9_~.-]*)+", re.ASCII)


def read_root_path(text: str) -> str:
    """Return a path such as `/hitl` without a slash at its end; "" for the site itself.

    Raises:
        ValueError: it is no such path, so that it could lead elsewhere (`//evil`, `/../x`) or end a header.
    """
    path = text.removesuffix("/")
    if path and (len(path) > 200 or not _ROOT_PATH.fullmatch(path)):
        raise ValueError("expected a path such as /hitl: parts of letters, digits, '-', '_', '~' and '.'")
    return path


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")

    store: str = "sqlite:///workspace/preferences.db"
    workspace: Path = Path("workspace")  # features, reward models, policies, exports
    features_gb: float = Field(default=20.0, gt=0)  # upper limit of the workspace's cache of hidden states
    # Seals what the store has to keep readable: the secrets of webhooks. Several keys, in order, while one is replaced.
    secret_key: SecretStr | None = None
    secret_key_file: Path | None = None  # default: beside a SQLite store; for PostgreSQL, secret.key in the workspace
    images: str = ""  # folder or fsspec address; default: beside a SQLite store, `images` in the workspace otherwise
    lease_seconds: int = Field(default=30 * 60, gt=0)
    session_hours: float = Field(default=12.0, gt=0, le=24 * 90)  # after which a user has to sign in again
    trusted_proxies: str = ""  # addresses or networks of proxies whose X-Forwarded-* headers count, with commas
    root_path: str = ""  # the path below which a proxy offers the server, and which it strips: /hitl
    log: Literal["quiet", "json"] = "quiet"  # json: one line for each request on stderr
    max_connections_per_address: int = Field(default=512, gt=0)  # to one process; trusted proxies are not limited
    max_requests_per_address: int = Field(default=32, gt=0)  # that one process answers at a time; proxies: the same
    max_import_mb: float = Field(default=10_240.0, gt=0)  # of one streamed import
    max_line_mb: float = Field(default=64.0, gt=0, le=1024)  # MiB of one line, or one row, of a file that is imported
    max_expansion: float = Field(default=100.0, ge=1)  # how many times its size a compressed file may expand to
    rater_price_per_hour: float = Field(default=15.0, ge=0)  # what a rater's hour costs, in `currency`
    machine_price_per_hour: float = Field(default=0.5, ge=0)  # what an hour of the loop's machine costs
    currency: str = "USD"
    learn: bool = False  # a server's head learns from each judgment as it comes, and reorders the queue
    alerts: Path | None = None  # YAML with the rules of alerts; default: configs/alerts/default.yaml of the package

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        return str(TrustedProxies(value))

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        return read_root_path(value)


def load_settings() -> Settings:
    """Return the settings, with those the environment sets.

    Raises:
        BadInput: a variable has a value that cannot be used, or its name is not that of a setting.
    """
    setting_names = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(name for name in os.environ if name.upper().startswith(PREFIX)):
        if name.upper() not in setting_names and name not in NOT_SETTINGS and not name.startswith(f"{PREFIX}TEST_"):
            near = get_close_matches(name.upper(), setting_names, 1)
            fix = f"did you mean {near[0]}?" if near else "correct its name or unset it"
            raise BadInput(name, expected=f"the name of one of {len(setting_names)} settings", fix=fix)
    try:
        return Settings()
    except ValidationError as e:
        raise make_bad_input(
            e, lambda name, value: f"{PREFIX}{name.upper()}={value}", fix="change or unset this variable"
        ) from e
