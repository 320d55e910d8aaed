"""Endpoints that fail: each request is counted, waits are as long as asked, and the key comes out nowhere."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from command_line import run_command
from judge_server import fail, find_answer, say, serve_judge
from rlhf_hitl.endpoints import client
from rlhf_hitl.endpoints.keys import Key, read_key
from rlhf_hitl.endpoints.responses import read_retry_after
from rlhf_hitl.errors import BadInput
from rlhf_hitl.judges.judging import run_judge
from rlhf_hitl.store.judges import list_judges, read_calls, sum_calls
from rlhf_hitl.store.quality_tables import judge_calls
from rlhf_hitl.types import Answer, Verdict

KEY = "sk-proj/very+secret=0123456789abcdef"


@pytest.fixture
def no_backoff(monkeypatch):
    """Waits that nobody asked for are short."""
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.001)


class FailingFirst:
    """Answers `failure` to the first `times` requests, and the better answer to all others. Notes when each came."""

    def __init__(self, failure, times):
        self.failure, self.times, self.came, self._lock = failure, times, [], threading.Lock()

    def __call__(self, body, _):
        with self._lock:
            self.came.append(time.monotonic())
            n = len(self.came)
        return self.failure if n <= self.times else say("A" if find_answer(body, "A").startswith("good") else "B")


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again_and_every_try_is_counted(sqlite_store, fill, make_judge, no_backoff, status):
    fill(sqlite_store, 2)
    with serve_judge(FailingFirst(fail(status, "busy"), 3)) as (address, bodies):
        judge = make_judge(sqlite_store, address)
        report = run_judge(sqlite_store, judge, concurrency=1)
    calls = sum_calls(sqlite_store, judge).calls
    assert (report.judged, calls["failed"], calls["answered"], len(bodies)) == (2, 3, 4, 7)


def test_retry_after_is_waited_for_by_all_requests(sqlite_store, fill, make_judge, no_backoff):
    fill(sqlite_store, 4)
    answer = FailingFirst(fail(429, "slow down", {"Retry-After": "1.2"}), 1)
    with serve_judge(answer) as (address, _):
        assert run_judge(sqlite_store, make_judge(sqlite_store, address), concurrency=1).judged == 4
    assert answer.came[1] - answer.came[0] >= 1.1


def test_retry_after_may_be_a_date_or_nonsense():
    assert read_retry_after({"retry-after": "7"}) == 7
    assert read_retry_after({"retry-after-ms": "1500"}) == 1.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < read_retry_after({"retry-after": later}) <= 30
    for nonsense in ("", "soon", "nan", "inf", "-3", "99999999999999999999 Foo"):
        assert read_retry_after({"retry-after": nonsense}) == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            fail(401, "Incorrect API key provided: sk-proj/ver***cdef"),
            "accepts (401 Incorrect API key provided: [key])",
        ),
        (fail(403, "no"), "a key that it accepts (403 no)"),
        (fail(404, "The model `m` does not exist"), "The model `m` does not exist"),
        (fail(402, "pay"), "an account with credit"),
        (fail(429, "You exceeded your quota", code="insufficient_quota"), "an account with credit"),
        (fail(429, "tomorrow", {"Retry-After": "86400"}), "86,400 s"),
    ],
)
def test_what_no_request_can_pass_stops_the_judge_at_once(sqlite_store, fill, make_judge, answer, said):
    fill(sqlite_store, 9)
    with serve_judge(lambda *_: answer) as (address, bodies):
        report = run_judge(sqlite_store, make_judge(sqlite_store, address), concurrency=1)
    assert (report.judged, report.failed, len(bodies)) == (0, True, 1)
    assert said in report.stopped
    assert "sk-proj" not in report.stopped


def test_nobody_at_the_address_is_said_after_some_tries(sqlite_store, fill, make_judge, no_backoff):
    fill(sqlite_store, 3)
    with serve_judge(lambda *_: say("A")) as (address, _):
        pass
    report = run_judge(sqlite_store, make_judge(sqlite_store, address), concurrency=1)
    assert re.search("expected a server that answers.*check the address", report.stopped)


@pytest.mark.parametrize("kind", ["never", "slowly"])
def test_a_request_ends_with_its_timeout_however_the_answer_comes(sqlite_store, fill, make_judge, no_backoff, kind):
    fill(sqlite_store, 12)
    end = threading.Event()

    def drip():
        while not end.wait(0.05):
            yield b" "

    def answer(*_):
        if kind == "never":
            end.wait(60)
        return 200, {}, drip()

    with serve_judge(answer) as (address, _):
        judge = make_judge(sqlite_store, address, timeout_seconds=0.3, price_in=1.0)
        began = time.monotonic()
        report = run_judge(sqlite_store, judge, concurrency=4)
        assert time.monotonic() - began < 20
        end.set()
    calls = sum_calls(sqlite_store, judge)
    assert (report.judged, report.failed, set(report.unanswered)) == (0, True, {"timed_out"})
    assert "no whole answer in 0.3 s" in report.stopped
    assert calls.calls["timed_out"] >= 10
    assert calls.cost > 0  # it may be charged for


def test_parameters_that_an_endpoint_refuses_are_left_out(sqlite_store, fill, make_judge, no_backoff):
    fill(sqlite_store, 3)

    def answer(body, _):
        for name in ("logprobs", "max_tokens", "temperature"):
            if name in body:
                return fail(400, f"Unsupported parameter: '{name}' is not supported with this model.", param=name)
        return say("A" if find_answer(body, "A").startswith("good") else "B")

    with serve_judge(answer) as (address, bodies):
        assert run_judge(sqlite_store, make_judge(sqlite_store, address), concurrency=1).judged == 3
    assert len(bodies) == 3 + 6
    assert "max_completion_tokens" in bodies[-1]


def test_draws_stand_in_for_log_probabilities_and_are_never_certain(sqlite_store, fill, make_judge):
    fill(sqlite_store, 1)
    said = {"A": iter("AAAB" * 9), "B": iter("B" * 99)}

    def answer(body, _):  # takes no notice of n, as `transformers serve` does
        if body["temperature"] == 0:
            return say("A")
        return say(next(said["A" if find_answer(body, "A").startswith("good") else "B"]))

    with serve_judge(answer) as (address, bodies):
        run_judge(sqlite_store, make_judge(sqlite_store, address, draws=4, temperature=0.8), concurrency=1)
    calls = [call.probabilities for _, call in read_calls(sqlite_store, list_judges(sqlite_store)[0])]
    assert len(bodies) == len(calls) == 1 + 4 + 4
    [(p,)] = [[json.loads(x) if isinstance(x, str) else x for x in row] for row in _read(sqlite_store)]
    # Jeffreys' half a draw for each of A, B and C: of 4, (3.5, 0.5, 1.5) / 5.5 and (0.5, 0.5, 4.5) / 5.5 turned round.
    assert sorted(p) == pytest.approx(sorted([(3.5 + 4.5) / 11, 0.5 / 5.5, (1.5 + 0.5) / 11]))


def _read(store):
    from rlhf_hitl.store.tables import judgments

    with store.read() as conn:
        return conn.execute(sa.select(judgments.c.probabilities)).all()


def test_choices_of_one_response_are_draws(sqlite_store, fill, make_judge):
    fill(sqlite_store, 1)

    def answer(body, _):
        letter = "A" if find_answer(body, "A").startswith("good") else "B"
        return say(*[letter] * body.get("n", 1))

    with serve_judge(answer) as (address, bodies):
        assert run_judge(sqlite_store, make_judge(sqlite_store, address, draws=5), concurrency=1).judged == 1
    assert [body.get("n", 1) for body in bodies] == [1, 5, 5]


def test_thoughts_are_skipped_and_the_letter_after_them_is_weighed(sqlite_store, fill, make_judge):
    fill(sqlite_store, 1)

    def answer(body, _):
        letter = "A" if find_answer(body, "A").startswith("good") else "B"
        status, headers, content = say(f"<think>B or A?</think>\n{letter}")
        words = ["<think>", "B", " or", " A?", "</think>", "\n", letter]
        tokens = [{"token": w, "logprob": -0.1, "top_logprobs": []} for w in words]
        tokens[-1]["top_logprobs"] = [{"token": letter, "logprob": -0.5}, {"token": "C", "logprob": -1.5}, {"token": 7}]
        content["choices"][0]["logprobs"] = {"content": tokens}
        return status, headers, content

    with serve_judge(answer) as (address, _):
        assert run_judge(sqlite_store, make_judge(sqlite_store, address)).judged == 1
    [(p,)] = _read(sqlite_store)
    assert sorted(p) == pytest.approx([0.0, 1 / (1 + 2.718281828), 2.718281828 / (1 + 2.718281828)])


def echo(_, headers):
    """Say the key in every form in which a server may."""
    key = headers["Authorization"].removeprefix("Bearer ")
    forms = [headers["Authorization"], quote(key, safe=""), json.dumps(key), base64.b64encode(key.encode()).decode()]
    return " ".join([*forms, key[:20] + "…"])


@pytest.mark.parametrize("where", ["error", "answer", "reasons", "refusal", "broken", "unauthorised"])
def test_the_key_is_in_no_output_log_store_or_archive(sqlite_url, tmp_path, fill, monkeypatch, caplog, capfd, where):
    from rlhf_hitl.store import Store

    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.001)
    with Store.open(sqlite_url) as store:
        fill(store, 6)
    seen = []

    def answer(body, headers):
        said = echo(body, headers)
        seen.append(headers["Authorization"])
        return {
            "error": fail(500, said),
            "answer": say(f"{said}"),
            "reasons": say(f"{said}\nVerdict: A"),
            "refusal": (200, {}, {"choices": [{"message": {"content": None, "refusal": said}}]}),
            "broken": (200, {}, said.encode()),
            "unauthorised": fail(401, said),
        }[where]

    with serve_judge(answer) as (address, _):
        more = [
            "--endpoint",
            address,
            "--api-key-env",
            "MY_KEY",
            "--template",
            "pairwise-reasons",
            "--store",
            sqlite_url,
        ]
        added = run_command("judges", "add", "gpt", "--model", "m", *more)
        assert added.returncode == 0, added.stderr
        ran = [run_command("judges", "run", "gpt", "--store", sqlite_url, *flag) for flag in ([], ["--json"])]
    assert set(seen) == {f"Bearer {KEY}"}
    archive = tmp_path / "store.archive"
    outputs = [added, *ran]
    outputs += [run_command("judges", *c, "--store", sqlite_url, "--json") for c in (["list"], ["report", "gpt"])]
    outputs.append(run_command("export", archive, "--format", "archive", "--store", sqlite_url))
    outputs.append(run_command("audit", "--json", "--store", sqlite_url))
    said = "".join(o.stdout + o.stderr for o in outputs) + caplog.text + "".join(capfd.readouterr())
    with Store.open(sqlite_url) as store, store.read() as conn:
        tables = [name for (name,) in conn.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'"))]
        said += "".join(str(conn.exec_driver_sql(f'SELECT * FROM "{name}"').all()) for name in tables)
    said += _read_archive(archive)
    for secret in (KEY, KEY[:18], quote(KEY, safe=""), base64.b64encode(KEY.encode()).decode(), "very+secret"):
        assert secret not in said
    if where in ("error", "answer", "refusal", "reasons"):
        assert "[key]" in said  # it was there, and was taken out


def _read_archive(path: Path) -> str:
    import tarfile
    import zipfile

    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as z:
            return "".join(z.read(n).decode(errors="replace") for n in z.namelist())
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as t:
            return "".join(f.read().decode(errors="replace") for m in t if (f := t.extractfile(m)))
    return data.decode(errors="replace")


def test_a_key_is_read_from_a_variable_or_a_file_and_never_repeated(tmp_path):
    file = tmp_path / "key"
    file.write_text(f"  {KEY}\n")
    assert read_key("", str(file)).reveal() == KEY
    assert read_key("K", "", {"K": KEY}).reveal() == KEY
    assert KEY not in repr(read_key("K", "", {"K": KEY}))
    assert read_key("", "").reveal() == ""
    for env, path, value in (
        ("K", str(file), KEY),
        ("K", "", ""),
        ("", str(tmp_path), ""),
        ("K", "", KEY + " x\n" + KEY),
    ):
        with pytest.raises(BadInput) as e:
            read_key(env, path, {"K": value})
        assert KEY not in str(e.value)
    assert Key("").remove_from("a text") == "a text"


def test_a_late_answer_of_a_judge_never_takes_a_place_of_people(sqlite_store, fill, make_judge, add_raters):
    from rlhf_hitl.store import queue

    made = fill(sqlite_store, 1)
    judge = make_judge(sqlite_store, "http://127.0.0.1:9/v1")
    from rlhf_hitl.store.judges import open_judge_places

    assert open_judge_places(sqlite_store) == 1
    then = datetime.now(UTC) - timedelta(hours=1)
    late = queue.lease_many(sqlite_store, judge.rater_id, 1, seconds=1, now=then, role="judge")[0]
    other = make_judge(sqlite_store, "http://127.0.0.1:9/v1", name="quick")
    lease = queue.lease_many(sqlite_store, other.rater_id, 1, seconds=60, role="judge")[0]
    answer = Answer(Verdict.RANKED, tuple((c.id,) for c in made[0].completions))
    assert queue.submit(sqlite_store, lease.id, other.rater_id, answer).outcome == "counted"
    assert queue.submit(sqlite_store, late.id, judge.rater_id, answer).outcome == "surplus"
    person = add_raters(sqlite_store, 1)[0]
    assert queue.lease(sqlite_store, person, seconds=60).comparison.id == made[0].id


def test_settings_of_a_judge_hold_no_key(sqlite_store, make_judge):
    judge = make_judge(sqlite_store, "http://127.0.0.1:9/v1", api_key_env="MY_KEY")
    assert asdict(judge.settings)["api_key_env"] == "MY_KEY"
    assert not any("key" in column.name for column in judge_calls.c)
