"""The rules of alerts, what they read, how they are told, and 30 simulated days."""

from __future__ import annotations

import logging
import socketserver
import threading
from datetime import datetime, timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from handmade_golds import gold_example

from rlhf_hitl.alerts.config import AlertConfig, Email, Rules, load_alert_config
from rlhf_hitl.alerts.delivery import mail_alerts
from rlhf_hitl.alerts.keeper import AlertKeeper, look
from rlhf_hitl.alerts.rules import RULES, find_alerts
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.routing.acceptance import Acceptance
from rlhf_hitl.routing.audit import measure_audits
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.router import decide_routes
from rlhf_hitl.routing.threshold import Threshold
from rlhf_hitl.stats.two_samples import compare_texts
from rlhf_hitl.store import audits, golds, people, queue, tables
from rlhf_hitl.store.alerts import NewAlert, list_alerts, update_alerts
from rlhf_hitl.store.automation import list_changes, read_automation, resume_automation
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.judgments import judgment_to_row, read_judgments
from rlhf_hitl.store.loop_steps import finish_step
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, read_routings
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.types import (
    Answer,
    AuditOutcome,
    AutomationState,
    Comparison,
    Completion,
    ErrorBound,
    Message,
    Prompt,
    Role,
    Route,
    Score,
    Split,
    Verdict,
    utc_now,
)

SETTINGS = Settings()
START = utc_now() - timedelta(days=40)
HOME = [f"{a}{b}" for a in ("sea", "sun", "bird", "hill", "rain") for b in ("", "s", "side", "light")]
AWAY = [f"{a}_{b}" for a in ("select", "join", "index", "query", "stack") for b in ("row", "table", "key", "trace")]


def rules_with(**rules) -> Rules:
    return Rules(**rules)


def found(store, **rules) -> list[NewAlert]:
    return find_alerts(store, SETTINGS, rules_with(**rules))


def make_comparisons(store, rng, n: int, words, at: datetime | None, overlap: int = 0) -> list[Comparison]:
    """Training comparisons with prompts of such words, made at a time (None: now); by default they want no judgment."""
    made = []
    for _ in range(n):
        text = " ".join(rng.choice(words, 12)) + f" {rng.integers(10**9)}"
        prompt = Prompt.create((Message("user", text),), split=Split.TRAIN)
        sides = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("yes", "no")]
        made.append(Comparison.create(prompt, sides, overlap=overlap))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
        ids = [c.prompt.id for c in made] if at else []
        conn.execute(tables.prompts.update().where(tables.prompts.c.id.in_(ids)).values(created_at=at))
    return made


def judge(store, comparison: Comparison, rater: str, prefers_first: bool, at: datetime, seconds=10.0) -> dict:
    first, second = (c.id for c in comparison.completions)
    ranking = ((first,), (second,)) if prefers_first else ((second,), (first,))
    columns = {"comparison_id": comparison.id, "rater_id": rater, "order_shown": [first, second], "source": ""}
    columns |= {"route": Route.HUMAN.value, "simulated": True, "idempotency_key": comparison.id, "created_at": at}
    return judgment_to_row(Answer(Verdict.RANKED, ranking, active_seconds=seconds), **columns)


def insert_rows(store, rows: list[dict]) -> None:
    with store.write() as conn:
        conn.execute(tables.judgments.insert(), rows)


def draw_audits(store, comparisons) -> list[int]:
    """Have a model accept comparisons that are all audited; returns the numbers of the decisions."""
    model = RewardModelRecord("rm_audited", "head", "nowhere", "backbone", "hash", simulated=True, created_at=START)
    add_reward_model(store, model)
    insert_scores(store, [Score(c.id, model.id, *(s.id for s in c.completions), 1.0, 0.5, 0.9) for c in comparisons])
    bound = ErrorBound(0.1, 0.05)
    apply_routings(store, [Routing(c.id, Route.AUDIT, Route.AUTO, "sure", model.id, bound=bound) for c in comparisons])
    with store.read() as conn:
        return list(conn.execute(sa.select(audits.audits.c.seq).order_by(audits.audits.c.seq)).scalars())


# --- the file


