"""Compare PPO with TRL 1.12's PPOTrainer, the last one that TRL had: speed, memory, and the reward that is reached.

    python benchmarks/vs_trl_ppo.py

Both tune the same policy with a LoRA of the same rank on the same prompts, in fp32, with batches, minibatches, epochs,
numbers of tokens, KL weight and reward alike (`ppo_race.Run`); the reward is a Python function of an answer's text, the
share of its vowels. Ours weighs KL in standard deviations of the reward and TRL in its unit, so TRL is given ours times
one of them, measured on the untuned policy. What has no counterpart is as each has it by default. TRL also trains a
whole value model, which it cannot be without; `lora_critic` says what a LoRA on that would change. Both train in a
process of their own. Its processor seconds are the user's and the system's from the last answer of the first step that
was scored to the last one of all, so that loading and saving are left out, and its memory is the largest resident.

- **Speed and memory** on SmolLM2-135M (`--model`), in turns. TRL samples and evaluates a step's answers at once or in
  minibatches: it is compared at the quicker way for speed and at the smaller one for memory.
- **Reward** on a model of 1M random weights: the best of three learning rates for each, chosen on two seeds that are
  not used again, then five seeds. Both tuned policies answer held-out prompts, sampled by plain `generate`; the
  interval is that of the differences by seed (Student's t).

TRL comes from PyPI into an environment of its own (`--peer-env`, built where there is none, with the versions of
transformers, accelerate, peft and torch that run this). `--quick` takes a tiny model, and TRL only if its environment
is there. `--parts` measures one part alone and keeps no result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path
from ppo_race import Meter, Run, score_answer
from random_models import SHAPES, build_policy, read_bundled_prompts
from record import write_result
from tuned_policies import make_prompt, sample_answers, tune_with_ppo

from rlhf_hitl.stats.intervals import clustered_mean_interval

HERE = Path(__file__).parent
PARTS = ("speed", "reward")
SIDES = ("ours", "theirs")
CHOICE_SEEDS = (100, 101)
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
HELDOUT_PROMPTS = 64
#: TRL's ways: how many answers of a step it samples and evaluates at once, None for all; what its value model trains.
WAYS: dict[str, tuple[int | None, str]] = {
    "theirs": (None, "full"),
    "theirs.small": (0, "full"),
    "theirs.lora_critic": (0, "lora"),
}


def train_ours(run: Run) -> dict[str, Any]:
    """Train one run with this project's PPO. Called in a process of its own."""
    meter = Meter(run.steps * run.rollouts)

    def reward(chats: list[Any]) -> np.ndarray:
        meter.read(len(chats))
        return np.array([score_answer(chat.completion[-1].content) for chat in chats], np.float32)

    tune_with_ppo(
        [make_prompt(text) for text in run.prompts],
        reward,
        output_dir=run.out,
        model_name_or_path=run.model,
        steps=run.steps,
        rollouts=run.rollouts,
        minibatch=run.minibatch,
        microbatch_tokens=512,
        epochs=run.epochs,
        max_prompt_tokens=1024,
        max_new_tokens=run.max_new_tokens,
        learning_rate=run.learning_rate,
        kl_beta=run.kl_beta,
        lora_r=run.lora_r,
        lora_alpha=run.lora_alpha,
        missing_eos_penalty=0.0,
        precision=run.precision,
        resume=False,
        seed=run.seed,
    )
    return meter.report(run)


class Race:
    """Starts the runs of both sides.

    Args:
        peer_env: TRL's environment. None: TRL is left out.
    """

    def __init__(self, folder: Path, peer_env: Path | None, threads: int):
        self._folder, self._peer_env, self._number = folder, peer_env, 0
        self._env = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    @property
    def sides(self) -> tuple[str, ...]:
        return SIDES if self._peer_env else SIDES[:1]

    def train(self, side: str, runs: list[Run]) -> tuple[list[dict[str, Any]], list[Path]]:
        """Train runs one after another in one process. Returns their reports and the folders of the tuned policies."""
        paths, outs = [], []
        for run in runs:
            self._number += 1
            outs.append(self._folder / f"policy_{self._number}")
            paths.append(self._folder / f"run_{self._number}.json")
            replace(run, out=str(outs[-1])).write(paths[-1])
        if side == "ours":
            command = [sys.executable, __file__, "--run", *paths]
        else:
            assert self._peer_env is not None
            command = [self._peer_env / "bin" / "python", HERE / "trl_ppo_peer.py", *paths]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side}: exit {done.returncode}\n{done.stderr[-3000:]}")
        reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for run, report in zip(runs, reports, strict=True):
            rate = report["episodes"] / report["processor_seconds"]
            peak = report["peak_mb"]
            print(f"{side}: seed {run.seed}, {rate:.2f} episodes a processor-second, {peak:,.0f} MB", file=sys.stderr)
        return reports, outs


