"""Tasks of a corpus build: what each wrote, under a key of all that decides it, so that a build goes on after a kill.

A task's outputs come into place by rename, and its record last: no record, no outputs. The record holds the task's
key and the digest of every file; a task is done only if the key is the one that is wanted now and the files are the
ones that it wrote.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provenance.canonical import Json, read_json, write_json
from provenance.digests import FileEntry, hash_files, tagged_digest

SCRATCH = "scratch"
"""Folder of a build that holds everything which is no result."""


@dataclass(frozen=True)
class Task:
    """One call of a step, made by one process.

    Attributes:
        step: name of the step, such as `read`.
        number: number of the task within its step.
        value: what the step's function is called with.
        key: digest of all that decides what the task writes.
        size_bytes: about how much work it is; larger ones are begun first.
    """

    step: str
    number: int
    value: Json
    key: str
    size_bytes: int = 0


@dataclass(frozen=True)
class TaskRecord:
    """What a finished task left: its outputs by path below the build's directory, and a report."""

    key: str
    files: tuple[FileEntry, ...]
    report: Json

    @property
    def digest(self) -> str:
        """Digest `task-record/1` of outputs and report, for the keys of tasks that come after it."""
        files = [entry.as_json() for entry in self.files]
        return tagged_digest("task-record/1", {"files": files, "report": self.report})


class Outputs:
    """Where a task writes: each file in a place of its own, moved to where it belongs when it is whole."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: list[Path] = []

    @contextmanager
    def file(self, relative: str) -> Iterator[Path]:
        """Yield a path to write to; at the end of the block the file is moved to `relative` below the build."""
        partial = self._root / SCRATCH / "partial" / uuid.uuid4().hex
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            target = self._root / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, target)
            self._paths.append(target)
        finally:
            partial.unlink(missing_ok=True)

    def entries(self) -> tuple[FileEntry, ...]:
        """Return the files that were written, with their digests."""
        return tuple(hash_files(self._root, self._paths))


def write_record(root: Path, task: Task, outputs: Outputs, report: Json) -> None:
    """Record that a task is done."""
    files = [entry.as_json() for entry in outputs.entries()]
    path = _record_path(root, task)
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    write_json(partial, {"key": task.key, "files": files, "report": report})
    os.replace(partial, path)


def read_record(root: Path, task: Task) -> TaskRecord | None:
    """Return what a task left, or None where it is not done, or was done under another key."""
    path = _record_path(root, task)
    if not path.is_file():
        return None
    values = read_json(path)
    if values["key"] != task.key:
        return None
    return TaskRecord(task.key, tuple(FileEntry(**entry) for entry in values["files"]), values["report"])


def is_whole(root: Path, record: TaskRecord) -> bool:
    """Whether the files of a record are those that the task wrote."""
    paths = [root / entry.path for entry in record.files]
    return all(path.is_file() for path in paths) and tuple(hash_files(root, paths)) == record.files


def _record_path(root: Path, task: Task) -> Path:
    return root / SCRATCH / "done" / f"{task.step}-{task.number:05d}.json"
