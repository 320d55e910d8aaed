"""Webhooks: other programs subscribe an address to events, and each event is sent to it, signed, until it is received.

An event travels like this:

1. `subscriptions.add_webhook` keeps an address and the events it wants (table `webhooks`).
2. Where something happens, the code that writes it calls `outbox.enqueue_event` in the same transaction. That inserts
   a row for each subscribed webhook into the outbox (table `deliveries`), with the JSON to send. So no event is lost,
   and none tells of what was rolled back.
3. `sender.WebhookSender`, a thread that each server process starts (`api/app.py`), claims the next due row, sends it
   and marks it as delivered, or plans the next attempt.

Which events there are: `rlhf_hitl.types.Event`. Everything but the sender can be imported from here.
"""

from rlhf_hitl.store.webhooks.outbox import (
    Delivery,
    claim_delivery,
    count_waiting_deliveries,
    enqueue_event,
    mark_delivered,
    record_failure,
)
from rlhf_hitl.store.webhooks.subscriptions import (
    Webhook,
    add_webhook,
    end_webhook,
    list_subscriptions,
    list_webhooks,
    renew_webhook_secret,
    subscriptions_exist,
)

__all__ = [
    "Delivery",
    "Webhook",
    "add_webhook",
    "claim_delivery",
    "count_waiting_deliveries",
    "end_webhook",
    "enqueue_event",
    "list_subscriptions",
    "list_webhooks",
    "mark_delivered",
    "record_failure",
    "renew_webhook_secret",
    "subscriptions_exist",
]
