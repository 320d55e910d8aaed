"""Command `serve`: the server of the pages and the API, in one process or several."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shlex
import shutil
import socket
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, print_json, print_text
from rlhf_hitl.config import TrustedProxies, load_settings, read_root_path
from rlhf_hitl.errors import BadInput
from rlhf_hitl.extras import require_extra
from rlhf_hitl.terminal import print_note

if TYPE_CHECKING:
    from rlhf_hitl.config import Settings
    from rlhf_hitl.store import Store

Host = Annotated[str, typer.Option(help="Listen on this address. 0.0.0.0 lets other machines in: put TLS in front.")]
Port = Annotated[int, typer.Option(help="Listen on this port; 0 takes a free one.", min=0, max=65535)]


@command("serve", extra="serve")
def serve_command(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Answer with this many processes.")] = 1,
    root_path: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Be below this path of a site, such as /hitl, where a proxy offers the server there and strips it.",
        ),
    ] = None,
    learn: Annotated[
        bool,
        typer.Option("--learn", help="Let the reward model's head learn from each judgment, and reorder the queue."),
    ] = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Serve the pages for raters and leads, the API and sign-in."""
    from rlhf_hitl.store import Store

    if learn:
        os.environ["RLHF_HITL_LEARN"] = "1"  # for the processes of `--workers`, too
    if load_settings().learn:
        require_extra("train", "`rlhf-hitl serve --learn`")

    if root_path is not None:
        try:
            # Through the environment it reaches the processes of `--workers`, too.
            os.environ["RLHF_HITL_ROOT_PATH"] = read_root_path(root_path)
        except ValueError as e:
            raise BadInput(
                f"--root-path {root_path}", expected=str(e).removeprefix("expected "), fix="give it as the proxy has it"
            ) from e
    opened = Store.open(store)
    _say_where_images_are(opened)
    if workers > 1:
        return _serve_several_processes(opened, store, host, port, workers, json)
    return serve_one_process(opened, host, port, {}, json)


def _say_where_images_are(store: Store) -> None:
    """Say in a line that images are missing here, or would be on another server of this store."""
    from rlhf_hitl.store.images import describe_missing, describe_sharing

    if missing := describe_missing(store):
        print_note(f"warning: images are missing: {missing}. Fix: copy the folder of images there, or RLHF_HITL_IMAGES")
    elif shared := describe_sharing(store):
        print_note(f"note: {shared}")


def serve_one_process(store: Store, host: str, port: int, accounts: dict[str, str], json: bool) -> Result:
    """Serve until stopped. Once the server answers, its address is printed, as a panel or as the one JSON object."""
    listening = _bind_socket(host, port)
    import uvicorn

    from rlhf_hitl.api.app import create_app
    from rlhf_hitl.api.json_log import log_as_json

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _announce(_format_address(listening), store, accounts, json)

    settings = load_settings()
    if settings.log == "json":
        log_as_json()
    else:  # a library may have set a lower level for all loggers
        logging.getLogger("rlhf_hitl").setLevel(logging.WARNING)
    config = uvicorn.Config(create_app(store, settings), **make_uvicorn_options(settings))
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the way to stop the server
        AnnouncingServer(config).run(sockets=[listening])
    raise typer.Exit(0)


