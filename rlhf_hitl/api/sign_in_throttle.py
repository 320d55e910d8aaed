"""The throttle against guessed passwords: how many attempts to sign in a name and an address have, and for how long."""

from __future__ import annotations

from datetime import timedelta

from rlhf_hitl.store import Store, audit, webhooks
from rlhf_hitl.types import Event, utc_now


class SignInThrottle:
    """Limits attempts to sign in. It counts them in the store's audit log, so all processes count together.

    Args:
        per_name: attempts for one name from one address, since the name last signed in from there.
        per_address: failed attempts from one address, for whatever name.
        window: seconds for which an attempt counts.
    """

    def __init__(self, store: Store, per_name: int = 5, per_address: int = 30, window: float = 300):
        self.store, self.per_name, self.per_address = store, per_name, per_address
        self.window = timedelta(seconds=window)

    def record_attempt(self, address: str, name: str) -> float:
        """Record an attempt before its password is verified.

        Returns:
            0 where the password may be verified; else the seconds to wait, and the attempt is not recorded.
        """
        now, address = utc_now(), address[:80]  # as the audit log keeps it
        start = now - self.window
        with self.store.write() as conn:
            self.store.lock(conn, "sign_in")  # without it, a hundred simultaneous attempts would all count as the first
            attempts = audit.list_times(conn, "sign_in.tried", start, address=address)
            successes = audit.list_times(conn, "sign_in", start, address=address)
            successes_of_name = audit.list_times(conn, "sign_in", start, subject=name, address=address)
            last_success = max(successes_of_name, default=start)
            of_name = audit.list_times(conn, "sign_in.tried", last_success, subject=name, address=address)
            of_address = attempts[len(successes) :]
            limits = ((of_name, self.per_name), (of_address, self.per_address))
            # The next attempt is allowed when the oldest of the last `limit` attempts leaves the window.
            blocking = [times[-limit] for times, limit in limits if len(times) >= limit]
            if blocking:
                return max((max(blocking) + self.window - now).total_seconds(), 1.0)
            audit.record(conn, audit.Actor("", address), "sign_in.tried", name)
            if any(len(times) + 1 == limit for times, limit in limits):
                alert = {"alert": "sign_in.throttled", "name": name, "address": address}
                webhooks.enqueue_event(conn, Event.ALERT_RAISED, alert)
        return 0.0
