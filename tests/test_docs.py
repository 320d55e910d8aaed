"""The documentation is executed: every bash block of README.md and docs/*.md runs, in order, and its links resolve.

Each file gets one folder and one shell, so a later block sees what an earlier one made. A fence may say more after
`bash`, separated by spaces:

* `background`: the block serves. It is started aside, waited for until a port it names (`--port 7861`) answers, and
  stopped at the end of the file.
* `needs=model`, `needs=data`, `needs=network`: left out where those are absent, and reported as skipped.
* `no-run`: never run; an HTML comment on the line above the fence must say why.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from platformdirs import user_cache_path
from safetensors import safe_open
from safetensors.torch import save_file

from checkout import ROOT
from forked_processes import forked_commands

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXECUTED = [d for d in DOCUMENTS if d.name != "CONTRIBUTING.md"]  # that one is about the checkout itself
KNOWN_WORDS = {"background", "no-run", "needs=model", "needs=data", "needs=network"}
BLOCK_SECONDS = 240  # less than a test may take, so that the log of the block is shown
DEFAULT_PORT = 7860
MODEL, LAYERS, POSITIONS = "smollm2-135m-instruct", 1, 256


@dataclass(frozen=True)
class Block:
    line: int
    code: str
    words: frozenset[str]
    reason: str

    @property
    def needs(self) -> set[str]:
        return {w.removeprefix("needs=") for w in self.words if w.startswith("needs=")}


def blocks(text: str) -> list[Block]:
    """The bash blocks of a Markdown text. `$ ` before a command is left out."""
    lines = text.splitlines()
    found = []
    for token in MarkdownIt().parse(text):
        info = token.info.split()
        if token.type != "fence" or token.map is None or info[:1] != ["bash"]:
            continue
        start = token.map[0]
        above = lines[start - 1].strip() if start else ""
        reason = above[4:-3].strip() if above.startswith("<!--") and above.endswith("-->") else ""
        code = "\n".join(line.removeprefix("$ ") for line in token.content.splitlines())
        found.append(Block(start + 1, code, frozenset(info[1:]), reason))
    return found


def absent() -> set[str]:
    """What this machine cannot offer to a block."""
    have = {
        "model": (models_folder() / MODEL).is_dir(),
        "data": data_folder().is_dir(),
        "network": os.environ.get("RLHF_HITL_TEST_NETWORK") == "1",
    }
    return {name for name, here in have.items() if not here}


def models_folder() -> Path:
    return Path(os.environ.get("RLHF_HITL_MODELS") or user_cache_path("rlhf_hitl") / "models")


def data_folder() -> Path:
    return Path(os.environ.get("RLHF_HITL_DATA", ROOT.parent / "shared" / "data"))


class Session:
    """Runs blocks in one folder. Variables and the current folder go on from block to block.

    Args:
        models: the folder that commands look for models in; None for the one they always use.

    `rlhf-hitl` is forked from a process that has its imports behind it (see forked_processes.py).
    """

    def __init__(self, folder: Path, models: Path | None = None):
        self.folder = folder / "session"
        self.folder.mkdir()
        self.commands = forked_commands()
        self.log, self.state = folder / "log", folder / "state"
        self.serving: list[subprocess.Popen] = []
        self.env = os.environ | {
            "RLHF_HITL_DATA": str(data_folder()),
        }
        if models is not None:
            self.env["RLHF_HITL_MODELS"] = str(models)

    def __enter__(self) -> Session:
        path = [str(self.commands.__enter__()), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.env["PATH"] = ":".join(path)
        return self

    def __exit__(self, *raised) -> None:
        for process in self.serving:
            stop(process)
        self.commands.__exit__(*raised)

    def run(self, block: Block) -> str | None:
        """Run a block until its first command that fails. Returns what went wrong, or None."""
        process = self._start(block)
        if "background" in block.words:
            self.serving.append(process)
            return self._wait_until_it_answers(process, block)
        try:
            code = process.wait(BLOCK_SECONDS)
        except subprocess.TimeoutExpired:
            return f"still running after {BLOCK_SECONDS} s:\n{self.log.read_text()}"
        finally:
            stop(process)
        return f"exit {code}:\n{self.log.read_text()}" if code else None

    def _start(self, block: Block) -> subprocess.Popen:
        state = shlex.quote(str(self.state))
        save = f'{{ export -p; echo "cd $(printf %q "$PWD")"; }} > {state}'
        lines = ["set -aeo pipefail", f"[ ! -f {state} ] || . {state}"]
        if "background" not in block.words:
            lines.append(f"trap {shlex.quote(save)} EXIT")
        script = "\n".join([*lines, block.code])
        with open(self.log, "w") as log:
            return subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-c", script],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_it_answers(self, process: subprocess.Popen, block: Block) -> str | None:
        named = re.search(r"--port[= ](\d+)", block.code)
        port = int(named.group(1)) if named else DEFAULT_PORT
        deadline = time.monotonic() + BLOCK_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return f"ended with exit {process.returncode} instead of serving:\n{self.log.read_text()}"
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return None
            time.sleep(0.1)
        return f"nothing answers on port {port} after {BLOCK_SECONDS} s:\n{self.log.read_text()}"


def stop(process: subprocess.Popen) -> None:
    """End a block with everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def execute(
    text: str, folder: Path, missing: set[str] | None = None, models: Path | None = None
) -> Iterator[tuple[Block, str, str]]:
    """(block, `ran`, `failed` or `left out`, why) of every block, up to the first that fails."""
    missing = absent() if missing is None else missing
    with Session(folder, models) as session:
        for block in blocks(text):
            if "no-run" in block.words:
                yield block, "left out", block.reason
            elif lacking := block.needs & missing:
                yield block, "left out", f"needs {', '.join(sorted(lacking))}"
            elif trouble := session.run(block):
                yield block, "failed", trouble
                return
            else:
                yield block, "ran", ""