def test_the_bundled_rules_are_all_on_and_name_every_rule_there_is():
    config = load_alert_config(SETTINGS)
    assert set(Rules.model_fields) == set(RULES)
    assert all(getattr(config.rules, name) == type(getattr(config.rules, name))() for name in RULES), "the defaults"
    assert config.email is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: {queue_agee: {}}", "did you mean rules.queue_age?"),
        ("rules: {queue_age: {hour: 3}}", "rules.queue_age.hour = 3: expected a known name"),
        ("rules: {queue_age: {hours: -3}}", "expected a number above 0"),
        ("rules: {prompt_drift: {separation: 0.2}}", "expected a number above 0.5"),
        ("rule: {}", "expected"),
        ("- a", "`rules:`"),
        ("rules: {", "expected YAML"),
        ("rules: {}\nemail: {host: h}", "email.sender"),
    ],
)
def test_a_key_or_a_value_that_cannot_be_used_is_refused_by_name(tmp_path, text, said):
    file = tmp_path / "alerts.yaml"
    file.write_text(text)
    with pytest.raises(BadInput) as refused:
        load_alert_config(Settings(alerts=file))
    assert said in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="can be read"):
        load_alert_config(Settings(alerts=tmp_path / "none.yaml"))


def test_a_rule_that_is_named_without_values_has_its_defaults(tmp_path):
    (tmp_path / "alerts.yaml").write_text("rules:\n  queue_age:\n")
    rules = load_alert_config(Settings(alerts=tmp_path / "alerts.yaml")).rules
    assert rules.queue_age is not None
    assert rules.prompt_drift is None


# --- rules


def test_an_empty_store_needs_nobody(sqlite_store):
    assert look(sqlite_store, SETTINGS, load_alert_config(SETTINGS)) == []


def test_audits_warn_before_the_bound_is_broken_and_then_stop_automation_until_a_lead_resumes(sqlite_store):
    store, rng, config = sqlite_store, np.random.default_rng(0), load_alert_config(SETTINGS)
    comparisons = make_comparisons(store, rng, 40, HOME, START)
    outcomes = [AuditOutcome.RIGHT] * 10 + [AuditOutcome.TIE] * 2 + [AuditOutcome.WRONG] * 28
    raised = []
    for n, seq in enumerate(draw_audits(store, comparisons)):
        audits.write_outcomes(store, {seq: outcomes[n]})
        raised += [(n, a.rule) for a in look(store, SETTINGS, config)]
    warned, stopped = ([n for n, rule in raised if rule == name] for name in ("audit_bound", "automation_stopped"))
    assert len(warned) == len(stopped) == 1
    assert 12 <= warned[0] < stopped[0] < 39
    assert [a.rule for a in list_alerts(store)] == ["automation_stopped"]
    [change] = list_changes(store, "default")
    assert (change.state, change.by) == (AutomationState.STOPPED, "audits")
    assert "raters prefer the other answer in" in change.reason
    resume_automation(store, "default", "Trained anew.")
    assert look(store, SETTINGS, config) == []
    assert list_alerts(store) == []
    watch = measure_audits(store, "default")
    assert (watch.decided, watch.is_broken) == (0, False)


def test_intervention_that_does_not_fall_over_three_rounds(sqlite_store, add_raters):
    store, rng, [rater] = sqlite_store, np.random.default_rng(1), add_raters(sqlite_store, 1)
    for n in (1, 2, 3):
        made = make_comparisons(store, rng, 10, HOME, utc_now())
        apply_routings(store, [Routing(c.id, Route.AUTO, Route.AUTO, "sure") for c in made[5 + n - 1 :]])
        insert_rows(store, [judge(store, c, rater, True, utc_now()) for c in made[: 5 + n - 1]])
        assert found(store, intervention_rate={}) == []
        finish_step(store, n, "promote", {}, 1.0)
    [alert] = found(store, intervention_rate={})
    assert alert.figures["rates"] == [0.5, 0.6, 0.7]
    assert found(store, intervention_rate={"above": 0.8}) == []
    assert found(store, intervention_rate={"rounds": 4}) == []


def test_review_times_that_double(sqlite_store, add_raters):
    store, rng, [rater] = sqlite_store, np.random.default_rng(2), add_raters(sqlite_store, 1)
    rule = {"newest": 10, "before": 20}
    made = make_comparisons(store, rng, 40, HOME, START)
    insert_rows(store, [judge(store, c, rater, True, START, 10 + n % 3) for n, c in enumerate(made[:30])])
    assert found(store, review_time=rule) == []
    insert_rows(store, [judge(store, c, rater, True, START - timedelta(days=99), 25) for c in made[30:]])
    [alert] = found(store, review_time=rule)
    assert (alert.figures, alert.subject) == ({"seconds": 25, "before": 11}, "")


def test_a_rater_who_is_often_wrong_on_golds(sqlite_store, add_raters):
    store, raters = sqlite_store, add_raters(sqlite_store, 2)
    golds.add_golds(store, "default", [gold_example(f"gold {n}") for n in range(60)])
    right = golds_of(store)
    rows = []
    for n, (comparison, first) in enumerate(right):
        for rater, is_right in ((raters[0], n % 10 > 0), (raters[1], n < 20 or n % 4 == 0)):
            rows.append(judge(store, comparison, rater, first == is_right, START))
    insert_rows(store, rows)
    [alert] = found(store, gold_accuracy={})
    assert alert.subject == "rater 1"
    assert "at least 70% is wanted" in alert.message


