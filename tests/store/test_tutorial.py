"""The tutorial: examples with the right answer that a rater answers once, and whether they agreed."""

from __future__ import annotations

import pytest

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit, projects, queue, tutorial
from rlhf_hitl.store.comparisons import count_rows
from rlhf_hitl.types import Answer, Message, TutorialExample, Verdict

FIRST, SECOND = (("0",), ("1",)), (("1",), ("0",))
ALL_BAD = Answer(Verdict.ALL_BAD)


def ranked(ranking, strength: int | None = None) -> Answer:
    return Answer(Verdict.RANKED, ranking, strength)


def chat(text: str, role: str = "assistant") -> tuple[Message, ...]:
    return (Message(role, text),)


def example(name: str, answer: Answer | None = None, project: str = "default", sides: int = 2) -> TutorialExample:
    completions = [chat(f"{name}, side {i}") for i in range(sides)]
    return TutorialExample.create(
        project, chat(f"{name}?", "user"), completions, answer or ranked(FIRST, 2), f"Why “{name}”."
    )


def test_examples_are_read_as_they_were_inserted_and_in_order(store):
    several = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hi."), Message("user", "?"))
    three = ranked((("2",), ("0", "1")), 3)
    made = [
        example("b"),
        example("a", ALL_BAD),
        TutorialExample.create("default", several, [chat("x"), chat("y"), chat("z")], three, "z is right"),
    ]
    tutorial.replace_tutorial(store, "default", made)
    assert tutorial.list_examples(store) == made
    projects.add_project(store, "coding")
    assert tutorial.list_examples(store, "coding") == []
    assert [e.details for e in audit.list_entries(store, actions=["tutorial.set"])] == [{"examples": 3}]


def test_a_new_tutorial_replaces_the_old_and_leaves_only_new_examples_to_answer(store, add_raters):
    ann, bob = add_raters(store, 2)
    a, b, c = example("a"), example("b"), example("c")
    tutorial.replace_tutorial(store, "default", [a, b])
    assert tutorial.list_remaining_examples(store, ann) == [a, b]
    tutorial.record_attempt(store, ann, a.id, ranked(FIRST), True)
    assert (tutorial.list_remaining_examples(store, ann), tutorial.list_remaining_examples(store, bob)) == ([b], [a, b])
    tutorial.record_attempt(store, ann, b.id, ranked(SECOND), False)
    assert tutorial.list_remaining_examples(store, ann) == []
    tutorial.replace_tutorial(store, "default", [c, b])
    assert (tutorial.list_examples(store), tutorial.list_remaining_examples(store, ann)) == ([c, b], [c])
    assert tutorial.count_agreements(store) == {ann: (0, 1)}, "of what is in the tutorial now"
    tutorial.replace_tutorial(store, "default", [a, b, c])
    assert (tutorial.list_examples(store), tutorial.list_remaining_examples(store, ann)) == ([a, b, c], [c])
    assert tutorial.count_agreements(store) == {ann: (1, 2)}
    tutorial.replace_tutorial(store, "default", [])
    assert (tutorial.list_examples(store), tutorial.count_agreements(store)) == ([], {})


def test_an_altered_example_has_another_id(store):
    a = example("a")
    others = [
        TutorialExample.create("default", a.messages, a.completions, a.answer, "Another reason."),
        TutorialExample.create("default", a.messages, a.completions, ranked(SECOND, 2), a.explanation),
        TutorialExample.create("coding", a.messages, a.completions, a.answer, a.explanation),
    ]
    assert len({e.id for e in [a, *others]}) == 4


def test_the_first_answer_to_an_example_counts(store, add_raters):
    (ann,) = add_raters(store, 1)
    tutorial.replace_tutorial(store, "default", [example("a")])
    for ranking, agreed in ((SECOND, False), (FIRST, True)):
        tutorial.record_attempt(store, ann, example("a").id, ranked(ranking), agreed)
    assert tutorial.count_agreements(store) == {ann: (0, 1)}
    with pytest.raises(NotFound, match="e_none"):
        tutorial.record_attempt(store, ann, "e_none", ranked(FIRST), True)


def test_projects_have_tutorials_of_their_own(store, add_raters):
    (ann,) = add_raters(store, 1)
    projects.add_project(store, "coding")
    here, there = example("a"), example("a", project="coding")
    tutorial.replace_tutorial(store, "default", [here])
    tutorial.replace_tutorial(store, "coding", [there])
    tutorial.record_attempt(store, ann, here.id, ranked(FIRST), True)
    assert (tutorial.list_remaining_examples(store, ann), tutorial.list_remaining_examples(store, ann, "coding")) == (
        [],
        [there],
    )
    assert tutorial.count_agreements(store, "coding") == {}


def test_examples_are_in_no_queue_and_in_no_dataset(store, add_raters):
    (ann,) = add_raters(store, 1)
    tutorial.replace_tutorial(store, "default", [example("a")])
    tutorial.record_attempt(store, ann, example("a").id, ranked(FIRST), True)
    assert queue.lease(store, ann, seconds=1800) is None
    assert count_rows(store) == {"prompts": 0, "completions": 0, "comparisons": 0, "judgments": 0, "raters": 1}


@pytest.mark.parametrize(
    ("right", "answer", "agrees"),
    [
        (ranked(FIRST, 3), ranked(FIRST, 1), True),
        (ranked(FIRST), ranked(SECOND), False),
        (ranked(FIRST), ranked((("0", "1"),)), False),
        (ranked((("0", "1"),)), ranked((("1", "0"),)), True),
        (ranked((("0", "1"),)), ALL_BAD, True),
        (ALL_BAD, ALL_BAD, True),
        (ALL_BAD, ranked(FIRST), False),
        (ranked(FIRST), Answer(Verdict.SKIPPED), False),
        (ALL_BAD, Answer(Verdict.FLAGGED), False),
        (Answer(Verdict.FLAGGED), Answer(Verdict.FLAGGED), True),
        (ranked((("2",), ("0",), ("1",))), ranked((("2",), ("0", "1"))), True),
        (ranked((("2",), ("0",), ("1",))), ranked((("2", "0"), ("1",))), False),
    ],
)
def test_an_answer_that_prefers_the_same_agrees(right, answer, agrees):
    assert right.prefers_same(answer) is agrees


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"messages": chat(" ", "user")}, "prompt with text"),
        ({"completions": [chat("one")]}, "1 completion: expected"),
        ({"answer": ranked((("0",), ("2",)))}, "ranking of 0, 2"),
        ({"completions": [chat("1"), chat("2"), chat("3")]}, "ranking of 0, 1"),
        ({"answer": Answer(Verdict.SKIPPED)}, "skipped"),
        ({"explanation": ""}, "explanation"),
        ({"explanation": "a\0"}, "NUL"),
    ],
)
def test_an_example_that_teaches_nothing_is_refused(bad, named):
    good = {"project": "default", "messages": chat("Q", "user"), "completions": [chat("1"), chat("2")]}
    good |= {"answer": ranked(FIRST), "explanation": "because"}
    with pytest.raises(BadInput, match=named):
        TutorialExample.create(**(good | bad))


def test_a_set_with_an_example_twice_or_of_another_project_is_refused(store):
    for bad in ([example("a"), example("a")], [example("a", project="coding")]):
        with pytest.raises(BadInput):
            tutorial.replace_tutorial(store, "default", bad)
    with pytest.raises(NotFound):
        tutorial.replace_tutorial(store, "nowhere", [])
