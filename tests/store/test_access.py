"""Who may come in: tokens, sessions, invitations, and the record of who did what. On either database."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import (
    Store,
    StoreFailure,
    audit,
    devices,
    invitations,
    passwords,
    people,
    projects,
    service_tables,
    sign_in,
    tables,
    tokens,
)
from rlhf_hitl.store.tokens import TokenKind
from rlhf_hitl.types import Role, Scope, utc_now

PASSWORD = "correct horse"


@pytest.fixture
def ann(store):
    return people.add_rater(store, "ann", Role.RATER, PASSWORD)


def start_session(store, hours: float, password: str = PASSWORD, **more) -> str:
    return sign_in.start_session(store, sign_in.verify_password(store, "ann", password), hours, **more)


def everything_kept(store) -> str:
    """All text the database holds about access."""
    with store.read() as conn:
        rows = [conn.execute(sa.select(t)).all() for t in (service_tables.tokens, service_tables.audit, tables.raters)]
    return repr(rows)


def test_a_token_identifies_its_rater_until_it_is_revoked(store, ann):
    secret = tokens.add_api_token(store, ann.id, "pipeline", [Scope.TASK, Scope.FEEDBACK, Scope.TASK])
    rater, token = tokens.find_token_owner(store, secret, TokenKind.API)
    assert rater == ann
    assert token.scopes == ("feedback", "task")
    assert token.expires_at - utc_now() > timedelta(days=89)
    tokens.revoke_token(store, token.id)
    assert tokens.find_token_owner(store, secret, TokenKind.API) is None
    with pytest.raises(Conflict):
        tokens.revoke_token(store, token.id)
    with pytest.raises(NotFound):
        tokens.revoke_token(store, "t_none")


def test_an_expired_token_or_one_of_a_disabled_rater_identifies_nobody(store, ann):
    short = tokens.add_api_token(store, ann.id, "", [Scope.TASK], days=1)
    long = tokens.add_api_token(store, ann.id, "", [Scope.TASK], days=None)
    with store.write() as conn:
        past = utc_now() - timedelta(seconds=1)
        conn.execute(
            service_tables.tokens.update()
            .where(service_tables.tokens.c.expires_at.is_not(None))
            .values(expires_at=past)
        )
    assert tokens.find_token_owner(store, short, TokenKind.API) is None
    assert tokens.find_token_owner(store, long, TokenKind.API) is not None
    people.change_rater(store, "ann", disabled=True)
    assert tokens.find_token_owner(store, long, TokenKind.API) is None
    people.change_rater(store, "ann", disabled=False)
    assert tokens.find_token_owner(store, long, TokenKind.API) is not None


def test_no_secret_and_no_password_is_kept_anywhere(store, ann):
    secrets = [
        tokens.add_api_token(store, ann.id, "", [Scope.TASK]),
        start_session(store, 1),
        invitations.add_invitation(store, Role.RATER),
    ]
    kept = everything_kept(store)
    assert not [s for s in (*secrets, PASSWORD) if s in kept or s.split("_", 2)[-1] in kept]


def test_a_secret_of_one_kind_is_not_valid_as_another_kind(store, ann):
    api, session = tokens.add_api_token(store, ann.id, "", [Scope.TASK]), start_session(store, 1)
    assert tokens.find_token_owner(store, api, TokenKind.SESSION) is None
    assert tokens.find_token_owner(store, session, TokenKind.API) is None
    assert invitations.find_open_invitation(store, api) is None
    for nonsense in ("", "rh_api_", "x" * 10_000, "\x00", "\ud800"):
        assert tokens.find_token_owner(store, nonsense, TokenKind.API) is None


@pytest.mark.parametrize("days", [0, -1, 4000])
def test_a_token_is_valid_for_more_than_no_time_and_at_most_ten_years(store, ann, days):
    with pytest.raises(BadInput, match="days"):
        tokens.add_api_token(store, ann.id, "", [Scope.TASK], days=days)
    with pytest.raises(BadInput, match="scopes"):
        tokens.add_api_token(store, ann.id, "", [])


def test_signing_out_and_a_new_password_end_a_session(store, ann):
    first, second = start_session(store, 1), start_session(store, 1)
    api = tokens.add_api_token(store, ann.id, "", [Scope.TASK])
    sign_in.end_session(store, first)
    sign_in.end_session(store, first)
    assert tokens.find_token_owner(store, first, TokenKind.SESSION) is None
    assert tokens.find_token_owner(store, second, TokenKind.SESSION) is not None
    ended = sign_in.set_password(store, "ann", "another horse", keep_tokens=True)
    assert (ended.sessions, ended.api_tokens) == (1, 0)
    assert tokens.find_token_owner(store, second, TokenKind.SESSION) is None
    assert tokens.find_token_owner(store, api, TokenKind.API) is not None


def test_a_new_password_ends_the_api_tokens_too_and_the_audit_log_says_how_many(store, ann):
    bob = people.add_rater(store, "bob", Role.RATER)
    of_bob, of_ann = (tokens.add_api_token(store, rater.id, "", [Scope.TASK]) for rater in (bob, ann))
    start_session(store, 1)
    ended = sign_in.set_password(store, "ann", "another horse")
    assert (ended.sessions, ended.api_tokens) == (1, 1)
    assert tokens.find_token_owner(store, of_ann, TokenKind.API) is None
    assert tokens.find_token_owner(store, of_bob, TokenKind.API) is not None
    [entry] = audit.list_entries(store, actions=["rater.password"])
    assert entry.details == {"sessions_ended": 1, "tokens_ended": 1}


def test_a_password_that_is_changed_while_it_is_verified_is_refused(store, ann):
    verified = sign_in.verify_password(store, "ann", PASSWORD)
    sign_in.set_password(store, "ann", "another horse")
    with pytest.raises(Conflict, match="changed"):
        sign_in.start_session(store, verified, 1)
    assert tokens.list_tokens(store, kinds=[TokenKind.SESSION]) == []
    assert audit.list_entries(store, actions=["sign_in"]) == []


def waits(store, how_many: int, *calls: Future) -> None:
    """Until so many of a PostgreSQL's transactions wait for another, or one of the calls is over."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not any(call.done() for call in calls):
        with store.read() as conn:
            if conn.exec_driver_sql(query).scalar_one() >= how_many:
                return


