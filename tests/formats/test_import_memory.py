"""An import takes no more memory for a longer file: neither for its votes nor for its images."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

# Imports a file into a new store and prints the rows, and by how many MB the process grew at most.
IMPORT = """
import resource, sys
from types import SimpleNamespace
from rlhf_hitl.formats import importing
from rlhf_hitl.store import Store
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def read(store, path):
    if sys.argv[4] == "import":
        return importing.import_path(store, path)
    with importing.OccurrenceCounter() as occurrences:  # all but the database, which takes a minute for so many votes
        source, file_format = importing.open_source(path)
        plan = importing.ReadingPlan(
            path, importing.NO_MAP, file_format.NAME, "adjacent", False, None, 1, False, "default", "",
            store.images.address,
        )
        names = importing.KnownNames(lambda query: [])
        chunks = importing.ChunkedReading(plan, source, names, occurrences, importing.raise_bad_row, int(sys.argv[4]))
        return SimpleNamespace(rows=sum(chunk.counts["rows"] for chunk in chunks))
importing.choose_workers = lambda source: 0
with Store.open(sys.argv[1], create=True) as store:
    read(store, sys.argv[2])  # a short file: modules are loaded now
    before = peak()
    report = read(store, sys.argv[3])
print(report.rows, peak() - before)
"""


def import_apart(folder: Path, first: Path, path: Path, how: str) -> tuple[int, float]:
    command = [sys.executable, "-c", IMPORT, f"sqlite:///{folder}/memory.db", first, path, how]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, megabytes = done.stdout.split()
    return int(rows), float(megabytes)


def write_votes(path: Path, rows: int) -> Path:
    """Write votes of four named raters on pairs of about a kilobyte; each line has texts of its own comparison."""
    with path.open("w") as f:
        for i in range(rows):
            sides = {"chosen": f"yes {i // 4} " + "a" * 480, "rejected": f"no {i // 4} " + "b" * 480}
            f.write(json.dumps({"prompt": f"Q{i // 4}?", **sides, "rater": f"rater {i % 4}"}) + "\n")
    return path


def test_sixty_megabytes_of_votes_take_the_memory_of_a_few(tmp_path):
    long = write_votes(tmp_path / "long.jsonl", 57_000)
    assert long.stat().st_size > 58e6
    rows, megabytes = import_apart(tmp_path, write_votes(tmp_path / "short.jsonl", 8_000), long, "1")
    assert rows == 57_000
    assert megabytes < 60, megabytes


def test_images_are_not_remembered_with_their_pixels(tmp_path):
    def write(path: Path, count: int) -> Path:
        with path.open("w") as f:
            for i in range(count):
                data = io.BytesIO()
                Image.frombytes("L", (700, 700), os.urandom(490_000)).save(data, "PNG", compress_level=0)
                url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
                content = [{"type": "text", "text": f"Q{i}"}, {"type": "image", "image": url}]
                row = {"prompt": [{"role": "user", "content": content}], "chosen": "a", "rejected": "b"}
                f.write(json.dumps(row | {"rater": "ann"}) + "\n")
        return path

    rows, megabytes = import_apart(
        tmp_path, write(tmp_path / "a.jsonl", 24), write(tmp_path / "b.jsonl", 160), "import"
    )
    assert rows == 160
    assert megabytes < 40, "of 78 MB of images"
