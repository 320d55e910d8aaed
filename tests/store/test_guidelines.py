"""Guidelines: the versions of a project, which rater read which, and which version a judgment was made under."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit, guidelines, projects, queue
from rlhf_hitl.store.audit import Actor
from rlhf_hitl.store.guidelines import DEFAULT_VERSION
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.tables import guidelines as table
from rlhf_hitl.types import DEFAULT_PROJECT, Answer, Axis, Guideline, Verdict

SKIP = Answer(Verdict.SKIPPED)


def version(store, name: str, project: str = "default", **more) -> Guideline:
    return guidelines.publish_guideline(store, Guideline(project, name, f"Version {name} of **{project}**.", **more))


def test_a_project_without_a_guideline_has_the_one_of_the_package(store):
    guideline = guidelines.get_current_guideline(store)
    assert (guideline.version, guideline.project, guideline.created_at) == (DEFAULT_VERSION, "default", None)
    assert "Harmless" in guideline.text
    assert [axis.id for axis in guideline.axes] == ["helpful", "honest", "harmless"]
    assert guidelines.get_guideline(store, "default", DEFAULT_VERSION) == guideline
    with pytest.raises(NotFound, match="nowhere"):
        guidelines.get_current_guideline(store, "nowhere")


def test_the_newest_version_is_in_force_and_those_before_can_be_read(store):
    projects.add_project(store, "coding")
    axes = (Axis("correct", "Correct", "It “runs”."), Axis("readable", "Readable"))
    first = version(store, "1", "coding", axes=axes, scores="required", rationale="required")
    assert guidelines.get_current_guideline(store, "coding") == first
    second = version(store, "2", "coding", axes=(), scores="off")
    assert guidelines.get_current_guideline(store, "coding") == second
    assert guidelines.get_guideline(store, "coding", "1") == first
    assert guidelines.get_current_guideline(store).version == DEFAULT_VERSION, "another project's is its own"
    with pytest.raises(NotFound, match="'3'"):
        guidelines.get_guideline(store, "coding", "3")


def test_a_version_is_used_once_a_project_and_never_changed(store):
    projects.add_project(store, "coding")
    version(store, "1")
    version(store, "1", "coding")
    for taken in ("1", DEFAULT_VERSION):
        with pytest.raises(BadInput, match="was not used before"):
            version(store, taken)
    with pytest.raises(NotFound, match="nowhere"):
        version(store, "1", "nowhere")
    for change in (table.update().values(text="other"), table.delete()):
        with pytest.raises(exc.DBAPIError, match="append-only"), store._engine.begin() as conn:
            conn.execute(change)


def test_the_audit_log_names_who_published_a_guideline(store):
    guidelines.publish_guideline(store, Guideline("default", "1", "Be fair."), by=Actor("r_lea", "10.0.0.1"))
    [entry] = audit.list_entries(store, actions=["guideline.set"])
    assert (entry.actor, entry.address, entry.subject) == ("r_lea", "10.0.0.1", "default")
    assert entry.details == {"version": "1"}


def test_a_rater_acknowledges_each_text(store, add_raters):
    ann, bob = add_raters(store, 2)
    projects.add_project(store, "coding")
    guidelines.record_acknowledgement(store, ann, "default", DEFAULT_VERSION)
    version(store, "1")

    def read(rater: str, *versions: str, project: str = "default") -> list[bool]:
        return [guidelines.has_acknowledged(store, rater, project, v) for v in versions]

    assert read(ann, DEFAULT_VERSION, "1") == [True, False]
    for _ in range(2):
        guidelines.record_acknowledgement(store, ann, "default", "1")
    assert read(ann, DEFAULT_VERSION, "1") == [True, True]
    assert read(bob, DEFAULT_VERSION, "1") == [False, False]
    assert read(ann, DEFAULT_VERSION, project="coding") == [True], "the text of the package is the same everywhere"
    assert read(bob, DEFAULT_VERSION, project="coding") == [False]
    for project, unknown in (("default", "2"), ("nowhere", "1"), ("coding", "1")):
        with pytest.raises(NotFound):
            guidelines.record_acknowledgement(store, ann, project, unknown)


def test_a_text_that_was_acknowledged_is_so_in_every_project_and_version(store, add_raters):
    ann, bob = add_raters(store, 2)
    projects.add_project(store, "coding")
    same = guidelines.get_current_guideline(store).text
    for project, name, text in (
        ("default", "1", "Be fair."),
        ("default", "2", "Be strict."),
        ("default", "3", "Be fair."),
        ("coding", "1", "Be fair."),
        ("coding", "2", "Be fair. \n"),
        ("coding", "3", same),
    ):
        guidelines.publish_guideline(store, Guideline(project, name, text))

    def read(rater: str) -> set[tuple[str, str]]:
        versions = [("default", "1"), ("default", "2"), ("default", "3"), ("default", DEFAULT_VERSION)]
        versions += [("coding", "1"), ("coding", "2"), ("coding", "3"), ("coding", DEFAULT_VERSION)]
        return {v for v in versions if guidelines.has_acknowledged(store, rater, *v)}

    assert read(ann) == set()
    guidelines.record_acknowledgement(store, ann, "coding", "1")
    fair = {("default", "1"), ("default", "3"), ("coding", "1"), ("coding", "2")}
    assert read(ann) == fair
    guidelines.record_acknowledgement(store, ann, "coding", "3")
    defaults = {("default", DEFAULT_VERSION), ("coding", DEFAULT_VERSION), ("coding", "3")}
    assert read(ann) == fair | defaults
    guidelines.record_acknowledgement(store, bob, "default", DEFAULT_VERSION)
    assert read(bob) == defaults
    with pytest.raises(NotFound):
        guidelines.has_acknowledged(store, ann, "coding", "4")


def test_a_judgment_names_the_version_in_force_when_its_comparison_was_leased(store, add_comparisons, add_raters):
    add_comparisons(store, 4)
    (ann,) = add_raters(store, 1)
    before = queue.lease(store, ann, seconds=1800)
    assert before is not None
    assert before.guideline_version == DEFAULT_VERSION
    version(store, "1")
    version(store, "2")
    held, after = queue.lease_many(store, ann, 2, seconds=1800)
    assert (held, after.guideline_version) == (before, "2")
    assert queue.load_lease(store, after.id, ann) == after
    version(store, "3")
    for lease in (before, after):
        queue.submit(store, lease.id, ann, SKIP)
    last = queue.lease(store, ann, seconds=1800)
    assert last is not None
    version(store, "4")
    first = queue.submit(store, last.id, ann, SKIP, guideline_version="4")
    queue.correct(store, first.judgment_id, ann, Answer(Verdict.ALL_BAD), idempotency_key="k")
    versions = [j.guideline_version for j in read_judgments(store, current=False)]
    assert versions == [DEFAULT_VERSION, "2", "4", "4"]


def test_the_guideline_version_adds_no_statement_to_a_lease_and_submit(store, add_comparisons, add_raters):
    add_comparisons(store, 3)
    (ann,) = add_raters(store, 1)
    version(store, "1")
    asked: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    lease = queue.lease(store, ann, seconds=1800)
    assert lease is not None
    queue.submit(store, lease.id, ann, SKIP)
    assert all(s.startswith("INSERT INTO leases") or "FROM leases" in s for s in asked if "guidelines" in s)


def test_what_a_guideline_requires_is_checked_on_every_way_to_submit(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    (ann,) = add_raters(store, 1)
    axes = (Axis("taste", "Taste", ""),)
    guidelines.publish_guideline(store, Guideline(DEFAULT_PROJECT, "1", "Rank.", axes, "required", "required"))
    lease = queue.lease(store, ann, seconds=1800)
    assert lease is not None
    a, b = lease.order_shown
    ranked = Answer(Verdict.RANKED, ((a,), (b,)), scores={"taste": {a: 4, b: 2}}, rationale="It is.")
    for lacks, named in (
        ({"rationale": " "}, "rationale"),
        ({"scores": {"taste": {a: 4}}}, "taste"),
        ({"scores": {}}, "taste"),
    ):
        with pytest.raises(BadInput, match=named):
            queue.submit(store, lease.id, ann, replace(ranked, **lacks))
    kept = queue.submit(store, lease.id, ann, ranked)
    with pytest.raises(BadInput, match="rationale"):
        queue.correct(store, kept.judgment_id, ann, replace(ranked, rationale=""), idempotency_key="k")
    queue.correct(store, kept.judgment_id, ann, Answer(Verdict.ALL_BAD), idempotency_key="k")


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"version": ""}, "version ''"),
        ({"version": "x" * 81}, "version 'xxx"),
        ({"version": "a\nb"}, "version"),
        ({"text": " \n"}, "guideline"),
        ({"text": "a\0b"}, "guideline"),
        ({"axes": (Axis("Helpful", "Helpful"),)}, "axis 'Helpful'"),
        ({"axes": (Axis("helpful", " "),)}, "axis 'helpful'"),
        ({"axes": (Axis("a", "A"), Axis("a", "B"))}, "axes"),
        ({"scores": "perhaps"}, "scores 'perhaps'"),
        ({"rationale": "off"}, "rationale 'off'"),
        ({"axes": (), "scores": "required"}, "without axes"),
    ],
)
def test_a_guideline_that_cannot_be_used_is_refused(bad, named):
    with pytest.raises(BadInput, match=named):
        Guideline(**({"project": "default", "version": "1", "text": "Be fair."} | bad))
