"""Routing rules: how they match, what they do to a decision, how they are refused, and the five that are shipped."""

import json
import shutil
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import run_command
from plain_words import assert_plain
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.routing.acceptance import Acceptance
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.router import decide_routes
from rlhf_hitl.routing.rules import RoutingRules, count_by_rule
from rlhf_hitl.routing.rules_file import list_rule_names, load_rules, parse_rules
from rlhf_hitl.routing.threshold import Threshold
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.routings import read_routings
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Route, Score, Split

BOUND = Threshold(0.8, 0.1, 50, 0, 60, 60, 0.1, 0.05)
EXAMPLES = resources.files("rlhf_hitl.configs") / "routing"


def comparison(prompt="a question", answers=("one", "two"), *, tags=None, policies=("p", "q"), project="default"):
    asked = Prompt.create((Message("user", prompt),), tags=tags, split=Split.TRAIN)
    made = [Completion.create(asked.id, (Message("assistant", t),), p) for t, p in zip(answers, policies)]
    return Comparison.create(asked, made, project=project)


def rules_when(**when) -> RoutingRules:
    rule = {"name": "r", "when": when, "route": "human", "reason": "so it is"}
    return RoutingRules.model_validate({"rules": [rule]})


def is_caught(rules: RoutingRules, of: Comparison) -> bool:
    return rules.decide(of, 0.99, 0.8).route is Route.HUMAN


@pytest.mark.parametrize(
    ("words", "text", "matches"),
    [
        ("dose", "What dose is safe?", True),
        ("dose", "A DOSE, please", True),
        ("dose", "overdose", False),
        ("dose", "doses", False),
        ("dos*", "two doses", True),
        ("dos*", "overdose", False),
        ("chest pain", "Chest\n  pain since noon", True),
        ("chest pain", "pain in the chest", False),
        ("chest pain*", "chest pains", True),
        ("self-harm", "self harm", True),
        ("mg", "500 mg", True),
        ("mg", "500mg", False),  # one word to whoever cuts words, so write `500mg` or leave a rule for numbers
        ("depot", "le dépôt", True),
        ("DÉPÔT", "le depot", True),
        ("strasse", "Hauptstraße Straße", True),
        ("naive", "nai\u0308ve", True),  # the accent as a character of its own
        ("dose", "do\u00adse", True),  # a soft hyphen hides nothing
        ("dose", "do\u200bse", True),
        ("自杀", "我想自杀了", True),
        ("自杀", "自行车 杀毒", False),
        ("殺す", "お前を殺すぞ", True),
        ("胸痛", "今朝から胸痛があります", True),
        ("ยา", "กินยาแล้ว", True),
        ("약*", "약을 먹었다", True),
        ("약", "약을 먹었다", False),  # Korean has spaces, and its particles are part of the word
        ("انتحار", "اِنتِحار", True),  # with and without points
        ("दवा", "दवाई", False),
        ("दवा", "यह दवा है", True),
    ],
)
def test_words_match_as_people_mean_them(words, text, matches):
    assert is_caught(rules_when(words=words), comparison(text)) is matches
    assert is_caught(rules_when(words=[words]), comparison("?", ("nothing here", text))) is matches
    assert is_caught(rules_when(words=["zzz", words]), comparison(text)) is matches


def test_words_do_not_reach_from_one_message_into_the_next():
    assert not is_caught(rules_when(words="chest pain"), comparison("it is the chest", ("pain killers", "rest")))


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        ({"tags": {"topic": "law"}}, True),
        ({"tags": {"Topic": ["sport", "LAW"]}}, True),
        ({"tags": {"topic": "sport"}}, False),
        ({"tags": {"absent": "law"}}, False),
        ({"tags": {"absent": "*"}}, False),
        ({"tags": {"topic": "*"}}, True),
        ({"tags": {"topic": "law", "language": "de"}}, False),  # all of them
        ({"tags": {"topic": "law", "language": "pt-BR"}}, True),
        ({"language": "pt-br"}, True),
        ({"language": ["de", "pt*"]}, True),
        ({"language": "pt"}, False),
        ({"policy": "model-b"}, True),
        ({"policy": "model-*"}, True),
        ({"policy": "odel"}, False),
        ({"project": "clinic"}, True),
        ({"project": "default"}, False),
        ({"project": "clinic", "words": "absent"}, False),
        ({"project": "clinic", "words": "one"}, True),
    ],
)
def test_conditions_hold_by_hand(when, matches):
    tags, policies = {"topic": "law", "language": "pt-BR"}, ("model-a", "model-b")
    assert is_caught(rules_when(**when), comparison(tags=tags, policies=policies, project="clinic")) is matches


