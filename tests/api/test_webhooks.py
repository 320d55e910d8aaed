"""Other programs are told of what happened: once it did, signed, and until they have taken it."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sqlalchemy as sa
import standardwebhooks

from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import audit, people, queue, service_tables, sign_in, tokens, webhooks
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.loop_steps import finish_step
from rlhf_hitl.store.retention import DELETE_LIMIT, RETENTION, delete_expired
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.webhooks.outbox import CLAIM_DURATION, RETRY_DELAYS
from rlhf_hitl.store.webhooks.sender import WebhookSender
from rlhf_hitl.types import Answer, Event, Role, Route, Scope, Verdict, utc_now


class Receiver:
    """A server that keeps what it is sent and answers with `status`."""

    def __init__(self):
        self.status, self.got, self.trickles = 200, [], threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                outer.got.append((dict(self.headers), body))
                while outer.trickles.is_set():  # an answer that never ends, byte by byte
                    try:
                        self.wfile.write(b"H")
                    except OSError:
                        return
                    time.sleep(0.01)
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def bodies(self) -> list[dict]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
def sender(store):
    return WebhookSender(store, timeout=5)


def judge(store, rater, answer=None):
    lease = queue.lease(store, rater, seconds=1800)
    answer = answer or Answer(Verdict.RANKED, tuple((i,) for i in lease.order_shown))
    return lease, queue.submit(store, lease.id, rater, answer)


def test_a_judgment_and_a_resolved_comparison_are_sent_with_ids_and_no_text(
    store, sender, receiver, add_comparisons, add_raters
):
    [comparison], (ann, bob) = add_comparisons(store, 1, overlap=2), add_raters(store, 2)
    webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED, Event.COMPARISON_RESOLVED])
    _, first = judge(store, ann)
    _, second = judge(store, bob)
    queue.correct(store, first.judgment_id, ann, Answer(Verdict.ALL_BAD), idempotency_key="c")
    while sender.send_due():
        pass
    told = [(b["type"], b["data"].get("judgment_id")) for b in receiver.bodies()]
    assert told[:2] == [("judgment.created", first.judgment_id), ("judgment.created", second.judgment_id)]
    assert told[2] == ("comparison.resolved", None)
    assert [t for t, _ in told].count("comparison.resolved") == 1
    assert receiver.bodies()[3]["data"]["supersedes"] == first.judgment_id
    assert all(b["data"]["comparison_id"] == comparison.id for b in receiver.bodies())
    sent = re.sub(r"\d\d:\d\d:\d\d\.\d+", "", "".join(body for _, body in receiver.got))  # a time may hold "0.0"
    assert not any(text in sent for text in ("Question", "0.0", "0.1", "policy"))
    assert webhooks.count_waiting_deliveries(store) == 0


def test_a_delivery_is_signed_so_that_the_standards_own_library_agrees(
    store, sender, receiver, add_comparisons, add_raters
):
    add_comparisons(store, 1)
    hook = webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    judge(store, add_raters(store, 1)[0])
    sender.send_due()
    [(headers, body)] = receiver.got
    told = standardwebhooks.Webhook(hook.secret).verify(body, {k.lower(): v for k, v in headers.items()})
    assert told["type"] == "judgment.created"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(hook.secret).verify(body + " ", {k.lower(): v for k, v in headers.items()})


def test_a_refused_delivery_is_retried_at_growing_delays_and_finally_given_up(
    store, sender, receiver, add_comparisons, add_raters
):
    add_comparisons(store, 1)
    webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    judge(store, add_raters(store, 1)[0])
    now, waits = utc_now(), []
    for tries in range(1, len(RETRY_DELAYS) + 2):
        delivery = webhooks.claim_delivery(store, now=now)
        assert delivery.attempts == tries
        assert webhooks.claim_delivery(store, now=now) is None, "one sender at a time"
        if not webhooks.record_failure(store, delivery, "HTTP 500", now=now):
            break
        waits.append(RETRY_DELAYS[tries - 1])
        assert webhooks.claim_delivery(store, now=now + timedelta(seconds=waits[-1] - 1)) is None
        now += timedelta(seconds=waits[-1])
    assert waits == list(RETRY_DELAYS) == sorted(RETRY_DELAYS)
    assert webhooks.count_waiting_deliveries(store) == 0


@pytest.mark.parametrize("status", [500, 404, 302])
def test_only_a_2xx_answer_counts_as_delivered(store, sender, receiver, add_comparisons, add_raters, status):
    add_comparisons(store, 1)
    webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    judge(store, add_raters(store, 1)[0])
    receiver.status = status
    assert sender.send_due() == 1
    assert webhooks.count_waiting_deliveries(store) == 1
    assert len(receiver.got) == 1, "a redirect is not followed"


def test_an_answer_that_trickles_in_for_ever_is_aborted(store, receiver, add_comparisons, add_raters):
    add_comparisons(store, 1)
    webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    judge(store, add_raters(store, 1)[0])
    receiver.trickles.set()
    try:
        assert WebhookSender(store, timeout=0.2).send_due() == 1
    finally:
        receiver.trickles.clear()
    assert webhooks.count_waiting_deliveries(store) == 1


def test_a_failing_receiver_holds_up_only_its_own_events(store, receiver, add_comparisons, add_raters):
    add_comparisons(store, 2)
    [ann] = add_raters(store, 1)
    webhooks.add_webhook(store, "http://127.0.0.1:1/", [Event.JUDGMENT_CREATED])
    webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    for _ in range(2):
        judge(store, ann)
    assert WebhookSender(store).send_due() == 3, "of the dead one only the first is tried"
    assert len(receiver.got) == 2
    assert webhooks.count_waiting_deliveries(store) == 2


def test_a_delivery_of_a_sender_that_died_is_sent_by_the_next(store, add_comparisons, add_raters, receiver):
    add_comparisons(store, 1)
    webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    judge(store, add_raters(store, 1)[0])
    now = utc_now()
    lost = webhooks.claim_delivery(store, now=now)
    again = webhooks.claim_delivery(store, now=now + CLAIM_DURATION)
    assert (again.id, again.attempts) == (lost.id, lost.attempts + 1)
    webhooks.mark_delivered(store, lost)  # the first one wakes up after all: what another has claimed since is theirs
    assert webhooks.count_waiting_deliveries(store) == 1


def test_parallel_senders_send_everything_once(store, receiver, add_comparisons, add_raters):
    add_comparisons(store, 30)
    [ann] = add_raters(store, 1)
    webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    for _ in range(30):
        judge(store, ann)
    with ThreadPoolExecutor(3) as pool:
        sent = pool.map(lambda _: sum(iter(WebhookSender(store).send_due, 0)), range(3))
        assert sum(sent) == 30
    assert len({body for _, body in receiver.got}) == len(receiver.got) == 30


def test_a_running_sender_delivers_and_stops(store, receiver, add_comparisons, add_raters):
    add_comparisons(store, 1)
    webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    sender = WebhookSender(store, pause=0.01)
    sender.start()
    judge(store, add_raters(store, 1)[0])
    deadline = time.monotonic() + 20
    while not receiver.got:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sender.stop()


def test_a_transaction_that_is_rolled_back_sends_nothing(store, receiver, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    webhooks.add_webhook(store, receiver.url, list(Event))
    lease = queue.lease(store, ann, seconds=1800)
    with pytest.raises(Conflict):
        queue.submit(store, lease.id, bob, Answer(Verdict.SKIPPED))
    assert webhooks.count_waiting_deliveries(store) == 0


def test_an_ended_webhook_receives_nothing_more(store, sender, receiver, add_comparisons, add_raters):
    add_comparisons(store, 2)
    [ann] = add_raters(store, 1)
    hook = webhooks.add_webhook(store, receiver.url, [Event.JUDGMENT_CREATED])
    judge(store, ann)
    webhooks.end_webhook(store, hook.id)
    judge(store, ann)
    assert (sender.send_due(), webhooks.count_waiting_deliveries(store), receiver.got) == (0, 0, [])
    with pytest.raises(NotFound):
        webhooks.end_webhook(store, hook.id)


def test_a_comparison_accepted_by_the_model_is_resolved_too(store, add_comparisons):
    [comparison] = add_comparisons(store, 1)
    webhooks.add_webhook(store, "http://127.0.0.1:1/", [Event.COMPARISON_RESOLVED])
    apply_routings(store, [Routing(comparison.id, Route.AUTO, Route.AUTO, "sure")])
    delivery = webhooks.claim_delivery(store)
    assert json.loads(delivery.body)["data"] == {"comparison_id": comparison.id, "by": "model"}


def test_every_resolution_names_who_resolved_it_also_raters_after_the_model(
    store, sender, receiver, add_comparisons, add_raters
):
    [comparison], (ann, bob, eve) = add_comparisons(store, 1), add_raters(store, 3)
    webhooks.add_webhook(store, receiver.url, [Event.COMPARISON_RESOLVED])

    def route(to: Route) -> None:
        apply_routings(store, [Routing(comparison.id, to, to, "")])

    held = queue.lease(store, ann, seconds=1800)
    for _ in range(2):  # two rounds
        route(Route.AUTO)
    said = queue.submit(store, held.id, ann, Answer(Verdict.SKIPPED))
    assert said.outcome == "counted", "who held it when the model was trusted is heard all the same"
    queue.correct(store, said.judgment_id, ann, Answer(Verdict.ALL_BAD), idempotency_key="c")
    route(Route.ESCALATED)
    late = queue.lease(store, bob, now=utc_now() - timedelta(days=1), seconds=1800)
    judge(store, eve)
    assert queue.submit(store, late.id, bob, Answer(Verdict.SKIPPED)).outcome == "surplus"
    while sender.send_due():
        pass
    told = sorted(receiver.bodies(), key=lambda body: body["timestamp"])
    assert [body["data"]["by"] for body in told] == ["model", "model", "raters", "raters"]
    assert {body["data"]["comparison_id"] for body in told} == {comparison.id}


def test_a_finished_round_is_sent_with_its_result(store):
    webhooks.add_webhook(store, "http://127.0.0.1:1/", [Event.ROUND_FINISHED, Event.ALERT_RAISED])
    finish_step(store, 1, "route", {"human": 3}, 1.0)
    finish_step(store, 1, "promote", {"promoted": False, "reason": "worse"}, 1.0, last=True)
    told = json.loads(webhooks.claim_delivery(store).body)
    assert told["type"] == "round.finished"
    assert told["data"] == {"round": 1, "promoted": False, "reason": "worse"}
    assert webhooks.count_waiting_deliveries(store) == 1


def test_guessing_a_password_raises_one_alert(store):
    webhooks.add_webhook(store, "http://127.0.0.1:1/", [Event.ALERT_RAISED])
    throttle = SignInThrottle(store, per_name=3)
    for _ in range(6):
        throttle.record_attempt("10.0.0.1", "ann")
    delivery = webhooks.claim_delivery(store)
    assert json.loads(delivery.body)["data"]["alert"] == "sign_in.throttled"


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://[", "http://ann:pw@host/", "javascript:alert(1)"])
def test_an_address_that_cannot_receive_is_refused(store, url):
    with pytest.raises(BadInput, match="url"):
        webhooks.add_webhook(store, url, [Event.ALERT_RAISED])
    with pytest.raises(BadInput, match="events"):
        webhooks.add_webhook(store, "https://example.org/", [])


# What is over


def kept(store, table) -> set[str]:
    with store.read() as conn:
        return set(conn.execute(sa.select(table.c.id)).scalars())


def test_finished_deliveries_are_deleted_after_a_month_and_waiting_ones_are_kept(store, add_comparisons, add_raters):
    add_comparisons(store, 3)
    [ann] = add_raters(store, 1)
    webhooks.add_webhook(store, "http://127.0.0.1:1/", [Event.JUDGMENT_CREATED])
    for _ in range(2):
        judge(store, ann)
    now = utc_now()
    sent = webhooks.claim_delivery(store, now=now)
    webhooks.mark_delivered(store, sent)
    given_up = webhooks.claim_delivery(store, now=now)
    while webhooks.record_failure(store, given_up, "HTTP 500", now=now):
        now += timedelta(days=1)
        given_up = webhooks.claim_delivery(store, now=now)
    judge(store, ann)
    [waits] = kept(store, service_tables.deliveries) - {sent.id, given_up.id}
    assert delete_expired(store, now=utc_now() + RETENTION - timedelta(minutes=1)) == 0
    assert delete_expired(store, now=utc_now() + RETENTION + timedelta(minutes=1)) == 2
    assert kept(store, service_tables.deliveries) == {waits}
    assert len(list(read_judgments(store))) == 3


def test_sessions_and_tokens_are_deleted_a_month_after_their_end_and_the_audit_log_is_kept(store):
    people.add_rater(store, "ann", Role.RATER, "a long password")
    verified = sign_in.verify_password(store, "ann", "a long password")
    ann = verified.rater
    sign_in.end_session(store, sign_in.start_session(store, verified, 24 * 300))
    sign_in.start_session(store, verified, 24 * 10)
    held = sign_in.start_session(store, verified, 24 * 300)
    api = tokens.add_api_token(store, ann.id, "", [Scope.TASK], days=None)
    tokens.add_api_token(store, ann.id, "", [Scope.TASK], days=10)
    said = audit.list_entries(store)
    assert delete_expired(store, now=utc_now() + RETENTION - timedelta(minutes=1)) == 0
    assert delete_expired(store, now=utc_now() + RETENTION + timedelta(minutes=1)) == 1
    assert delete_expired(store, now=utc_now() + RETENTION + timedelta(days=11)) == 2
    assert len(kept(store, service_tables.tokens)) == 2
    assert tokens.find_token_owner(store, held, tokens.TokenKind.SESSION) is not None
    assert tokens.find_token_owner(store, api, tokens.TokenKind.API) is not None
    assert audit.list_entries(store) == said


def test_a_running_sender_deletes_expired_rows_in_batches_while_it_delivers(store, receiver):
    webhooks.add_webhook(store, receiver.url, [Event.ALERT_RAISED])
    with store.write() as conn:
        for n in range(2 * DELETE_LIMIT + 11):
            webhooks.enqueue_event(conn, Event.ALERT_RAISED, {"n": n})
        past = {"next_try_at": None, "created_at": utc_now() - RETENTION - timedelta(days=1)}
        conn.execute(
            service_tables.deliveries.update()
            .where(service_tables.deliveries.c.seq <= 2 * DELETE_LIMIT + 1)
            .values(past)
        )
    sender = WebhookSender(store, pause=0.01, batch_size=3)
    sender.start()
    deadline = time.monotonic() + 20
    while len(kept(store, service_tables.deliveries)) > 10 or webhooks.count_waiting_deliveries(store):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sender.stop()
    assert [b["data"]["n"] for b in receiver.bodies()] == list(range(2 * DELETE_LIMIT + 1, 2 * DELETE_LIMIT + 11))
