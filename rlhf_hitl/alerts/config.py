"""The rules of alerts and how they are delivered, as YAML."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.validation import make_bad_input

PASSWORD = "RLHF_HITL_SMTP_PASSWORD"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AutomationStopped(_Part):
    pass


class AuditBound(_Part):
    share: float = Field(default=0.5, gt=0, lt=1)


class InterventionRate(_Part):
    rounds: int = Field(default=3, ge=2)
    above: float = Field(default=0.3, ge=0, le=1)


class ReviewTime(_Part):
    newest: int = Field(default=100, ge=1)
    before: int = Field(default=400, ge=1)
    times: float = Field(default=2.0, gt=1)


class Agreement(_Part):
    drop: float = Field(default=0.1, gt=0, lt=1)
    false_alarm: float = Field(default=0.001, gt=0, lt=1)


class GoldAccuracy(_Part):
    least: float = Field(default=0.7, gt=0, lt=1)
    false_alarm: float = Field(default=0.001, gt=0, lt=1)


class QueueAge(_Part):
    hours: float = Field(default=72, gt=0)


class PromptDrift(_Part):
    newest: int = Field(default=200, ge=20)
    separation: float = Field(default=0.75, gt=0.5, le=1)
    false_alarm: float = Field(default=0.001, gt=0, lt=1)


class Rules(_Part):
    """The rules that are looked at; None: it is not. `configs/alerts/default.yaml` says what each means."""

    automation_stopped: AutomationStopped | None = None
    audit_bound: AuditBound | None = None
    intervention_rate: InterventionRate | None = None
    review_time: ReviewTime | None = None
    agreement: Agreement | None = None
    gold_accuracy: GoldAccuracy | None = None
    queue_age: QueueAge | None = None
    prompt_drift: PromptDrift | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _read_nothing_as_defaults(cls, value: Any) -> Any:
        return {} if value is None else value  # `queue_age:` without anything


class Email(_Part):
    """Where mail is sent, and to whom."""

    host: str = Field(min_length=1)
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    sender: str = Field(min_length=3)
    to: tuple[str, ...] = Field(min_length=1)

    @property
    def password(self) -> SecretStr:
        return SecretStr(os.environ.get(PASSWORD, ""))


class AlertConfig(_Part):
    rules: Rules
    email: Email | None = None


def load_alert_config(settings: Settings) -> AlertConfig:
    """Return the rules of the file that the settings name, or of the one that comes with the package.

    Raises:
        BadInput: it cannot be read, or has a key or a value that cannot be used.
    """
    import yaml

    bundled = resources.files("rlhf_hitl.configs") / "alerts" / "default.yaml"
    path: Any = bundled if settings.alerts is None else Path(settings.alerts)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        why = getattr(e, "strerror", None) or "it is not UTF-8"
        raise BadInput(f"alerts {path}", expected=f"a YAML file that can be read ({why})", fix="check the path") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        why = getattr(e, "problem", None) or "it is damaged"
        raise BadInput(f"alerts {place}", expected=f"YAML ({why})", fix="correct the line") from e
    if not isinstance(content, dict):
        raise BadInput(f"alerts {path}", expected="`rules:` with the rules below it", fix=_SEE)
    try:
        return AlertConfig(**{str(name): value for name, value in content.items()})
    except ValidationError as e:
        known = [f"rules.{name}" for name in Rules.model_fields] + list(AlertConfig.model_fields)
        raise make_bad_input(e, lambda place, value: f"{path}: {place} = {value!r}", fix=_SEE, known=known) from e


_SEE = "see configs/alerts/default.yaml"
