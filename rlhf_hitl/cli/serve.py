"""Command `serve`: the server of the pages and the API, in one process or several."""

from __future__ import annotations

import contextlib
import json as jsonlib
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, say
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput

if TYPE_CHECKING:
    from rlhf_hitl.config import Settings
    from rlhf_hitl.store import Store

Host = Annotated[str, typer.Option(help="Address to listen on. 0.0.0.0 lets other machines in: put TLS before it.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]


@command("serve")
def serve(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that answer on the port.")] = 1,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Serve the pages for raters and leads, the API and sign-in."""
    from rlhf_hitl.store import Store

    opened = Store.open(store)
    if workers > 1:
        return _serve_many(opened, store, host, port, workers, json)
    return serve_one_process(opened, host, port, {}, json)


def serve_one_process(store: Store, host: str, port: int, accounts: dict[str, str], json: bool) -> Result:
    """Serve until stopped. Once it answers, the address is printed: as a box, or as the one JSON object."""
    listening = _listen(host, port)
    import uvicorn

    from rlhf_hitl.api.app import create_app
    from rlhf_hitl.api.observe import log_as_json

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _announce(_address(listening), store, accounts, json)

    settings = load_settings()
    if settings.log == "json":
        log_as_json()
    else:  # whatever a library has set up for the lines of all
        logging.getLogger("rlhf_hitl").setLevel(logging.WARNING)
    config = uvicorn.Config(create_app(store, settings), **_options(settings))
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one stops it
        Announced(config).run(sockets=[listening])
    raise typer.Exit(0)


def _serve_many(store: Store, url: str, host: str, port: int, workers: int, json: bool) -> Result:
    """Several processes on one port, each an application of its own; one that dies is started again."""
    import tempfile

    import uvicorn
    from uvicorn.supervisors import Multiprocess

    listening = _listen(host, port)
    store.close()  # its connections are not for the processes to come
    os.environ["RLHF_HITL_STORE"] = url
    with tempfile.TemporaryDirectory(prefix="rlhf_hitl-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # where the processes add up their figures
        app = "rlhf_hitl.api.app:serve_from_environment"
        config = uvicorn.Config(app, factory=True, workers=workers, **_options(load_settings()))
        listening.set_inheritable(True)
        waits = threading.Thread(target=_announce_when_up, args=(listening, store, json), daemon=True)
        waits.start()
        with contextlib.suppress(KeyboardInterrupt):
            Multiprocess(config, sockets=[listening]).run()
    raise typer.Exit(0)


def _announce_when_up(listening: socket.socket, store: Store, json: bool) -> None:
    import httpx

    address = _address(listening)
    while True:
        try:
            httpx.get(f"{address}/healthz", timeout=5, trust_env=False).raise_for_status()
            return _announce(address, store, {}, json)
        except httpx.HTTPError:
            time.sleep(0.1)


def _announce(address: str, store: Store, accounts: dict[str, str], json: bool) -> None:
    if json:
        print(jsonlib.dumps({"address": address, "store": store.safe_url, "accounts": accounts}), flush=True)
    else:
        say(accounts_panel(["Open ", (address, "bold")], accounts))


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "log_level": "warning",
        "log_config": None,
        "access_log": False,  # its lines hold whole addresses, invitations among them; ours hold patterns
        "server_header": False,
        "timeout_graceful_shutdown": 3,
        "proxy_headers": True,
        "forwarded_allow_ips": settings.trusted_proxies,
    }


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, taken before anything slow is done: a port in use is said at once."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as e:
        raise BadInput(f"--host {host}", expected="an address of this machine", fix="try 127.0.0.1") from e
    # With the protocol named: asyncio sets TCP_NODELAY only then, and without it every answer waits some 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(where)
    except OSError as e:
        bound.close()
        raise BadInput(
            f"--port {port} on {host}",
            expected=f"a port that can be had ({(e.strerror or str(e)).lower()})",
            fix="stop what uses it, or give another --port",
        ) from e
    return bound


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def accounts_panel(headline: list[Any], accounts: dict[str, Any]) -> Any:
    """A frame round a headline and how to sign in. The headline is made of what `Text.assemble` takes."""
    from rich.panel import Panel
    from rich.text import Text

    text = Text.assemble(*headline, "\n" if accounts else "")
    for name, word in accounts.items():
        text.append("\nsign in as ").append(f"{name:6}", "bold").append(" password ").append(word, "bold")
    return Panel(text, title="rlhf_hitl", expand=False, padding=(1, 3))
