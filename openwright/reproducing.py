"""`openwright reproduce`: say what is going to run, ask, run it, and report."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openwright.consent import ask
from openwright.located import Located
from provenance.canonical import Json
from provenance.errors import ConfigError

if TYPE_CHECKING:
    from release.interpreters import Interpreter
    from release.isolated import IsolatedEnvironment


@dataclass(frozen=True)
class ReproduceOptions:
    """What the command line asked for; None for what was not given.

    Attributes:
        steps: first and last step to replay.
        full: make everything again in place of replaying steps.
        isolated: run in a fresh virtual environment from the bundle's locks.
        work: directory that is kept, for a rebuild and for a virtual environment.
        data: directory of local data sets, for a rebuild.
        index_url: package index, for a rebuild.
        debian_archive: Debian archive, for a rebuild.
        yes: run the bundle's code without asking.
    """

    steps: tuple[int, int] | None = None
    segments: int | None = None
    seed: int | None = None
    num_processes: int | None = None
    stage: str | None = None
    full: bool = False
    isolated: bool = False
    work: Path | None = None
    data: Path | None = None
    index_url: str | None = None
    debian_archive: str | None = None
    yes: bool = False

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ConfigError: naming them.
        """
        draw = {"--segments": self.segments, "--seed": self.seed}
        replay = {"--step": self.steps, "--stage": self.stage, **draw}
        rebuild = {"--data": self.data, "--index-url": self.index_url, "--debian-archive": self.debian_archive}
        wrong = [name for name, value in (replay if self.full else rebuild).items() if value is not None]
        if wrong:
            found = f"{wrong[0]} {'beside' if self.full else 'without'} --full"
            raise ConfigError(found, expected="steps to replay, or --full for everything", where="command line")
        if self.steps is not None and any(value is not None for value in draw.values()):
            raise ConfigError("--step beside --segments or --seed", expected="one of them", where="command line")
        if self.work is not None and not (self.full or self.isolated):
            raise ConfigError("--work without --full or --isolated", expected="one of them", where="command line")


@dataclass(frozen=True)
class Report:
    """What `reproduce` found.

    Attributes:
        results: check results.
        fields: what `--json` prints besides them.
        lines: what people read after them.
    """

    results: list[Any]
    fields: dict[str, Json]
    lines: list[str]


def reproduce_bundle(bundle: Located, options: ReproduceOptions) -> Report:
    """Replay or rebuild what was asked for, once the user agreed to run the bundle's code.

    Raises:
        ConfigError: for options that do not go together, and where the code may not run.
    """
    options.check()
    with _work_directory(options.work) as work:
        return _rebuild(bundle, options, work) if options.full else _replay(bundle, options, work)


@contextmanager
def _work_directory(kept: Path | None) -> Iterator[Path]:
    """The directory that was named, or one that is removed afterwards."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="openwright-reproduce-") as scratch:
        yield Path(scratch)


def _environment(bundle: Path, options: ReproduceOptions, work: Path) -> "IsolatedEnvironment | None":
    from release.isolated import plan_environment

    return plan_environment(bundle / "model" / "code", work / "venv") if options.isolated else None


def _ready(bundle: Path, environment: "IsolatedEnvironment | None") -> "tuple[Interpreter, list[Any]]":
    """The Python to run with, and the check of its libraries where it was made for this."""
    from release.interpreters import THIS_PYTHON
    from release.isolated import check_environment, make_environment

    if environment is None:
        return THIS_PYTHON, []
    interpreter = make_environment(environment)
    return interpreter, [check_environment(bundle, interpreter)]


def _replay(located: Located, options: ReproduceOptions, work: Path) -> Report:
    from openwright.needs import fetch_for_average, fetch_for_planning, fetch_for_replay
    from release.average_check import check_average, has_average
    from release.execution import execution_of
    from release.interpreters import THIS_PYTHON
    from release.replay_report import replay_report
    from release.reproduce import plan_replays, run_replays

    fetch_for_planning(located)
    bundle = located.path
    plan = plan_replays(
        bundle,
        steps=options.steps,
        segments=options.segments or 1,
        seed=options.seed,
        num_processes=options.num_processes,
        stage=options.stage,
    )
    environment = _environment(bundle, options, work)
    planned = environment.interpreter if environment else THIS_PYTHON
    execution = execution_of(bundle, planned, [f"replay of {line}" for line in plan.lines()], network="")
    ask(execution.lines(), yes=options.yes)
    fetch_for_replay(located, plan)
    interpreter, checks = _ready(bundle, environment)
    results = run_replays(plan, interpreter)
    if has_average(bundle):
        fetch_for_average(located)
        checks.append(check_average(bundle, "replay"))
    sampling, lines = _sampling(plan.choice)
    divergences = [result.divergence for result in results if result.divergence is not None]
    fields = {
        "execution": execution.as_json(),
        "sampling": sampling,
        "replay": replay_report(bundle, results),
        "divergences": [divergence.as_json() for divergence in divergences],
    }
    fields["tolerance"] = [result.judgement.as_json() for result in results if result.judgement is not None]
    tables = [line for found in divergences for line in found.lines()]
    return Report([*checks, *results], fields, [*tables, *lines])


def _rebuild(located: Located, options: ReproduceOptions, work: Path) -> Report:
    from openwright.needs import fetch_everything
    from release.execution import execution_of
    from release.interpreters import THIS_PYTHON
    from release.rebuild import run_rebuild
    from release.rebuild_plan import RebuildOptions, plan_rebuild
    from release.rebuild_report import rebuild_report

    fetch_everything(located)
    bundle = located.path
    wanted = RebuildOptions(options.num_processes, options.data, options.index_url, options.debian_archive)
    plan = plan_rebuild(bundle, work, wanted)
    environment = _environment(bundle, options, work)
    planned = environment.interpreter if environment else THIS_PYTHON
    index = options.index_url or "the package index that its corpus.yaml names, else the default one"
    archive = f" and {options.debian_archive}" if options.debian_archive else ""
    execution = execution_of(bundle, planned, plan.lines(), network=f"sources are fetched from {index}{archive}")
    checks: list[Any] = []
    if plan.obstacles:
        found = run_rebuild(plan, planned)  # says what is in the way, and runs nothing
    else:
        ask(execution.lines(), yes=options.yes)
        interpreter, checks = _ready(bundle, environment)
        found = run_rebuild(plan, interpreter)
    signable = rebuild_report(plan, found, isolated=options.isolated, local_data=options.data is not None)
    fields = {"execution": execution.as_json(), "rebuild": found.as_json(), "rebuild_report": signable}
    return Report([*checks, *found.results], fields, [line for stage in found.stages for line in stage.lines()])


def _sampling(choice: Any) -> tuple[Json, list[str]]:
    """The draw of segments for `--json` and for people; nothing where steps were given."""
    from release.miss_chance import miss_chances, miss_lines

    if choice.seed is None:
        return None, []
    drawn, total = choice.num_segments, choice.num_segments_in_all
    cases = [
        {"forged": case.told, "num_forged_segments": case.num_forged, "chance_missed": float(case.chance)}
        for case in miss_chances(total, drawn)
    ]
    fields = {"seed": choice.seed, "how": choice.how, "num_drawn": drawn, "num_segments": total, "missed": cases}
    return fields, [f"seed {choice.seed} ({choice.how})", *miss_lines(total, drawn)]