def measure_spread(run: Run, prompts: list[str]) -> float:
    """Return the standard deviation of the rewards of the untuned policy's answers."""
    made = sample_answers(run.model, [make_prompt(p) for p in prompts], max_new_tokens=run.max_new_tokens, seed=0)
    return float(np.std([score_answer(text) for text in made]))


def measure_speed(race: Race, run: Run, turns: int, theirs: list[str]) -> dict[str, float]:
    """Return the figures of speed and memory. `theirs` are the ways of TRL that are measured."""
    ways: dict[str, Run] = {"ours": run}
    if "theirs" in race.sides:
        for way in theirs:
            batch, critic = WAYS[way]
            ways[way] = replace(run, rollout_batch=run.rollouts if batch is None else run.minibatch, critic=critic)
    reports: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for turn in range(turns):
        for way in ways if turn % 2 == 0 else reversed(ways):
            reports[way] += race.train(way.split(".")[0], [ways[way]])[0]
    figures: dict[str, float] = {}
    for way, of_way in reports.items():
        episodes = sum(r["episodes"] for r in of_way)
        figures |= {
            f"{way}.episodes_per_processor_s": episodes / sum(r["processor_seconds"] for r in of_way),
            f"{way}.episodes_per_s": episodes / sum(r["seconds"] for r in of_way),
            f"{way}.peak_mb": float(np.mean([r["peak_mb"] for r in of_way])),
            f"{way}.growth_mb": float(np.mean([r["growth_mb"] for r in of_way])),
        }
    if len(ways) > 1:
        stock = [way for way in theirs if WAYS[way][1] == "full"]
        for figure, key, choose in (
            ("episodes_ratio", "episodes_per_processor_s", max),
            ("clock.episodes_ratio", "episodes_per_s", max),
            ("memory_ratio", "peak_mb", min),
            ("growth_ratio", "growth_mb", min),
        ):
            figures[figure] = figures[f"ours.{key}"] / choose(figures[f"{way}.{key}"] for way in stock)
            figures |= {
                f"{figure}.{way.removeprefix('theirs').lstrip('.') or 'at_once'}": figures[f"ours.{key}"]
                / figures[f"{way}.{key}"]
                for way in theirs
            }
    return figures


def measure_reward(
    race: Race, run: Run, heldout: list[str], rates: Sequence[float], seeds: list[int], choice_seeds: Sequence[int]
) -> dict[str, float]:
    """Return the figures of the reward: each side at its best learning rate."""
    prompts = [make_prompt(text) for text in heldout]

    def score(policy: Path, seed: int) -> float:
        answers = sample_answers(policy, prompts, max_new_tokens=run.max_new_tokens, seed=seed)
        return float(np.mean([score_answer(a) for a in answers]))

    figures = {"base.reward": float(np.mean([score(Path(run.model), seed) for seed in seeds]))}
    reached: dict[str, np.ndarray] = {}
    for side in race.sides:
        best: float = rates[0]
        if len(rates) > 1:
            runs = [replace(run, seed=seed, learning_rate=rate) for rate in rates for seed in choice_seeds]
            _, outs = race.train(side, runs)
            of_rate = np.reshape([score(out, r.seed) for r, out in zip(runs, outs)], (len(rates), -1)).mean(1)
            best = rates[int(of_rate.argmax())]
            figures |= {f"{side}.reward_at_{rate:g}": float(reward) for rate, reward in zip(rates, of_rate)}
        reports, outs = race.train(side, [replace(run, seed=seed, learning_rate=best) for seed in seeds])
        reached[side] = np.array([score(out, seed) for seed, out in zip(seeds, outs)])
        figures |= {
            f"{side}.learning_rate": best,
            f"{side}.reward": float(reached[side].mean()),
            f"{side}.reward.std": float(reached[side].std(ddof=1)) if len(seeds) > 1 else 0.0,
            f"small.{side}.episodes_per_processor_s": sum(r["episodes"] for r in reports)
            / sum(r["processor_seconds"] for r in reports),
        }
    if len(reached) == 2:
        gains = reached["ours"] - reached["theirs"]
        low, high = clustered_mean_interval(gains, np.arange(len(gains)))
        figures |= {"reward_gain": float(gains.mean()), "reward_gain.low": low, "reward_gain.high": high}
        key = "episodes_per_processor_s"
        figures["small.episodes_ratio"] = figures[f"small.ours.{key}"] / figures[f"small.theirs.{key}"]
    return figures


