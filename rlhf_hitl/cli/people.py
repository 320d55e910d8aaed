"""Commands: people, projects, what programs need to come in, and what they are told."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, table
from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import Event, Scope

raters = typer.Typer(help="People: who may rate, who may lead.", no_args_is_help=True)
projects = typer.Typer(help="Projects: what is judged together, and by whom.", no_args_is_help=True)
tokens = typer.Typer(help="API tokens and invitations.", no_args_is_help=True)
webhooks = typer.Typer(help="Webhooks: addresses that are told of events.", no_args_is_help=True)
for name, group in {"raters": raters, "projects": projects, "tokens": tokens, "webhooks": webhooks}.items():
    app.add_typer(group, name=name)


class SignInRole(StrEnum):
    """The roles one can be given."""

    RATER = "rater"
    LEAD = "lead"
    EVALUATOR = "evaluator"
    ADMIN = "admin"


@command("add", raters)
def add(
    name: Annotated[str, typer.Argument(help="The name they sign in with.")],
    role: Annotated[SignInRole, typer.Option(help="What they may open.")] = SignInRole.RATER,
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
def list_raters(*, store: StoreUrl, json: AsJson = False) -> Result:
    """Who there is, how much they have judged, and what they are offered."""
    from rlhf_hitl.store import Store, people, views

    opened = Store.open(store)
    known = people.everyone(opened)
    done = views.work(opened)
    rows = [
        {
            "name": r.name,
            "role": r.role.value,
            "judgments": done[r.id].in_all,
            "state": r.state,
            "languages": None if r.languages is None else list(r.languages),
            "quota": r.quota,
        }
        for r in known
    ]
    told = [
        (
            *(row[k] for k in ("name", "role", "judgments", "state")),
            ", ".join(row["languages"] or ["any"]),
            row["quota"] or "-",
        )
        for row in rows
    ]
    text = table("Raters", told, ("name", "role", "judgments", "state", "languages", "a day"))
    return Result({"raters": rows}, text if rows else "Nobody yet. Add somebody with `rlhf-hitl raters add NAME`.")


@command("set", raters)
def set_rater(
    name: Annotated[str, typer.Argument(help="Whom.")],
    paused: Annotated[bool | None, typer.Option("--paused/--active", help="Offer them nothing new.")] = None,
    languages: Annotated[
        str | None, typer.Option(help="Languages they read, as prompts are tagged, with commas; '' for any.")
    ] = None,
    quota: Annotated[int | None, typer.Option(min=0, help="Judgments a UTC day; 0 for no limit.")] = None,
    role: Annotated[SignInRole | None, typer.Option(help="What they may open.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Change what somebody is offered. What is left out stays."""
    from rlhf_hitl.store import Store, people
    from rlhf_hitl.types import Role

    opened = Store.open(store)
    if all(new is None for new in (paused, languages, quota, role)):
        raise BadInput("nothing to change", expected="an option that says what", fix="add e.g. --paused or --quota 50")
    rater = people.change(
        opened,
        name,
        paused=paused,
        languages=None if languages is None else languages.split(","),
        quota=quota,
        role=None if role is None else Role(role.value),
    )
    data = {
        "name": rater.name,
        "role": rater.role.value,
        "paused": rater.paused,
        "languages": None if rater.languages is None else list(rater.languages),
        "quota": rater.quota,
    }
    shown = data | {"languages": ", ".join(rater.languages or ["any"]), "quota": rater.quota or "no limit"}
    return Result(data, table("Rater", shown))


