"""`openwright reproduce`: say what is going to run, ask, run it, and report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwright.consent import ask
from provenance.canonical import Json
from provenance.errors import ConfigError


@dataclass(frozen=True)
class ReproduceOptions:
    """What the command line asked for; None or empty for what was not given.

    Attributes:
        steps: first and last step to replay.
        yes: run the bundle's code without asking.
    """

    steps: tuple[int, int] | None = None
    segments: int | None = None
    seed: int | None = None
    num_processes: int | None = None
    stage: str | None = None
    yes: bool = False


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


def reproduce_bundle(bundle: Path, options: ReproduceOptions) -> Report:
    """Replay what was asked for, once the user agreed to run the bundle's code.

    Raises:
        ConfigError: for options that do not go together, and where the code may not run.
    """
    if options.steps is not None and (options.segments is not None or options.seed is not None):
        raise ConfigError("--step beside --segments or --seed", expected="one of them", where="command line")
    return _replay(bundle, options)


def _replay(bundle: Path, options: ReproduceOptions) -> Report:
    from release.execution import execution_of
    from release.interpreters import THIS_PYTHON
    from release.replay_report import replay_report
    from release.reproduce import plan_replays, run_replays

    plan = plan_replays(
        bundle,
        steps=options.steps,
        segments=options.segments or 1,
        seed=options.seed,
        num_processes=options.num_processes,
        stage=options.stage,
    )
    execution = execution_of(bundle, THIS_PYTHON, [f"replay of {line}" for line in plan.lines()], network="")
    ask(execution.lines(), yes=options.yes)
    results = run_replays(plan)
    sampling, lines = _sampling(plan.choice)
    fields = {"execution": execution.as_json(), "sampling": sampling, "replay": replay_report(bundle, results)}
    divergences = [result.divergence for result in results if result.divergence is not None]
    fields["divergences"] = [divergence.as_json() for divergence in divergences]
    return Report(list(results), fields, [*(line for found in divergences for line in found.lines()), *lines])


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