def golds_of(store) -> list[tuple[Comparison, bool]]:
    """Each gold, and whether its first completion is the right one."""
    from rlhf_hitl.store.checked_answers import load_gold_answers
    from rlhf_hitl.store.comparisons import load_comparisons

    answers = load_gold_answers(store)
    with store.read() as conn:
        loaded = load_comparisons(conn, list(answers))
    return [(c, answers[id].ranking[0] == [c.completions[0].id]) for id, c in sorted(loaded.items())]


def test_what_waits_too_long_unless_the_clock_went_back(sqlite_store, add_comparisons):
    store = sqlite_store
    add_comparisons(store, 2)
    assert found(store, queue_age={"hours": 1}) == []
    set_age = tables.comparisons.update().values
    with store.write() as conn:
        conn.execute(set_age(created_at=utc_now() - timedelta(hours=5)))
    [alert] = found(store, queue_age={"hours": 1})
    assert (alert.subject, alert.figures["places"]) == ("default", 2)
    with store.write() as conn:
        conn.execute(set_age(created_at=utc_now() + timedelta(days=365)))
    assert found(store, queue_age={"hours": 1}) == []


def test_texts_of_one_kind_are_not_told_apart_and_others_are():
    rng = np.random.default_rng(5)

    def write(words, n):
        return [" ".join(rng.choice(words, 12)) for _ in range(n)]

    false_alarms = sum(compare_texts(write(HOME, 40), write(HOME, 40))[1] < 0.05 for _ in range(60))
    assert false_alarms <= 9
    separation, p_value = compare_texts(write(HOME, 40), write(HOME[:10] + AWAY, 40))
    assert separation > 0.9
    assert p_value < 1e-6
    assert compare_texts(["a"], ["b"]) == (0.5, 1.0)


# --- telling


