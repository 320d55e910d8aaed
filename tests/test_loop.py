"""The loop on a tiny real model: whole rounds, stopped, resumed, and waiting for people."""

import hashlib
import json
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from forked_processes import CONTEXT, run_module
from rlhf_hitl import simulate
from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, RlhfHitlError
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.loop import Loop, LoopConfig, tuning
from rlhf_hitl.policy import model_drawer
from rlhf_hitl.policy.dpo import DPOSettings, LabelDPOTrainer
from rlhf_hitl.policy.dpo_pairs import DPOPairArguments
from rlhf_hitl.policy.ppo import checkpoints
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.trainer import PPOTrainer
from rlhf_hitl.policy.training import DataArguments
from rlhf_hitl.policy.trl_training import CheckpointMarker
from rlhf_hitl.store import Store, people, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_prompts
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.loop_steps import finish_step, read_finished_steps
from rlhf_hitl.store.policies import read_lineage
from rlhf_hitl.store.promotions import list_promotions
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.store.routings import read_routings
from rlhf_hitl.store.runs import read_runs
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.store.tables import places, reward_models
from rlhf_hitl.types import Answer, Message, Prompt, Role, Split, Verdict

SMALL = {
    "prompts_per_round": 24,
    "completions_per_prompt": 2,
    "temperatures": [1.0],
    "max_new_tokens": 12,
    "judgments_per_round": 22,
    "dpo_pairs": 4,
    "dpo_prompts": 2,
    "ppo_steps": 1,
    "ppo_rollouts": 4,
    "gate_prompts": 8,
    "gate_judgments": 6,
}
STEPS = ["sample", "route", "review", "label", "train_reward", "evaluate", "gate", "dpo", "ppo", "promote"]


@pytest.fixture
def prompts(sqlite_store):
    with sqlite_store.write() as conn:
        new = [Prompt.create((Message("user", f"please write about the sea {i}"),)) for i in range(80)]
        insert_prompts(sqlite_store, conn, new)
    return sqlite_store


def loop_of(store, tiny_model, tmp_path, *, on_wait=None, on_step=lambda line: None, **changes):
    config = LoopConfig(policy=str(tiny_model), backbone=str(tiny_model), **(SMALL | changes))
    return Loop(store, Settings(workspace=tmp_path), config, on_wait=on_wait, on_step=on_step)


