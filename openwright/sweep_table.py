"""The table of a sweep: a line per seed, and mean, standard deviation and range of what the finished seeds reached."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openwright.report import table_lines

FINISHED, FAILED, NOT_RUN = "finished", "failed", "not run"


@dataclass(frozen=True)
class SeedStage:
    """One stage of one seed.

    Attributes:
        seed: None for a stage that all seeds share.
        state: `finished`; as Slurm says, such as `pending` or `running`; `failed` for a task that left the queue
            without a result, and `not run` for those after it; else `unfinished` or `not begun`.
        path: the artifact, or the directory of the unfinished run.
        commit: the commit that made the artifact.
        step: last step of an unfinished run, of `num_steps`.
        log: log of its job; None where it was not submitted to Slurm.
        measures: what it reached, by name.
    """

    seed: int | None
    stage: str
    state: str
    path: str | None = None
    content_digest: str | None = None
    commit: str | None = None
    step: int | None = None
    num_steps: int | None = None
    log: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


def over_seeds(rows: Iterable[SeedStage]) -> list[dict[str, Any]]:
    """Mean, sample standard deviation and range over the finished seeds, by measure."""
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        for name, value in row.measures.items():
            values.setdefault(name, {})[str(row.seed)] = value
    return [
        {
            "measure": name,
            "num_seeds": len(found),
            "mean": statistics.fmean(found.values()),
            "standard_deviation": statistics.stdev(found.values()) if len(found) > 1 else None,
            "min": min(found.values()),
            "max": max(found.values()),
            "values": found,
        }
        for name, found in values.items()
    ]


def sweep_lines(sweep: Mapping[str, Any]) -> list[str]:
    """A sweep for people: a line per seed, then a line per measure."""
    lines = [f"{row['stage']}, shared by all seeds: {_cell(row)}" for row in sweep["shared"]]
    by_seed: dict[int, list[str]] = {}
    for row in sweep["tasks"]:
        by_seed.setdefault(row["seed"], []).append(_cell(row))
    lines += ["", *table_lines(("seed", *sweep["stages"]), [[str(seed), *cells] for seed, cells in by_seed.items()])]
    header = ("over the finished seeds", "seeds", "mean", "standard deviation", "lowest", "highest")
    cells = [
        [
            measure["measure"],
            str(measure["num_seeds"]),
            f"{measure['mean']:.4f}",
            "-" if measure["standard_deviation"] is None else f"{measure['standard_deviation']:.4f}",
            f"{measure['min']:.4f}",
            f"{measure['max']:.4f}",
        ]
        for measure in sweep["measures"]
    ]
    lines += ["", *table_lines(header, cells)] if cells else []
    failed = [row for row in sweep["tasks"] if row["state"] == FAILED]
    lines += ["", *(f"seed {row['seed']}: {row['stage']} failed; log {row['log']}" for row in failed)] if failed else []
    if sweep["slurm"] == "does not answer":
        lines.append("squeue does not answer on this machine: what waits is not told from what failed")
    if len(sweep["commits"]) > 1:
        lines.append(f"made at {len(sweep['commits'])} commits: {', '.join(each[:12] for each in sweep['commits'])}")
    return lines


def _cell(row: Mapping[str, Any]) -> str:
    bits = row["measures"].get(f"{row['stage']} held-out bits per byte")
    if bits is not None:
        return f"{bits:.4f} bits per byte"
    if row["step"] is not None:
        return f"{row['state']}, step {row['step']:,} of {row['num_steps']:,}"
    return str(row["state"])
