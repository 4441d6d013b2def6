"""Several training loops in one process, one block of steps at a time in turn, so that noise falls on all alike.

Each loop runs in a thread of its own, and only the one whose turn it is goes on: no two ever compute at once.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

Loop = Callable[[Callable[[], None]], None]
"""A loop that calls what it is given after every step."""


class _OtherFailed(Exception):
    """Ends the loops that wait when one has failed."""


@dataclass
class _Runner:
    name: str
    steps: int = 0
    began: float = 0.0
    block_seconds: list[float] = field(default_factory=list)


class TakingTurns:
    """Runs loops in turn and measures each block.

    Args:
        loops: by name, in the order of their turns. All have the same number of steps.
        warm_up_steps: steps of a first block that is not measured.
        block_steps: steps of each block after it.
        deterministic: names of the loops that run with torch's deterministic algorithms, as our worker does.
        processor_time: measure the seconds that this process computed, in all its threads, instead of the clock's.
    """

    def __init__(
        self,
        loops: Mapping[str, Loop],
        *,
        warm_up_steps: int,
        block_steps: int,
        deterministic: frozenset[str],
        processor_time: bool = False,
    ) -> None:
        self._loops = dict(loops)
        self._warm_up_steps, self._block_steps = warm_up_steps, block_steps
        self._deterministic = deterministic
        self._now = time.process_time if processor_time else time.perf_counter
        self._turn = list(loops)
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def run(self) -> dict[str, list[float]]:
        """Run all loops to their ends; returns the seconds of each measured block.

        Raises:
            Exception: what a loop raised.
        """
        runners = {name: _Runner(name) for name in self._loops}
        threads = [threading.Thread(target=self._run_one, args=(runner,)) for runner in runners.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        return {name: runner.block_seconds for name, runner in runners.items()}

    def _run_one(self, runner: _Runner) -> None:
        try:
            self._wait_for_turn(runner)
            self._loops[runner.name](lambda: self._after_step(runner))
        except _OtherFailed:
            return
        except BaseException as error:  # it is raised again by `run`, in the main thread
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
            return
        with self._changed:
            self._turn.remove(runner.name)
            self._changed.notify_all()

    def _after_step(self, runner: _Runner) -> None:
        runner.steps += 1
        measured = runner.steps - self._warm_up_steps
        if measured < 0 or measured % self._block_steps:
            return
        _finish_device_work()
        if measured:
            runner.block_seconds.append(self._now() - runner.began)
        with self._changed:
            self._turn.append(self._turn.pop(0))
            self._changed.notify_all()
        self._wait_for_turn(runner)

    def _wait_for_turn(self, runner: _Runner) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._turn[0] == runner.name)
        if self._error is not None:
            raise _OtherFailed
        _choose_algorithms(deterministic=runner.name in self._deterministic)
        runner.began = self._now()


def _choose_algorithms(*, deterministic: bool) -> None:
    """Those that our worker asks for, or torch's own choice, among them GPU kernels that are not deterministic."""
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = not deterministic
    torch.backends.cuda.enable_mem_efficient_sdp(not deterministic)
    torch.backends.cuda.enable_cudnn_sdp(not deterministic)


def _finish_device_work() -> None:
    """GPUs work behind the program's back."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
