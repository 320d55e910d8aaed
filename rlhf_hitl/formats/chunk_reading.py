"""A chunk of a file's lines becomes packed batches of records: in the importer itself, or in a process beside it.

A line is read apart from the others, so chunks are read at the same time and their batches are staged in the order of
the file. What does depend on other lines is left to the importer: it looks at the names that a chunk brings, and reads
itself the chunks that a worker gives back because it cannot read them alone.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Self

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import get_format
from rlhf_hitl.formats.column_map import ColumnMap
from rlhf_hitl.formats.limits import find_packing
from rlhf_hitl.formats.reading import read_records
from rlhf_hitl.formats.record import add_unread
from rlhf_hitl.formats.record_checker import Counts, NameChecker, RecordChecker
from rlhf_hitl.formats.source import BadRowHandler, Line, RowSource
from rlhf_hitl.store.images import ImageFolder
from rlhf_hitl.store.imports.records import BatchBuilder
from rlhf_hitl.types import Split

#: Bytes of lines in a chunk: about as many records as a transaction takes.
CHUNK_BYTES = 4 << 20
#: A worker takes a second to start. A smaller file is read without.
LEAST_BYTES = 16 << 20
MOST_WORKERS = 3
AHEAD = 2  # chunks that the importer itself reads before one that a worker still reads
WAITING = 2  # chunks that a worker has: one that it reads, and the next
#: How many new objects make Python look for unused ones that refer to each other. It looks at all there are each time,
#: and an import makes hardly any such.
OBJECTS_PER_COLLECTION = 50_000
EXPANSION = 5  # about how much a packed file grows

log = logging.getLogger("rlhf_hitl.imports")


@dataclass(frozen=True)
class ReadingPlan:
    """How the lines of a file are read; the arguments of `import_path`. A worker gets it."""

    path: str
    column_map: ColumnMap
    format: str
    pairs: str
    skip_bad: bool
    split: Split | None
    overlap: int
    queue: bool
    project: str
    batch: str
    images: str  # the address of the folder


@dataclass
class ReadChunk:
    """What a chunk of lines gave.

    batches: (number of records, packed `Batch`). names: the batches and policies met, as (kind, name), in their order.
    """

    batches: list[tuple[int, bytes]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    errors: list[tuple[str, str, str]] = field(default_factory=list)  # value, expected, fix
    names: list[tuple[str, str]] = field(default_factory=list)


class ChunkReader:
    """Reads chunks of lines of a source, which counts what is not read."""

    def __init__(self, plan: ReadingPlan, source: RowSource, names: NameChecker, counts: Counts):
        self._source, self._read_row = source, get_format(plan.format).make_reader(source, plan.pairs)
        self._checker = RecordChecker(
            plan.format, names, counts, ImageFolder(plan.images), split=plan.split, overlap=plan.overlap,
            queue=plan.queue, project=plan.project, batch=plan.batch, noted=source.noted,
        )  # fmt: skip

    def read(self, lines: Iterable[Line], on_bad: BadRowHandler) -> ReadChunk:
        chunk, builder = ReadChunk(), BatchBuilder()
        self._checker.counts = chunk.counts
        records = read_records(self._source.parse_lines(lines, on_bad), self._read_row, on_bad)
        for record in self._checker.read(records, on_bad):
            builder.add(record)
            if builder.is_full:
                chunk.batches.append(_pack(builder))
        if len(builder):
            chunk.batches.append(_pack(builder))
        return chunk


def _pack(builder: BatchBuilder) -> tuple[int, bytes]:
    batch = builder.take()
    return len(batch.records), batch.pack()


class LoneReader:
    """Reads chunks in any order, without the store: what a worker does."""

    def __init__(self, plan: ReadingPlan):
        self._plan, self._source = plan, RowSource(plan.path, plan.column_map)
        self._names = dict[tuple[str, str], None]()
        self._reader = ChunkReader(plan, self._source, self, self)

    def read(self, lines: Iterable[Line]) -> ReadChunk | None:
        """Return what a chunk gives, or None where that cannot be known without the chunks before it, or goes wrong."""
        self._names.clear()
        self._source.unread.clear()
        self._source.noted.clear()
        errors = list[BadInput]()

        def on_bad(error: BadInput) -> None:
            errors.append(error)
            if not self._plan.skip_bad:
                raise _StopHere

        chunk = ReadChunk()
        try:
            chunk = self._reader.read(lines, on_bad)
        except _StopHere:
            pass
        except Exception:  # of any kind: the importer reads the chunk again, and tells the user
            return None
        chunk.errors = [(e.value, e.expected, e.fix) for e in errors]
        chunk.names, chunk.unread, chunk.noted = list(self._names), +self._source.unread, +self._source.noted
        return chunk

    def check_batch(self, project: str, batch: str) -> None:
        self._names["batch", batch] = None

    def check_policy(self, policy: str) -> None:
        if not policy.isascii():
            self._names["policy", policy] = None

    def count(self, key: bytes) -> int:
        raise _NeedsOrder


class _StopHere(Exception):
    """The first bad line ends the import."""


class _NeedsOrder(Exception):
    """A vote without a rater's name: which of its kind it is depends on the lines before it."""