def _serve_several_processes(store: Store, url: str, host: str, port: int, workers: int, json: bool) -> Result:
    """Serve with several processes on one port, each with its own application. One that dies is started again."""
    import tempfile

    import uvicorn
    from uvicorn.supervisors import Multiprocess

    listening = _bind_socket(host, port)
    store.close()  # the processes that are started must not share its connections
    os.environ["RLHF_HITL_STORE"] = url
    with tempfile.TemporaryDirectory(prefix="rlhf_hitl-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the processes add up their metrics in this folder
        app = "rlhf_hitl.api.app:serve_from_environment"
        config = uvicorn.Config(app, factory=True, workers=workers, **make_uvicorn_options(load_settings()))
        listening.set_inheritable(True)
        announcer = threading.Thread(target=_announce_when_up, args=(listening, store, json), daemon=True)
        announcer.start()
        with contextlib.suppress(KeyboardInterrupt):
            Multiprocess(config, sockets=[listening]).run()
    raise typer.Exit(0)


def _announce_when_up(listening: socket.socket, store: Store, json: bool) -> None:
    import httpx

    address = _format_address(listening)
    while True:
        try:
            httpx.get(f"{address}/healthz", timeout=5, trust_env=False).raise_for_status()
            return _announce(address, store, {}, json)
        except httpx.HTTPError:
            time.sleep(0.1)


def _announce(address: str, store: Store, accounts: dict[str, str], json: bool) -> None:
    if json:
        print_json({"address": address, "store": store.safe_url, "accounts": accounts})
    else:
        print_text(make_accounts_panel(["Open ", (address, "bold")], accounts))


def make_uvicorn_options(settings: Settings) -> dict[str, Any]:
    from rlhf_hitl.api.app import prepare_server_process
    from rlhf_hitl.api.connections import ConnectionLimits, Connections, LimitedProtocol, make_room_for_connections

    prepare_server_process()
    proxies = TrustedProxies(settings.trusted_proxies)
    limits = ConnectionLimits(make_room_for_connections(), settings.max_connections_per_address)
    return {
        "http": functools.partial(LimitedProtocol, connections=Connections(limits, proxies)),
        "ws": "none",
        "log_level": "warning",
        "log_config": None,
        "access_log": False,  # it would log addresses with the secrets of invitations; our log has route patterns
        "server_header": False,
        "timeout_graceful_shutdown": 3,
        "proxy_headers": False,  # `api/proxies.py` does it, for all headers of that kind
    }


def _bind_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket. It is taken before anything slow is done, so that a port in use is reported at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as e:
        raise BadInput(f"--host {host}", expected="an address of this machine", fix="try 127.0.0.1") from e
    # asyncio sets TCP_NODELAY only if the protocol is named, and without it every answer waits some 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as e:
        bound.close()
        raise BadInput(
            f"--port {port} on {host}",
            expected=f"a free port ({(e.strerror or str(e)).lower()})",
            fix="stop what uses it, or give another --port",
        ) from e
    return bound


def _format_address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_accounts_panel(headline: list[Any], accounts: dict[str, Any]) -> Any:
    """Return a panel with a headline, how to sign in and, where `rlhf-hitl` alone is not found, how to call it.

    Args:
        headline: parts that `Text.assemble` takes.
        accounts: name → password.
    """
    from rich.panel import Panel
    from rich.text import Text

    text = Text.assemble(*headline, "\n" if accounts else "", no_wrap=False, overflow="fold")
    for name, password in accounts.items():
        text.append("\nsign in as ").append(f"{name:6}", "bold").append(" password ").append(password, "bold")
    for number, (words, typed) in enumerate(describe_calls()):
        text.append("\n" if number else "\n\n").append(words).append(typed, "bold")
    return Panel(text, title="rlhf_hitl", expand=False, padding=(1, 3))


def describe_calls() -> list[tuple[str, str]]:
    """Return how the commands of this installation are called here, as lines of words and what to type; none where
    `rlhf-hitl` alone calls them."""
    scripts = Path(sysconfig.get_path("scripts"))
    program = next(
        (p for p in (Path(sys.argv[0]), scripts / "rlhf-hitl") if p.name == "rlhf-hitl" and p.is_file()), None
    )
    if program is None:
        return [("Here the commands are called with ", f"{_shorten_path(Path(sys.executable))} -m rlhf_hitl")]
    if (found := shutil.which("rlhf-hitl")) is not None and os.path.samefile(found, program):
        return []
    lines = [("Here the commands are called with ", _shorten_path(program))]
    if (activate := program.with_name("activate")).is_file():
        lines.append(("or with rlhf-hitl alone, after ", f"source {_shorten_path(activate)}"))
    return lines


def _shorten_path(path: Path) -> str:
    """Return a path as it is typed from this folder, quoted for a shell where it must be."""
    path = Path(os.path.abspath(path))
    return shlex.quote(str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path))
