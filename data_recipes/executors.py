"""Where the tasks of a corpus build run: in a pool of processes on this machine.

`data_recipes.slurm_arrays` and `data_recipes.ray_tasks` are the others.
"""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from provenance.errors import DataError
from provenance.lifetime import die_with_parent

RunTask = Callable[[str, str, int], None]
"""Runs one task, given the build's directory, the step and the task's number; everything else is on disk."""


class Executor(Protocol):
    """Runs tasks that do not depend on one another, wherever and in whatever order."""

    def run(
        self, call: RunTask, root: Path, step: str, numbers: Sequence[int], when_done: Callable[[int], None]
    ) -> None:
        """Run tasks and return when all are done; raises what a task raised.

        Args:
            numbers: numbers of the tasks, those to begin with first.
            when_done: told the number of each task that has ended.
        """
        ...


class LocalPool:
    """A pool of processes on this machine; with one worker, this process itself."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self, call: RunTask, root: Path, step: str, numbers: Sequence[int], when_done: Callable[[int], None]
    ) -> None:
        """See `Executor`."""
        if self._num_workers == 1 or (len(numbers) == 1 and self._pool is None):
            for number in numbers:
                call(str(root), step, number)
                when_done(number)
            return
        if self._pool is None:
            # spawn: a forked child of a process with threads (arrow, tokenizers) may hang.
            self._pool = ProcessPoolExecutor(
                self._num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_process
            )
        futures = {self._pool.submit(call, str(root), step, number): number for number in numbers}
        try:
            for future in as_completed(futures):
                future.result()
                when_done(futures[future])
        except BrokenProcessPool:
            raise DataError(
                f"a process of the step {step!r} was killed",
                expected="enough memory for all of them",
                next_command="run again with --set corpus.execution.num_workers=1; what is done is kept",
            ) from None
        finally:
            for future in futures:
                future.cancel()


def _begin_process() -> None:
    """A process of the pool ends with the build, and at a Ctrl-C, which reaches all of them, without a word."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
