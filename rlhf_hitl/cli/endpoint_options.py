"""The options of commands that ask an OpenAI-compatible endpoint as a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from rlhf_hitl.config import load_settings
from rlhf_hitl.endpoints.address import check_endpoint
from rlhf_hitl.errors import BadInput
from rlhf_hitl.extras import require_extra
from rlhf_hitl.policy.endpoint_settings import EndpointSettings
from rlhf_hitl.wording import say_count

ApiKeyEnv = Annotated[
    str, typer.Option(metavar="VARIABLE", help="Read the endpoint's key from this environment variable.")
]
ApiKeyFile = Annotated[str, typer.Option(metavar="FILE", help="Read the endpoint's key from this file.")]
PriceIn = Annotated[float, typer.Option(min=0, help="The price of a million tokens of prompts.")]
PriceOut = Annotated[float, typer.Option(min=0, help="The price of a million tokens of answers.")]
Budget = Annotated[
    float | None,
    typer.Option(min=0, help="Stop before the requests to a model cost more than this, in the prices' currency."),
]
Timeout = Annotated[float, typer.Option(min=0.1, max=3600, help="Give a request up after this many seconds.")]
Concurrency = Annotated[int, typer.Option(min=1, max=64, help="Send this many requests at a time.")]


def find_endpoints(
    endpoint: str, models: Sequence[str] | None, api_key_env: str, api_key_file: str, price_in: float,
    price_out: float, budget: float | None, timeout: float, concurrency: int,
) -> list[EndpointSettings]:  # fmt: skip
    """Return how each model behind the endpoint is asked; none where no endpoint is given."""
    if not endpoint:
        if models or api_key_env or api_key_file or budget is not None:
            raise BadInput("--model, --api-key-… or --budget", expected="--endpoint too", fix="add --endpoint")
        return []
    if not models or not all(name.strip() for name in models):
        raise BadInput("--endpoint without --model", expected="the name of a model", fix="add --model NAME")
    if budget is not None and price_in == price_out == 0:
        raise BadInput("--budget", expected="the prices of tokens too", fix="add --price-in and --price-out")
    require_extra("judge", "--endpoint")
    address = check_endpoint(endpoint, api_key_env, api_key_file)
    return [
        EndpointSettings(address, name, api_key_env, api_key_file, price_in, price_out, budget, timeout, concurrency)
        for name in models
    ]


def say_calls(policy: str, totals: dict[str, Any]) -> str:
    """Return what the requests to an endpoint took, in a line."""
    tokens = f"{totals['prompt_tokens']:,} + {totals['completion_tokens']:,} tokens"
    cost = f"cost {totals['cost']:.4g} {load_settings().currency}"
    lost = f" (of which {n:,} reached nobody)" if (n := totals.get("reached_nobody")) else ""
    return f"{policy}: {say_count(totals['requests'], 'request')}{lost}, {tokens}, {cost}"
