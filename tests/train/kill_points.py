"""Where a job is killed: installed in its own process, so that the kill comes at exactly that point."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import helper_points
import small_jobs
from small_jobs import die

import train.checkpoint_process
import train.loop
from provenance.canonical import canonical_json
from provenance.errors import TrainingError
from provenance.ledger import ChainWriter
from train.checkpoint_writer import CheckpointWriter


def in_helper(name: str, *arguments: Any) -> None:
    """Have the process that writes this one's checkpoints call a function of `helper_points` before it serves."""
    here = str(Path(__file__).resolve().parent)
    train.checkpoint_process.PROGRAM = (
        "-c",
        f"import sys; sys.path.append({here!r})\n"
        f"import helper_points; helper_points.{name}(*{arguments!r})\n"
        "import train.checkpoint_process; train.checkpoint_process.main()",
    )


def at_change(run_dir: Path, number: int) -> None:
    """Right before the n-th change of the run's directory by either process, lines of the ledger and journal included.

    A line of a chain counts twice: before it, and with half of it written.
    """
    counter = run_dir.with_name(f"{run_dir.name}.changes")
    counter.unlink(missing_ok=True)
    in_helper("at_change", str(run_dir), str(counter), number)
    changes = helper_points.at_change(str(run_dir), str(counter), number, die)
    append = ChainWriter.append

    def append_or_die(self: ChainWriter, record: dict[str, Any]) -> None:
        if changes.add() == number:
            die()
        if changes.add() == number:
            line = canonical_json({**record, "previous": self.head})
            with self.path.open("ab") as file:
                file.write(line[: len(line) // 2])
            die()
        append(self, record)

    ChainWriter.append = append_or_die  # type: ignore[method-assign]


def while_hashing(run_dir: Path) -> None:
    """Between two tensors of the second checkpoint that are hashed."""
    in_helper("while_hashing", 25)


def before_a_file_of_tensors(run_dir: Path) -> None:
    """Between the weights and the optimizer's state."""
    in_helper("before_a_file_of_tensors")


def before_the_rename(run_dir: Path) -> None:
    """All files of a checkpoint are whole, its directory has not its name."""
    in_helper("before_the_rename")


def the_helper_alone(run_dir: Path) -> None:
    """The process that writes checkpoints, once step 2 is done; the error that follows is written into a file."""
    train_step, run_steps = train.loop.TrainingRun.train_step, small_jobs.run_steps

    def kill_and_step(self: train.loop.TrainingRun, step: int) -> Any:
        if step == 3:
            os.kill(self.writer.process.pid, signal.SIGKILL)
        return train_step(self, step)

    def run_or_say(run: train.loop.TrainingRun) -> bool:
        try:
            return run_steps(run)
        except TrainingError as error:
            (run_dir / "error.txt").write_text(str(error))
            raise

    train.loop.TrainingRun.train_step = kill_and_step  # type: ignore[method-assign]
    small_jobs.run_steps = run_or_say  # type: ignore[assignment]


def between_rename_and_ledger(run_dir: Path) -> None:
    """The full checkpoint is in its place, the ledger does not know of it."""
    advance = CheckpointWriter.advance

    def advance_and_die(self: CheckpointWriter) -> Any:
        record = advance(self)
        if record is not None and record.kind == "full":
            die()
        return record

    CheckpointWriter.advance = advance_and_die  # type: ignore[method-assign]


def before_the_end_record(run_dir: Path) -> None:
    """All steps are done, the run's summary is not written."""
    helper_points.before_call(train.loop.TrainingRun, "_summary", 1, die)


def while_retention_removes(run_dir: Path) -> None:
    """A record was changed to `weights`, or a directory renamed; its files are still there."""
    in_helper("while_retention_removes")


def after_some_time(run_dir: Path, seconds: float) -> None:
    """A random moment."""
    import threading

    def wait_and_die() -> None:
        time.sleep(seconds)
        die()

    threading.Thread(target=wait_and_die, daemon=True).start()
