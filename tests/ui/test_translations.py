"""The words of the pages: the same keys in every language, all of them used, none of them missing."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import get_args

import pytest

from checkout import ROOT
from rlhf_hitl.labels import policy_votes
from rlhf_hitl.labels.policy_report import PromotionOutcome
from rlhf_hitl.store.findings import FindingAction
from rlhf_hitl.store.policies import PolicyMethod
from rlhf_hitl.types import REASONS, Answer, QualificationState, Reason, Role, Verdict
from rlhf_hitl.ui import adjudicate, rating_cards
from rlhf_hitl.ui.conversation import SPEAKERS
from rlhf_hitl.ui.error_pages import EXPLAINED
from rlhf_hitl.ui.navigation import PAGES
from rlhf_hitl.ui.pages import load_translations
from rlhf_hitl.ui.policies import LEFT_OUT

ASSETS = ROOT / "ui" / "assets"
ENGLISH = load_translations()["en"]
OTHERS = ("ar", "es", "fr", "hi", "zh")
#: Words that another language spells as English does.
SAME = {
    ("fr", "speaker_assistant"),
    ("es", "tutorial"),
    ("fr", "page_tools"),
    *((tag, "votes_for") for tag in ("ar", "es", "hi")),
}


def script(name: str) -> str:
    return (ASSETS / "rate" / name).read_text(encoding="utf-8")


def markup() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(ASSETS.rglob("*.html")))


def first_arguments(code: str) -> list[str]:
    """The first argument of each call of `t(…)` in JavaScript."""
    found = []
    for call in re.finditer(r"(?<![\w.])t\(", code):
        depth, end = 0, call.end()
        while depth > 0 or code[end] not in ",)":
            depth += (code[end] in "([{") - (code[end] in ")]}")
            end += 1
        found.append(code[call.end() : end])
    return found


def outcomes(code: str) -> set[str]:
    """The strings JavaScript may come to: returned, or either side of a `? :`, but not what is compared with."""
    return set(re.findall(r'(?:^|return|\?|:)\s*"(\w+)"', code))


def given(path: str, wanted: str, argument: int | str) -> set[str]:
    """The strings that Python's calls of a function give as an argument."""

    def strings(node: ast.expr) -> set[str]:
        if isinstance(node, ast.IfExp):
            return strings(node.body) | strings(node.orelse)
        return {node.value} if isinstance(node, ast.Constant) else set()

    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != wanted:
            continue
        values = {k.arg: k.value for k in node.keywords} | dict(enumerate(node.args))
        if argument in values:
            found |= strings(values[argument])
    assert found, f"{path} still calls {wanted} with {argument}"
    return found


def in_short() -> set[str]:
    """What the rating service calls an answer to two or to three completions."""
    pair = [Answer(v) for v in Verdict if v is not Verdict.RANKED]
    pair += [Answer(Verdict.RANKED, ranking) for ranking in ((("x",), ("y",)), (("y",), ("x",)), (("x", "y"),))]
    return {rating_cards.summarize_answer(a, ["x", "y"]) for a in pair} | {
        rating_cards.summarize_answer(pair[-1], ["x", "y", "z"])
    }


def families() -> dict[str, set[str]]:
    """Key with a `*` where JavaScript puts something in → what it puts there."""
    default_keys = re.search(r"DEFAULTS = \{(.*?)\}", script("keymap.js"), re.S)
    # Problems of the connection; those of the server have a code.
    connection = re.findall(r"problem: \{ kind: (.*?) \}", script("server_calls.js"))
    assert default_keys is not None
    return {
        "problem_*": set().union(
            *map(outcomes, connection),
            given("ui/rating_service.py", "UserNotice", 0),
            given("ui/rating_service.py", "_make_problem", 1),
        ),
        "*_why": {verdict.value for verdict in REASONS},
        "reason_*": {reason.value for reason in Reason},
        "break_*": outcomes(script("pace.js")),
        "key_*": set(re.findall(r"(\w+):", default_keys[1])),
        "page_*": set(PAGES),
        "role_*": {role.value for role in Role},
        "state_*": {"active", "paused", "disabled", "simulated"},
        "raters_*": {"reliability", "agreement", "first", "seconds"},
        "raters_action_*": {action.value for action in FindingAction},
        "qualification_*": {state.value for state in QualificationState},
        "queue_*": {"open", "held", "done"},
        "votes_of_*": set(policy_votes.POPULATIONS),
        "style_*": set(policy_votes.STYLE),
        "method_*": {method.value for method in PolicyMethod},
        "outcome_*": set(get_args(PromotionOutcome)),
        "policies_*": {"before", "after"},
        "policies_left_out_*": set(LEFT_OUT.values()),
        "policies_prefer_*": {"before", "after"},
        "policies_*_all": {"won", "lost"},
        "group_*": {"name", "done", "judgments", "accuracy", "people", "same", "newest", "seconds", "cost"},
        "threshold_*": {"confidence", "accepted", "load", "error", "bound", "cost"},
    }


