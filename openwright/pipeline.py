"""Run the stages of a release in order, each once: everything done already is found by its fingerprint."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from openwright.configs import MODEL_STAGES, RELEASE, StageConfigs, load_directory
from openwright.peak_memory import PeakMemory
from provenance.artifacts import MANIFEST_NAME, Artifact, latest_artifact
from provenance.canonical import Json, read_json, write_json
from provenance.config import recipe_of
from provenance.console import fact
from provenance.errors import ReleaseError
from provenance.fingerprint import CodeIdentity, code_identity, require_clean
from provenance.made_model import AVERAGE
from provenance.stage import StageContext
from train.records import differences
from train.settings import RunConfig

LAST_RUN_NAME = "last_run.json"
LAST_RUN_OF_SEED = "last_run-seed-{seed}.json"
LAST_RUN_FORMAT = "openwright-last-run/1"

_MOST_CHARS = 200  # of a value that differs: a branch point lists draws of every source


def run_directory(
    config_dir: Path,
    overrides: Sequence[str] = (),
    store: Path = Path("artifacts"),
    dev: bool = False,
    until: str = "",
    launcher: Path | None = None,
    fresh: bool = False,
    seed: int | None = None,
) -> dict[str, Artifact]:
    """Run a config directory from its sources to its bundle.

    All configs are read and the source tree is checked before any work begins. Seconds by stage and the peak memory
    are written to `<store>/<release>/last_run.json`, which is an observation and part of no artifact; in a sweep to
    `last_run-seed-<seed>.json`, because other seeds may run at the same time.

    Args:
        config_dir: directory with release.yaml and one YAML file per stage.
        overrides: `stage.key=value` texts.
        store: directory of all releases' artifacts.
        dev: allow a dirty source tree; what it makes is never released.
        until: stop after this stage; empty for the whole release.
        launcher: how a cluster's job starts training processes; None on one machine.
        fresh: begin training runs beside unfinished ones that were begun with something else.
        seed: the seed of a sweep that this is; `overrides` hold it already.

    Returns:
        The artifact of each stage that ran, by stage, in order.

    Raises:
        ConfigError: for any config that is wrong.
        CodeError: for a dirty tree without `dev`.
    """
    configs = load_directory(config_dir, overrides)
    code = code_identity()
    require_clean(code, dev=dev)
    context = StageContext(configs.name, store / configs.name, code, dev, launcher, fresh, seed)
    stages = stages_until(configs, until)
    artifacts: dict[str, Artifact] = {}
    records = []
    for stage in stages:
        started = time.time()
        with PeakMemory() as memory:
            artifacts[stage] = run_one(stage, configs, context, artifacts)
            if stage == "corpus":
                _check_phases(configs, artifacts[stage])
        records.append(_stage_record(artifacts[stage], started, memory.peak_bytes))
    name = LAST_RUN_NAME if seed is None else LAST_RUN_OF_SEED.format(seed=seed)
    _write_last_run(context.store / name, records, code)
    return artifacts


def build_from_latest(
    config_dir: Path, overrides: Sequence[str], store: Path, dev: bool, calibrate_steps: int | None = None
) -> dict[str, Artifact]:
    """Build the bundle from the newest finished artifacts as they are; nothing is fetched, trained or evaluated.

    Args:
        config_dir, overrides, store, dev: as `run_directory`.
        calibrate_steps: measure the noise between platforms on stretches of up to so many steps, and put what was found
            into the bundle; None to leave it out.

    Raises:
        ArtifactError: when a stage is not finished.
        ReleaseError: when the newest artifacts do not descend from one another, or were made by another recipe than
            the configs say: the bundle would hold configs that do not lead to it.
    """
    configs = load_directory(config_dir, overrides)
    code = code_identity()
    require_clean(code, dev=dev)
    context = StageContext(configs.name, store / configs.name, code, dev)
    artifacts = {stage: latest_artifact(context.store, stage) for stage in configs.order}
    _check_lineage(artifacts)
    _check_recipes(configs, artifacts)
    tolerances = {} if calibrate_steps is None else _calibrate(configs, context, artifacts, calibrate_steps)
    artifacts[RELEASE] = run_one(RELEASE, configs, context, artifacts, tolerances)
    return artifacts


def _calibrate(
    configs: StageConfigs, context: StageContext, artifacts: Mapping[str, Artifact], max_steps: int
) -> dict[str, Path]:
    from release.calibration import calibrate, tolerances_of

    return tolerances_of(calibrate(configs.order, artifacts, context, max_steps))


def run_one(
    stage: str,
    configs: StageConfigs,
    context: StageContext,
    artifacts: Mapping[str, Artifact],
    tolerances: Mapping[str, Path] = MappingProxyType({}),
) -> Artifact:
    """Run one stage on the artifacts made before it; the stage's package is imported only now.

    Args:
        tolerances: for the release: what `--calibrate` measured, by training stage.
    """
    config = configs.models[stage]
    if stage == "corpus":
        from data_recipes.corpus import build_corpus

        return build_corpus(config, context)
    if stage == "pretrain":
        from train.jobs import pretrain

        return pretrain(config, context, artifacts["corpus"])
    if stage == "sft":
        from train.jobs import finetune

        return finetune(config, context, artifacts["corpus"], artifacts["pretrain"])
    if stage == AVERAGE:
        from train.average import average

        return average(config, context, artifacts)
    if stage == "eval":
        from eval.stage import evaluate

        models = {name: artifacts[name] for name in MODEL_STAGES if name in artifacts}
        return evaluate(config, context, artifacts["corpus"], models)
    assert stage == RELEASE, stage
    from release.bundle import build_release

    return build_release(config, context, artifacts, configs.directory, configs.overrides, tolerances)


def _check_phases(configs: StageConfigs, corpus: Artifact) -> None:
    """Refuse a phase of any training stage that does not fit the corpus, before the first of them begins.

    Raises:
        ConfigError, DataError: as the stage itself would, later.
    """
    from train.run_order import build_order, open_windows, settle_phases

    for config in map(configs.models.__getitem__, configs.order):
        if isinstance(config, RunConfig):
            settled = settle_phases(config, corpus.path)
            if settled.data.order is None or settled.order_source.is_file():  # a stage that has begun has its copy
                build_order(settled, open_windows(settled, corpus.path), settled.order_source)


def stages_until(configs: StageConfigs, until: str) -> tuple[str, ...]:
    """The stages of a release in order, up to `until`; all of them where it is empty.

    Raises:
        ReleaseError: when the release has no such stage.
    """
    stages = (*configs.order, RELEASE)
    if not until:
        return stages
    if until not in stages:
        raise ReleaseError(
            f"this release has no stage {until}",
            expected=f"one of {', '.join(stages)}",
            where=str(configs.directory / f"{RELEASE}.yaml"),
        )
    return stages[: stages.index(until) + 1]


def _check_lineage(artifacts: Mapping[str, Artifact]) -> None:
    contents = {artifact.content_digest for artifact in artifacts.values()}
    for stage, artifact in artifacts.items():
        for parent in artifact.parents:
            if parent.content_digest not in contents:
                raise ReleaseError(
                    f"{stage} was made from another {parent.role} than the newest",
                    expected=f"content {parent.content_digest[:12]}",
                    where=str(artifact.path),
                    next_command="openwright run CONFIG_DIR",
                )


def _check_recipes(configs: StageConfigs, artifacts: Mapping[str, Artifact]) -> None:
    from train.run_order import settle_phases

    for stage, artifact in artifacts.items():
        config = configs.models[stage]
        if isinstance(config, RunConfig):
            config = settle_phases(config, artifacts["corpus"].path)
        table = differences(artifact.recipe, recipe_of(config))
        if table:
            raise ReleaseError(
                f"the newest {stage} was made by another recipe than the configs say: {table[0][:_MOST_CHARS]}",
                expected="configs, with the same --set, that lead to what is released",
                where=str(artifact.path),
                next_command="give the --set of that run again, or openwright run CONFIG_DIR",
            )


def _stage_record(artifact: Artifact, started: float, peak_bytes: int) -> dict[str, Json]:
    """What `last_run.json` says of a stage; `making` stays null where an earlier run had made the artifact."""
    seconds = f"{time.time() - started:.1f}"
    made = (artifact.path / MANIFEST_NAME).stat().st_mtime >= started
    return {
        "stage": artifact.kind,
        "fingerprint": artifact.fingerprint,
        "content_digest": artifact.content_digest,
        "path": artifact.path.as_posix(),
        "seconds": seconds,
        "making": {"seconds": seconds, "peak_memory_bytes": peak_bytes} if made else None,
    }


def _write_last_run(path: Path, records: list[dict[str, Json]], code: CodeIdentity) -> None:
    before = read_json(path)["stages"] if path.is_file() else []
    known = {entry["fingerprint"]: entry["making"] for entry in before}
    for record in records:
        record["making"] = record["making"] or known.get(record["fingerprint"])
    seen = {record["stage"] for record in records}
    later = [entry for entry in before if entry["stage"] not in seen]  # of an earlier run that went further
    write_json(
        path,
        {
            "format": LAST_RUN_FORMAT,
            "time_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "code": code.as_json(),
            "stages": [*records, *later],
        },
    )
    fact(f"{sum(float(record['seconds']) for record in records):.0f} s in all; by stage in {path}")