def install_peer(env: Path) -> Path:
    """Return TRL's environment, which is built if it does not exist. torch is the build of this environment, where pip
    finds it."""
    if not (env / "bin" / "trl").exists():
        print(f"building {env}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", env], check=True, stdout=sys.stderr)
        # `2.13.0` is satisfied by `2.13.0+cpu`; PyPI itself has no build without CUDA for Linux.
        pins = [f"torch=={version('torch').split('+')[0]}"]
        pins += [f"{name}=={version(name)}" for name in ("transformers", "accelerate", "peft", "datasets")]
        install = [env / "bin" / "python", "-m", "pip", "install", "--quiet", "trl==1.12.0", "rich", *pins]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)  # our side of the race, in a process of its own
    parser.add_argument("--model", default="smollm2-135m-instruct", help="Of the part speed.")
    parser.add_argument("--peer-env", type=Path, default=user_cache_path("rlhf_hitl_benchmarks") / "trl-1.12")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--turns", type=int, default=2, help="Of the part speed.")
    parser.add_argument("--steps", type=int, nargs=2, default=(4, 60), help="Of the parts speed and reward.")
    parser.add_argument("--rollouts", type=int, default=16, help="Answers a step.")
    parser.add_argument("--epochs", type=int, default=1, help="How often a step's answers are learnt from.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=LEARNING_RATES)
    parser.add_argument("--threads", type=int, default=1, help="Of each process.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.run:
        for path in args.run:
            with contextlib.redirect_stdout(sys.stderr):
                told = train_ours(Run.read(path))
            print(json.dumps(told), flush=True)
        return
    peer = (args.peer_env if (args.peer_env / "bin" / "trl").exists() else None) if args.quick else args.peer_env
    if peer is not None:
        install_peer(peer)
    speed_steps, reward_steps = (2, 2) if args.quick else args.steps
    rates, seeds = (args.learning_rates[1:2], 1) if args.quick else (args.learning_rates, args.seeds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [text for text in read_bundled_prompts() if len(text) < 400]
        heldout = texts[:: len(texts) // HELDOUT_PROMPTS][:HELDOUT_PROMPTS]
        train = [text for text in texts if text not in set(heldout)]
        small = build_policy(folder / "small", SHAPES["tiny" if args.quick else "1m"])
        race = Race(folder, peer, args.threads)
        run = Run(
            str(small), "", train, reward_steps, 4 if args.quick else args.rollouts, 4, args.epochs,
            8 if args.quick else 24, rates[0], 0.02, 8, 16, 0, args.rollouts, 1.0,
        )  # fmt: skip
        run = replace(run, reward_std=measure_spread(run, heldout))
        figures: dict[str, float | int | None] = {
            "turns": 1 if args.quick else args.turns, "seeds": seeds, "rollouts": run.rollouts, "epochs": run.epochs,
            "minibatch": run.minibatch, "speed.steps": speed_steps, "reward.steps": reward_steps,
            "speed.max_new_tokens": 8 if args.quick else 32, "reward.max_new_tokens": run.max_new_tokens,
        }  # fmt: skip
        if "speed" in args.parts:
            model = str(small) if args.quick else locate(args.model)
            speed = replace(
                run, model=model, steps=speed_steps, max_new_tokens=int(figures["speed.max_new_tokens"] or 0),
                learning_rate=1e-4, kl_beta=0.05, rollout_batch=run.rollouts,
            )  # fmt: skip
            speed = replace(speed, reward_std=measure_spread(speed, heldout))
            figures |= measure_speed(race, speed, int(figures["turns"] or 1), list(WAYS)[: 1 if args.quick else None])
        if "reward" in args.parts:
            figures |= measure_reward(race, run, heldout, rates, list(range(seeds)), CHOICE_SEEDS)
    figures |= {"threads": args.threads, "load": os.getloadavg()[2]}
    notes = (
        "episodes_ratio and memory_ratio: ours to TRL's on SmolLM2-135M, by processor seconds and peak resident "
        "memory, TRL in the quicker and in the smaller of its ways; growth: what training adds to the imports; "
        "lora_critic: TRL with a LoRA on its value model. reward_gain: ours less theirs on held-out prompts, a model "
        "of 1M weights. "
        f"Theirs: {describe_peer(peer) if peer else 'not there'}."
    )
    whole = set(args.parts) == set(PARTS)
    write_result("vs_trl_ppo", figures, seeds=list(range(seeds)), notes=notes, quick=args.quick or not whole)


def locate(model: str) -> str:
    from rlhf_hitl.models import locate_model_folder

    return str(locate_model_folder(model))


def describe_peer(env: Path) -> str:
    listed = subprocess.run([env / "bin" / "python", "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    wanted = ("trl", "transformers", "accelerate", "peft", "torch")
    return ", ".join(line for line in listed.stdout.splitlines() if line.split("==")[0] in wanted)


if __name__ == "__main__":
    main()
