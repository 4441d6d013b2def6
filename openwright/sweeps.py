"""A sweep read from disk: which seeds are finished, which failed or wait, and what the finished ones reached.

What belongs to a seed is told by its recipe, that of the config with the seed, and by its parents, which belong to the
same seed. Slurm is asked only where tasks of the sweep were submitted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from openwright.configs import RELEASE, TRAINING_STAGES, StageConfigs, load_directory
from openwright.pipeline import run_directory, stages_until
from openwright.seeds import SeedOptions, Sweep
from openwright.slurm import job_name
from openwright.status import WORK_PREFIX, RunReader
from openwright.sweep_jobs import Task, queue_states, submitted_tasks
from openwright.sweep_table import FAILED, FINISHED, NOT_RUN, SeedStage, over_seeds
from provenance.artifacts import MANIFEST_NAME
from provenance.canonical import Json, read_json
from provenance.config import recipe_of
from provenance.console import fact
from provenance.errors import BundleError
from train.identity import IDENTITY_NAME
from train.run_order import settle_phases
from train.settings import RunConfig


def run_sweep(
    config_dir: Path, overrides: Sequence[str], store: Path, until: str, seeds: SeedOptions, **how: Any
) -> None:
    """Run a config directory with one seed after the other.

    Args:
        overrides, store, until: as `run_directory`.
        how: its other arguments.
    """
    configs = load_directory(config_dir, overrides)
    sweep = seeds.sweep(configs.order, stages_until(configs, until))
    for number, seed in enumerate(sweep.seeds, start=1):
        fact(f"seed {seed}, {number} of {len(sweep.seeds)}")
        run_directory(config_dir, [*overrides, *sweep.overrides(seed)], store, until=until, seed=seed, **how)


def read_sweep(
    config_dir: Path, overrides: Sequence[str], store: Path, until: str, seeds: SeedOptions
) -> dict[str, Any]:
    """Where a sweep stands and what it reached, in the form that `--json` prints.

    Args:
        config_dir, overrides, until, seeds: as they were given to `run` or `launch`.
        store: directory of all artifacts.
    """
    configs = load_directory(config_dir, overrides)
    stages = stages_until(configs, until)
    sweep = seeds.sweep(configs.order, stages)
    directory = store / configs.name
    tasks = submitted_tasks(directory / "slurm", sweep, configs.overrides)
    # Before the files are looked at: a task that ends in between is then found finished, not missing.
    queue = queue_states(job_name(configs.name, stage) for stage in stages) if tasks else {}
    reader = _SweepReader(configs, sweep, directory, tasks, queue)
    shared, of_seeds = sweep.split(stages)
    common = reader.chain(None, shared, ())
    rows = [row for seed in sweep.seeds for row in reader.chain(seed, of_seeds, common)]
    return {
        "name": configs.name,
        "seeds": list(sweep.seeds),
        "seed_of": list(sweep.stages),
        "stages": list(of_seeds),
        "overrides": list(configs.overrides),
        "shared": [asdict(row) for row in common],
        "tasks": [asdict(row) for row in rows],
        "measures": over_seeds(rows),
        "commits": sorted({row.commit for row in (*common, *rows) if row.commit}),
        "slurm": ("answers" if queue is not None else "does not answer") if tasks else "not used",
    }


class _SweepReader:
    """Looks up the stages of a sweep; what was made is indexed once.

    Args:
        directory: the release's directory of artifacts.
        tasks: what was submitted to Slurm, by stage and seed.
        queue: state by job and task; None where Slurm does not answer.
    """

    def __init__(
        self,
        configs: StageConfigs,
        sweep: Sweep,
        directory: Path,
        tasks: Mapping[tuple[str, int], Task],
        queue: Mapping[tuple[str, int | None], str] | None,
    ) -> None:
        self._configs, self._sweep, self._tasks, self._queue = configs, sweep, tasks, queue
        stages = (*configs.order, RELEASE)
        self._made = {stage: _records((directory / stage).glob(f"[!.]*/{MANIFEST_NAME}")) for stage in stages}
        begun = f"{WORK_PREFIX}*/{IDENTITY_NAME}"
        self._begun = {stage: _records((directory / stage).glob(begun)) for stage in TRAINING_STAGES}

    def chain(self, seed: int | None, stages: Sequence[str], before: Sequence[SeedStage]) -> list[SeedStage]:
        """One seed's stages in order.

        Args:
            seed: None for the stages that all seeds share.
            before: the stages before them.
        """
        rows = list(before)
        for stage in stages:
            recipe = None if stage == RELEASE else self._recipe(stage, seed, rows)
            task = self._tasks.get((stage, self._sweep.seeds[0] if seed is None else seed))
            made = self._find_made(stage, recipe, rows)
            row = _finished(seed, stage, *made) if made else self._unmade(seed, stage, recipe, rows, task)
            rows.append(replace(row, log=task.log.as_posix() if task else None))
        return rows[len(before) :]

    def _find_made(self, stage: str, recipe: Json, rows: Sequence[SeedStage]) -> tuple[Path, Json] | None:
        contents = {row.content_digest for row in rows}
        for path, manifest in self._made[stage]:
            parents = {parent["content_digest"] for parent in manifest["parents"]}
            # A bundle's recipe holds digests of files; that it descends from all stages of the seed identifies it.
            same = parents == contents if stage == RELEASE else manifest["recipe"] == recipe and parents <= contents
            if same:
                return path, manifest
        return None

    def _recipe(self, stage: str, seed: int | None, rows: Sequence[SeedStage]) -> Json:
        config = self._configs.models[stage]
        if isinstance(config, RunConfig) and rows and rows[0].path is not None:
            config = settle_phases(config, Path(rows[0].path))
        recipe = recipe_of(config)
        return {**recipe, "seed": seed} if stage in self._sweep.stages and seed is not None else recipe

    def _unmade(
        self, seed: int | None, stage: str, recipe: Json, rows: Sequence[SeedStage], task: Task | None
    ) -> SeedStage:
        row = SeedStage(seed, stage, "not begun")
        contents = {each.content_digest for each in rows}
        for path, identity in self._begun.get(stage, ()):
            if identity["recipe"] == recipe and contents.issuperset(identity["parents"].values()):
                run = RunReader(path).read() if (path / "ledger.jsonl").is_file() else None
                row = replace(row, state="unfinished", path=path.as_posix())
                row = replace(row, step=run.step, num_steps=run.num_steps) if run else row
                break
        if task is None or self._queue is None:
            return row
        waiting = self._queue.get((task.job_id, task.seed))
        is_stopped = any(each.state in (FAILED, NOT_RUN) for each in rows)
        return replace(row, state=waiting or (NOT_RUN if is_stopped else FAILED))


def _records(paths: Iterable[Path]) -> list[tuple[Path, Json]]:
    """Directories with what a JSON file in them holds, the newest first."""
    found = []
    for path in paths:
        try:
            found.append((path.stat().st_mtime, path.parent, read_json(path)))
        except (FileNotFoundError, BundleError):
            if path.exists():
                raise  # else a run has finished meanwhile and was given its name: it is told the next time
    return [(path, values) for _, path, values in sorted(found, key=lambda each: each[:2], reverse=True)]


def _finished(seed: int | None, stage: str, path: Path, manifest: Json) -> SeedStage:
    return SeedStage(
        seed,
        stage,
        FINISHED,
        path.as_posix(),
        str(manifest["content_digest"]),
        str(manifest["code"]["commit"]),
        measures=_measures_of(stage, path),
    )


def _measures_of(stage: str, path: Path) -> dict[str, float]:
    if stage in TRAINING_STAGES:
        last = read_json(path / "run.json")["heldout"]["last"]
        names = {"held-out loss": "loss", "held-out bits per byte": "bits_per_byte"}
        return {f"{stage} {name}": float.fromhex(last[key]) for name, key in names.items()}
    if stage == "eval":
        rows = read_json(path / "results.json")["rows"]
        scored = [(row["model"], row["task"].removeprefix("openwright_"), row["metric"], row["value"]) for row in rows]
        return {f"{model} {task} {metric}": float.fromhex(value) for model, task, metric, value in scored}
    return {}