def broken_links(document: Path) -> list[str]:
    """Relative links and images of a document that lead to no file, or to no heading of one."""
    out = []
    for target in re.findall(r"\]\(([^)\s]+)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if not file.exists():
            out.append(f"{document.name}: {target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            out.append(f"{document.name}: {target}: no such heading")
    return out


def anchors(text: str) -> set[str]:
    """The names of a Markdown text's headings, as the hubs of git repositories make them."""
    titles = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


by_name = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))


@pytest.fixture(scope="module")
def models_with_one_layer(tmp_path_factory) -> Path | None:
    """A folder with the first layer of SmolLM2 under its name, which reads 256 tokens: the documentation's commands
    read the bundled set in seconds instead of minutes. tests/test_models.py runs the whole model.
    """
    if "model" in absent():
        return None
    whole, models = models_folder() / MODEL, tmp_path_factory.mktemp("models")
    cut = models / MODEL
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((whole / "config.json").read_text())
    (cut / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": LAYERS, "max_position_embeddings": POSITIONS})
    )
    in_a_layer = re.compile(r"model\.layers\.(\d+)\.")
    with safe_open(whole / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        layer = {name: int(found.group(1)) if (found := in_a_layer.match(name)) else 0 for name in names}
        kept = {name: weights.get_tensor(name) for name in names if layer[name] < LAYERS}
    save_file(kept, cut / "model.safetensors", {"format": "pt"})
    return models


@pytest.mark.parametrize("document", EXECUTED, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_block_of_the_documentation_runs(document, tmp_path, subtests, models_with_one_layer):
    text = document.read_text(encoding="utf-8")
    for block, outcome, why in execute(text, tmp_path, models=models_with_one_layer):
        with subtests.test(line=block.line):
            if outcome == "left out":
                pytest.skip(f"{document.name}:{block.line}: {why}")
            assert outcome == "ran", f"{document.name}:{block.line}: {why}"


@by_name
def test_every_word_on_a_fence_is_known_and_every_block_that_is_not_run_says_why(document):
    for block in blocks(document.read_text(encoding="utf-8")):
        assert block.words <= KNOWN_WORDS, f"{document.name}:{block.line}"
        assert "no-run" not in block.words or block.reason, f"{document.name}:{block.line}: say why above the fence"


@by_name
def test_every_link_of_the_documentation_leads_somewhere(document):
    assert broken_links(document) == []


# The machinery itself

FENCE = "`" * 3


def page(*fences: tuple[str, str]) -> str:
    return "# A page\n\n" + "\n".join(f"{FENCE}{info}\n{code}\n{FENCE}\n" for info, code in fences)


def outcomes(text: str, folder: Path) -> list[str]:
    return [outcome for _, outcome, _ in execute(text, folder)]


def test_blocks_share_a_folder_and_variables_and_see_the_command(tmp_path):
    text = page(
        ("bash", "mkdir 'a folder' && cd 'a folder'\nname='two words'"),
        ("python", "raise SystemExit(1)"),
        ("text", "false"),
        ("bash", 'echo "$name" > file'),
        ("bash", "$ grep -q 'two words' file\n$ rlhf-hitl --help"),
    )
    assert outcomes(text, tmp_path) == ["ran", "ran", "ran"]
    assert (tmp_path / "session" / "a folder" / "file").read_text() == "two words\n"


@pytest.mark.parametrize("code", ["false\ntrue", "false | true", "rlhf-hitl no-such-command", "exit 3"])
def test_a_command_that_fails_fails_the_page_and_ends_it(tmp_path, code):
    assert outcomes(page(("bash", "true"), ("bash", code), ("bash", "true")), tmp_path) == ["ran", "failed"]


def test_what_is_missing_or_not_to_be_run_is_left_out_with_the_reason(tmp_path):
    fences = page(("bash no-run", "false"), ("bash needs=model", "false"), ("bash needs=data", "true"))
    text = fences.replace("# A page\n\n", "<!-- it costs money -->\n")
    assert [(outcome, why) for _, outcome, why in execute(text, tmp_path, missing={"model"})] == [
        ("left out", "it costs money"),
        ("left out", "needs model"),
        ("ran", ""),
    ]


def test_a_block_that_serves_answers_to_later_blocks_and_is_stopped(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    serve = f"echo here > index.html; python -m http.server --bind 127.0.0.1 {port} # --port {port}"
    ask = f"python -c \"import urllib.request as u; assert u.urlopen('http://127.0.0.1:{port}').read() == b'here\\n'\""
    assert outcomes(page(("bash background", serve), ("bash", ask)), tmp_path) == ["ran", "ran"]
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", port)) != 0


def test_a_block_that_should_serve_but_ends_fails_the_page(tmp_path):
    assert outcomes(page(("bash background", "echo sorry")), tmp_path) == ["failed"]


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# One two: three\n")
    document = tmp_path / "page.md"
    document.write_text(
        "[a](other.md) [b](other.md#one-two-three) [c](https://example.org/x) ![d](no.png) [e](other.md#four)\n"
    )
    assert broken_links(document) == ["page.md: no.png: no such file", "page.md: other.md#four: no such heading"]
