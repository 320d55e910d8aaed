"""What tests share: a real store on either database and a real, tiny model."""

from __future__ import annotations

import gc
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from glob import glob
from pathlib import Path

import pytest

from checkout import ROOT

pytest_plugins = ["browser_fixtures"]

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The store waits for the disk at each commit. No test needs that wait, and a third of the time goes into it.
MEMORY = Path("/dev/shm")
if (
    os.access(MEMORY, os.W_OK)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC  # the tests write programs and run them
    and shutil.disk_usage(MEMORY).free > 6 * 2**30
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    os.environ.setdefault("TMPDIR", str(MEMORY))
# Build machines often set this; then each of hundreds of processes would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["OMP_NUM_THREADS"] = "1"  # the tests run side by side, and their matrices are small

# What is imported while tests are collected stays. A search for garbage among these million objects takes a third of a
# second, time and again, so there is none until they are all there, and then they are left out of it.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


SENTENCES = [
    "hello how are you today my friend",
    "the quick brown fox jumps over the lazy dog",
    "please write a short poem about the sea and the sun",
    "yes no maybe good bad nice fine thanks",
    "what is the capital of france it is paris",
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def quick_hashes() -> None:
    """Passwords are hashed with argon2, a hundredth as thoroughly: that alone would take half a minute of the tests."""
    import argon2

    from rlhf_hitl.store import passwords

    passwords._hasher = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory) -> Path:
    """A migrated, empty store, to be copied: a migration takes longer than most tests."""
    from rlhf_hitl.store import Store

    path = tmp_path_factory.mktemp("template") / "preferences.db"
    with Store.open(f"sqlite:///{path}", create=True) as store:
        fix_draws(store)
    return path


def fix_draws(store) -> None:
    """Give a store a known key, so that what it draws is the same whenever the tests are run."""
    with store.write() as conn:
        conn.exec_driver_sql(f"UPDATE secrets SET value = '{'5eed' * 16}' WHERE name = 'draws'")


@pytest.fixture
def sqlite_url(tmp_path, sqlite_template) -> str:
    shutil.copy(sqlite_template, tmp_path / "preferences.db")
    return f"sqlite:///{tmp_path}/preferences.db"


@pytest.fixture
def sqlite_store(sqlite_url):
    from rlhf_hitl.store import Store

    store = Store.open(sqlite_url)
    yield store
    store.close()


@pytest.fixture
def postgres_url(postgres, tmp_path, monkeypatch) -> Iterator[str]:
    # By default the key of such a store is in the workspace, which is that of whoever runs the tests.
    monkeypatch.setenv("RLHF_HITL_SECRET_KEY_FILE", str(tmp_path / "secret.key"))
    monkeypatch.setenv("RLHF_HITL_IMAGES", str(tmp_path / "images"))
    with postgres.database(template=postgres.template) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request) -> str:
    """The URL of a migrated, empty store of the test's own, on each database in turn."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def store(store_url):
    from rlhf_hitl.store import Store

    store = Store.open(store_url)
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request, tmp_path) -> Iterator[str]:
    """A URL where a store can be created but none is yet, on each database in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new.db"
    else:
        with request.getfixturevalue("postgres").database() as url:
            yield url


@pytest.fixture
def add_comparisons():
    """A function that fills a store: `add_comparisons(store, n, overlap=1, k=2, route=Route.HUMAN)`."""
    from rlhf_hitl.store.comparisons import insert_comparisons
    from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Route

    def add(store, n: int, *, overlap: int = 1, k: int = 2, route: Route = Route.HUMAN, first: int = 0):
        made = []
        for i in range(first, first + n):
            prompt = Prompt.create((Message("user", f"Question {i}?"),))
            answers = [Completion.create(prompt.id, (Message("assistant", f"{i}.{j}"),), "policy") for j in range(k)]
            made.append(Comparison.create(prompt, answers, overlap, route))
        with store.write() as conn:
            insert_comparisons(store, conn, made)
        return made

    return add


@pytest.fixture
def add_raters():
    """A function that adds raters without passwords and returns their ids: `add_raters(store, n)`."""
    from rlhf_hitl.store import people
    from rlhf_hitl.types import Role

    def add(store, n: int) -> list[str]:
        return [people.add_rater(store, f"rater {i}", Role.RATER).id for i in range(n)]

    return add


@pytest.fixture(scope="session")
def judged_template(sqlite_template, tmp_path_factory) -> Path:
    """What `judged_store` copies."""
    import numpy as np

    from rlhf_hitl.store import Store, people, queue
    from rlhf_hitl.store.comparisons import insert_comparisons
    from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Verdict

    path = tmp_path_factory.mktemp("judged") / "preferences.db"
    shutil.copy(sqlite_template, path)
    words = ["sea", "sun", "poem", "paris", "thanks", "friend", "lazy", "quick", "brown", "fox", "capital", "today"]
    rng = np.random.default_rng(0)
    with Store.open(f"sqlite:///{path}") as store:
        rater = people.add_rater(store, "ann", Role.RATER).id
        for i in range(120):
            prompt = Prompt.create((Message("user", f"question {i} about {words[i % len(words)]}"),))
            plain = " ".join(rng.choice(words, 6))
            good = Completion.create(prompt.id, (Message("assistant", f"{plain} thanks thanks thanks"),), "p")
            bad = Completion.create(prompt.id, (Message("assistant", f"{plain} nothing nothing"),), "p")
            with store.write() as conn:
                insert_comparisons(store, conn, [Comparison.create(prompt, [good, bad])])
            lease = queue.lease(store, rater, seconds=1800)
            best, worst = (good, bad) if i % 8 else (bad, good)
            queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ((best.id,), (worst.id,)), 2))
    return path


