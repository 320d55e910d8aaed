"""Atomic writes: whole or not at all, in whatever way writing ends and however many write at once."""

from __future__ import annotations

import multiprocessing
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlhf_hitl.files import atomic_file, atomic_folder, place_folder, write_text_atomically


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_once_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_file(path, sync=True) as draft:
        draft.write_text("new")
        assert not path.exists()
        assert draft.parent == tmp_path
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def _fill_half(folder_or_file: Path) -> None:
    """Write something, then fail."""
    draft = folder_or_file / "a" if folder_or_file.is_dir() else folder_or_file
    draft.write_text("half")
    raise RuntimeError


def test_a_failed_write_leaves_the_former_file_and_no_draft(tmp_path):
    path = tmp_path / "a.txt"
    write_text_atomically(path, "former")
    with pytest.raises(RuntimeError), atomic_file(path) as draft:
        _fill_half(draft)
    assert path.read_text() == "former"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_cannot_be_written_is_named_in_the_error_and_not_its_draft(tmp_path):
    path = tmp_path / "missing" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught:
        write_text_atomically(path, "text")
    assert caught.value.filename == str(path)


def test_a_file_is_its_owners_alone_also_where_others_could_read_the_former_one(tmp_path):
    path = tmp_path / "passwords"
    path.write_text("former")
    path.chmod(0o644)
    with atomic_file(path) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600
        draft.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("é" * 127)
    write_text_atomically(path, "text")
    assert path.read_text() == "text"


def _write_many(path: Path, letter: str) -> None:
    for _ in range(50):
        write_text_atomically(path, letter * 100_000)


def test_threads_and_processes_that_write_one_file_do_not_mix_their_content(tmp_path):
    path = tmp_path / "shared.txt"
    write_text_atomically(path, "z" * 100_000)
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    processes = [context.Process(target=_write_many, args=(path, letter)) for letter in "ab"]
    for process in processes:
        process.start()
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(_write_many, path, letter) for letter in "cd"]
        while any(p.is_alive() for p in processes) or not all(w.done() for w in writers):
            text = path.read_text()
            assert len(text) == 100_000
            assert len(set(text)) == 1
    assert [p.exitcode for p in processes] == [0, 0]
    assert [w.result() for w in writers] == [None, None]
    assert names(tmp_path) == ["shared.txt"]


def test_a_folder_appears_once_it_is_whole_and_a_failed_one_not_at_all(tmp_path):
    path = tmp_path / "parent" / "folder"
    with atomic_folder(path) as draft:
        (draft / "a").write_text("a")
        assert not path.exists()
    assert names(path) == ["a"]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "other") as draft:
        _fill_half(draft)
    assert names(tmp_path) == ["parent"]
    assert names(path.parent) == ["folder"]


def test_what_a_folder_held_is_refused_kept_or_replaced(tmp_path):
    path = tmp_path / "folder"

    def place(content: str, **options) -> None:
        with atomic_folder(path, **options) as draft:
            (draft / content).touch()

    path.mkdir()
    place("first")  # an empty folder is no obstacle
    with pytest.raises(OSError, match=r"[Nn]ot empty|exists"):
        place("second")
    assert names(path) == ["first"]
    place("second", existing="keep")
    assert names(path) == ["first"]
    place("second", existing="replace")
    assert names(path) == ["second"]
    assert names(tmp_path) == ["folder"]


def test_a_replacement_that_fails_puts_the_former_folder_back(tmp_path, monkeypatch):
    path, new = tmp_path / "folder", tmp_path / "new"
    for folder in (path, new):
        folder.mkdir()
        (folder / folder.name).touch()

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        place_folder(new, path, existing="replace")
    assert names(path) == ["folder"]
    assert names(tmp_path) == ["folder", "new"]