RULES = """
accept: 0.9
escalate: 0.6
guardrails:
- {name: danger, when: {words: danger}, route: escalate, reason: it is dangerous}
rules:
- {name: cheap, when: {tags: {topic: cheap}}, accept: 0.7, reason: little is lost}
- {name: dear, when: {tags: {topic: [dear, cheap]}}, accept: 0.95, reason: much is lost}
- {name: law, when: {tags: {topic: law}}, route: human, reason: people decide}
"""


@pytest.mark.parametrize(
    ("topic", "text", "confidence", "bound", "route", "reason"),
    [
        ("", "", 0.95, 0.8, Route.AUTO, ""),
        ("", "", 0.85, 0.8, Route.HUMAN, "rule 'accept': confidence 0.850 is below 0.9"),
        ("", "", 0.95, 0.97, Route.HUMAN, ""),  # below the tested bound, which says so itself
        ("", "", 0.55, 0.8, Route.ESCALATED, "rule 'escalate': confidence 0.550 is below 0.6"),
        ("", "", 0.55, 0.5, Route.ESCALATED, "rule 'escalate'"),  # whatever the bound would allow
        ("", "", float("nan"), 0.5, Route.ESCALATED, "rule 'escalate'"),
        ("", "", 0.99, float("inf"), Route.HUMAN, ""),
        ("cheap", "", 0.75, 0.7, Route.AUTO, "rule 'cheap': little is lost"),  # the first that matches
        ("cheap", "", 0.75, 0.8, Route.HUMAN, ""),  # but never below the bound
        ("cheap", "", 0.55, 0.5, Route.ESCALATED, "rule 'escalate'"),
        ("dear", "", 0.93, 0.8, Route.HUMAN, "rule 'dear': much is lost (confidence 0.930 is below 0.95)"),
        ("dear", "", 0.96, 0.8, Route.AUTO, "rule 'dear': much is lost"),
        ("law", "", 0.99, 0.8, Route.HUMAN, "rule 'law': people decide"),
        ("law", "danger", 0.99, 0.8, Route.ESCALATED, "rule 'danger': it is dangerous"),
        ("cheap", "Danger!", 1.0, 0.0, Route.ESCALATED, "rule 'danger': it is dangerous"),
    ],
)
def test_the_first_rule_decides_and_no_rule_goes_below_the_bound(topic, text, confidence, bound, route, reason):
    tags = {"topic": topic} if topic else {}
    ruled = parse_rules(RULES, "f").decide(comparison(f"question {text}", tags=tags), confidence, bound)
    assert ruled.route is route
    assert ruled.reason.startswith(reason)
    assert bool(ruled.reason) is bool(reason)


def score(of: Comparison, probability: float) -> Score:
    a, b = (c.id for c in of.completions)
    return Score(of.id, "m", a, b, 1.0, 0.5, probability)


def test_decisions_name_their_rule_and_are_counted_by_it():
    made = [comparison(f"danger {i}") for i in range(3)] + [
        comparison("law", tags={"topic": "law"}),
        comparison("cheap", tags={"topic": "cheap"}),
        comparison("nothing said"),
    ]
    pool = {c.id: c for c in made}
    config = RoutingConfig.from_rules(parse_rules(RULES, "f"), control_share=0, audit_share=0)
    decisions = decide_routes([score(c, 0.92) for c in made], pool, Acceptance(BOUND), config, 1, lambda *_: 0)
    assert [d.route for d in decisions] == [Route.ESCALATED] * 3 + [Route.HUMAN, Route.AUTO, Route.AUTO]
    assert decisions[4].reason == f"rule 'cheap': little is lost; accepted: {BOUND.reason}"
    assert count_by_rule(decisions) == {"danger": {"escalated": 3}, "cheap": {"auto": 1}, "law": {"human": 1}}
    # Who waits for raters stands before what is accepted, by a rule as well as by the model's confidence.
    assert {d.place_in_line for d in decisions[:4]} == {0, 1, 2, 3}


def test_controls_and_measuring_prompts_stay_what_they_are_under_rules():
    rules = parse_rules(RULES, "f")
    danger, law = comparison("danger"), comparison("x", tags={"topic": "law"})
    prompt = Prompt.create((Message("user", "danger, held out"),), split=Split.HELDOUT)
    answers = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("a", "b")]
    made = [danger, law, Comparison.create(prompt, answers)]
    config = RoutingConfig.from_rules(rules, control_share=1)
    decided = decide_routes(
        [score(c, 0.99) for c in made], {c.id: c for c in made}, Acceptance(BOUND), config, 1, lambda *_: 0
    )
    assert [d.route for d in decided] == [Route.CONTROL, Route.CONTROL, Route.HUMAN]
    assert [d.proposed for d in decided] == [Route.ESCALATED, Route.HUMAN, Route.HUMAN]
    assert count_by_rule(decided) == {}