@command("disable", raters)
def disable(
    name: Annotated[str, typer.Argument(help="Who may no longer sign in.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Shut somebody and their tokens out at once. What they judged stays."""
    from rlhf_hitl.store import Store, people

    people.change(Store.open(store), name, disabled=True)
    return Result({"name": name, "disabled": True}, f"{name} may no longer sign in.")


@command("enable", raters)
def enable(
    name: Annotated[str, typer.Argument(help="Who may sign in again.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Let somebody in again who was disabled."""
    from rlhf_hitl.store import Store, people

    people.change(Store.open(store), name, disabled=False)
    return Result({"name": name, "disabled": False}, f"{name} may sign in again.")


@command("invite", raters)
def invite(
    role: Annotated[SignInRole, typer.Option(help="What whoever takes it up becomes.")] = SignInRole.RATER,
    project: Annotated[str | None, typer.Option(help="A project it admits to.")] = None,
    days: Annotated[float, typer.Option(min=0.01, max=365, help="How long it holds.")] = 7,
    address: Annotated[str, typer.Option(help="Where the server is reached.")] = "http://127.0.0.1:7860",
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make a link by which one person chooses a name and a password, printed once."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import tokens as secret
    from rlhf_hitl.types import Role

    if not address.startswith(("http://", "https://")):
        raise BadInput(
            f"address {address!r}", expected="http:// or https://", fix="write e.g. https://rate.example.org"
        )
    made = secret.invite(Store.open(store), Role(role.value), project=project, days=days)
    link = f"{address.rstrip('/')}/invite/{made}"
    return Result({"link": link, "role": role.value, "days": days}, f"For one {role.value}, shown this once: {link}")


@command("add", projects)
def add_project(
    name: Annotated[str, typer.Argument(help="Small letters, digits, dots and dashes.")],
    open: Annotated[bool, typer.Option("--open/--members-only", help="Whether every rater works in it.")] = True,
    repeat_every: Annotated[
        int, typer.Option(min=0, help="Of so many comparisons a rater gets, show one again, hidden; 0: none.")
    ] = 0,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make a project. Bring comparisons in with `rlhf-hitl import --project NAME`."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import projects as of

    made = of.add(Store.open(store), name, open=open, repeat_every=repeat_every)
    return Result(vars(made), table("Project", vars(made)))


@command("list", projects)
def list_projects(*, store: StoreUrl, json: AsJson = False) -> Result:
    """Projects and how their queues stand."""
    from rlhf_hitl.store import Store, queue
    from rlhf_hitl.store import projects as of

    opened = Store.open(store)
    lanes = queue.by_lane(opened)
    rows = []
    for p in of.everything(opened):
        own = [lane for lane in lanes if lane.project == p.id]
        places = {k: sum(getattr(lane, k) for lane in own) for k in ("filled", "leased", "free")}
        rows.append(vars(p) | places)
    told = [
        (r["id"], "paused" if r["paused"] else "open" if r["open"] else "members", r["filled"], r["leased"], r["free"])
        for r in rows
    ]
    return Result({"projects": rows}, table("Projects", told, ("project", "state", "filled", "leased", "free")))


@command("set", projects)
def set_project(
    name: Annotated[str, typer.Argument(help="Which.")],
    paused: Annotated[bool | None, typer.Option("--paused/--active", help="Hand out nothing.")] = None,
    open: Annotated[bool | None, typer.Option("--open/--members-only", help="Whether every rater works in it.")] = None,
    repeat_every: Annotated[
        int | None, typer.Option(min=0, help="Of so many comparisons a rater gets, show one again, hidden; 0: none.")
    ] = None,
    admit: Annotated[list[str] | None, typer.Option(help="A rater who may work in it; may be given again.")] = None,
    dismiss: Annotated[list[str] | None, typer.Option(help="A rater who may no longer; may be given again.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Pause a project, let it go on, or say who works in it. What is left out stays."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import projects as of

    opened = Store.open(store)
    changed = of.change(opened, name, paused=paused, open=open, repeat_every=repeat_every)
    for rater in admit or []:
        of.admit(opened, name, rater)
    for rater in dismiss or []:
        of.dismiss(opened, name, rater)
    data = vars(changed) | {"members": len(of.members_of(opened).get(name, []))}
    return Result(data, table("Project", data))


@command("add", tokens)
def add_token(
    rater: Annotated[str, typer.Argument(help="For whom it acts.")],
    scope: Annotated[list[Scope], typer.Option(help="A door it opens; may be given again.")],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="How long it holds.")] = 90,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make an API token, printed once. It can do no more than the role of whom it acts for."""
    from rlhf_hitl.store import Store, people
    from rlhf_hitl.store import tokens as secret

    opened = Store.open(store)
    made = secret.add(opened, people.named(opened, rater).id, name, scope, days=days)
    data = {"token": made, "rater": rater, "scopes": sorted(s.value for s in scope), "days": days}
    return Result(data, f"Token for {rater}, shown this once: {made}")


@command("list", tokens)
def list_tokens(*, store: StoreUrl, json: AsJson = False) -> Result:
    """Tokens and invitations, never the secrets themselves."""
    from rlhf_hitl.store import Store, people
    from rlhf_hitl.store import tokens as secret
    from rlhf_hitl.types import utc_now

    opened, now = Store.open(store), utc_now()
    names = {r.id: r.name for r in people.everyone(opened)}
    rows = [
        {
            "id": t.id,
            "kind": t.kind.value,
            "rater": names.get(t.rater_id or "", ""),
            "name": t.name,
            "scopes": list(t.scopes),
            "role": t.role,
            "expires_at": None if t.expires_at is None else t.expires_at.isoformat(),
            "holds": t.holds(now),
        }
        for t in secret.everything(opened)
    ]
    told = [
        (r["id"], r["kind"], r["rater"], " ".join(r["scopes"]) or r["role"], "holds" if r["holds"] else "over")
        for r in rows
    ]
    text = table("Tokens", told, ("id", "kind", "rater", "for", ""))
    return Result(
        {"tokens": rows}, text if rows else "None yet. Make one with `rlhf-hitl tokens add RATER --scope task`."
    )


@command("revoke", tokens)
def revoke(
    token: Annotated[str, typer.Argument(help="Its id, as `tokens list` shows it.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """End a token or an invitation at once."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import tokens as secret

    secret.revoke(Store.open(store), token)
    return Result({"id": token, "holds": False}, f"{token} is over.")


@command("add", webhooks)
def add_webhook(
    url: Annotated[str, typer.Argument(help="Where to send.")],
    event: Annotated[list[Event], typer.Option(help="What to send; may be given again.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Have events sent to an address. The secret they are signed with is printed once."""
    from rlhf_hitl.store import Store, events

    made = events.add_webhook(Store.open(store), url, event)
    data = {"id": made.id, "url": made.url, "events": [e.value for e in made.events], "secret": made.secret}
    return Result(data, f"{made.id}; it signs with, shown this once: {made.secret}")


@command("list", webhooks)
def list_webhooks(*, store: StoreUrl, json: AsJson = False) -> Result:
    """Where what is sent, and how much waits."""
    from rlhf_hitl.store import Store, events

    opened = Store.open(store)
    rows = [
        {"id": w.id, "url": w.url, "events": [e.value for e in w.events], "ended": w.ended_at is not None}
        for w in events.all_webhooks(opened)
    ]
    waiting = events.waiting(opened)
    told = [(r["id"], r["url"], " ".join(r["events"]), "ended" if r["ended"] else "on") for r in rows]
    text = table(f"Webhooks ({waiting} deliveries wait)", told, ("id", "url", "events", ""))
    return Result({"webhooks": rows, "waiting": waiting}, text if rows else "None yet.")


@command("end", webhooks)
def end_webhook(
    webhook: Annotated[str, typer.Argument(help="Its id, as `webhooks list` shows it.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Send nothing more to it."""
    from rlhf_hitl.store import Store, events

    events.end_webhook(Store.open(store), webhook)
    return Result({"id": webhook, "ended": True}, f"{webhook} gets nothing more.")


@command("audit")
def show_audit(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Who did what, newest first."""
    from rlhf_hitl.store import Store, audit, people

    opened = Store.open(store)
    names = {r.id: r.name for r in people.everyone(opened)}
    found = audit.entries(opened, limit=limit, newest_first=True)
    rows = [vars(e) | {"at": e.at.isoformat()} for e in found]
    told = [(f"{e.at:%Y-%m-%d %H:%M:%S}", names.get(e.actor, e.actor), e.action, e.subject) for e in found]
    return Result({"entries": rows}, table("Audit log", told, ("at", "who", "what", "of")))


def new_password() -> str:
    """A password of 70 bits that can be read out."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(3))
