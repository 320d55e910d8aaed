"""How a policy behind an endpoint is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is asked. The key is not among it, only where it is found. Prices are for a million tokens;
    `budget` is the most that all requests of a command may cost, those before a kill included."""

    address: str
    model: str
    api_key_env: str = ""
    api_key_file: str = ""
    price_in: float = 0.0
    price_out: float = 0.0
    budget: float | None = None
    timeout_seconds: float = 120.0
    concurrency: int = 4

    @property
    def name(self) -> str:
        """What its completions carry as their policy: the model, or its folder, never a machine's path."""
        return self.model.rstrip("/").rpartition("/")[2] if self.model.startswith("/") else self.model