def test_flags_come_before_the_file_and_the_file_before_the_defaults():
    rules = parse_rules("max_error: 0.3\ncontrol_share: 0.5", "f")
    config = RoutingConfig.from_rules(rules, max_error=0.2, control_share=None)
    assert (config.max_error, config.control_share, config.delta) == (0.2, 0.5, RoutingConfig().delta)


RULE = "- name: a\n  when: {words: x}\n  route: human\n  reason: y\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accept: 0.6\nescalate: 0.85", "f.yaml:2: escalate = 0.85: expected at most accept (0.6)"),
        ("accpt: 0.9", "f.yaml:1: accpt: expected a known name. Fix: did you mean accept?"),
        ("accept: 85", "f.yaml:1: accept = 85: expected 1 or less"),
        ("accept: yes", "f.yaml:1: accept = True: expected a number"),
        ("accept: .nan", "f.yaml:1: accept = nan: expected a finite number"),
        ("control_share: -0.1", "control_share = -0.1: expected 0 or more"),
        ("max_error: 1", "max_error = 1: expected a number below 1"),
        (
            "rules:\n- name: a\n  when: {}\n  route: human\n  reason: y",
            "f.yaml:3: rules.0.when: expected one condition",
        ),
        ("rules:\n- name: a\n  when: {tags: {}}\n  route: human\n  reason: y", "expected 1 entry or more"),
        ("rules:\n- name: a\n  when: {words: []}\n  route: human\n  reason: y", "expected 1 entry or more"),
        ("rules:\n- name: a\n  when: {words: '!'}\n  route: human\n  reason: y", "'!' has none"),
        ("rules:\n- name: a\n  when: {language: no}\n  route: human\n  reason: y", "Fix: write it in quotes"),
        ("rules:\n- name: a\n  when: {word: x}\n  route: human\n  reason: y", "did you mean words?"),
        ("rules:\n- name: a\n  when: {words: x}\n  route: auto\n  reason: y", "expected 'human' or 'escalate'"),
        ("rules:\n- name: a\n  when: {words: x}\n  reason: y", "either route (human or escalate) or accept"),
        ("rules:\n- name: a\n  when: {words: x}\n  route: human", "f.yaml:2: rules.0.reason: expected a value"),
        (
            "guardrails:\n- name: a\n  when: {words: x}\n  accept: 0.9\n  reason: y",
            "guardrails.0.route: expected a value",
        ),
        (f"rules:\n{RULE}{RULE}", "'a' names two rules"),
        (f"rules:\n{RULE}guardrails:\n{RULE}", "'a' names two rules"),
        (f"rules:\n{RULE}rules:\n", "f.yaml:6: rules: expected each name once"),
        (
            "escalate: 0.6\nrules:\n- {name: a, when: {words: x}, accept: 0.5, reason: y}",
            "rule 'a' to be escalate (0.6)",
        ),
        ("rules:\n- {name: accept, when: {words: x}, accept: 0.5, reason: y}", "not 'accept'"),
        ("1: 2", "expected a name that is a text"),
        ("a: 2024-13-45", "Fix: put the value in quotes"),
        ("a: !!int x", "Fix: put the value in quotes"),
        ("a: !!python/object:os.system {}", "f.yaml:1: expected YAML"),
        ("a: 1\n b: 2", "f.yaml:2: expected YAML"),
        ("- 1", "expected lines of NAME: VALUE"),
        ("\x00", "expected YAML"),
        ("[" * 1000, "nested"),
        ("rules: &a [*a]", "expected names and values"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_in_our_words(text, said):
    with pytest.raises(BadInput) as e:
        parse_rules(text, "f.yaml")
    assert said in str(e.value)
    assert_plain(str(e.value))


def test_aliases_of_aliases_do_not_grow_into_an_error_of_a_gigabyte():
    layers = "\n".join(f"  - &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12))
    start = time.monotonic()
    with pytest.raises(BadInput) as e:
        parse_rules(f"rules:\n  - &l0 [x]\n{layers}", "f.yaml")
    assert len(str(e.value)) < 1000
    assert time.monotonic() - start < 3


names = st.sampled_from(
    ["accept", "escalate", "rules", "guardrails", "when", "words", "tags", "name", "route", "reason"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
scalars |= st.sampled_from(["human", "escalate", 0.5, 0.9])
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | scalars, inner, max_size=4),
    max_leaves=20,
)
whens = st.dictionaries(st.sampled_from(["words", "tags", "language", "policy", "project"]), trees, max_size=2)
likely = st.fixed_dictionaries(
    {"name": st.text(max_size=5) | scalars, "reason": st.just("so it is") | scalars, "when": whens | trees},
    optional={"route": st.sampled_from(["human", "escalate"]) | scalars, "accept": st.floats(0, 1) | scalars},
)
files = st.fixed_dictionaries(
    {},
    optional={
        "accept": st.floats(0, 1) | trees, "escalate": st.floats(0, 1) | trees,
        "rules": st.lists(likely, max_size=3) | trees, "guardrails": st.lists(likely, max_size=2) | trees,
    },
)  # fmt: skip


def parse_or_refuse(text: str) -> RoutingRules | str:
    """The rules of a text, or our error; whatever else is raised fails the test."""
    try:
        return parse_rules(text, "f.yaml")
    except BadInput as e:
        return str(e)


@settings(max_examples=150, deadline=None)
@given(files | st.dictionaries(names | scalars, trees, max_size=4))
def test_any_mapping_is_rules_that_decide_or_our_error(values):
    parsed = parse_or_refuse(yaml.safe_dump(values, allow_unicode=True))
    if isinstance(parsed, str):
        assert parsed.startswith("f.yaml")
        assert_plain(parsed.partition(": expected")[2])
    else:
        ruled = parsed.decide(comparison(tags={"topic": "law"}), 0.7, 0.8)
        assert ruled.route is not Route.AUTO, "0.7 is below the bound"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40) | st.text("accept: 0.5\n-[]{}&*!|>'\"#%@`", max_size=40))
