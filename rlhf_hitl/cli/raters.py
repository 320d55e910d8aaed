"""Commands `raters …`: the people who can sign in, and what checks find against them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.cli.passwords import AskPassword, PasswordStdin, take_password
from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import DEFAULT_PROJECT, Role
from rlhf_hitl.visible import make_cell_visible
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.findings import Finding

rater_group = typer.Typer(help="Manage people: who may rate and who may lead.", no_args_is_help=True)
app.add_typer(rater_group, name="raters")


RoleOption = Annotated[Role, typer.Option(help="Give them this role: it decides what they may open.")]


@command("add", rater_group)
def add_rater_command(
    name: Annotated[str, typer.Argument(help="The name the person signs in with.")],
    role: RoleOption = Role.RATER,
    password_stdin: PasswordStdin = False,
    ask_password: AskPassword = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Add a person who can sign in. Unless you choose a password, one is made and printed once."""
    from rich.text import Text

    from rlhf_hitl.store import Store, people

    opened = Store.open(store)
    password, generated = take_password(password_stdin, ask_password)
    rater = people.add_rater(opened, name, role, password)
    data = {"id": rater.id, "name": rater.name, "role": rater.role.value}
    text = Text.assemble(f"Added {rater.role.value} ", (rater.name, "bold"), ".")
    if generated:
        data["password"] = password
        text.append(" Password, shown this once: ").append(password, "bold")
    return Result(data, text)


