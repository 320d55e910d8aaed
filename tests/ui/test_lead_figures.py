"""The figures of the lead's page are computed once for all who look, and anew as soon as that costs little."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event

from rlhf_hitl.config import Settings
from rlhf_hitl.kpis import compute_kpi_report
from rlhf_hitl.types import utc_now
from rlhf_hitl.ui import lead_figures
from rlhf_hitl.ui.lead_figures import SharedFigures


def test_who_asks_while_they_are_computed_is_given_the_same(sqlite_store, tmp_path, monkeypatch):
    monkeypatch.setattr(lead_figures, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(lead_figures, "KEPT_TIMES", 1e9)
    may_go_on, computed = Event(), []

    def compute():
        computed.append(utc_now())
        assert may_go_on.wait(30)
        return compute_kpi_report(sqlite_store, Settings(store=sqlite_store.url, workspace=tmp_path))

    shared = SharedFigures(compute)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(shared.get) for _ in range(4)]
        may_go_on.set()
        given = [future.result() for future in asked]
    assert len(computed) == 1
    assert len({id(report) for report, _ in given}) == 1
    assert computed[0] - given[0][1] < timedelta(seconds=5), "it is of the time at which it was begun"


def test_what_costs_little_is_computed_anew_each_time(sqlite_store, tmp_path):
    settings = Settings(store=sqlite_store.url, workspace=tmp_path)
    shared = SharedFigures(lambda: compute_kpi_report(sqlite_store, settings))
    (first, at), (second, later) = shared.get(), shared.get()
    assert first is not second
    assert at < later
