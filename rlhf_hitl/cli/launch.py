"""Start the processes of a training or a scoring with `accelerate launch`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.store.runs import LAUNCHED


def launch_processes(
    module: str,
    arguments: Sequence[str],
    processes: int,
    *,
    store: str | None = None,
) -> None:
    """Run a module in several processes under `accelerate launch`, with its output on stderr.

    Args:
        store: URL of the store for the processes. It goes through the environment and never through the command line,
            which every user of the machine can read: a URL may hold a password.

    Raises:
        RlhfHitlError: a process failed.
    """
    import torch

    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    variables = dict(os.environ) | {LAUNCHED: "1"}
    if not torch.cuda.is_available():
        # With `--cpu` accelerate would start one process; this makes several processes use the CPU.
        variables["ACCELERATE_USE_CPU"] = "1"
    if store is not None:
        variables["RLHF_HITL_STORE"] = store
    process = subprocess.run([*launcher, "-m", module, *arguments], stdout=sys.stderr, env=variables)
    if process.returncode:
        raise RlhfHitlError(f"accelerate launch ended with code {process.returncode}: the reason is printed above")