@pytest.fixture
def judged_store(tmp_path, judged_template):
    """120 judged comparisons: raters like 'thanks', seven times in eight."""
    from rlhf_hitl.store import Store

    shutil.copy(judged_template, tmp_path / "preferences.db")
    store = Store.open(f"sqlite:///{tmp_path}/preferences.db")
    yield store
    store.close()


@pytest.fixture(scope="session")
def backbone(tiny_model):
    """The tiny model, read at one layer in one way."""
    from rlhf_hitl.reward.backbone import Backbone

    return Backbone(str(tiny_model), layer=1, pooling="last", dtype="float32")


@pytest.fixture(scope="session")
def trained_template(judged_template, backbone, tmp_path_factory) -> Path:
    """The workspace that `trained_model` copies."""
    from rlhf_hitl.reward.training.head_training import train_head
    from rlhf_hitl.store import Store

    workspace = tmp_path_factory.mktemp("trained")
    shutil.copy(judged_template, workspace / "preferences.db")
    with Store.open(f"sqlite:///{workspace}/preferences.db") as store:
        train_head(store, backbone, workspace)
    for file in workspace.glob("preferences.db*"):
        file.unlink()
    return workspace


@pytest.fixture
def trained_model(judged_store, trained_template, tmp_path):
    """What `train_head(judged_store, backbone, tmp_path)` gives, trained once and copied."""
    from rlhf_hitl.reward.model import load_reward_model
    from rlhf_hitl.reward.registry import register_reward_model

    shutil.copytree(trained_template, tmp_path, dirs_exist_ok=True)
    [folder] = (tmp_path / "reward").iterdir()
    model = load_reward_model(folder, tmp_path / "features")
    register_reward_model(judged_store, model, folder)
    return model


class Postgres:
    """A PostgreSQL server that makes databases for tests. `url` is that of a database to administer it from."""

    template = f"rlhf_hitl_template_{uuid.uuid4().hex[:8]}"

    def __init__(self, url: str):
        from sqlalchemy import create_engine, make_url

        from rlhf_hitl.store import Store

        self._url = make_url(url).set(drivername="postgresql+psycopg")
        self._admin = create_engine(self._url, isolation_level="AUTOCOMMIT")
        self._dropping = ThreadPoolExecutor(1, thread_name_prefix="dropping databases")
        with self._admin.connect() as conn:
            version: tuple[int, ...] = conn.dialect.server_version_info or ()
        # A copy of files takes half the time of a copy through the log, which newer versions make unasked.
        self._strategy = "STRATEGY FILE_COPY" if version >= (15,) else ""
        self._run(f"CREATE DATABASE {self.template}")
        with Store.open(self._render(self.template), create=True) as store:
            fix_draws(store)

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The URL of a new database, dropped at the end."""
        name = f"rlhf_hitl_test_{uuid.uuid4().hex[:12]}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} {self._strategy}")
        try:
            yield self._render(name)
        finally:
            # Beside the next test: it waits for a checkpoint, and for what is still connected.
            self._dropping.submit(self._run, f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        self._dropping.shutdown()
        self._run(f"DROP DATABASE {self.template} WITH (FORCE)")
        self._admin.dispose()

    def _render(self, name: str) -> str:
        return self._url.set(database=name).render_as_string(hide_password=False)

    def _run(self, sql: str) -> None:
        with self._admin.connect() as conn:
            conn.exec_driver_sql(sql)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this test process, or the one at RLHF_HITL_TEST_POSTGRES_URL (a user who may CREATEDB)."""
    if url := os.environ.get("RLHF_HITL_TEST_POSTGRES_URL"):
        server = Postgres(url)
        yield server
        server.close()
        return
    binaries = _postgres_binaries()
    if binaries is None:
        reason = "no PostgreSQL: install it (apt-get install postgresql) or set RLHF_HITL_TEST_POSTGRES_URL"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # A short path of its own: a socket's path has room for about a hundred bytes, and pytest's folders are root's.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = None
    if os.geteuid() == 0:  # initdb refuses to run as root
        user = "postgres" if any(u.pw_name == "postgres" for u in pwd.getpwall()) else "nobody"
        shutil.chown(folder, user)
    data = folder / "data"
    initdb = [binaries / "initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(initdb, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
    settings = ["listen_addresses=", "fsync=off", "synchronous_commit=off", "full_page_writes=off", "jit=off"]
    serve = [binaries / "postgres", "-D", data, "-k", folder, *(arg for s in settings for arg in ("-c", s))]
    # The shell ends the server when its input closes: at the end below, and also when this process is killed.
    guard = ["sh", "-c", '"$@" & read -r _; kill -QUIT $!; wait', "sh", *serve]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(guard, user=user, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        ready = [binaries / "pg_isready", "-q", "-h", folder]
        deadline = time.monotonic() + 60
        while subprocess.run(ready).returncode != 0:
            if time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text()}")
            time.sleep(0.05)
        yield Postgres(f"postgresql://test@/postgres?host={folder}")
    finally:
        process.communicate(timeout=60)
        shutil.rmtree(folder)


def _postgres_binaries() -> Path | None:
    newest_first = sorted(glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]), reverse=True)
    on_path = shutil.which("initdb")
    found = [Path(p) for p in newest_first] + ([Path(on_path).resolve().parent] if on_path else [])
    return next((p for p in found if (p / "initdb").exists() and (p / "postgres").exists()), None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a two-layer Llama and a tokenizer of its own, with pad, EOS and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>", chat_template=TEMPLATE
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real preference sets, which the project does not ship; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("RLHF_HITL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no preference sets at {folder}; set RLHF_HITL_DATA to the folder that holds them")
    return folder
