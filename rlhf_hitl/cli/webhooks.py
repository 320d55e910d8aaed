"""Commands `webhooks …`: addresses that events are sent to."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.types import Event
from rlhf_hitl.wording import say_count

webhook_group = typer.Typer(help="Manage webhooks: addresses that events are sent to.", no_args_is_help=True)
app.add_typer(webhook_group, name="webhooks")


@command("add", webhook_group)
def add_webhook_command(
    url: Annotated[str, typer.Argument(help="The address to send events to.")],
    event: Annotated[list[Event], typer.Option(help="Send this event; may be repeated.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Send events to an address. The secret that signs them is printed once."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import webhooks as stored_webhooks

    webhook = stored_webhooks.add_webhook(Store.open(store), url, event)
    data = {"id": webhook.id, "url": webhook.url, "events": [e.value for e in webhook.events], "secret": webhook.secret}
    return Result(data, f"{webhook.id}; its signing secret, shown this once: {webhook.secret}")


@command("renew", webhook_group)
def renew_webhook_command(
    webhook: Annotated[str, typer.Argument(help="The id that `webhooks list` shows.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Give a webhook a new secret, which is printed once: the old one is known to others, or its key is lost."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import webhooks as stored_webhooks

    renewed = stored_webhooks.renew_webhook_secret(Store.open(store), webhook)
    data = {"id": renewed.id, "secret": renewed.secret}
    return Result(data, f"{renewed.id}; its new signing secret, shown this once: {renewed.secret}")


@command("list", webhook_group)
def list_webhooks_command(*, store: StoreUrl, json: AsJson = False) -> Result:
    """List webhooks, and how many deliveries wait."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import webhooks as stored_webhooks

    opened = Store.open(store)
    rows = [
        {
            "id": w.id,
            "url": w.url,
            "events": [e.value for e in w.events],
            "ended": w.ended_at is not None,
            "can_be_signed": w.can_be_signed,
        }
        for w in stored_webhooks.list_webhooks(opened)
    ]
    waiting = stored_webhooks.count_waiting_deliveries(opened)
    cells = [
        (
            *(r["id"], r["url"], " ".join(r["events"])),
            "ended" if r["ended"] else "on" if r["can_be_signed"] else "cannot be signed",
        )
        for r in rows
    ]
    text = make_table(
        f"Webhooks ({say_count(waiting, 'delivery waits', 'deliveries wait')})", cells, ("id", "url", "events", "")
    )
    more = []
    if any(not r["can_be_signed"] and not r["ended"] for r in rows):
        more.append(
            f"Another key sealed the secrets of some; {opened.sealer.describe_key()}. Fix: copy the key file from "
            "where the store was, or make a new secret with `rlhf-hitl webhooks renew ID`"
        )
    return Result({"webhooks": rows, "waiting": waiting}, text if rows else "None yet.", more=more)


@command("end", webhook_group)
def end_webhook_command(
    webhook: Annotated[str, typer.Argument(help="The id that `webhooks list` shows.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Send nothing more to a webhook, for good."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import webhooks as stored_webhooks

    stored_webhooks.end_webhook(Store.open(store), webhook)
    return Result({"id": webhook, "ended": True}, f"{webhook} receives nothing more.")
