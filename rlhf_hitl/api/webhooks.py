"""Sends what waits in the outbox, signed as https://www.standardwebhooks.com says, until it is taken, and sweeps up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import time

import httpx

from rlhf_hitl import __version__
from rlhf_hitl.store import Store, events
from rlhf_hitl.store.retention import delete_expired

SWEEP_EVERY = 3600.0  # seconds between the end of one sweep and the next

log = logging.getLogger("rlhf_hitl.webhooks")


def sign(secret: str, message_id: str, timestamp: int, body: str) -> str:
    """The `webhook-signature` header: HMAC-SHA256 of id, time and body under the secret's bytes."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class Sender:
    """A thread that delivers what is due and deletes what is long over. Any number of processes may run one on the
    same store.

    Args:
        pause: seconds between two looks into the outbox when nothing is due.
        timeout: seconds a receiver has for its whole answer.
        most: deliveries between two looks at whether there is something to sweep up.
    """

    def __init__(self, store: Store, *, pause: float = 1.0, timeout: float = 10.0, most: int = 100):
        self.store, self.pause, self.timeout, self.most = store, pause, timeout, most
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=15)

    def send_due(self) -> int:
        """Try what is due, up to `most`, once; returns how much that was."""
        sent = 0
        # One by one: what waits in this process could be sent by another.
        while sent < self.most and not self._stop.is_set() and (delivery := events.claim(self.store)) is not None:
            sent += 1
            error = self._send(delivery)
            if error is None:
                events.delivered(self.store, delivery)
            elif not events.failed(self.store, delivery, error):
                log.error("webhook given up", extra={"delivery": delivery.id, "error": error})
        return sent

    def _send(self, delivery: events.Delivery) -> str | None:
        """What went wrong, or None. Any 2xx is a yes."""
        now = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": f"rlhf_hitl/{__version__}",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(delivery.secret, delivery.id, now, delivery.body),
        }
        # A redirect would send the event to an address nobody subscribed.
        http = httpx.Client(timeout=self.timeout, follow_redirects=False, trust_env=False)
        # httpx counts its timeout anew with every byte; this ends an answer that trickles for ever.
        end = threading.Timer(self.timeout, http.close)
        end.start()
        try:
            with http.stream("POST", delivery.url, content=delivery.body.encode(), headers=headers) as answer:
                return None if answer.is_success else f"HTTP {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as e:
            return type(e).__name__
        finally:
            end.cancel()
            http.close()

    def _run(self) -> None:
        sweep_at = time.monotonic()
        while not self._stop.is_set():
            sent = 0
            try:
                sent = self.send_due()
                if time.monotonic() >= sweep_at and not delete_expired(self.store):
                    sweep_at = time.monotonic() + SWEEP_EVERY
            except Exception as e:  # whatever it was: a thread that ends here would end all deliveries of this process
                log.error("the outbox cannot be read", exc_info=e)
            if not sent:
                self._stop.wait(self.pause)
