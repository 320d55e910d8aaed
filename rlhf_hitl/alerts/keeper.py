"""Look at audits, promotions and alerts: once, or again and again while a server runs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable

from rlhf_hitl.alerts.config import AlertConfig
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store
from rlhf_hitl.store.alerts import Alert, update_alerts

LOOK_INTERVAL = 60.0  # seconds between two looks, at least
#: A look at all rules that takes long is followed by a pause so many times as long; audits are watched meanwhile.
PAUSE_TIMES = 50
#: A clock that goes so many seconds more or less than have passed has jumped.
JUMP_SECONDS = 300.0

log = logging.getLogger("rlhf_hitl.alerts")


def look(store: Store, settings: Settings, config: AlertConfig, *, leave_out: Iterable[str] = ()) -> list[Alert]:
    """Count what raters have audited, stop automation where that breaks the bound, decide promotions, and raise and
    clear alerts.

    It may be called at any time and by several processes. Returns the alerts that are new, of which it has told.

    Args:
        leave_out: rules not to look at; their alerts stand as they are.
    """
    from rlhf_hitl.alerts.delivery import log_alerts, mail_alerts
    from rlhf_hitl.alerts.rules import RULES, find_alerts
    from rlhf_hitl.policy.promotion_votes import watch_promotions
    from rlhf_hitl.routing.audit import watch_audits

    watch_audits(store)
    watch_promotions(store)
    left_out = set(leave_out)
    found = find_alerts(store, settings, config.rules, leave_out=left_out)
    # One whose rule was taken out of the file is cleared.
    new = update_alerts(store, found, [name for name in RULES if name not in left_out])
    log_alerts(new)
    if config.email is not None:
        mail_alerts(store, config.email)
    return new


class AlertKeeper:
    """A thread that looks every minute. Any number of processes may run one on the same store."""

    def __init__(self, store: Store, settings: Settings, config: AlertConfig, *, interval: float = LOOK_INTERVAL):
        self.store, self.settings, self.config, self.interval = store, settings, config, interval
        self._ahead, self._leaves_clock_until = _compare_clocks(), -math.inf
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=15)

    def look_again(self) -> list[Alert]:
        """Look once more. Returns the alerts that are new.

        After a clock has jumped, what came before the jump has an age that was never measured. So rules on ages wait
        until as much time has passed since then as they ask for.
        """
        from rlhf_hitl.alerts.rules import BY_THE_CLOCK

        was, self._ahead = self._ahead, _compare_clocks()
        if abs(self._ahead - was) > JUMP_SECONDS:
            log.warning("the clock has jumped by %.0f s; rules on ages wait", self._ahead - was)
            hours = 0.0 if self.config.rules.queue_age is None else self.config.rules.queue_age.hours
            self._leaves_clock_until = time.monotonic() + 3600 * hours
        left_out = BY_THE_CLOCK if time.monotonic() < self._leaves_clock_until else ()
        return look(self.store, self.settings, self.config, leave_out=left_out)

    def _run(self) -> None:
        from rlhf_hitl.policy.promotion_votes import watch_promotions
        from rlhf_hitl.routing.audit import watch_audits

        look_from = 0.0
        while not self._stop.wait(self.interval):
            begun = time.monotonic()
            try:
                if begun >= look_from:
                    self.look_again()
                    look_from = begun + PAUSE_TIMES * (time.monotonic() - begun)
                else:
                    watch_audits(self.store)  # what may stop automation is watched every time
                    watch_promotions(self.store)
            except Exception as e:  # of any kind: the thread has to go on
                log.error("alerts cannot be looked at", exc_info=e)


def _compare_clocks() -> float:
    return time.time() - time.monotonic()
