"""Run lm-eval over several models at the same time, one process each, the same way whatever their number.

Each process has fixed threads, private caches in a temporary directory that is removed afterwards, and no network:
the libraries are told to stay offline and every file is local.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from eval.tasks import Task
from provenance.canonical import Json, read_json, write_json
from provenance.console import progress
from provenance.errors import EvaluationError
from provenance.fingerprint import project_root

PROGRESS_MARK = "openwright-task-done "
"""Start of the line of a worker's log that says that a task is done."""

ATTENTION = "sdpa"
_LOG_LINES = 15
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ModelJob:
    """A model to evaluate.

    Attributes:
        name: its name in the table.
        checkpoint: directory that `from_pretrained` loads.
        tasks: tasks to run, in order.
    """

    name: str
    checkpoint: Path
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class HarnessSettings:
    """What is the same for every model; see EvalConfig."""

    seed: int
    context_tokens: int
    batch_size: int
    dtype: str
    num_threads: int


def run_harness(
    jobs: Sequence[ModelJob], settings: HarnessSettings, tasks_dir: Path, num_processes: int
) -> dict[str, Json]:
    """Evaluate models, at most `num_processes` at a time.

    Returns:
        What `eval.worker` wrote for each model, with `seconds` added.

    Raises:
        EvaluationError: when a process fails, with the last lines of its log.
    """
    total = sum(len(job.tasks) for job in jobs)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="openwright-eval-")))
        bar = stack.enter_context(progress("evaluating", total, "tasks"))
        waiting = [_Process(job, settings, tasks_dir, scratch / str(n)) for n, job in enumerate(jobs)]
        running: list[_Process] = []
        outputs: dict[str, Json] = {}
        stack.callback(_stop_all, running)
        while waiting or running:
            while waiting and len(running) < num_processes:
                waiting[0].start()
                running.append(waiting.pop(0))
            time.sleep(_POLL_SECONDS)
            for process in list(running):
                ended = process.ended()
                for name in process.newly_done():
                    bar.advance(note=f"{process.job.name}: {name}")
                if ended:
                    outputs[process.job.name] = process.output()
                    running.remove(process)
        return {job.name: outputs[job.name] for job in jobs}


class _Process:
    """A worker process and its private directory."""

    def __init__(self, job: ModelJob, settings: HarnessSettings, tasks_dir: Path, scratch: Path) -> None:
        self.job = job
        self._settings = settings
        self._tasks_dir = tasks_dir.resolve()
        self._scratch = scratch
        self._log_path = scratch / "log.txt"
        self._num_done = 0
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write the job and start the process."""
        self._scratch.mkdir()
        job = {
            "checkpoint": str(self.job.checkpoint.resolve()),
            "tasks": [{"name": task.name, "chat": task.chat} for task in self.job.tasks],
            "attention": ATTENTION,
            **vars(self._settings),
        }
        write_json(self._scratch / "job.json", job)
        self._started = time.monotonic()
        with self._log_path.open("wb") as log:
            self._child = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "provenance.program", "eval.worker"),
                    *(str(self._scratch / "job.json"), str(self._scratch / "output.json")),
                ],
                cwd=self._tasks_dir,
                env={**os.environ, **worker_variables(self._scratch, self._settings.num_threads)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ended(self) -> bool:
        """Whether the process has ended."""
        assert self._child is not None
        return self._child.poll() is not None

    def newly_done(self) -> list[str]:
        """Names of the tasks that were finished since the last call."""
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        done = [line.removeprefix(PROGRESS_MARK) for line in lines if line.startswith(PROGRESS_MARK)]
        fresh = done[self._num_done :]
        self._num_done = len(done)
        return fresh

    def output(self) -> Json:
        """What the ended process wrote.

        Raises:
            EvaluationError: when it failed.
        """
        assert self._child is not None
        if self._child.returncode != 0:
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            shown = "\n".join(f"    {line}" for line in lines[-_LOG_LINES:])
            raise EvaluationError(
                f"lm-eval ended with exit code {self._child.returncode}; the last lines of its log:\n{shown}",
                expected="exit code 0",
                where=f"model {self.job.name}, {self.job.checkpoint}",
            )
        return read_json(self._scratch / "output.json") | {"seconds": time.monotonic() - self._started}

    def stop(self) -> None:
        """End the process at once if it still runs."""
        assert self._child is not None
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()


def _stop_all(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.stop()


def worker_variables(scratch: Path, num_threads: int) -> Mapping[str, str]:
    """Variables of the libraries in a worker: threads, private caches, no network."""
    threads = str(num_threads)
    caches = {name: str(scratch / name.lower()) for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")}
    return {
        **caches,
        "HF_HUB_CACHE": str(scratch / "hub"),
        "HF_MODULES_CACHE": str(scratch / "modules"),
        "LM_HARNESS_CACHE_PATH": str(scratch / "lm_eval"),
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "MKL_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(project_root()),
        "TMPDIR": str(scratch),
        "TOKENIZERS_PARALLELISM": "false",
    }
