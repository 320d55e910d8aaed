"""What both sides of `vs_trl_ppo.py` share: a run as JSON, the reward, and what is measured of a run.

It imports nothing of this project, because the peer's environment has none of it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VOWELS = frozenset("aeiouAEIOU")


@dataclass(frozen=True)
class Run:
    """One training. `steps` times `rollouts` answers are sampled, and learnt from in minibatches, `epochs` times over.

    Attributes:
        model: the folder of the policy; `out`: where the tuned one goes.
        prompts: user messages.
        rollout_batch: answers in one pass that samples or evaluates, where a side can be told so.
        kl_beta: of the KL penalty, in standard deviations of the reward for a nat.
        reward_std: one of them, in the reward's unit: of the untuned policy's answers.
        precision: of the policy's frozen weights.
        critic: what the peer's value model trains: `full` (its default) or `lora`.
    """

    model: str
    out: str
    prompts: list[str]
    steps: int
    rollouts: int
    minibatch: int
    epochs: int
    max_new_tokens: int
    learning_rate: float
    kl_beta: float
    lora_r: int
    lora_alpha: int
    seed: int
    rollout_batch: int
    reward_std: float
    critic: str = "full"
    precision: str = "float32"

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> Run:
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def score_answer(text: str) -> float:
    """Return the reward of an answer: the share of its characters that are vowels, 0 of an empty one."""
    return sum(c in VOWELS for c in text) / len(text) if text else 0.0


class Meter:
    """Reads clocks and memory at each call of the reward.

    A step calls the reward after it has sampled its answers. From the last call of the first step to the last call of
    the last step a run does all of its work `steps` - 1 times: learning from answers, and sampling and scoring others.
    So loading, the first step (which warms up) and saving are not in the time.

    Args:
        most: answers of all steps. What is scored after them, to measure the tuned policy, is not in the time either.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.imported_mb = read_peak_mb()
        self._readings: list[tuple[float, float]] = []
        self._scored = 0

    def read(self, answers: int) -> None:
        if self._scored == self.most:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._readings.append((time.perf_counter(), used.ru_utime + used.ru_stime))
        self._scored += answers
        self._peak_mb = read_peak_mb()

    def report(self, run: Run) -> dict[str, Any]:
        """Return what the run took. Exits if the reward was not called equally often in each step."""
        calls = len(self._readings)
        if run.steps < 2 or calls % run.steps:
            sys.exit(f"{calls} calls of the reward in {run.steps} steps: expected the same number in each of 2 or more")
        first, last = self._readings[calls // run.steps - 1], self._readings[-1]
        return {
            "episodes": (run.steps - 1) * run.rollouts,
            "seconds": last[0] - first[0],
            "processor_seconds": last[1] - first[1],
            "peak_mb": self._peak_mb,
            "growth_mb": self._peak_mb - self.imported_mb,
            "scored": self._scored,
        }


def read_peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MB (10^6 bytes).

    Linux says it in `VmHWM`; what `getrusage` says is that of the process that started this one, where that was larger.
    """
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
