"""Start the processes of a training or a scoring with `accelerate launch`."""

from __future__ import annotations

import os
import subprocess
import sys

from rlhf_hitl.errors import RlhfHitlError


def launch_processes(module: str, arguments: list[str], processes: int, environment: dict[str, str]) -> None:
    """Run a module under `accelerate launch`, with `environment` over this process's; its output goes to stderr."""
    import torch

    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    # `--cpu` would make accelerate start one process; this makes its several processes use the CPU.
    env = os.environ | ({} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "1"}) | environment
    done = subprocess.run([*launcher, "-m", module, *arguments], stdout=sys.stderr, env=env)
    if done.returncode:
        raise RlhfHitlError(f"accelerate launch ended with code {done.returncode}: its reason stands above")