@cache
def used() -> dict[str, str]:
    """Key → where it is used."""
    found = dict.fromkeys(re.findall(r'data-i18n(?:-label)?="(\w+)"', markup()), "a page's markup")
    found |= dict.fromkeys(re.findall(r'\bt\("(\w+)"\)', markup()), "a template")
    for path in sorted((ROOT / "ui").glob("*.py")):  # words within what Python makes of a text
        named = re.findall(r'(?:data-i18n(?:-alt)?="|\brender_translated\(")(\w+)"', path.read_text(encoding="utf-8"))
        found |= dict.fromkeys(named, path.name)
    found |= dict.fromkeys(adjudicate.RENAMED.values(), "adjudicate.py: RENAMED")
    shown = given("rlhf_hitl/api/sign_in.py", "respond_with_sign_in_page", "problem")
    found |= {f"login_{problem}": "api/sign_in.py" for problem in shown}
    found |= {f"error_{name}{part}": "error_pages.py: EXPLAINED" for name in EXPLAINED for part in ("", "_why")}
    for path in sorted(ASSETS.rglob("*.js")):
        for argument in first_arguments(path.read_text(encoding="utf-8")):
            found |= dict.fromkeys(outcomes(argument), path.name)
            for family in re.findall(r"`([^`]*)`", argument):
                family = re.sub(r"\$\{.*?\}", "*", family)
                found |= {family.replace("*", member): f"{path.name}: {family}" for member in families()[family]}
    missing = re.search(r"function findMissing\(\) \{(.*?)\n  \}", script("choices.js"), re.S)
    assert missing is not None
    found |= dict.fromkeys(outcomes(missing[1]), "choices.js: findMissing()")
    found |= {f"speaker_{role}": "conversation.py: SPEAKERS" for role in SPEAKERS}
    return found | dict.fromkeys(in_short(), "rating_cards.py: summarize_answer")


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


def test_the_languages_are_those_of_the_documentation():
    assert tuple(load_translations()) == ("en", *OTHERS)


@pytest.mark.parametrize("language", OTHERS)
def test_a_language_has_the_keys_and_the_places_of_english(language):
    words = load_translations()[language]
    assert list(words) == list(ENGLISH)
    assert {k: places(v) for k, v in words.items()} == {k: places(v) for k, v in ENGLISH.items()}


def test_every_word_a_page_uses_exists():
    assert {key: where for key, where in used().items() if key not in ENGLISH} == {}


def test_every_word_is_used():
    assert [key for key in ENGLISH if key not in used()] == []


def test_every_word_is_translated():
    same = {(tag, k) for tag in OTHERS for k, v in load_translations()[tag].items() if v.strip() in ("", ENGLISH[k])}
    assert same == SAME


@pytest.mark.parametrize("language", OTHERS)
def test_the_answers_keep_their_letters(language):
    of_one = {key: text[0] for key, text in ENGLISH.items() if re.match(r"[AB] is ", text)}
    assert of_one
    for key, letter in of_one.items():
        assert load_translations()[language][key].startswith(letter), key


@pytest.mark.parametrize("language", ["en", *OTHERS])
def test_who_speaks_to_the_page_may_say_what_a_button_shows(language):
    """The name for assistive techniques holds the visible word (WCAG 2.5.3). A soft hyphen is no part of it."""
    words = {k: v.casefold().replace("\xad", "") for k, v in load_translations()[language].items()}
    buttons = re.findall(r'<button[^>]* data-i18n-label="(\w+)"[^>]*><span data-i18n="(\w+)">', markup())
    assert buttons
    for label, shown in buttons:
        assert words[shown] in words[label], f"{shown} in {label}"
