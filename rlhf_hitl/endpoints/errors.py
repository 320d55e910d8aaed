"""The error of an endpoint that is closed to us, for those who do not load its client."""

from __future__ import annotations

from rlhf_hitl.errors import RlhfHitlError


class CannotAsk(RlhfHitlError):
    """No request can be answered: the key is wrong, the model is not there, or the endpoint is closed to us."""
