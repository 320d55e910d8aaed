"""Commands `raters …`: the people who can sign in."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, table
from rlhf_hitl.cli.passwords import new_password
from rlhf_hitl.errors import BadInput

raters = typer.Typer(help="People: who may rate, who may lead.", no_args_is_help=True)
app.add_typer(raters, name="raters")


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
    rater = people.add_rater(Store.open(store), name, Role(role.value), password)
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

    from rlhf_hitl.store import Store
    from rlhf_hitl.store.sign_in import set_password

    fresh = new_password()
    set_password(Store.open(store), name, fresh)
    return Result(
        {"name": name, "password": fresh},
        Text.assemble("New password of ", (name, "bold"), ", shown this once: ", (fresh, "bold")),
    )


@command("list", raters)
def list_raters(*, store: StoreUrl, json: AsJson = False) -> Result:
    """Who there is, how much they have judged, and what they are offered."""
    from rlhf_hitl.store import Store, people, views

    opened = Store.open(store)
    known = people.list_raters(opened)
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
    rater = people.change_rater(
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

    people.change_rater(Store.open(store), name, disabled=True)
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

    people.change_rater(Store.open(store), name, disabled=False)
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
    from rlhf_hitl.store.invitations import add_invitation
    from rlhf_hitl.types import Role

    if not address.startswith(("http://", "https://")):
        raise BadInput(
            f"address {address!r}", expected="http:// or https://", fix="write e.g. https://rate.example.org"
        )
    made = add_invitation(Store.open(store), Role(role.value), project=project, days=days)
    link = f"{address.rstrip('/')}/invite/{made}"
    return Result({"link": link, "role": role.value, "days": days}, f"For one {role.value}, shown this once: {link}")