def test_a_sign_in_waits_for_a_change_of_the_password_in_progress(postgres_url, tmp_path):
    with Store.open(postgres_url) as store, ThreadPoolExecutor(2) as pool:
        ann = people.add_rater(store, "ann", Role.RATER, PASSWORD)
        browser = TestClient(create_headless_app(store, Settings(workspace=tmp_path)), follow_redirects=False)
        verified, hashed = sign_in.verify_password(store, "ann", PASSWORD), passwords.hash_password("another horse")
        with Store.open(postgres_url) as other, other.write() as conn:
            own = tables.raters.c.id == ann.id
            conn.execute(tables.raters.update().where(own).values(password_hash=hashed))
            signing = pool.submit(sign_in.start_session, store, verified, 1)
            login = pool.submit(browser.post, "/login", data={"name": "ann", "password": PASSWORD})
            waits(store, 2, signing, login)
        assert login.result(timeout=60).status_code == 401
        assert not browser.cookies
        with pytest.raises(Conflict, match="changed"):
            signing.result(timeout=60)


def test_a_change_of_the_password_ends_the_session_of_a_sign_in_in_progress(postgres_url):
    with Store.open(postgres_url) as store, Store.open(postgres_url) as second, ThreadPoolExecutor(2) as pool:
        people.add_rater(store, "ann", Role.RATER, PASSWORD)
        verified = sign_in.verify_password(store, "ann", PASSWORD)
        with Store.open(postgres_url) as other, other.write() as conn:
            conn.exec_driver_sql("LOCK TABLE audit IN SHARE MODE")  # where a sign-in comes to, last of all
            signing = pool.submit(sign_in.start_session, store, verified, 1)
            waits(other, 1, signing)
            changing = pool.submit(sign_in.set_password, second, "ann", "another horse")
            waits(other, 2, changing)
        changing.result(timeout=60)
        assert tokens.find_token_owner(store, signing.result(timeout=60), TokenKind.SESSION) is None


def test_an_invitation_makes_one_account_with_its_role_and_project(store):
    projects.add_project(store, "closed", open=False)
    secret = invitations.add_invitation(store, Role.LEAD, project="closed", by=audit.Actor("lea"))
    assert invitations.find_open_invitation(store, secret).role == "lead"
    with pytest.raises(BadInput, match="eight"):
        invitations.accept_invitation(store, secret, "bob", "short")
    bob = invitations.accept_invitation(store, secret, " bob ", PASSWORD, address="10.0.0.1")
    assert (bob.name, bob.role) == ("bob", Role.LEAD)
    assert sign_in.verify_password(store, "bob", PASSWORD).rater == bob
    assert projects.list_members(store) == {"closed": [bob.id]}
    assert invitations.find_open_invitation(store, secret) is None
    with pytest.raises(NotFound):
        invitations.accept_invitation(store, secret, "eve", PASSWORD)


def test_a_name_that_is_taken_leaves_the_invitation_open(store, ann):
    secret = invitations.add_invitation(store, Role.RATER)
    with pytest.raises(BadInput, match="free"):
        invitations.accept_invitation(store, secret, "ann", PASSWORD)
    assert invitations.accept_invitation(store, secret, "ann2", PASSWORD).name == "ann2"