class ChunkedReading:
    """Reads a file of lines, with the help of workers, and gives what its chunks gave in their order.

    Args:
        names, counts: those of the import, which know the chunks before.
        on_bad: called for each bad line, in the order of the file.
        workers: how many processes read beside this one.
    """

    def __init__(
        self,
        plan: ReadingPlan,
        source: RowSource,
        names: NameChecker,
        counts: Counts,
        on_bad: BadRowHandler,
        workers: int,
    ):
        self._plan, self._source, self._names, self._on_bad, self._count = plan, source, names, on_bad, workers
        self._reader = ChunkReader(plan, source, names, counts)
        self._is_in_order = workers == 0  # whether each chunk is read after those before it

    def __iter__(self) -> Iterator[ReadChunk]:
        waiting: deque[tuple[list[Line], Future[ReadChunk | None]]] = deque()
        with ExitStack() as stack:
            workers = [stack.enter_context(_Worker(self._plan)) for _ in range(self._count)]
            alone = LoneReader(self._plan) if workers else None
            most = WAITING * len(workers) + AHEAD
            for lines in self._source.read_line_chunks(CHUNK_BYTES):
                while waiting and (self._is_in_order or waiting[0][1].done() or len(waiting) > most):
                    yield self._take(*waiting.popleft())
                if self._is_in_order or alone is None:
                    yield self._reader.read(lines, self._on_bad)
                elif (free := next((worker for worker in workers if worker.is_free), None)) is not None:
                    waiting.append((lines, free.read(lines)))
                else:
                    waiting.append((lines, Future()))
                    waiting[-1][1].set_result(alone.read(lines))
            while waiting:
                yield self._take(*waiting.popleft())

    def _take(self, lines: list[Line], read: Future[ReadChunk | None]) -> ReadChunk:
        """Return what a chunk gave, after looking at what depends on the chunks before it."""
        chunk = None if self._is_in_order else read.result()
        if chunk is None:
            self._is_in_order = True
        if chunk is None or not self._are_good(chunk.names):
            return self._reader.read(lines, self._on_bad)
        for value, expected, fix in chunk.errors:
            self._on_bad(BadInput(value, expected=expected, fix=fix))
        add_unread(self._source.unread, chunk.unread)
        add_unread(self._source.noted, chunk.noted)
        return chunk

    def _are_good(self, names: list[tuple[str, str]]) -> bool:
        try:
            for kind, name in names:
                if kind == "batch":
                    self._names.check_batch(self._plan.project, name)
                else:
                    self._names.check_policy(name)
        except BadInput:  # of one line, which is found when the chunk is read again
            return False
        return True


class _Worker:
    """A process that reads chunks. It ends with the `with` block, or with this process, even if that is killed."""

    def __init__(self, plan: ReadingPlan):
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: a file named like a module, in the folder where the import runs, is not imported.
            command = [sys.executable, "-P", "-m", "rlhf_hitl.formats.import_worker", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._connection = Connection(ours.detach())
        self._is_lost = self._is_over = False
        self._thread = ThreadPoolExecutor(1, "import-worker")
        self._chunks = [self._thread.submit(self._ask, plan)]

    @property
    def is_free(self) -> bool:
        """Whether the worker has started and has nothing to read after what it reads now."""
        self._chunks = [self._chunks[0], *(chunk for chunk in self._chunks[1:] if not chunk.done())]
        return self._chunks[0].done() and not self._is_lost and len(self._chunks) <= WAITING

    def read(self, lines: list[Line]) -> Future[ReadChunk | None]:
        self._chunks.append(self._thread.submit(self._ask, lines))
        return self._chunks[-1]

    def _ask(self, message: Any) -> Any:
        try:
            if not self._is_lost:
                self._connection.send(message)
                return self._connection.recv()
        except (OSError, EOFError) as e:  # somebody has killed it
            self._is_lost = True
            if not self._is_over:
                log.warning("a process that reads for an import has ended (%r); the import goes on without it", e)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._connection.close()
        self._process.wait()


def work(connection: Connection) -> None:
    """Read the chunks that come over a connection until it ends: what the process of a worker does."""
    reader = LoneReader(connection.recv())
    connection.send(None)
    with collect_seldom(), suppress(EOFError):
        while True:
            connection.send(reader.read(connection.recv()))


def choose_workers(source: RowSource) -> int:
    """Return how many workers are worth their start for a file of lines."""
    size = source.path.stat().st_size * (EXPANSION if find_packing(source.path) else 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores - 1, MOST_WORKERS) if size >= LEAST_BYTES else 0


@contextmanager
def collect_seldom() -> Iterator[None]:
    """Have Python look less often for unused objects that refer to each other, of which there are hardly any here."""
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS_PER_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