def test_any_text_is_rules_or_our_error(text):
    parsed = parse_or_refuse(text)
    assert isinstance(parsed, RoutingRules) or parsed.startswith("f.yaml")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(NotFound, match="did you mean medical"):
        load_rules("medcal")
    for name, said in {"\x00": "check the path", str(tmp_path): "can be read", "/dev/zero": "at most 100,000"}.items():
        with pytest.raises(BadInput, match=said):
            load_rules(name)
    (tmp_path / "latin.yaml").write_bytes(b"accept: 0.9 # \xe9")
    with pytest.raises(BadInput, match="UTF-8"):
        load_rules(str(tmp_path / "latin.yaml"))
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbfaccept: 0.9")
    assert load_rules(str(tmp_path / "marked.yaml")).accept == 0.9


# Of each example: beginning of a prompt → the rule that sends it, and where; and the prompts of rules with an `accept`.
SENT = {
    "general-chat": {
        "I do not see the point": ("crisis", "escalated"), "A veces pienso": ("crisis", "escalated"),
        "My landlord": ("advice-with-consequences", "human"), "Should I put all": ("advice-with-consequences", "human"),
        "Wie komme ich": 0.95, "味噌汁": 0.95,
    },
    "content-moderation": {
        "Comment: 'I know your street": ("threat", "escalated"), "Comentario:": ("threat", "escalated"),
        "Comment: 'The girl": ("minors", "human"), "Comment, removed": ("appeal", "human"),
        "Comment: 'Our glorious": 0.95,
    },
    "medical": {
        "Explain this line": ("flagged-finding", "human"), "What does 'undisplaced": ("flagged-finding", "human"),
        "I have had chest pain": ("emergency", "escalated"), "J'ai une DOULEUR": ("emergency", "escalated"),
        "How much paracetamol": ("dosage", "human"), "I forgot yesterday": ("dosage", "human"),
        "My toddler": 0.97,
    },
    "customer-service": {
        "Third message": ("legal", "escalated"), "Wenn das Geld": ("legal", "escalated"),
        "Under the GDPR": ("data-request", "human"), "The sofa": ("large-refund", "human"),
        "Are you open": 0.7, "Where do I find": 0.7,
    },
    "fraud-review": {
        "Payment of 48,000": ("high-amount", "escalated"), "Payment of 12,500": ("high-amount", "escalated"),
        "A customer of 81": ("irreversible", "human"), "Achat d'une": ("irreversible", "human"),
        "First payment of 500": ("irreversible", "human"), "Six payments": ("new-reviewer-model", "human"),
        "Payment of 65 euros": 0.97,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(sqlite_template, tiny_model, tmp_path_factory) -> Path:
    """A workspace with 270 judged pairs, in which the longer answer wins, and a head on the tiny model."""
    folder, rng = tmp_path_factory.mktemp("rules"), np.random.default_rng(0)
    shutil.copy(sqlite_template, folder / "preferences.db")
    with (folder / "pairs.jsonl").open("w") as file:
        for i in range(270):
            long, short = (
                " ".join(f"word{k}" for k in rng.integers(0, 500, rng.integers(*size))) for size in ((15, 40), (2, 10))
            )
            sides = [{"messages": [{"role": "assistant", "content": t}], "policy": "p"} for t in (long, short)]
            row = {
                "messages": [{"role": "user", "content": f"question {i}"}],
                "completions": sides,
                "votes": [{"ranking": [[0], [1]], "rater": "longer", "simulated": True}],
                "split": "calibration" if i % 3 == 0 else "train",
            }
            file.write(json.dumps(row) + "\n")
    cli(folder, "import", folder / "pairs.jsonl")
    cli(folder, "train-reward", "--backbone", tiny_model, "--dtype", "float32", "--layer", 1, "--pooling", "last")
    return folder


def cli(folder: Path, *args):
    store = f"sqlite:///{folder}/preferences.db"
    done = run_command(*args, "--json", "--store", store, env={"RLHF_HITL_WORKSPACE": str(folder)})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_there_are_five_examples_each_with_its_data():
    assert set(list_rule_names()) == set(SENT)
    for name in SENT:
        lines = [json.loads(line) for line in (EXAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert 12 <= len(lines) <= 24
        votes = [vote for line in lines for vote in line.get("votes", ())]
        assert votes
        assert all(vote["simulated"] for vote in votes)


@pytest.mark.parametrize("name", SENT)
def test_an_example_routes_its_own_comparisons_from_end_to_end(name, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    cli(tmp_path, "import", str(EXAMPLES / f"{name}.jsonl"))
    routed = cli(tmp_path, "route", "--config", name, "--control-share", "0", "--audit-share", "0")
    rules, bound = load_rules(name), routed["threshold"]["value"]
    assert bound is not None
    assert (routed["threshold"]["max_error"], routed["threshold"]["delta"]) == (rules.max_error, rules.delta)
    by_rule: dict[str, dict[str, int]] = {}
    met = set()
    with Store.open(f"sqlite:///{tmp_path}/preferences.db") as store:
        confidence = {s.comparison_id: s.probability for s in read_scores(store, routed["reward_model_id"])}
        decided = {d.comparison_id: d for d in read_routings(store)}
        pool = list(find_comparisons(store, judged=False))
        assert {c.id for c in pool} == set(decided)
        for of in pool:
            told, p = decided[of.id], confidence[of.id]
            text = of.prompt.messages[-1].text
            expected = next((to for start, to in SENT[name].items() if text.startswith(start)), rules.accept)
            met |= {start for start in SENT[name] if text.startswith(start)}
            rule = ""
            if of.prompt.split is not Split.TRAIN:
                expected = "human"
                assert "raters always judge it" in told.reason
            elif isinstance(expected, tuple):
                rule, expected = expected
            elif rules.escalate is not None and p < rules.escalate:
                rule, expected = "escalate", "escalated"
            else:
                expected = "auto" if p >= max(bound, expected) else "human"
            assert told.route.value == expected, (text, told)
            if rule:
                assert told.reason.startswith(f"rule '{rule}': ")
                by_rule.setdefault(rule, {}).setdefault(expected, 0)
                by_rule[rule][expected] += 1
    assert met == set(SENT[name])
    assert by_rule.items() <= routed["by_rule"].items()
    assert sum(routed["routes"].values()) == len(decided)


def test_the_report_of_route_says_what_each_rule_did(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    cli(tmp_path, "import", str(EXAMPLES / "medical.jsonl"))
    store = f"sqlite:///{tmp_path}/preferences.db"
    done = run_command(
        "route", "--config", "medical", "--control-share", 0, "--store", store,
        env={"RLHF_HITL_WORKSPACE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 by rule 'dosage': to raters" in done.stdout + done.stderr
    assert "2 by rule 'emergency': to raters, before all others" in done.stdout + done.stderr


def test_bad_rules_stop_a_command_before_it_does_anything(sqlite_url, tmp_path):
    (tmp_path / "rules.yaml").write_text("accept: 0.6\nescalate: 0.9\n")
    (tmp_path / "loop.yaml").write_text(f"routing: {tmp_path}/rules.yaml\n")
    for command in (["route", "--config", tmp_path / "rules.yaml"], ["loop", "--config", tmp_path / "loop.yaml"]):
        start = time.monotonic()
        done = run_command(*command, "--store", sqlite_url)
        assert time.monotonic() - start < 3
        assert (done.returncode, done.stdout) == (2, "")
        assert "rules.yaml:2: escalate = 0.9: expected at most accept (0.6)" in done.stderr
