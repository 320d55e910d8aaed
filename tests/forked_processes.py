"""Processes that start with their imports behind them.

`rlhf-hitl serve` or a training script takes six to ten seconds of a core to start, nearly all of it imports. Here a
fork server (that of multiprocessing, one for each test process) imports the libraries once. What it forks is a process
like any other: with its own environment and streams, and it can be killed. Unlike others, all processes of one fork
server hash strings alike. test_wheel.py starts the installed command itself.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import runpy
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import psutil

from command_line import Outcome
from rlhf_hitl.cli import MODULES

CONTEXT: Any = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *(f"rlhf_hitl.cli.{name}" for name in MODULES),  # in the order in which they register their commands
        *("rlhf_hitl.api.app", "rlhf_hitl.ui.rate", "rlhf_hitl.reward.training.full_training", "rlhf_hitl.policy.dpo"),
        *("rlhf_hitl.policy.online", "rlhf_hitl.policy.promotion", "rlhf_hitl.policy.generation_run"),
        *("rlhf_hitl.loop", "rlhf_hitl.policy.ppo.trainer", "rlhf_hitl.reward.training.head_training"),
        *("rlhf_hitl.reward.evaluation.evaluate", "rlhf_hitl.routing.router", "rlhf_hitl.routing.scoring"),
        *("rlhf_hitl.kpis", "rlhf_hitl.simulate", "rlhf_hitl.formats.importing", "rlhf_hitl.formats.export"),
        *("transformers.models.llama.modeling_llama", "sklearn.linear_model", "scipy.stats", "matplotlib.figure"),
    ]
)


class ForkedProcess:
    """`python -m module *arguments`, forked. It has what tests use of `subprocess.Popen`.

    Args:
        module: the name of one, or the path of a script.
        streams: file descriptors for its standard output and standard error.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        env: Mapping[str, str],
        streams: Sequence[int],
        cwd: str | Path = ".",
    ):
        # multiprocessing hands over connections, and a connection may hold any descriptor.
        held = [Connection(os.dup(fd)) for fd in streams]
        texts = [str(a) for a in arguments]
        self._process = CONTEXT.Process(target=_run, args=(module, texts, dict(env), os.path.abspath(cwd), held))
        self._process.start()
        for connection in held:
            connection.close()
        self.sentinel = self._process.sentinel

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 240) -> int:
        """Return the exit code. A process that takes longer than `timeout` seconds is killed, and the test fails."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill_with_children()
            raise AssertionError(f"still running after {timeout} s")
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def kill_with_children(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
        self.kill()

    def send_signal(self, signal: int) -> None:
        os.kill(self._process.pid, signal)


def _run(module: str, arguments: list[str], env: dict[str, str], cwd: str, streams: list[Connection]) -> None:
    gc.freeze()  # a search for garbage among all that is imported takes half a second, and copies it
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for fd, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), fd)
    sys.stdin = os.fdopen(0)
    sys.argv = [module, *arguments]
    if module.endswith(".py"):
        sys.path.insert(0, os.path.dirname(module))  # as `python` does with a script
        runpy.run_path(module, run_name="__main__")
    else:
        sys.path.insert(0, cwd)  # as `python -m` does
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_module(module: str, *arguments: object, env: Mapping[str, str] = os.environ, cwd: str | Path = ".") -> Outcome:
    """Run `python -m module *arguments`, or a script, in a forked process to its end."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as errors:
        process = ForkedProcess(module, arguments, env, [out.fileno(), errors.fileno()], cwd)
        code = process.wait()
        out.seek(0)
        errors.seek(0)
        return Outcome(code, out.read(), errors.read())


def run_on_two_processes(module: str, *arguments: object, cwd: str | Path = ".") -> None:
    """Run `python -m module *arguments` as `accelerate launch --num_processes 2` does, in forked processes."""
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    with TemporaryFile("w+") as errors:
        started = [
            ForkedProcess(
                module, arguments, os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}, [errors.fileno()] * 2, cwd
            )
            for rank in "01"
        ]
        codes = [process.wait() for process in started]
        errors.seek(0)
        assert codes == [0, 0], errors.read()[-5000:]


@contextmanager
def forked_commands() -> Iterator[Path]:
    """Yield a folder for PATH whose `rlhf-hitl` runs in a process forked here and ends with it, killed or asked to."""
    with TemporaryDirectory(prefix="cmd-") as folder, closing(socket.socket(socket.AF_UNIX)) as listener:
        address, script = f"{folder}/socket", Path(folder) / "rlhf-hitl"
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_serve_commands, args=(listener,), daemon=True).start()
        script.write_text(
            f"#!{sys.executable} -SsE\n"
            "import json, os, signal, socket, sys\n"
            "with socket.socket(socket.AF_UNIX) as s:\n"
            f"    s.connect({address!r})\n"
            "    call = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()\n"
            "    socket.send_fds(s, [len(call).to_bytes(4, 'big')], [1, 2])\n"
            "    s.sendall(call)\n"
            "    for number in (signal.SIGINT, signal.SIGTERM):\n"
            "        signal.signal(number, lambda number, _: s.sendall(bytes([number])))\n"
            "    sys.exit(int(s.recv(9) or 1))\n"
        )
        script.chmod(0o755)
        yield Path(folder)
        listener.shutdown(socket.SHUT_RDWR)  # ends the thread that waits for calls


def _serve_commands(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed: the test is over
            return
        threading.Thread(target=_serve_command, args=(connection,), daemon=True).start()


def _serve_command(connection: socket.socket) -> None:
    with connection:
        size, streams, _, _ = socket.recv_fds(connection, 4, 2)
        arguments, env, cwd = json.loads(connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        process = ForkedProcess("rlhf_hitl", arguments, env, streams, cwd)
        for fd in streams:
            os.close(fd)
        while process.sentinel not in wait([process.sentinel, connection]):
            if asked := connection.recv(1):
                process.send_signal(asked[0])
            else:  # the caller is gone
                process.kill_with_children()
                break
        code = process.wait()
        with suppress(BrokenPipeError):
            connection.sendall(str(code if code >= 0 else 128 - code).encode())
