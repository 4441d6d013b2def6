"""A corpus build on disk: steps of tasks with a barrier after each, whoever does them, however often it is killed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_recipes.executors import Executor, RunTask
from data_recipes.settings import CorpusConfig
from data_recipes.tasks import SCRATCH, Outputs, Task, TaskRecord, is_whole, read_record, write_record
from provenance.canonical import Json, read_json, write_json
from provenance.config import recipe_of
from provenance.console import progress
from provenance.digests import tagged_digest
from provenance.errors import DataError
from provenance.fingerprint import library_versions, sources_digest


@dataclass(frozen=True)
class Build:
    """What every task knows.

    Attributes:
        root: the build's directory; outputs lie at their final places in it, the rest under `scratch/`.
    """

    root: Path
    config: CorpusConfig


StepFunction = Callable[[Build, Json, Outputs], Json]
"""Does one task: writes files through `Outputs` and returns its report. The same value gives the same bytes."""


def build_key(config: CorpusConfig, packages: Iterable[str], libraries: Iterable[str]) -> str:
    """Digest `build/1` of recipe, code and library versions: whatever one build shares with no other."""
    value = {
        "recipe": recipe_of(config),
        "sources": sources_digest(packages),
        "libraries": library_versions(libraries),
    }
    return tagged_digest("build/1", value)


class Builder:
    """Runs the steps of one build in one directory.

    Args:
        root: the build's directory, which may hold what a killed build left.
        key: `build_key`.
        run_task: what an executor calls; `run_stored_task` with the table of all steps.
    """

    def __init__(self, root: Path, config: CorpusConfig, key: str, executor: Executor, run_task: RunTask) -> None:
        self._root, self._key, self._executor, self._run_task = root, key, executor, run_task
        self._written: set[str] = set()
        write_json(root / SCRATCH / "build.json", {"config": config.model_dump_json(exclude_unset=True)})
        (root / SCRATCH / "done").mkdir(exist_ok=True)

    def run(
        self, step: str, values: Sequence[Json], after: Sequence[TaskRecord] = (), sizes_bytes: Sequence[int] = ()
    ) -> list[TaskRecord]:
        """Run a task for each value and return their records, in order; what is done under the same keys is kept.

        Args:
            after: records of the tasks whose outputs these tasks read.
            sizes_bytes: about how much work each task is.
        """
        before = tagged_digest("records/1", [record.digest for record in after])
        tasks = []
        for number, value in enumerate(values):
            key = tagged_digest("task/1", {"build": self._key, "step": step, "value": value, "after": before})
            tasks.append(Task(step, number, value, key, sizes_bytes[number] if sizes_bytes else 0))
        stored = [{"value": task.value, "key": task.key} for task in tasks]
        write_json(self._root / SCRATCH / f"{step}.json", {"tasks": stored})
        waiting = [task for task in tasks if not self._is_done(task)]
        largest_first = sorted(waiting, key=lambda task: (-task.size_bytes, task.number))
        with progress(step, len(tasks), "tasks") as bar:
            if len(waiting) < len(tasks):
                bar.advance(len(tasks) - len(waiting), note="kept from an earlier run")
            numbers = [task.number for task in largest_first]
            self._executor.run(self._run_task, self._root, step, numbers, lambda _: bar.advance())
        return [self._record(task) for task in tasks]

    def sweep(self, own: Iterable[Path]) -> None:
        """Remove files that no task of this build wrote, such as halves of an interrupted one.

        Args:
            own: files that the caller wrote and keeps.
        """
        kept = self._written.union(path.relative_to(self._root).as_posix() for path in own)
        for path in sorted(self._root.rglob("*"), reverse=True):
            relative = path.relative_to(self._root)
            if relative.parts[0] == SCRATCH:
                continue
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif relative.as_posix() not in kept:
                path.unlink()

    def _is_done(self, task: Task) -> bool:
        record = read_record(self._root, task)
        return record is not None and is_whole(self._root, record)

    def _record(self, task: Task) -> TaskRecord:
        record = read_record(self._root, task)
        if record is None:
            raise DataError(
                f"task {task.number} of the step {task.step!r} ended without a record",
                expected="every task to record what it wrote",
                where=str(self._root),
                next_command="run the same command again; what is done is kept",
            )
        self._written.update(entry.path for entry in record.files)
        return record


def run_stored_task(steps: dict[str, StepFunction], root: Path, step: str, number: int) -> None:
    """Do one task as it is described on disk; runs in whatever process an executor chose."""
    build = Build(root, CorpusConfig.model_validate_json(read_json(root / SCRATCH / "build.json")["config"]))
    stored = read_json(root / SCRATCH / f"{step}.json")["tasks"][number]
    task = Task(step, number, stored["value"], stored["key"])
    outputs = Outputs(root)
    report = steps[step](build, task.value, outputs)
    write_record(root, task, outputs, report)
