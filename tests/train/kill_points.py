"""Where a job is killed: installed in its own process, so that the kill comes at exactly that point."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_jobs import die

import train.checkpoint_records
import train.checkpoint_writer
import train.loop
from provenance.canonical import canonical_json
from provenance.ledger import ChainWriter
from train.checkpoint_writer import CheckpointWriter

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile"}


def at_change(run_dir: Path, number: int) -> None:
    """Right before the n-th change of the run's directory: files opened for writing, renamed, removed, lines added.

    A line of a chain counts twice: before it, and with half of it written.
    """
    count = 0

    def changed() -> bool:
        nonlocal count
        count += 1
        return count == number

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (writes or event in _CHANGES) and str(run_dir) in str(arguments) and changed():
            die()

    append = ChainWriter.append

    def append_or_die(self: ChainWriter, record: dict[str, Any]) -> None:
        if changed():
            die()
        if changed():
            line = canonical_json({**record, "previous": self.head})
            with self.path.open("ab") as file:
                file.write(line[: len(line) // 2])
            die()
        append(self, record)

    ChainWriter.append = append_or_die  # type: ignore[method-assign]
    sys.addaudithook(on_event)


def _before_call(owner: Any, name: str, number: int) -> None:
    """Kill right before the n-th call of a function."""
    function: Callable[..., Any] = getattr(owner, name)
    count = 0

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            die()
        return function(*arguments, **keywords)

    setattr(owner, name, call)


def while_hashing(run_dir: Path) -> None:
    """In the writer's thread, between two tensors of the second checkpoint that it hashes."""
    _before_call(train.checkpoint_writer, "tensor_digest", 25)


def before_a_file_of_tensors(run_dir: Path) -> None:
    """In the writer's thread, between the weights and the optimizer's state."""
    save_file = train.checkpoint_writer.save_file

    def save(tensors: Any, path: Path, **keywords: Any) -> None:
        if path.name.startswith("optimizer"):
            die()
        save_file(tensors, path, **keywords)

    train.checkpoint_writer.save_file = save


def between_rename_and_ledger(run_dir: Path) -> None:
    """The full checkpoint is in its place, the ledger does not know of it."""
    finish = CheckpointWriter.finish

    def finish_and_die(self: CheckpointWriter) -> Any:
        record = finish(self)
        if record is not None and record.kind == "full":
            die()
        return record

    CheckpointWriter.finish = finish_and_die  # type: ignore[method-assign]


def before_the_end_record(run_dir: Path) -> None:
    """All steps are done, the run's summary is not written."""
    _before_call(train.loop.TrainingRun, "_summary", 1)


def while_retention_removes(run_dir: Path) -> None:
    """A record was changed to `weights`, or a directory renamed; its files are still there."""
    _before_call(train.checkpoint_records, "_remove_optimizer_of_weights", 1)


def after_some_time(run_dir: Path, seconds: float) -> None:
    """A random moment."""
    import threading

    def wait_and_die() -> None:
        time.sleep(seconds)
        die()

    threading.Thread(target=wait_and_die, daemon=True).start()