@pytest.mark.timeout(150)
def test_two_rounds_from_the_command_line_close_the_loop(prompts, tiny_model, tmp_path):
    config = tmp_path / "loop.yaml"
    config.write_text(json.dumps(SMALL | {"policy": str(tiny_model), "backbone": str(tiny_model)}))
    run = run_module(
        "rlhf_hitl", "loop", "--rounds", 2, "--simulate", "--json", "--store", prompts.url, "--config", config,
        env=os.environ | {"RLHF_HITL_WORKSPACE": str(tmp_path / "workspace")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout)
    assert [(s["round"], s["step"]) for s in result["steps"]] == [(n, s) for n in (1, 2) for s in STEPS]
    by_step = {(s["round"], s["step"]): s for s in result["steps"]}
    assert by_step[1, "route"]["reason"].startswith("no reward model yet")
    assert by_step[2, "route"]["reward_model_id"] == by_step[1, "train_reward"]["reward_model_id"]
    assert sum(by_step[2, "route"]["routes"].values()) == by_step[2, "route"]["scored"] > 0
    assert by_step[2, "sample"]["policy"] == by_step[1, "promote"]["policy"]
    # Raters are asked once for each thing: what they judged for a promotion is in no review.
    assert [by_step[n, "review"]["judgments"] for n in (1, 2)] == [22, 22]
    assert all(by_step[n, "promote"]["simulated"] and by_step[n, "promote"]["outcomes"] for n in (1, 2))
    assert by_step[2, "train_reward"]["train_votes"] > by_step[1, "train_reward"]["train_votes"]
    assert set(result["report"]["figures"]) == {
        "accuracy_before_review", "intervention_rate", "error_reduction", "review_seconds", "cost_per_comparison",
    }  # fmt: skip
    assert result["report"]["simulated"]
    lines = {e.name: e.record for e in read_lineage(prompts)}
    for (n, step), done in by_step.items():
        if step in ("dpo", "ppo"):
            record = lines[Path(done["policy"]).name]
            assert record is not None
            assert (record.method, record.round, record.place) == (step, n, "here")
            assert record.reward_model_id == by_step[n, "train_reward"]["reward_model_id"]
            kinds = (DPOPairArguments, DPOSettings) if step == "dpo" else (PPOConfig,)
            again = ["--config", f"{done['policy']}/config.yaml", "--output_dir", str(tmp_path / "again")]
            data, *others = parse_arguments((DataArguments, *kinds), again)
            assert data.reward_model == record.reward_model_id
            assert others[-1].model_name_or_path == by_step[n, "sample" if step == "dpo" else "dpo"]["policy"]
    assert lines[Path(by_step[1, "ppo"]["policy"]).name].parent == Path(by_step[1, "dpo"]["policy"]).name
    assert lines[tiny_model.name].method == "base"
    assert all(j.simulated for j in read_judgments(prompts))
    # Each step counts once as a run, but for the review, in which people work.
    assert [(r.command, r.round, r.step) for r in read_runs(prompts)] == [
        ("loop", n, step) for n in (1, 2) for step in STEPS if step != "review"
    ]
    assert {r.outcome for r in read_runs(prompts)} == {"finished"}
    assert [r["round"] for r in result["report"]["rounds"]] == [1, 2]


def test_an_interrupted_loop_resumes_at_the_unfinished_step(prompts, tiny_model, tmp_path):
    def stops_at_evaluate(line):
        if line == "round 1: evaluate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop_of(prompts, tiny_model, tmp_path, on_step=stops_at_evaluate, ppo_steps=0, dpo_pairs=0).run(1)
    before = read_finished_steps(prompts)
    assert [step for _, step in before] == STEPS[:5]
    lines = []
    after = loop_of(prompts, tiny_model, tmp_path, on_step=lines.append, ppo_steps=0, dpo_pairs=0).run(1)
    assert lines == [f"round 1: {s}" for s in STEPS[5:]]
    assert {k: after[k] for k in before} == before
    assert after[1, "promote"]["reason"] == "nothing was tuned"
    assert [r.step for r in read_runs(prompts)] == [s for s in STEPS if s != "review"]


def test_a_step_that_fails_and_is_done_again_has_cost_twice(prompts, tiny_model, tmp_path):
    small = {"ppo_steps": 0, "dpo_pairs": 0, "judgments_per_round": 1}
    with pytest.raises(BadInput, match="1 label with a preference"):  # one judgment teaches nothing
        loop_of(prompts, tiny_model, tmp_path, **small).run(1)
    with pytest.raises(BadInput, match="1 label with a preference"):
        loop_of(prompts, tiny_model, tmp_path, **small).run(1)
    ran = [(r.step, r.outcome) for r in read_runs(prompts)]
    assert ran == [
        ("sample", "finished"),
        ("route", "finished"),
        ("label", "finished"),
        ("train_reward", "failed"),
        ("train_reward", "failed"),
    ]


def test_a_tuning_that_was_stopped_goes_on_and_leaves_one_policy(prompts, tiny_model, tmp_path, monkeypatch):
    loop = loop_of(prompts, tiny_model, tmp_path, dpo_pairs=8, dpo_prompts=4, ppo_steps=2, gate_prompts=1)
    monkeypatch.setattr(tuning, "DPO_SAVE_STEPS", 1)

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # DPO has done its first step
        mark = CheckpointMarker.on_save
        patch.setattr(CheckpointMarker, "on_save", lambda *args, **more: interrupt(mark(*args, **more)))
        with pytest.raises(KeyboardInterrupt):
            loop.run(1)
    losses, draws = [], []
    with monkeypatch.context() as patch:  # DPO's policy is written, and the store does not know of it
        compute = LabelDPOTrainer.compute_loss
        patch.setattr(
            LabelDPOTrainer, "compute_loss", lambda *args, **more: losses.append(compute(*args, **more)) or losses[-1]
        )
        patch.setattr(model_drawer, "sample_tokens", lambda *args, **_: draws.append(args))
        patch.setattr("rlhf_hitl.policy.lineage.record_tuned_policy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.run(1)
    assert (len(losses), draws) == (1, [])
    [first] = (tmp_path / "policies").glob("round-1-dpo-*")
    with monkeypatch.context() as patch:  # PPO has done its first step
        patch.setattr(LabelDPOTrainer, "compute_loss", interrupt)  # nothing is left to be trained
        place = checkpoints.place_folder
        patch.setattr(checkpoints, "place_folder", lambda *args: interrupt(place(*args)))
        with pytest.raises(KeyboardInterrupt):
            loop.run(1)
    steps, run_step = [], PPOTrainer.run_step
    monkeypatch.setattr(PPOTrainer, "run_step", lambda trainer, step: (steps.append(step), run_step(trainer, step))[1])
    finished = loop.run(1)
    assert steps == [1]
    assert Path(finished[1, "dpo"]["policy"]) == first
    assert {p.name for p in (tmp_path / "policies").iterdir()} == {
        Path(finished[1, step]["policy"]).name for step in ("dpo", "ppo")
    }
    assert not list((tmp_path / "sampling").iterdir()), "all answers that were kept were used"


def test_two_loops_on_one_store_do_not_run_at_once(prompts, tiny_model, tmp_path):
    other = loop_of(prompts, tiny_model, tmp_path)

    def also_starts(_line):
        with pytest.raises(RlhfHitlError, match="one loop on this store at a time"):
            other.run(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop_of(prompts, tiny_model, tmp_path, on_step=also_starts).run(1)


def test_a_round_cannot_be_finished_with_other_settings(prompts, tiny_model, tmp_path):
    def stops_at_review(line):
        if line == "round 1: review":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop_of(prompts, tiny_model, tmp_path, on_step=stops_at_review).run(1)
    with pytest.raises(BadInput, match=r"max_new_tokens = 5 in round 1: expected 12"):
        loop_of(prompts, tiny_model, tmp_path, max_new_tokens=5).run(1)


def test_without_simulated_raters_the_loop_waits_and_reports_its_progress(prompts, tiny_model, tmp_path):
    ann = people.add_rater(prompts, "ann", Role.RATER).id
    reported = []

    def judge_one(progress):
        reported.append(str(progress))
        lease = queue.lease(prompts, ann, seconds=1800)
        queue.submit(prompts, lease.id, ann, simulate.simulate_answer(simulate.SIMULATED_RATERS[0], lease.comparison))

    loop_of(prompts, tiny_model, tmp_path, on_wait=judge_one, ppo_steps=0, dpo_pairs=0).run(1)
    assert len(reported) == SMALL["judgments_per_round"]
    assert reported[0] == "round 1: 0 of 22 judgments; raters make them at `rlhf-hitl serve`"
    assert not any(j.simulated for j in read_judgments(prompts))


def test_raters_decide_what_a_round_promotes(judged_store, trained_model, tiny_model, tmp_path):
    tuned = shutil.copytree(tiny_model, tmp_path / "tuned")
    finish_step(judged_store, 1, "ppo", {"policy": str(tuned)}, 0.0)  # the same weights, answering otherwise
    new = [Prompt.create((Message("user", f"please write about the sea {i}"),), {}, Split.HELDOUT) for i in range(30)]
    with judged_store.write() as conn:
        insert_prompts(judged_store, conn, new)
    nora, reported = people.add_rater(judged_store, "nora", Role.RATER).id, []

    def prefer_the_tuned_one(progress):
        reported.append(str(progress))
        lease = queue.lease(judged_store, nora, seconds=1800)
        best, worst = sorted(lease.comparison.completions, key=lambda c: c.policy != "tuned")
        queue.submit(judged_store, lease.id, nora, Answer(Verdict.RANKED, ((best.id,), (worst.id,))))

    loop = loop_of(judged_store, tiny_model, tmp_path, on_wait=prefer_the_tuned_one, gate_prompts=30, gate_judgments=20)
    counted = loop.make_round_steps(2)._count_judgments_since(0)
    result = loop.make_round_steps(1).promote()
    assert (result["promoted"], result["policy"], result["decision"]) == (True, str(tuned), "promote")
    assert "shown to win more than half" in result["reason"]
    assert not result["simulated"]
    assert result["counts"]["fresh"] == 10
    assert reported[0] == "round 1: promotion: 0 of at most 20 outcomes; raters have not judged yet"
    assert len(reported) == result["judgments"] < 20
    # As if killed before the store knew that the step was done: nobody is asked again.
    again = loop.make_round_steps(1).promote()
    assert {k: v for k, v in again.items() if k != "machine_seconds"} == {
        k: v for k, v in result.items() if k != "machine_seconds"
    }
    assert len(reported) == result["judgments"]
    assert loop.make_round_steps(2)._count_judgments_since(0) == counted, "the next review counts its own"


# --- killed at every stage

#: For each step a function that its work passes through in its middle: the module, and the name in it.
MIDDLES = {
    "sample": ("rlhf_hitl.loop.steps", "insert_comparisons"),
    "route": ("rlhf_hitl.store.routings", "_apply_some"),
    "review": ("rlhf_hitl.simulate", "simulate_answer"),
    "label": ("rlhf_hitl.loop.steps", "fit_and_keep_labels"),
    "train_reward": ("rlhf_hitl.reward.training.head_training", "save_head"),
    "evaluate": ("rlhf_hitl.reward.model_card", "add_evaluation_to_card"),
    "dpo": ("rlhf_hitl.policy.trl_training", "save_policy"),
    "ppo": ("rlhf_hitl.policy.ppo.checkpoints", "place_folder"),
    "promote": ("rlhf_hitl.simulate", "simulate_answer"),
}
#: When steps are killed that are not killed three times: they take longest, or have no middle.
MOMENTS = {
    **dict.fromkeys(("label", "evaluate", "dpo", "ppo", "promote"), ("middle", "done")),
    "gate": ("done",),
}
#: A round without a reward model, and one with all that a round may do; the third is tuned least, for it takes longest.
ROUNDS = (SMALL | {"ppo_steps": 0, "dpo_pairs": 0}, SMALL)


def run_until_killed(url: str, workspace: str, model: str, rounds: int, step: str, moment: str) -> None:
    """Run the loop in a process that kills itself at a moment of a step of its last round; "" of none."""
    import gc
    import importlib

    from rlhf_hitl.loop import runner, steps

    # The same folders in both loops, for the name of a policy is in the ids of what raters compare, and the inputs that
    # a folder is named by have the workspace's path.
    steps._digest = lambda inputs: "0" * 8

    gc.freeze()  # as in forked_processes.py

    def die(*_args, **_kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def begin(line: str) -> None:
        if line != f"round {rounds}: {step}":
            return
        if moment == "begun":
            die()
        if moment == "middle":
            module, name = MIDDLES[step]
            patched = importlib.import_module(module)
            real, calls = getattr(patched, name), iter(range(100))
            setattr(patched, name, lambda *args, **kwargs: real(*args, **kwargs) if next(calls) < 2 else die())
            if step not in ("route", "review", "promote"):  # what is done once
                setattr(patched, name, lambda *args, **kwargs: die(real(*args, **kwargs)))

    finish = runner.finish_step

    def finish_and_die(store, round, name, *args, **kwargs):
        if (round, name, moment) == (rounds, step, "done"):
            die()
        finish(store, round, name, *args, **kwargs)

    runner.finish_step = finish_and_die
    for n in range(1, rounds + 1):
        settings = LoopConfig(policy=model, backbone=model, **(ROUNDS[n - 1]))
        Loop(Store.open(url), Settings(workspace=Path(workspace)), settings, on_wait=None, on_step=begin).run(n)


def read_final_state(store, workspace: Path) -> dict:
    """All that a round leaves, without what every run has its own of: times, seconds, random ids and folders."""
    names = {r.id: r.name for r in people.list_raters(store)}
    policies = {str(path): f"policy {n}" for n, path in enumerate(list_policies(store))}
    steps = {}
    for key, result in read_finished_steps(store).items():
        plain = json.dumps({k: v for k, v in result.items() if not k.endswith("seconds") and k not in TIMED})
        for path, name in policies.items():
            plain = plain.replace(path, name)
        steps[key] = plain.replace(str(workspace.parent / "whole"), "").replace(str(workspace.parent / "killed"), "")
    return {
        "steps": steps,
        "comparisons": [(c.id, c.route) for c in find_comparisons(store)],
        "judgments": [(names[j.rater_id], j.comparison_id, j.answer, j.route) for j in read_judgments(store)],
        "routings": [
            (r.comparison_id, r.route, r.reason, r.reward_model_id, r.round, r.place_in_line)
            for r in sorted(read_routings(store, newest=False), key=lambda r: (r.round, r.comparison_id))
        ],
        "places": read_places(store),
        "models": [m.id for m in list_reward_models(store)],
        "scores": [s for m in list_reward_models(store) for s in read_scores(store, m.id)],
        "labels": read_labels(store),
        "promotions": [replace(p, opened_at=None, decided_at=None, settings={}) for p in list_promotions(store)],
        "policies": [hash_weights(Path(path)) for path in policies],
        "folders": len(list((workspace / "policies").glob("*"))),
    }


#: What is a time, or follows from one.
TIMED = {"created_at", "last", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


def list_policies(store) -> list[str]:
    found = [result.get("policy") for result in read_finished_steps(store).values()]
    return list(dict.fromkeys(path for path in found if path and "policies" in path))


def hash_weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def read_places(store) -> list:
    query = sa.select(places.c.comparison_id, places.c.n, places.c.position, places.c.judgment_id.is_not(None))
    with store.read() as conn:
        return sorted(tuple(row) for row in conn.execute(query))


@pytest.mark.timeout(600)  # two dozen processes
def test_a_loop_that_is_killed_at_every_stage_ends_as_one_that_was_not(prompts, tiny_model, tmp_path):
    """The second round, which does all there is, is killed as each step begins, in its middle, and between what it did
    and the row that says so; each time it is started again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    arguments = prompts.url, str(killed), str(tiny_model)
    assert run_process(*arguments, 1, "", "") == 0
    path = Path(prompts.url.removeprefix("sqlite:///"))
    prompts.close()
    copied = f"sqlite:///{whole}/preferences.db"
    shutil.copy(path, whole / "preferences.db")
    shutil.copytree(killed, whole, dirs_exist_ok=True)
    with Store.open(copied) as store, store.write() as conn:
        moved = sa.func.replace(reward_models.c.path, str(killed), str(whole))
        conn.execute(reward_models.update().values(path=moved))
    assert run_process(copied, str(whole), str(tiny_model), 2, "", "") == 0
    kills = [(step, moment) for step in STEPS for moment in MOMENTS.get(step, ("begun", "middle", "done"))]
    for step, moment in kills:
        assert run_process(*arguments, 2, step, moment) == -signal.SIGKILL, (step, moment)
    assert run_process(*arguments, 2, "", "") == 0
    with Store.open(prompts.url) as ours, Store.open(copied) as theirs:
        ended, expected = read_final_state(ours, killed), read_final_state(theirs, whole)
        for name in expected:
            assert ended[name] == expected[name], name
        judged = [(j.rater_id, j.comparison_id) for j in read_judgments(ours)]
        [promotion] = list_promotions(ours)
        assert len(set(judged)) == len(judged) == 2 * SMALL["judgments_per_round"] + promotion.judgments
        assert 0 < promotion.judgments <= SMALL["gate_judgments"]
        # A step that was finished was not begun again: it ran once more for each time that it was killed within it.
        runs = Counter(r.step for r in read_runs(ours) if r.round == 2)
        within = Counter(step for step, moment in kills if moment != "begun")
        assert runs == {step: within[step] + 1 for step in STEPS if step != "review"}


def run_process(*args) -> int:
    process = CONTEXT.Process(target=run_until_killed, args=args)
    process.start()
    process.join(200)
    return process.exitcode


def test_simulated_raters_are_marked_and_answer_the_same_each_time(prompts, tiny_model, tmp_path):
    loop = loop_of(prompts, tiny_model, tmp_path)
    loop.make_round_steps(1).sample()
    assert simulate.judge_queue(prompts, 5) == 5
    for judgment in read_judgments(prompts):
        rater = next(r for r in people.list_raters(prompts) if r.id == judgment.rater_id)
        assert rater.simulated
        who = next(r for r in simulate.SIMULATED_RATERS if r.name == rater.name)
        comparison = next(find_comparisons(prompts, ids=[judgment.comparison_id]))
        assert simulate.simulate_answer(who, comparison) == judgment.answer


def test_an_unknown_setting_is_named_with_its_file(tmp_path):
    config = tmp_path / "loop.yaml"
    config.write_text("rouns: 3\n")
    run = run_module("rlhf_hitl", "loop", "--config", config, "--store", f"sqlite:///{tmp_path}/x.db")
    assert run.returncode == 2
    assert f"{config}: rouns" in run.stderr
    assert "Traceback" not in run.stderr
    with pytest.raises(Exception, match="existing store"):
        Store.open(f"sqlite:///{tmp_path}/x.db")