class _MailServer(socketserver.StreamRequestHandler):
    """Takes a mail as SMTP servers do, and keeps it."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line)
                self.server.mails.append(b"".join(lines).decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            if verb == b"QUIT":
                return


@pytest.fixture
def mail_server():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _MailServer) as server:
        server.mails = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def test_alerts_are_mailed_once_and_again_only_where_the_mail_failed(sqlite_store, mail_server, caplog):
    store = sqlite_store
    update_alerts(
        store, [NewAlert("queue_age", "default", "It waits.", {}), NewAlert("review_time", "", "Slow.", {})], RULES
    )
    port = mail_server.server_address[1]
    where = {"host": "127.0.0.1", "security": "none", "sender": "hitl@example.org", "to": ["lead@example.org"]}
    assert mail_alerts(store, Email(port=1, **where)) == 0
    assert "cannot be mailed" in caplog.text
    assert mail_alerts(store, Email(port=port, **where)) == 2
    assert mail_alerts(store, Email(port=port, **where)) == 0
    [mail] = mail_server.mails
    assert "Subject: rlhf_hitl: queue age, review time" in mail
    assert "It waits." in mail
    assert "To: lead@example.org" in mail


def test_the_keeper_looks_again_and_again_and_tells_the_log(sqlite_store, add_comparisons, caplog):
    store = sqlite_store
    add_comparisons(store, 1)
    with store.write() as conn:
        conn.execute(tables.comparisons.update().values(created_at=utc_now() - timedelta(days=9)))
    looked = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            looked.set()

    log = logging.getLogger("rlhf_hitl.alerts")
    handler = Handler()
    log.addHandler(handler)
    keeper = AlertKeeper(store, SETTINGS, load_alert_config(SETTINGS), interval=0.01)
    keeper.start()
    try:
        assert looked.wait(60)
    finally:
        keeper.stop()
        log.removeHandler(handler)
    assert [a.rule for a in list_alerts(store)] == ["queue_age"]
    assert caplog.text.count("alert queue_age") == 1


# --- 30 days


class SimulatedClock:
    """The clock of the computer and the time that passes, both set by a test."""

    def __init__(self, monkeypatch):
        self.passed, self.jumped = 0.0, 0.0
        monkeypatch.setattr("rlhf_hitl.types.clock.datetime", self)
        monkeypatch.setattr("rlhf_hitl.alerts.keeper.time", self)

    def time(self) -> float:
        return START.timestamp() + self.passed + self.jumped

    def monotonic(self) -> float:
        return self.passed

    def now(self, zone) -> datetime:
        return datetime.fromtimestamp(self.time(), zone)


class SimulatedRaters:
    """Simulated raters who take what the queue gives them, in turns. They prefer "yes", each as often as is said."""

    def __init__(self, store, rng, agree: list[float]):
        self.store, self.rng, self.agree = store, rng, agree
        self.ids = [people.add_rater(store, f"rater {n}", Role.RATER, simulated=True).id for n in range(len(agree))]

    def judge_all(self) -> None:
        working = list(range(len(self.ids)))
        while working:
            rater = working.pop(0)
            lease = queue.lease(self.store, self.ids[rater], seconds=600)
            if lease is None:
                continue
            best = "yes" if self.rng.random() < self.agree[rater] else "no"
            sides = sorted(lease.comparison.completions, key=lambda c: c.text != best)
            answer = Answer(Verdict.RANKED, tuple((c.id,) for c in sides), active_seconds=float(self.rng.gamma(4, 3)))
            queue.submit(self.store, lease.id, lease.rater_id, answer, simulated=True)
            working.append(rater)


def score_and_route(store, rng, model: str, made: list[Comparison], error: float, day: int) -> None:
    """Let a simulated model score comparisons, sure of three in five, and wrong on some of these; and route them."""
    scores = []
    for comparison in made:
        best = "no" if rng.random() < error else "yes"
        chosen, rejected = sorted(comparison.completions, key=lambda c: c.text != best)
        is_sure = rng.random() < 0.6
        margin, probability = (3.0, 0.95) if is_sure else (0.2, 0.55)
        scores.append(Score(comparison.id, model, chosen.id, rejected.id, margin, 0.5, probability))
    insert_scores(store, scores)
    halted = {c.project: c.reason for c in read_automation(store).values() if c.state is not AutomationState.RUNNING}
    config = RoutingConfig(max_error=0.2, delta=0.05, control_share=0.1, audit_share=0.3)
    tested = Threshold(0.9, 0.05, 50, 0, 60, 60, 0.2, 0.05)
    pool = {c.id: c for c in made}
    apply_routings(store, decide_routes(scores, pool, Acceptance(tested, halted=halted), config, day, store.draw))


@pytest.mark.timeout(120)
def test_30_days_with_a_rater_gone_bad_a_drift_and_a_clock_that_jumps(sqlite_store, monkeypatch):
    """Five simulated raters work the queue each day, three on each comparison; from day 8 on a simulated model accepts
    what it is sure of, and raters audit that. One rater answers at random from day 12 on. From day 20 on prompts are of
    another kind, and the model is wrong on many of them. The clock jumps on four days, by months. A server looks at the
    rules before and after the raters' work of each day."""
    store, rng, clock = sqlite_store, np.random.default_rng(7), SimulatedClock(monkeypatch)
    bundled = load_alert_config(SETTINGS).rules
    drift_rule = rules_with(prompt_drift={"newest": 60}).prompt_drift
    keeper = AlertKeeper(store, SETTINGS, AlertConfig(rules=bundled.model_copy(update={"prompt_drift": drift_rule})))
    raters = SimulatedRaters(store, rng, [0.92] * 5)
    trained, gone_bad, drift = 8, 12, 20
    jumps = {6: 120, 7: -120, 16: -60, 17: 60}
    raised: list[tuple[int, str, str]] = []
    for day in range(1, 31):
        clock.passed += 86_400 / 2
        if day == gone_bad:
            raters.agree[0] = 0.5
        made = make_comparisons(store, rng, 30, AWAY if day >= drift else HOME, None, overlap=3)
        if day == trained:
            add_reward_model(store, RewardModelRecord("rm_1", "head", "nowhere", "backbone", "hash", simulated=True))
        if day >= trained:
            score_and_route(store, rng, "rm_1", made, 0.6 if day >= drift else 0.05, day)
        clock.jumped += jumps.get(day, 0) * 86_400
        raised += [(day, a.rule, a.subject) for a in keeper.look_again()]
        clock.passed += 86_400 / 2
        raters.judge_all()
        raised += [(day, a.rule, a.subject) for a in keeper.look_again()]
    on = {(rule, subject): day for day, rule, subject in raised}
    assert on.keys() <= {
        *(("agreement", "rater 0"), ("prompt_drift", "")),
        *(("audit_bound", "default"), ("automation_stopped", "default")),
    }, raised
    assert gone_bad < on["agreement", "rater 0"] <= 28
    assert drift <= on["prompt_drift", ""] <= drift + 4
    assert drift <= on["automation_stopped", "default"]
    assert on.get(("audit_bound", "default"), drift) >= drift
    stopped = max(r.round for r in read_routings(store, newest=False) if r.accepts)
    assert stopped == on["automation_stopped", "default"], "nothing was accepted after it"
    judgments = list(read_judgments(store))
    assert len({(j.comparison_id, j.rater_id) for j in judgments}) == len(judgments)
    assert not any(j.surplus for j in judgments)
    assert queue.count_places(store)["free"] == 0
