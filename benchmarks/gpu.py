"""Check and measure on one GPU, offline, within minutes, with what torch, transformers, peft and accelerate are there.

    python benchmarks/gpu.py --minutes 8

On a model of the shape of Llama 3.2 1B with random weights (its tokenizer is built, too: nothing is fetched), each in a
process of its own with a limit of its own:

| section | checks or measures |
| --- | --- |
| `precision` | rewards in bf16 beside fp32: their difference, the pairs whose order is kept; trees beside chats |
| `attention` | FlexAttention forwards and backwards beside SDPA: states, gradients, tokens a second |
| `features` | pairs a second that a frozen model reads for a head |
| `reward` | pairs a second of full reward training |
| `dpo`, `ppo` | pairs and episodes a second of a LoRA, and where PPO's time goes |
| `train_ppo` | the whole trainer, where this package's dependencies are installed |
| `trl_reward`, `trl_dpo`, `trl_ppo` | TRL's own, where it is installed |

A section that fails, runs out of memory or out of time is recorded as such, with the reason, and does not end the
others; the result is written after each. MFU is the FLOPs that a step needs, `device_speed.count_forward_flops` (a
training step takes 6 N + 12 L H T a token), by the device's peak of dense bf16 products; it is not known where that is
not. `--quick` runs tiny shapes in fp32 and keeps no result; it is for a CPU, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the package need not be installed

import gpu_sections
from gpu_scene import Skipped, make_scene
from random_models import SHAPES
from record import write_result


def run_section(name: str, folder: Path, quick: bool, shape: str, answer: Path) -> None:
    """Run one section, in a process of its own, and write what it found, or why it found nothing."""
    measure, _ = gpu_sections.SECTIONS[name]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found: dict[str, Any] = {"figures": measure(make_scene(folder, quick=quick, shape=shape))}
    except Skipped as e:
        found = {"skipped": str(e)}
    except ImportError as e:
        found = {"skipped": f"{e.name or e} cannot be imported"}
    except BaseException as e:
        traceback.print_exc()
        found = {"failed": f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[:300]}
    answer.write_text(json.dumps(found), encoding="utf-8")


def run_within(seconds: float, name: str, folder: Path, quick: bool, shape: str) -> dict[str, Any]:
    """Return what a section found within so many seconds."""
    answer = folder / f"{name}.json"
    # A process that is forked has torch and transformers imported, but cannot use a GPU that its parent has touched.
    context: Any = multiprocessing.get_context("fork" if quick else "spawn")
    process = context.Process(target=run_section, args=(name, folder, quick, shape, answer))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return {"failed": f"not done within {seconds:.0f} seconds"}
    if not answer.exists():
        return {"failed": f"its process ended with exit {process.exitcode}"}
    return json.loads(answer.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="For all sections together.")
    parser.add_argument("--sections", nargs="+", choices=list(gpu_sections.SECTIONS), default=None)
    parser.add_argument("--shape", default="1b", choices=list(SHAPES), help="Of the model.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    figures: dict[str, Any] = {}
    outcomes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        for section in args.sections or gpu_sections.SECTIONS:
            left, begun = deadline - time.monotonic(), time.monotonic()
            if left < 5:
                outcomes[section] = "skipped: no time was left"
                continue
            limit = min(gpu_sections.SECTIONS[section][1], left)
            found = run_within(limit, section, Path(name), args.quick, args.shape)
            for outcome in ("skipped", "failed"):
                if outcome in found:
                    outcomes[section] = f"{outcome}: {found[outcome]}"
            outcomes.setdefault(section, f"done in {time.monotonic() - begun:.0f} s")
            figures |= found.get("figures", {})
            print(f"{section}: {outcomes[section]}", file=sys.stderr)
            for key, value in found.get("figures", {}).items():
                print(f"    {key}: {'not known' if value is None else f'{value:.4g}'}", file=sys.stderr)
            if not args.quick:
                with contextlib.redirect_stdout(sys.stderr):
                    _write(figures, outcomes, args)
    _write(figures, outcomes, args)


def _write(figures: dict[str, Any], outcomes: dict[str, str], args: argparse.Namespace) -> None:
    counted = {
        "sections_done": sum(o.startswith("done") for o in outcomes.values()),
        "sections_skipped": sum(o.startswith("skipped") for o in outcomes.values()),
        "sections_failed": sum(o.startswith("failed") for o in outcomes.values()),
    }
    notes = "; ".join(f"{section}: {outcome}" for section, outcome in outcomes.items())
    write_result("gpu", figures | counted, seeds=[0], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