@command("password", rater_group)
def reset_password_command(
    name: Annotated[str, typer.Argument(help="The name of the person.")],
    password_stdin: PasswordStdin = False,
    ask_password: AskPassword = False,
    keep_tokens: Annotated[
        bool | None,
        typer.Option(
            "--keep-tokens/--end-tokens",
            help="Keep their API tokens, or end them too. Without either, a terminal asks, and a program ends them.",
            show_default=False,
        ),
    ] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Give a person a new password. Their sessions end, and their API tokens unless you keep them.

    Unless you choose the password, one is made and printed once.
    """
    from rich.text import Text

    from rlhf_hitl.store import Store, people
    from rlhf_hitl.store.sign_in import set_password
    from rlhf_hitl.store.tokens import count_api_tokens

    opened = Store.open(store)
    rater = people.get_rater_by_name(opened, name)
    password, generated = take_password(password_stdin, ask_password)
    if keep_tokens is None and sys.stdin.isatty() and not json and (n := count_api_tokens(opened, rater.id)):
        tokens = say_count(n, "API token acts", "API tokens act")
        question = f"{tokens} for {make_cell_visible(rater.name)}. End {'it' if n == 1 else 'them'} too?"
        keep_tokens = not typer.confirm(question, default=True, err=True)
    ended = set_password(opened, rater.name, password, keep_tokens=bool(keep_tokens))
    data = {"name": rater.name, "sessions_ended": ended.sessions, "tokens_ended": ended.api_tokens}
    text = Text.assemble("New password of ", (rater.name, "bold"))
    if generated:
        data["password"] = password
        text.append(", shown this once: ").append(password, "bold")
    kept = " Their API tokens go on." if keep_tokens else ""
    counts = f"{say_count(ended.sessions, 'session')}, {say_count(ended.api_tokens, 'API token')}"
    return Result(data, text.append(f". Ended: {counts}.{kept}"))


@command("list", rater_group)
def list_raters_command(*, store: StoreUrl, json: AsJson = False) -> Result:
    """List people, how much they have judged, and what they are offered."""
    from rlhf_hitl.store import Store, people, views

    opened = Store.open(store)
    rater_list = people.list_raters(opened)
    done = views.load_activity(opened)
    rows = [
        {
            "name": r.name,
            "role": r.role.value,
            "judgments": done[r.id].in_all,
            "state": r.state,
            "languages": None if r.languages is None else list(r.languages),
            "quota": r.quota,
        }
        for r in rater_list
    ]
    cells = [
        (
            *(row[k] for k in ("name", "role", "judgments", "state")),
            ", ".join(row["languages"] or ["any"]),
            row["quota"] or "-",
        )
        for row in rows
    ]
    text = make_table("Raters", cells, ("name", "role", "judgments", "state", "languages", "a day"))
    alike = people.list_mistakable(opened)
    more = [f"Can be taken for each other: {' and '.join(map(repr, names))}" for names in alike]
    return Result(
        {"raters": rows, "look_alikes": alike},
        text if rows else "Nobody yet. Add somebody with `rlhf-hitl raters add NAME`.",
        more=more,
    )


@command("set", rater_group)
def set_rater_command(
    name: Annotated[str, typer.Argument(help="The name of the person.")],
    paused: Annotated[
        bool | None, typer.Option("--paused/--active", help="Stop or resume offering them comparisons.")
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(help="Offer only these languages, as prompts are tagged, separated by commas; '' offers any."),
    ] = None,
    quota: Annotated[
        int | None, typer.Option(min=0, help="Allow this many judgments a UTC day; 0 removes the limit.")
    ] = None,
    role: Annotated[Role | None, typer.Option(help="Give them this role: it decides what they may open.")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            help="Count them in a group they agreed to, such as region=north, in the report of what raters reward; "
            "`region=` takes it away. May be given several times.",
        ),
    ] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Change what a person is offered or may open. Options that are left out change nothing."""
    from rlhf_hitl.store import Store, people

    opened = Store.open(store)
    if all(new is None for new in (paused, languages, quota, role, attribute)):
        raise BadInput("nothing to change", expected="an option that says what", fix="add e.g. --paused or --quota 50")
    rater = people.change_rater(
        opened,
        name,
        paused=paused,
        languages=None if languages is None else languages.split(","),
        quota=quota,
        role=role,
        attributes=None if attribute is None else dict(map(_read_attribute, attribute)),
    )
    data = {
        "name": rater.name,
        "role": rater.role.value,
        "paused": rater.paused,
        "languages": None if rater.languages is None else list(rater.languages),
        "quota": rater.quota,
        "attributes": dict(rater.attributes),
    }
    attributes = ", ".join(f"{name}={value}" for name, value in rater.attributes.items()) or "none"
    shown = data | {
        "languages": ", ".join(rater.languages or ["any"]),
        "quota": rater.quota or "no limit",
        "attributes": attributes,
    }
    return Result(data, make_table("Rater", shown))


def _read_attribute(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise BadInput(f"--attribute {text!r}", expected="NAME=VALUE", fix="write e.g. --attribute region=north")
    return name.strip(), value.strip()


@command("disable", rater_group)
def disable_rater_command(
    name: Annotated[str, typer.Argument(help="The name of the person who may no longer sign in.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Lock out a person and their tokens at once. Their judgments stay."""
    from rlhf_hitl.store import Store, people

    people.change_rater(Store.open(store), name, disabled=True)
    return Result({"name": name, "disabled": True}, f"{name} may no longer sign in.")


@command("enable", rater_group)
def enable_rater_command(
    name: Annotated[str, typer.Argument(help="The name of the person who may sign in again.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Let a disabled person sign in again."""
    from rlhf_hitl.store import Store, people

    people.change_rater(Store.open(store), name, disabled=False)
    return Result({"name": name, "disabled": False}, f"{name} may sign in again.")


@command("invite", rater_group)
def invite_rater_command(
    role: Annotated[Role, typer.Option(help="Give this role to the person who accepts.")] = Role.RATER,
    project: Annotated[str | None, typer.Option(help="Admit the person to this project.")] = None,
    days: Annotated[float, typer.Option(min=0.01, max=365, help="Keep the link valid for this many days.")] = 7,
    address: Annotated[
        str, typer.Option(help="Build the link on this address of the server.")
    ] = "http://127.0.0.1:7860",
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make a link with which one person chooses a name and a password. It is printed once."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.invitations import add_invitation

    if not address.startswith(("http://", "https://")):
        raise BadInput(
            f"address {address!r}", expected="http:// or https://", fix="write e.g. https://rate.example.org"
        )
    secret = add_invitation(Store.open(store), role, project=project, days=days)
    link = f"{address.rstrip('/')}/invite/{secret}"
    return Result({"link": link, "role": role.value, "days": days}, f"For one {role.value}, shown this once: {link}")


@command("qualify", rater_group)
def qualify_rater_command(
    name: Annotated[str, typer.Argument(help="The name of the person.")],
    project: Annotated[str, typer.Option(help="The project that asks for the qualification.")] = DEFAULT_PROJECT,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="End what they have passed or failed: they are asked again.")
    ] = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Let a rater work in a project as if they had passed its qualification now, or have them asked again."""
    from rlhf_hitl.store import Store, qualifications

    opened = Store.open(store)
    decide = qualifications.withdraw_qualification if withdraw else qualifications.grant_qualification
    standing = decide(opened, name, project)
    data = vars(standing) | {"rater": name, "state": standing.state.value}
    if withdraw:
        return Result(data, f"{name} is asked to qualify for {project} again.")
    until = f" until {standing.expires_at:%Y-%m-%d}" if standing.expires_at else ""
    return Result(data, f"{name} may work in {project}{until}.")


@command("check", rater_group)
def check_raters_command(*, store: StoreUrl, json: AsJson = False) -> Result:
    """Check raters by their answers: write findings against them, and pause them or let their votes count less."""
    from rlhf_hitl.labels.checks import CHECKS, check_raters
    from rlhf_hitl.store import Store

    opened = Store.open(store)
    found = check_raters(opened)
    rate = sum(check.false_alarm_rate for check in CHECKS.values() if check.action != "none")
    rows = _make_finding_rows(opened, found)
    text = _make_findings_table("New findings", rows) if rows else "Nothing new was found."
    more = [f"Of raters who work as asked, these checks pause or down-weight {100 * rate:.2g} % at most, ever."]
    return Result({"findings": rows}, text, more=more)


@command("findings", rater_group)
def list_findings_command(
    name: Annotated[str | None, typer.Argument(help="One rater's name; without it, all.", show_default=False)] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """List what checks have found against raters, overruled findings too."""
    from rlhf_hitl.store import Store, people
    from rlhf_hitl.store.findings import list_findings

    opened = Store.open(store)
    rater_id = None if name is None else people.get_rater_by_name(opened, name).id
    rows = _make_finding_rows(opened, list_findings(opened, rater_id))
    text = _make_findings_table("Findings", rows) if rows else "None. `rlhf-hitl raters check` looks for some."
    return Result({"findings": rows}, text)


@command("overrule", rater_group)
def overrule_findings_command(
    name: Annotated[str, typer.Argument(help="The name of the rater against whom the findings do not hold.")],
    because: Annotated[str, typer.Option(help="Say why, so that others can follow it later.")],
    check: Annotated[
        str | None, typer.Option(help="Overrule the findings of this check only.", show_default=False)
    ] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Overrule findings: the rater's votes count in full again, and they are offered work. No judgment changes.

    What was known by now is not held against them again.
    """
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.findings import overrule_findings

    opened = Store.open(store)
    overruled = overrule_findings(opened, name, because, check=check)
    rows = _make_finding_rows(opened, overruled)
    return Result({"findings": rows}, _make_findings_table("Overruled", rows))


def _make_finding_rows(opened: Store, found: Sequence[Finding]) -> list[dict[str, Any]]:
    from rlhf_hitl.labels.checks import explain
    from rlhf_hitl.store.checked_answers import load_rater_states

    states = load_rater_states(opened) if found else {}
    return [
        {
            "seq": finding.seq,
            "name": states[finding.rater_id].name,
            "check": finding.check,
            "project": finding.project,
            "action": finding.action.value,
            "reason": explain(finding.check, finding.evidence),
            "p_value": finding.p_value,
            "false_alarm_rate": finding.false_alarm_rate,
            "evidence": dict(finding.evidence),
            "at": finding.created_at.isoformat(),
            "overruled_because": finding.overruled_because,
        }
        for finding in found
    ]


def _make_findings_table(title: str, rows: list[dict[str, Any]]) -> Any:
    cells = [
        (row["name"], row["check"], "overruled" if row["overruled_because"] else row["action"], row["reason"])
        for row in rows
    ]
    return make_table(title, cells, ("name", "check", "action", "why"))
