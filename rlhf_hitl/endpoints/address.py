"""The address of an endpoint, and how its key is named, checked before they are kept and shown."""

from __future__ import annotations

from urllib.parse import urlsplit

from rlhf_hitl.errors import BadInput
from rlhf_hitl.terminal import print_note


def check_endpoint(endpoint: str, api_key_env: str, api_key_file: str) -> str:
    """Return an address, without a slash at its end, in which nothing stands that signs in: it is kept and shown.

    Raises:
        BadInput: it is none, or holds a password or a query; or the key is named in two ways, or given itself.
    """
    try:
        parts = urlsplit(endpoint)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not endpoint.isprintable() or " " in endpoint:
        raise BadInput("--endpoint", expected="an address such as https://api.example.org/v1", fix="correct it")
    if "@" in parts.netloc or parts.query or parts.fragment:
        expected = "an address without a name, a password, a ? or a #: it is kept in the store"
        raise BadInput("--endpoint", expected=expected, fix="give the key with --api-key-env")
    has_key, is_local = bool(api_key_env or api_key_file), parts.hostname in ("localhost", "127.0.0.1", "::1")
    if has_key and parts.scheme == "http" and not is_local:
        print_note("warning: the key is sent without encryption (http). Fix: use https, or a server on this machine")
    if api_key_env and not api_key_env.replace("_", "").isalnum():
        # Somebody may have given the key itself: it is not repeated.
        raise BadInput("--api-key-env", expected="the name of a variable, not the key itself", fix="export the key")
    if api_key_env and api_key_file:
        raise BadInput("--api-key-env and --api-key-file", expected="one of them", fix="leave one out")
    return endpoint.rstrip("/")
