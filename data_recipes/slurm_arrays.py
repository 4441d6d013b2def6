"""Tasks of a corpus build as job arrays of Slurm, submitted with submitit; the same tasks as everywhere.

What goes to a job is the name of a function and three plain values; everything else lies in the build's directory,
which all machines have to see under one path. A job that is lost, or that Slurm ends, ends the build; the same command
goes on with what is missing.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from data_recipes.executors import RunTask
from data_recipes.slurm_settings import SlurmExecution
from data_recipes.tasks import SCRATCH
from provenance.canonical import Json
from provenance.errors import ConfigError, DataError, OpenwrightError

_POLL_SECONDS = 1.0
_QUEUE_EVERY_POLLS = 10


class SlurmArrays:
    """An `Executor` on a Slurm cluster.

    Args:
        options: what jobs ask for.

    Raises:
        ConfigError: where submitit or the commands of Slurm are missing.
    """

    def __init__(self, options: SlurmExecution) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "no command sbatch",
                expected="a machine from which jobs can be submitted",
                next_command="run it there, or leave execution.slurm out",
            )
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "submitit is not installed",
                expected="the extra `slurm`",
                next_command="pip install submitit, or leave execution.slurm out",
            ) from None
        self._submitit, self._options = submitit, options

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
        shutil.rmtree(_failures(root), ignore_errors=True)
        for start in range(0, len(numbers), self._options.max_array_size):
            of_array = numbers[start : start + self._options.max_array_size]
            jobs = dict(zip(of_array, self._submit(call, root, step, of_array), strict=True))
            try:
                self._wait(root, step, jobs, when_done)
            except BaseException:
                subprocess.run(["scancel", *_array_ids(jobs.values())], capture_output=True, check=False)
                raise

    def _submit(self, call: RunTask, root: Path, step: str, numbers: Sequence[int]) -> list[Any]:
        options = self._options
        executor = self._submitit.SlurmExecutor(folder=str(root / SCRATCH / "slurm"))
        asked = {"partition": options.partition, "account": options.account, "qos": options.qos}
        asked["mem"] = None if options.memory_gb is None else f"{options.memory_gb}GB"
        executor.update_parameters(
            job_name=f"openwright-{step}",
            time=options.minutes_per_task,
            cpus_per_task=options.cpus_per_task,
            array_parallelism=options.max_running,
            setup=list(options.setup),
            stderr_to_stdout=True,
            **{name: value for name, value in asked.items() if value is not None},
        )
        try:
            return list(
                executor.map_array(
                    run_and_tell, *zip(*((call, str(root), step, number) for number in numbers), strict=True)
                )
            )
        except self._submitit.core.utils.FailedJobError as error:
            raise DataError(
                f"Slurm did not take the jobs of the step {step!r} ({str(error).strip().splitlines()[-1]})",
                expected="a partition, account and limits that exist",
                next_command="correct execution.slurm and run the same command again; what is done is kept",
            ) from None

    def _wait(self, root: Path, step: str, jobs: dict[int, Any], when_done: Callable[[int], None]) -> None:
        waiting, num_polls, missed = dict(jobs), 0, False
        while waiting:
            ended = [number for number, job in waiting.items() if job.paths.result_pickle.exists()]
            for number in ended:
                _raise_failure(root, step, number)
                if (error := waiting.pop(number).exception()) is not None:
                    raise _lost(step, number, jobs[number], f"failed ({str(error).strip().splitlines()[-1]})")
                when_done(number)
            if ended or not waiting:
                missed = False
                continue
            time.sleep(_POLL_SECONDS)
            num_polls += 1
            if num_polls % _QUEUE_EVERY_POLLS == 0 and not _in_queue(waiting.values()):
                # Asked twice, because the last result may be on its way over a network file system.
                if missed:
                    number, job = next(iter(waiting.items()))
                    raise _lost(step, number, job, "ended without a result")
                missed = True


def run_and_tell(call: RunTask, root: str, step: str, number: int) -> None:
    """Do a task in a job; an error that a user can mend is written down instead of raised."""
    try:
        call(root, step, number)
    except OpenwrightError as error:
        words = {"found": error.found, "expected": error.expected, "where": error.where, "next": error.next_command}
        _tell(Path(root), step, number, words)
    except OSError as error:
        told: dict[str, Json] = {
            "errno": error.errno,
            "strerror": error.strerror,
            "filename": str(error.filename or ""),
        }
        _tell(Path(root), step, number, told)


def _tell(root: Path, step: str, number: int, told: Json) -> None:
    path = _failures(root) / f"{step}-{number:05d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(told), encoding="utf-8")
    os.replace(partial, path)


def _failures(root: Path) -> Path:
    return root / SCRATCH / "failed"


def _raise_failure(root: Path, step: str, number: int) -> None:
    path = _failures(root) / f"{step}-{number:05d}.json"
    if not path.exists():
        return
    told = json.loads(path.read_text(encoding="utf-8"))
    if "errno" in told:
        raise OSError(told["errno"], told["strerror"], told["filename"])
    raise DataError(told["found"], expected=told["expected"], where=told["where"], next_command=told["next"])


def _lost(step: str, number: int, job: Any, what: str) -> DataError:
    return DataError(
        f"job {job.job_id}, task {number} of the step {step!r}, {what}",
        expected="every job to end by itself; enough memory and time for it",
        where=str(job.paths.stdout),
        next_command="read that file, correct execution.slurm and run the same command again; what is done is kept",
    )


def _array_ids(jobs: Any) -> list[str]:
    return sorted({str(job.job_id).split("_")[0] for job in jobs})


def _in_queue(jobs: Any) -> bool:
    asked = ["squeue", "--noheader", "--format=%i", "--jobs", ",".join(_array_ids(jobs))]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())
