"""Alerts on either database: raised once, cleared, seen, silenced, told to webhooks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit, people, webhooks
from rlhf_hitl.store.alerts import (
    NewAlert,
    claim_email,
    list_alerts,
    list_unsent,
    release_email,
    see_alert,
    silence_alert,
    update_alerts,
)
from rlhf_hitl.store.service_tables import alerts
from rlhf_hitl.types import Event, Role, utc_now

OLD = NewAlert("queue_age", "default", "It waits.", {"hours": 80.0})
SLOW = NewAlert("review_time", "", "They are slow.", {"seconds": 30.0})
BOTH = ("queue_age", "review_time")


def test_an_alert_is_raised_once_until_it_clears_and_again_afterwards(store):
    webhooks.add_webhook(store, "http://127.0.0.1:1/", [Event.ALERT_RAISED])
    [raised] = update_alerts(store, [OLD], BOTH)
    assert (raised.rule, raised.subject, raised.message, raised.figures) == tuple(vars(OLD).values())
    assert update_alerts(store, [OLD], BOTH) == []
    assert [a.rule for a in update_alerts(store, [OLD, SLOW], BOTH)] == ["review_time"]
    assert [a.rule for a in list_alerts(store)] == ["review_time", "queue_age"]
    assert update_alerts(store, [SLOW], BOTH) == []
    assert [a.rule for a in list_alerts(store)] == ["review_time"]
    [again] = update_alerts(store, [OLD, SLOW], BOTH)
    assert again.seq > raised.seq
    assert [a.cleared_at is None for a in list_alerts(store, standing=False)] == [True, True, False]
    assert webhooks.count_waiting_deliveries(store) == 3


def test_alerts_of_rules_that_were_not_looked_at_stand(store):
    update_alerts(store, [OLD, SLOW], BOTH)
    update_alerts(store, [], ["review_time"])
    assert [a.rule for a in list_alerts(store)] == ["queue_age"]


def test_of_several_processes_that_find_it_one_tells(store):
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: update_alerts(store, [OLD, SLOW], BOTH), range(4)))
    assert sum(map(len, told)) == 2
    assert len(list_alerts(store, standing=False)) == 2


def test_a_lead_sees_and_silences_an_alert_and_the_log_says_so(store):
    lea, ann = (audit.Actor(people.add_rater(store, name, Role.LEAD).id) for name in ("lea", "ann"))
    [raised] = update_alerts(store, [OLD], BOTH)
    assert see_alert(store, raised.seq, by=lea).seen_by == lea.id
    assert see_alert(store, raised.seq, by=ann).seen_by == lea.id, "who was first"
    silenced = silence_alert(store, raised.seq, 7, by=ann)
    assert silenced.silenced_by == ann.id
    assert 6.9 < (silenced.silenced_until - utc_now()).total_seconds() / 86_400 < 7.1
    done = [(e.actor, e.action) for e in audit.list_entries(store) if e.action.startswith("alert")]
    assert done == [(lea.id, "alert.seen"), (ann.id, "alert.silenced")]
    update_alerts(store, [], BOTH)
    assert update_alerts(store, [OLD], BOTH) == [], "it is raised, and nobody is told"
    [standing] = list_alerts(store)
    assert (standing.silenced_by, standing.seen_by) == (ann.id, None)
    update_alerts(store, [], BOTH)
    with store.write() as conn:
        conn.execute(alerts.update().values(silenced_until=sa.case((alerts.c.seq > 0, utc_now()))))
    assert len(update_alerts(store, [OLD], BOTH)) == 1, "the silence is over"


@pytest.mark.parametrize("days", [0, -1, 366, float("nan")])
def test_a_silence_of_no_length_is_refused(store, days):
    [raised] = update_alerts(store, [OLD], BOTH)
    with pytest.raises(BadInput, match="days"):
        silence_alert(store, raised.seq, days)


def test_an_alert_that_is_not_there_is_not_found(store):
    for act in (lambda: see_alert(store, 9), lambda: silence_alert(store, 9, 1)):
        with pytest.raises(NotFound, match="alert 9"):
            act()


def test_one_process_mails_an_alert_and_what_failed_is_tried_again(store):
    first, second = update_alerts(store, [OLD, SLOW], BOTH)
    silence_alert(store, second.seq, 1)
    assert [a.seq for a in list_unsent(store)] == [first.seq]
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: claim_email(store, first.seq), range(4))) == 1
    assert list_unsent(store) == []
    release_email(store, first.seq)
    assert [a.seq for a in list_unsent(store)] == [first.seq]
