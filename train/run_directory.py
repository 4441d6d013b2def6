"""A run's directory while a job works in it: who holds it, how the job ended, and what a full disk means."""

import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from provenance.errors import DISK_ERRORS, OpenwrightError, TrainingError
from train.job import LOCK, OUTCOME

_GRACE_SECONDS = 3.0


def lock_directory(run_dir: Path) -> IO[str]:
    """Hold a run directory; the lock of a dead process is gone with it.

    Raises:
        TrainingError: when a living process holds it, and still does after some seconds: killed ones take a moment.
    """
    deadline = time.monotonic() + _GRACE_SECONDS
    while True:
        file = (run_dir / LOCK).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise TrainingError(
                "another process is training in this directory",
                where=str(run_dir),
                next_command="wait for it, or stop it and run the same command again",
            ) from None
        # Whoever held it before may have removed the file just now: a lock on a file without a name guards nothing.
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(run_dir / LOCK)):
                return file
        except FileNotFoundError:
            pass
        file.close()


def unlock_directory(run_dir: Path, lock: IO[str]) -> None:
    """Let a directory go and remove the lock's file, which only its holder may."""
    (run_dir / LOCK).unlink()
    lock.close()


def report_outcome(directories: Sequence[Path], outcome: str, error: OpenwrightError | None = None) -> None:
    """Write how a job ended into the first of some directories that takes it; an error that none takes is printed."""
    fields = ("found", "expected", "where", "next_command")
    details = {name: getattr(error, name) for name in fields} if error else {}
    for directory in directories:
        written = directory / f"{OUTCOME}.{os.getpid()}"
        try:
            written.write_text(json.dumps({"outcome": outcome, "error": details}))
            os.replace(written, directory / OUTCOME)
        except OSError:  # such as the full disk that is to be reported
            with _ignoring_disk_errors():
                written.unlink(missing_ok=True)
        else:
            return
    print(error or outcome, file=sys.stderr)


def read_outcome(directories: Sequence[Path]) -> dict[str, Any]:
    """How a job ended; `died` where it left no word."""
    for directory in directories:
        if (directory / OUTCOME).is_file():
            outcome: dict[str, Any] = json.loads((directory / OUTCOME).read_text())
            return outcome
    return {"outcome": "died"}


def disk_error(error: OSError) -> OpenwrightError:
    """What a full or read-only disk means for a run.

    Raises:
        OSError: the error itself when it is of another kind.
    """
    meanings = {**DISK_ERRORS, errno.EACCES: "not writable for this user"}
    if error.errno not in meanings:
        raise error
    return TrainingError(
        f"the disk is {meanings[error.errno]}",
        expected="room for checkpoints and ledger",
        where=str(error.filename or "the run directory"),
        next_command="make room and run the same command again; the last full checkpoint is whole",
    )


@contextmanager
def naming_disk_errors() -> Iterator[None]:
    """Turn errors of a full or read-only disk into ones that say what to do."""
    try:
        yield
    except OSError as error:
        raise disk_error(error) from error


@contextmanager
def _ignoring_disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        disk_error(error)
