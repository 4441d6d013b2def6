"""Tasks of a corpus build on a Ray cluster; the same tasks as everywhere.

What goes to a process of Ray is the name of a function and a few plain words, as JSON text, and what it has to say
comes back as JSON text; everything else lies in the build's directory, which all machines have to see under one path,
like the checkout and its Python. A task whose process is killed is begun anew by Ray, as often as the settings say;
then the build ends, and the same command goes on with what is missing.
"""

import importlib
import importlib.util
import json
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from data_recipes.executors import RunTask
from data_recipes.outcomes import last_line, raise_words, words_of
from data_recipes.ray_settings import RayExecution
from data_recipes.tasks import SCRATCH
from provenance.canonical import Json
from provenance.errors import ConfigError, DataError
from provenance.fingerprint import project_root

_KNOCK_SECONDS = 10.0


class RayTasks:
    """An `Executor` on a Ray cluster.

    Args:
        options: which cluster, and what tasks ask of it.

    Raises:
        ConfigError: where Ray is not installed.
    """

    def __init__(self, options: RayExecution) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "ray is not installed",
                expected="the library of the extra `ray`",
                next_command="make setup-extras, or leave execution.ray out",
            )
        self._options = options

    def __enter__(self) -> Self:
        """Join the cluster.

        Raises:
            ConfigError: where there is none, or no machine of it is large enough for a task.
        """
        import ray  # an extra, and heavy
        from ray.job_config import JobConfig

        address = self._options.address
        job = JobConfig(
            code_search_path=[str(project_root())], runtime_env={"py_executable": shlex.quote(sys.executable)}
        )
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _knock(address)
            ray.init(address, job_config=job, log_to_driver=False, logging_level="warning")
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(
                f"no Ray cluster to be joined at {address} ({last_line(str(error))})",
                expected="one that was started with the Ray and the Python of this command",
                next_command="start it (`ray start --head`), or correct execution.ray.address",
            ) from None
        finally:
            if signal.getsignal(signal.SIGTERM) is not handler:
                signal.signal(signal.SIGTERM, handler)  # Ray puts its own there; a build ends as it always does
        try:
            self._check_size(ray.nodes())
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()

    def run(
        self, call: RunTask, root: Path, step: str, numbers: Sequence[int], when_done: Callable[[int], None]
    ) -> None:
        """See `Executor`.

        Raises:
            DataError: for a process that was killed too often, and for a task that failed by itself; an error of ours
                that a task raised is raised again.
            OSError: for a disk that a task found full.
        """
        import ray

        task = self._remote()
        waiting = list(reversed(numbers))
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._options.max_running:
                    number = waiting.pop()
                    running[task.remote(_message(call, root, step, number))] = number
                (ended,), _ = ray.wait(list(running), num_returns=1)
                number = running.pop(ended)
                self._hear(ended, root, step, number)
                when_done(number)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _remote(self) -> Any:
        import ray

        options = self._options
        asked: dict[str, Json] = {"num_cpus": options.cpus_per_task, "max_retries": options.max_retries}
        if options.memory_gb is not None:
            asked["memory"] = options.memory_gb * 2**30
        return ray.remote(**asked)(do_task)

    def _hear(self, ended: Any, root: Path, step: str, number: int) -> None:
        import ray

        try:
            words = json.loads(ray.get(ended))
        except ray.exceptions.RayError as error:
            raise DataError(
                f"Ray lost task {number} of the step {step!r} ({type(error).__name__}: {_first_line(str(error))})",
                expected="processes and machines that live; enough memory for a task",
                next_command="correct execution.ray and run the same command again; what is done is kept",
            ) from None
        hear(words, root, step, number)

    def _check_size(self, nodes: Sequence[dict[str, Json]]) -> None:
        """A task that fits on no machine would wait for ever."""
        cpus, memory_gb = self._options.cpus_per_task, self._options.memory_gb or 0
        offered = [node["Resources"] for node in nodes if node["Alive"]]
        if not any(has.get("CPU", 0) >= cpus and has.get("memory", 0) >= memory_gb * 2**30 for has in offered):
            raise ConfigError(
                f"no machine of the Ray cluster offers {cpus} CPUs and {memory_gb} GB of memory",
                expected="a machine on which a task can run",
                where="execution.ray",
                next_command="ask for less, or start a larger machine first",
            )


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would ask again for many minutes."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def do_task(message: str) -> str:
    """Do a task in a process of Ray and say how it ended: an empty object, or the words of an error."""
    asked = json.loads(message)
    module, name = asked["call"]
    try:
        if asked["checkout"] != str(project_root()):
            raise DataError(
                f"a process of Ray runs the code of {project_root()}",
                expected=asked["checkout"],
                next_command="let every machine see the checkout and its .venv under one path",
            )
        getattr(importlib.import_module(module), name)(asked["root"], asked["step"], asked["number"])
    except Exception as error:
        return json.dumps({**words_of(error), "trace": traceback.format_exc()})
    return json.dumps({})


def hear(words: dict[str, Json], root: Path, step: str, number: int) -> None:
    """Raise what `do_task` told of a task, unless it is done; a fault of ours is named with its log."""
    raise_words(words)
    if words:
        log = root / SCRATCH / "ray" / f"{step}-{number:05d}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(words["trace"], encoding="utf-8")
        raise DataError(
            f"task {number} of the step {step!r} failed ({words['failed']})",
            expected="every task to end by itself",
            where=str(log),
            next_command="read that file and run the same command again; what is done is kept",
        )


def _message(call: RunTask, root: Path, step: str, number: int) -> str:
    names = [call.__module__, call.__qualname__]
    asked = {"call": names, "checkout": str(project_root()), "root": str(root), "step": step, "number": number}
    return json.dumps(asked)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
