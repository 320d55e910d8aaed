"""Commands `alerts …`: what needs a lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.config import load_settings

if TYPE_CHECKING:
    from rlhf_hitl.store.alerts import Alert

alert_group = typer.Typer(help="See and silence what needs a lead.", no_args_is_help=True)
app.add_typer(alert_group, name="alerts")

Number = Annotated[int, typer.Argument(min=1, help="The number that `alerts list` shows.")]


@command("list", alert_group)
def list_alerts_command(
    past: Annotated[bool, typer.Option("--past", help="Show those that are true no more, too.")] = False,
    look: Annotated[
        bool, typer.Option("--look/--no-look", help="Look at the rules first, and tell of what is new.")
    ] = True,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Look at the rules now, as a server does every minute, and list the alerts."""
    from rlhf_hitl.alerts.config import load_alert_config
    from rlhf_hitl.alerts.keeper import look as look_at_rules
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.alerts import list_alerts

    settings = load_settings()
    config = load_alert_config(settings)
    opened = Store.open(store)
    new = {alert.seq for alert in look_at_rules(opened, settings, config)} if look else set()
    found = list_alerts(opened, standing=not past)
    rows = [_describe(alert) | {"new": alert.seq in new} for alert in found]
    cells = [(a.seq, a.rule, _say_state(a), f"{a.raised_at:%Y-%m-%d %H:%M}", a.message) for a in found]
    table = make_table("Alerts", cells, ("", "rule", "state", "raised (UTC)", "what"))
    return Result({"alerts": rows}, table if rows else "Nothing needs a lead.")


@command("seen", alert_group)
def see_alert_command(number: Number, *, store: StoreUrl, json: AsJson = False) -> Result:
    """Note that you have seen an alert. It stands until its rule is true no more."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.alerts import see_alert

    alert = see_alert(Store.open(store), number)
    return Result(_describe(alert), f"Seen: {alert.message}")


@command("silence", alert_group)
def silence_alert_command(
    number: Number,
    days: Annotated[float, typer.Option(help="For so many days.")] = 7.0,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Be told no more of this rule and what it is about for some days, though it become true again."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.alerts import silence_alert

    alert = silence_alert(Store.open(store), number, days)
    return Result(_describe(alert), f"Silenced until {alert.silenced_until:%Y-%m-%d %H:%M} UTC: {alert.message}")


def _say_state(alert: Alert) -> str:
    if alert.cleared_at is not None:
        return "over"
    return "silenced" if alert.silenced_until is not None else "seen" if alert.seen_at is not None else "new"


def _describe(alert: Alert) -> dict[str, Any]:
    at = ("raised_at", "cleared_at", "seen_at", "silenced_until")
    times = {name: None if (t := getattr(alert, name)) is None else t.isoformat() for name in at}
    return vars(alert) | {"figures": dict(alert.figures), "state": _say_state(alert)} | times
