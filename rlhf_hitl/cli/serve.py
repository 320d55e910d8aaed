"""Commands: people, the pages, and the shortest way to both."""

from __future__ import annotations

import contextlib
import json as jsonlib
import secrets
import socket
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, say, table
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput

if TYPE_CHECKING:
    from rlhf_hitl.store import Store

raters = typer.Typer(help="People: who may rate, who may lead.", no_args_is_help=True)
app.add_typer(raters, name="raters")

Host = Annotated[str, typer.Option(help="Address to listen on. 0.0.0.0 lets other machines in: put TLS before it.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]


class PageRole(StrEnum):
    """The roles that have a page to sign in to."""

    RATER = "rater"
    LEAD = "lead"
    ADMIN = "admin"


@command("serve")
def serve(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Serve the rater page, the lead page and sign-in."""
    from rlhf_hitl.store import Store

    return _serve(Store.open(store), host, port, {}, json)


@command("quickstart")
def quickstart(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve when all is made.")] = True,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make a store with the bundled prompts and completions and two accounts, and serve it. Safe to run again."""
    from rlhf_hitl.formats.importing import import_bundled
    from rlhf_hitl.store import Store, catalog

    settings = load_settings()
    opened = Store.open(store, create=True)
    import_bundled(opened)
    accounts = _accounts(opened, settings.workspace)
    if serve:
        return _serve(opened, host, port, accounts, json)
    data = {"store": opened.safe_url, "accounts": accounts, "counts": catalog.counts(opened)}
    return Result(data, _box(["Ready. Start it with `rlhf-hitl serve`."], accounts))


@command("add", raters)
def add(
    name: Annotated[str, typer.Argument(help="The name they sign in with.")],
    role: Annotated[PageRole, typer.Option(help="What they may open.")] = PageRole.RATER,
    password: Annotated[
        str | None, typer.Option(help="Eight characters or more; without it one is made and printed once.")
    ] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Add somebody who can sign in."""
    from rich.text import Text

    from rlhf_hitl.store import Store, people
    from rlhf_hitl.types import Role

    made = password is None
    password = password if password is not None else new_password()
    rater = people.add(Store.open(store), name, Role(role.value), password)
    data = {"id": rater.id, "name": rater.name, "role": rater.role.value}
    text = Text.assemble(f"Added {rater.role.value} ", (rater.name, "bold"), ".")
    if made:
        data["password"] = password
        text.append(" Password, shown this once: ").append(password, "bold")
    return Result(data, text)


@command("password", raters)
def password(
    name: Annotated[str, typer.Argument(help="Whose.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Give somebody a new password, printed once. Where they are signed in, they are signed out."""
    from rich.text import Text

    from rlhf_hitl.store import Store, people

    fresh = new_password()
    people.set_password(Store.open(store), name, fresh)
    return Result(
        {"name": name, "password": fresh},
        Text.assemble("New password of ", (name, "bold"), ", shown this once: ", (fresh, "bold")),
    )


@command("list", raters)
def list_(*, store: StoreUrl, json: AsJson = False) -> Result:
    """Who there is, and how much they have judged."""
    from rlhf_hitl.store import Store, people, views

    opened = Store.open(store)
    counts = views.judgments_by_rater(opened)
    rows = [
        {
            "name": r.name,
            "role": r.role.value,
            "judgments": counts[r.id][0] if r.id in counts else 0,
            "state": "disabled" if r.disabled else "simulated" if r.simulated else "imported" if r.source else "active",
        }
        for r in people.everyone(opened)
    ]
    text = table("Raters", [tuple(r.values()) for r in rows], ("name", "role", "judgments", "state"))
    return Result({"raters": rows}, text if rows else "Nobody yet. Add somebody with `rlhf-hitl raters add NAME`.")


@command("disable", raters)
def disable(
    name: Annotated[str, typer.Argument(help="Who may no longer sign in.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Shut somebody out at once. What they judged stays."""
    from rlhf_hitl.store import Store, people

    people.disable(Store.open(store), name)
    return Result({"name": name, "disabled": True}, f"{name} may no longer sign in.")


def new_password() -> str:
    """A password of 70 bits that can be read out."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(3))


def _accounts(store: Store, workspace: Path) -> dict[str, str]:
    """Name → password of the two first accounts, made where missing. A password changed since is not known here."""
    from rlhf_hitl.api.auth import write_private
    from rlhf_hitl.store import people
    from rlhf_hitl.types import Role

    workspace.mkdir(parents=True, exist_ok=True)
    kept = workspace / "sign-in.txt"
    known = dict(line.split(": ", 1) for line in _lines(kept) if ": " in line)
    names = {r.name for r in people.everyone(store)}
    out = {}
    for name, role in (("rater", Role.RATER), ("lead", Role.LEAD)):
        out[name] = known.get(name) or new_password()
        if name not in names:
            # Written down first: an account whose password nobody knows is of no use.
            write_private(kept, "".join(f"{k}: {v}\n" for k, v in (known | out).items()))
            people.add(store, name, role, out[name])
        elif people.verify(store, name, out[name]) is None:
            out[name] = f"changed since; a new one: rlhf-hitl raters password {name}"
    return out


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _serve(store: Store, host: str, port: int, accounts: dict[str, str], json: bool) -> Result:
    """Serve until stopped. Once it answers, the address is printed: as a box, or as the one JSON object."""
    listening = _listen(host, port)
    import uvicorn

    from rlhf_hitl.api.app import create_app

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            address = _address(listening)
            if json:
                print(jsonlib.dumps({"address": address, "store": store.safe_url, "accounts": accounts}), flush=True)
            else:
                say(_box(["Open ", (address, "bold")], accounts))

    config = uvicorn.Config(create_app(store, load_settings()), log_level="warning", timeout_graceful_shutdown=3)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one stops it
        Announced(config).run(sockets=[listening])
    raise typer.Exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, taken before anything slow is done: a port in use is said at once."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as e:
        raise BadInput(f"--host {host}", expected="an address of this machine", fix="try 127.0.0.1") from e
    bound = socket.socket(family, socket.SOCK_STREAM)
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


def _box(headline: list[Any], accounts: dict[str, Any]) -> Any:
    """A frame round a headline and how to sign in. The headline is made of what `Text.assemble` takes."""
    from rich.panel import Panel
    from rich.text import Text

    text = Text.assemble(*headline, "\n" if accounts else "")
    for name, word in accounts.items():
        text.append("\nsign in as ").append(f"{name:6}", "bold").append(" password ").append(word, "bold")
    return Panel(text, title="rlhf_hitl", expand=False, padding=(1, 3))