def test_a_name_that_cannot_be_had_costs_no_hashing(store, ann, monkeypatch):
    secret = invitations.add_invitation(store, Role.RATER)
    monkeypatch.setattr(invitations, "hash_password", lambda _: pytest.fail("it was hashed"))
    for name in ("ann", "Ann", "gold:1", ""):
        with pytest.raises(BadInput):
            invitations.accept_invitation(store, secret, name, PASSWORD)


def test_a_new_password_ends_the_devices_that_were_known(store, ann):
    device = devices.remember_device(store, ann, 1)
    assert devices.find_known_device(store, device, "ann")
    sign_in.set_password(store, "ann", "another-good-one")
    assert not devices.find_known_device(store, device, "ann")


def test_of_many_who_accept_one_invitation_at_once_one_succeeds(store):
    secret = invitations.add_invitation(store, Role.RATER)
    start = threading.Barrier(6)

    def take(i: int) -> bool:
        start.wait()
        try:
            invitations.accept_invitation(store, secret, f"one {i}", PASSWORD)
        except NotFound:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(6))) == 1
    assert len(people.list_raters(store)) == 1


def test_a_name_of_the_form_of_imported_raters_is_refused(store):
    for name in ("mt_bench:expert_1", "hh:1"):
        with pytest.raises(BadInput, match="without :"):
            people.add_rater(store, name, Role.RATER)


def test_a_revoked_invitation_or_one_to_an_unknown_project_is_refused(store):
    secret = invitations.add_invitation(store, Role.RATER)
    tokens.revoke_token(store, invitations.find_open_invitation(store, secret).id)
    with pytest.raises(NotFound):
        invitations.accept_invitation(store, secret, "bob", PASSWORD)
    with pytest.raises(NotFound):
        invitations.add_invitation(store, Role.RATER, project="nowhere")


def test_the_audit_log_records_who_did_what(store, ann):
    lea = audit.Actor("r_lea", "10.0.0.9")
    people.change_rater(store, "ann", paused=True, languages=["fr"], quota=5, by=lea)
    people.change_rater(store, "ann", by=lea)
    sign_in.set_password(store, "ann", "another horse", by=lea)
    tokens.revoke_token(
        store,
        tokens.find_token_owner(store, tokens.add_api_token(store, ann.id, "x", [Scope.TASK], by=lea), TokenKind.API)[
            1
        ].id,
    )
    projects.add_project(store, "new", by=lea)
    sign_in.end_session(store, start_session(store, 1, "another horse", address="10.0.0.1"), address="10.0.0.1")
    said = [(e.actor, e.action) for e in audit.list_entries(store)]
    assert said == [
        ("cli", "rater.added"),
        ("r_lea", "rater.changed"),
        ("r_lea", "rater.password"),
        ("r_lea", "token.added"),
        ("cli", "token.revoked"),
        ("r_lea", "project.added"),
        (ann.id, "sign_in"),
        (ann.id, "sign_out"),
    ]
    changed = audit.list_entries(store, actions=["rater.changed"])[0]
    assert changed.details == {"paused": True, "languages": ["fr"], "quota": 5}
    assert changed.address == "10.0.0.9"


def test_nobody_can_disable_themselves(store):
    adam = people.add_rater(store, "adam", Role.ADMIN)
    with pytest.raises(BadInput, match="somebody else"):
        people.change_rater(store, "adam", disabled=True, quota=5, by=audit.Actor(adam.id))
    assert people.get_rater(store, adam.id) == adam
    assert [e.action for e in audit.list_entries(store)] == ["rater.added"]
    assert people.change_rater(store, "adam", disabled=True).disabled, "somebody with a shell may"


@pytest.mark.parametrize("code", ["x" * 41, "e\x00n", "\u202een"])
def test_a_language_no_prompt_can_be_tagged_with_is_refused(store, ann, code):
    with pytest.raises(BadInput, match="language"):
        people.change_rater(store, "ann", languages=["en", code])
    assert people.get_rater(store, ann.id).languages is None
    assert people.change_rater(store, "ann", languages=[" EN", "zh_Hans", "français", ""]).languages == (
        "en",
        "français",
        "zh_hans",
    )


def test_the_audit_log_is_paged_and_can_be_read_from_its_end(store):
    for i in range(5):
        projects.add_project(store, f"p{i}")
    first = audit.list_entries(store, limit=2)
    rest = audit.list_entries(store, after=first[-1].seq, limit=9)
    assert [e.subject for e in first + rest] == [f"p{i}" for i in range(5)]
    assert [e.subject for e in audit.list_entries(store, limit=2, newest_first=True)] == ["p4", "p3"]


def test_the_audit_log_cannot_be_changed(store):
    projects.add_project(store, "p")
    for statement in ("UPDATE audit SET actor = 'me'", "DELETE FROM audit"):
        with pytest.raises((sa.exc.DatabaseError, StoreFailure)), store.write() as conn:
            conn.exec_driver_sql(statement)
    assert audit.list_entries(store)[0].actor == "cli"
