"""The throttle against guessed passwords. It slows whoever guesses and locks nobody out."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from rlhf_hitl.store import Store, audit, webhooks
from rlhf_hitl.types import Event, utc_now

#: Attempts with a browser that the name has signed in with before, and all other attempts. They are counted apart: a
#: stranger who tries a name all day does not keep its owner out, nor does one in an office keep out the office.
FROM_KNOWN_DEVICE, TRIED = "sign_in.tried_known", "sign_in.tried"
#: What `store/devices.py` records of an attempt with an unknown browser that was no guess.
SUCCEEDED = "device.added"
THROTTLED = "sign_in.throttled"


class SignInThrottle:
    """Limits attempts to sign in. It counts them in the store's audit log, so all processes count together.

    After `per_name` failures for a name within the window, from whatever addresses, there is one attempt a `pause`.
    After `per_address` failures from an address (of IPv6, a /64: see `find_network`), for whatever names, there is one
    a `pause` for each name there, and `per_address` in all.

    Args:
        window: seconds for which an attempt counts.
        pause: seconds between attempts from then on.
    """

    def __init__(self, store: Store, per_name: int = 10, per_address: int = 30, window: float = 900, pause: float = 60):
        self.store, self.per_name, self.per_address = store, per_name, per_address
        self.window, self.pause = timedelta(seconds=window), timedelta(seconds=pause)

    def record_attempt(self, address: str, name: str, device: str = "") -> float:
        """Record an attempt before its password is verified.

        Returns:
            0 where the password may be verified; else the seconds to wait, and the attempt is not recorded.
        """
        address = address[:80]  # as the audit log keeps it
        with self.store.read() as conn:  # a flood of attempts is refused without the lock that submits wait for
            wait = self._find_wait(conn, address, name, device)
            is_told = wait > 0 and self._leads_are_told(conn, address, name)
        if wait > 0 and is_told:
            return wait
        with self.store.write() as conn:
            self.store.lock(conn, "sign_in")  # without it, a hundred simultaneous attempts would all count as the first
            wait = self._find_wait(conn, address, name, device)
            if wait > 0:
                self._tell_leads(conn, address, name)
                return wait
            actor = audit.Actor("", address)
            if device:
                audit.record(conn, actor, FROM_KNOWN_DEVICE, device, name=name)
            else:
                audit.record(conn, actor, TRIED, name)
        return 0.0

    def _start(self) -> datetime:
        return utc_now() - self.window

    def _find_wait(self, conn: Connection, address: str, name: str, device: str) -> float:
        """Return the seconds until the next attempt; 0 where it may be made now."""
        start = self._start()
        if device:
            tried = audit.list_times(conn, FROM_KNOWN_DEVICE, start, subject=device)
            return self._compute_wait(tried, 1) if len(tried) >= self.per_name else 0.0
        waits = [0.0]
        tried, succeeded = (audit.list_times(conn, action, start, subject=name) for action in (TRIED, SUCCEEDED))
        if len(tried) - len(succeeded) >= self.per_name:
            waits.append(self._compute_wait(tried, 1))
        tried, succeeded = (audit.list_times(conn, action, start, address=address) for action in (TRIED, SUCCEEDED))
        if len(tried) - len(succeeded) >= self.per_address:
            here = audit.list_times(conn, TRIED, start, subject=name, address=address)
            waits += [self._compute_wait(here, 1), self._compute_wait(tried, self.per_address)]
        return max(waits)

    def _compute_wait(self, times: list[datetime], most: int) -> float:
        """Return the seconds until fewer than `most` of the times (oldest first) are in the last pause."""
        if len(times) < most:
            return 0.0
        return max((times[-most] + self.pause - utc_now()).total_seconds(), 0.0)

    def _tell_leads(self, conn: Connection, address: str, name: str) -> None:
        """Record that somebody is slowed, and raise an alert: once a window for a name, and for an address."""
        if self._leads_are_told(conn, address, name):
            return
        audit.record(conn, audit.Actor("", address), THROTTLED, name)
        alert = {"alert": "sign_in.throttled", "name": name, "address": address}
        webhooks.enqueue_event(conn, Event.ALERT_RAISED, alert)

    def _leads_are_told(self, conn: Connection, address: str, name: str) -> bool:
        start = self._start()
        return bool(
            audit.list_times(conn, THROTTLED, start, subject=name)
            or audit.list_times(conn, THROTTLED, start, address=address)
        )
