"""Start the processes of a training or a scoring with `accelerate launch`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlhf_hitl.errors import LAUNCHED, RlhfHitlError, hand_on_error, read_handed_error


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
        RlhfHitlError: a process failed. It is the error of the first one that failed, which no process prints itself.
    """
    import torch

    launcher = [sys.executable, "-m", "rlhf_hitl.cli.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        handed = Path(folder, "error.json")
        variables = dict(os.environ) | {LAUNCHED: str(handed)}
        if not torch.cuda.is_available():
            # With `--cpu` accelerate would start one process; this makes several processes use the CPU.
            variables["ACCELERATE_USE_CPU"] = "1"
        if store is not None:
            variables["RLHF_HITL_STORE"] = store
        process = subprocess.run([*launcher, "-m", module, *arguments], stdout=sys.stderr, env=variables)
        if process.returncode:
            reason = f"accelerate launch ended with code {process.returncode}: the reason is printed above"
            raise read_handed_error(handed) or RlhfHitlError(reason)


def _launch() -> None:
    """Run `accelerate launch` with the arguments of this program, without its trace-back where a process fails: that
    says nothing of why it failed."""
    from accelerate.commands.launch import main
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # of the launcher alone; what ended a process is said below
    try:
        main()
    except ChildFailedError as e:
        rank, failure = e.get_first_failure()
        ended = failure.signal_name() if failure.exitcode < 0 else f"code {failure.exitcode}"
        hand_on_error(f"process {rank} of the launched ones ended with {ended}: see what is printed above", 2)
        sys.exit(2)


if __name__ == "__main__":
    _launch()
