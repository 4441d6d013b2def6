"""What a test does in the process that writes checkpoints: kill it and its training process, or slow it down.

Nothing here imports torch; `kill_points.in_helper` has a job's helper call these before it serves.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import train.checkpoint_files
import train.retention

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile"}


def die() -> None:
    """What `kill -9` of both processes does."""
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def before_call(owner: Any, name: str, number: int, kill: Callable[[], None] = die) -> None:
    """Kill right before the n-th call of a function."""
    function: Callable[..., Any] = getattr(owner, name)
    count = 0

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            kill()
        return function(*arguments, **keywords)

    setattr(owner, name, call)


def while_hashing(number: int) -> None:
    """Before the n-th tensor is hashed."""
    before_call(train.checkpoint_files, "digest_of_rows", number)


def before_a_file_of_tensors() -> None:
    """Between the weights and the optimizer's state."""
    write_file = train.checkpoint_files.write_file

    def write(path: Path, *arguments: Any) -> None:
        if path.name.startswith("optimizer"):
            die()
        write_file(path, *arguments)

    train.checkpoint_files.write_file = write


def before_the_rename() -> None:
    """All files of a checkpoint are whole, its directory has not its name."""
    before_call(os, "replace", 1)


def while_retention_removes() -> None:
    """A record was changed to `weights`, or a directory renamed; its files are still there."""
    before_call(train.retention, "_remove_optimizer_of_weights", 1)


def slow_writing() -> None:
    """Each file of tensors takes a while to write."""
    write_file = train.checkpoint_files.write_file

    def write(*arguments: Any) -> None:
        time.sleep(0.3)
        write_file(*arguments)

    train.checkpoint_files.write_file = write


class Changes:
    """Counts the changes of a run's directory that several processes make.

    Args:
        counter: a file that takes a byte for each.
    """

    def __init__(self, counter: Path) -> None:
        self._descriptor = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self) -> int:
        """Count one more; returns its number."""
        os.write(self._descriptor, b".")
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)


def at_change(run_dir: str, counter: str, number: int, kill: Callable[[], None] = die) -> Changes:
    """Kill right before the n-th change: files opened for writing, renamed, removed, copied; directories made."""
    changes = Changes(Path(counter))

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (writes or event in _CHANGES) and run_dir in str(arguments) and changes.add() == number:
            kill()

    sys.addaudithook(on_event)
    return changes
