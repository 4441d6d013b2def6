"""Tasks of a corpus build as job arrays of Slurm; the same tasks as everywhere.

What goes to a job is the name of a function and a few plain words; everything else lies in the build's directory, which
all machines have to see under one path, and what a job has to say comes back as a JSON file there. A job that is lost,
or that Slurm ends, ends the build; the same command goes on with what is missing.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from data_recipes.executors import RunTask
from data_recipes.outcomes import last_line, raise_words, words_of
from data_recipes.slurm_settings import SlurmExecution
from data_recipes.tasks import SCRATCH
from provenance.canonical import Json
from provenance.errors import ConfigError, DataError

_POLL_SECONDS = 1.0
_QUEUE_EVERY_POLLS = 10
_MOST_POLLS_OF_CANCELLED = 30


class SlurmArrays:
    """An `Executor` on a Slurm cluster.

    Args:
        options: what jobs ask for.

    Raises:
        ConfigError: where the commands of Slurm are missing.
    """

    def __init__(self, options: SlurmExecution) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "no command sbatch",
                expected="a machine from which jobs can be submitted",
                next_command="run it there, or leave execution.slurm out",
            )
        self._options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def run(
        self, call: RunTask, root: Path, step: str, numbers: Sequence[int], when_done: Callable[[int], None]
    ) -> None:
        """See `Executor`.

        Raises:
            DataError: for a job that was lost or failed; what a task raised is told by its own words.
            OSError: for a disk that a task found full.
        """
        for start in range(0, len(numbers), self._options.max_array_size):
            of_array = numbers[start : start + self._options.max_array_size]
            array = self._submit(call, root, step, of_array)
            try:
                self._wait(root, step, array, of_array, when_done)
            except BaseException:
                _cancel(array)
                raise

    def _submit(self, call: RunTask, root: Path, step: str, numbers: Sequence[int]) -> str:
        """Hand an array to Slurm, the job at each place a task; returns the array's number."""
        options, folder = self._options, _folder(root)
        folder.mkdir(parents=True, exist_ok=True)
        asked = {
            "job-name": f"openwright-{step}",
            "array": f"0-{len(numbers) - 1}%{options.max_running}",
            "output": f"{folder}/".replace("%", "%%") + "%A_%a.log",
            "time": options.minutes_per_task,
            "cpus-per-task": options.cpus_per_task,
            "mem": None if options.memory_gb is None else f"{options.memory_gb}GB",
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
        }
        words = [f"--{name}={value}" for name, value in asked.items() if value is not None]
        script = _script(call, root, step, numbers, options.setup)
        done = subprocess.run(
            ["sbatch", "--parsable", *words], input=script, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DataError(
                f"Slurm did not take the jobs of the step {step!r} ({last_line(done.stderr)})",
                expected="a partition, account and limits that exist",
                next_command="correct execution.slurm and run the same command again; what is done is kept",
            )
        return done.stdout.strip().split(";")[0]

    def _wait(
        self, root: Path, step: str, array: str, numbers: Sequence[int], when_done: Callable[[int], None]
    ) -> None:
        waiting, num_polls, missed = dict(enumerate(numbers)), 0, False
        while waiting:
            ended = [place for place in waiting if _told_path(root, array, place).exists()]
            for place in ended:
                number = waiting.pop(place)
                told = json.loads(_told_path(root, array, place).read_text(encoding="utf-8"))
                _raise_told(told, root, step, array, place, number)
                when_done(number)
            if ended or not waiting:
                missed = False
                continue
            time.sleep(_POLL_SECONDS)
            num_polls += 1
            if num_polls % _QUEUE_EVERY_POLLS == 0 and not _in_queue(array):
                # Asked twice, because the last result may be on its way over a network file system.
                if missed:
                    place, number = next(iter(waiting.items()))
                    raise _lost(root, step, array, place, number, "ended without a result")
                missed = True


def _script(call: RunTask, root: Path, step: str, numbers: Sequence[int], setup: Sequence[str]) -> str:
    """What every job of an array runs; the numbers of its tasks stand in it, because Slurm bounds its own."""
    program = (
        f"import sys; from {call.__module__} import {call.__qualname__} as call; "
        f"from {__name__} import run_and_tell; run_and_tell(call, *sys.argv[1:])"
    )
    job = '"${SLURM_ARRAY_JOB_ID}" "${SLURM_ARRAY_TASK_ID}" "${numbers[SLURM_ARRAY_TASK_ID]}"'
    command = f"exec {shlex.join([sys.executable, '-u', '-c', program, str(root), step])} {job}"
    return "\n".join(["#!/bin/bash", *setup, f"numbers=({' '.join(map(str, numbers))})", command, ""])


def run_and_tell(call: RunTask, root: str, step: str, array: str, place: str, number: str) -> None:
    """Do a task in a job and write down how it ended; an error that a user can mend is not raised."""
    told: dict[str, Json] = {}
    try:
        call(root, step, int(number))
    except Exception as error:
        told = words_of(error)
        if "failed" in told:
            _tell(Path(root), array, place, told)
            raise  # its traceback is for the log
    _tell(Path(root), array, place, told)


def _tell(root: Path, array: str, place: str, told: dict[str, Json]) -> None:
    path = _told_path(root, array, place)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(told), encoding="utf-8")
    os.replace(partial, path)


def _folder(root: Path) -> Path:
    return root / SCRATCH / "slurm"


def _told_path(root: Path, array: str, place: int | str) -> Path:
    """How a job ended, which it alone writes: jobs of an earlier array may still be running."""
    return _folder(root) / f"{array}_{place}.json"


def _raise_told(told: dict[str, Json], root: Path, step: str, array: str, place: int, number: int) -> None:
    if "failed" in told:
        raise _lost(root, step, array, place, number, f"failed ({told['failed']})")
    raise_words(told)


def _lost(root: Path, step: str, array: str, place: int, number: int, what: str) -> DataError:
    return DataError(
        f"job {array}_{place}, task {number} of the step {step!r}, {what}",
        expected="every job to end by itself; enough memory and time for it",
        where=str(_folder(root) / f"{array}_{place}.log"),
        next_command="read that file, correct execution.slurm and run the same command again; what is done is kept",
    )


def _cancel(array: str) -> None:
    """End an array and wait until no job of it writes any more, for half a minute at most."""
    subprocess.run(["scancel", array], capture_output=True, check=False)
    for _ in range(_MOST_POLLS_OF_CANCELLED):
        if not _in_queue(array):
            return
        time.sleep(_POLL_SECONDS)


def _in_queue(array: str) -> bool:
    asked = ["squeue", "--noheader", "--format=%i", "--jobs", array]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())
