"""Sends what is in the outbox, signed as https://www.standardwebhooks.com says, until it is received."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import time

import httpx

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.retention import delete_expired
from rlhf_hitl.store.webhooks.outbox import Delivery, claim_delivery, mark_delivered, record_failure

CLEANUP_INTERVAL = 3600.0  # seconds from the end of one deletion of expired rows to the next

log = logging.getLogger("rlhf_hitl.webhooks")


def sign_delivery(secret: str, delivery_id: str, timestamp: int, body: str) -> str:
    """Return the `webhook-signature` header: an HMAC-SHA256 of id, time and body under the secret's bytes."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{delivery_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class WebhookSender:
    """A thread that sends due deliveries, and deletes expired rows of the store now and then.

    Any number of processes may run one on the same store.

    Args:
        pause: seconds to wait where nothing is due.
        timeout: seconds a receiver has for its whole answer.
        batch_size: deliveries to send before looking whether expired rows have to be deleted.
    """

    def __init__(self, store: Store, *, pause: float = 1.0, timeout: float = 10.0, batch_size: int = 100):
        self.store, self.pause, self.timeout, self.batch_size = store, pause, timeout, batch_size
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=15)

    def send_due(self) -> int:
        """Try to send each due delivery once, up to `batch_size` of them; returns how many were tried."""
        tried = 0
        # Claimed one by one: a delivery that waits in this process could be sent by another.
        while tried < self.batch_size and not self._stop.is_set():
            delivery = claim_delivery(self.store)
            if delivery is None:
                break
            tried += 1
            error = self._send(delivery)
            if error is None:
                mark_delivered(self.store, delivery)
            elif not record_failure(self.store, delivery, error):
                log.error("webhook given up", extra={"delivery": delivery.id, "error": error})
        return tried

    def _send(self, delivery: Delivery) -> str | None:
        """Send a delivery; returns what went wrong, or None after any 2xx answer."""
        now = int(time.time())
        try:
            secret = self.store.sealer.unseal(delivery.sealed_secret)
        except (BadInput, OSError) as e:  # no key, or another: the delivery waits for it as it waits for a receiver
            log.error("webhook cannot be signed", extra={"delivery": delivery.id, "error": str(e)})
            return f"cannot be signed: {e}"
        headers = {
            "content-type": "application/json",
            "user-agent": f"rlhf_hitl/{__version__}",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign_delivery(secret, delivery.id, now, delivery.body),
        }
        # A redirect would send the event to an address that nobody subscribed.
        http = httpx.Client(timeout=self.timeout, follow_redirects=False, trust_env=False)
        # httpx restarts its timeout with every byte; this timer ends an answer that trickles in for ever.
        deadline = threading.Timer(self.timeout, http.close)
        deadline.start()
        try:
            with http.stream("POST", delivery.url, content=delivery.body.encode(), headers=headers) as response:
                return None if response.is_success else f"HTTP {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as e:
            return type(e).__name__
        finally:
            deadline.cancel()
            http.close()

    def _run(self) -> None:
        cleanup_at = time.monotonic()
        while not self._stop.is_set():
            tried = 0
            try:
                tried = self.send_due()
                if time.monotonic() >= cleanup_at and not delete_expired(self.store):
                    cleanup_at = time.monotonic() + CLEANUP_INTERVAL
            except Exception as e:  # of any kind: a thread that ends here would end all deliveries of this process
                log.error("the outbox cannot be read", exc_info=e)
            if not tried:
                self._stop.wait(self.pause)
