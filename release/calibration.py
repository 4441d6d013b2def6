"""`openwright release build --calibrate`: measure the noise between the platforms at hand on this machine.

A platform here is what a replay may meet without leaving the recipe: other kernels of the same libraries, as other
processors get them and as variables of these libraries choose them. Each is tried on a few short stretches of steps,
each from a recorded checkpoint to a later one. The number of threads is part of the recipe and no platform.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from provenance.artifacts import Artifact
from provenance.canonical import hex_float, parse_hex_float, read_json, write_json
from provenance.console import fact
from provenance.environment import platform_record
from provenance.errors import ReleaseError
from provenance.fingerprint import PACKAGES, sources_digest
from provenance.ledger import read_chain
from provenance.stage import StageContext, StageSpec, run_stage
from release.tolerance import (
    FACTOR,
    NOTHING,
    TOLERANCE_FORMAT,
    TOLERANCE_NAME,
    Tolerance,
    concluded,
    relative_difference,
)
from release.tolerance import Stretch as MeasuredStretch
from train.checkpoint_records import read_record
from train.jobs import LIBRARIES
from train.trial_request import CHANGES, TRIAL_FORMAT, Stretch, TrialRequest, run_trial

SPEC = StageSpec(
    kind="calibration",
    packages=("provenance", "data_recipes", "train", "release"),
    libraries=LIBRARIES,
    observations=(),
)
AS_IT_IS: dict[str, str] = {}
SHORT_STEPS = 4
"""Steps of the short stretch at the beginning of a run, at most."""

_LEAST_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}


@dataclass(frozen=True)
class RecordedRun:
    """A finished training stage, as it lies in its artifact."""

    stage: str
    path: Path
    corpus: Path
    base_checkpoint: str

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        return dict(read_json(self.path / "recipe.json"))

    def steps(self) -> dict[int, dict[str, Any]]:
        """The ledger's record of each step."""
        records = read_chain(self.path / "ledger.jsonl")
        return {int(record["step"]): record for record in records if record["kind"] == "step"}


def calibrate(
    stages: Sequence[str], artifacts: Mapping[str, Artifact], context: StageContext, max_steps: int
) -> Artifact:
    """Measure the training stages of a release on this machine; the artifact holds `<stage>/tolerance.json`.

    All of it are observations: they enter no content digest. It is kept by machine and measured once.

    Args:
        stages: the release's stages in order.
        artifacts: the finished stages.
        max_steps: most steps of a stretch; replays of more steps than were measured are not judged.

    Raises:
        ReleaseError: when a stage cannot be measured.
        TrainingError: when a trial fails.
    """
    runs = recorded_runs(stages, artifacts)
    for run in runs:
        check_measurable(run)
    machine = {name: platform_record()[name] for name in ("machine", "cpu_model", "cpu_flags_sha256", "variables")}
    recipe = {"stages": [run.stage for run in runs], "max_steps": max_steps, "factor": FACTOR, "machine": machine}
    names = [f"{run.stage}/{TOLERANCE_NAME}" for run in runs]

    def body(work: Path) -> None:
        for run, name in zip(runs, names, strict=True):
            (work / run.stage).mkdir(exist_ok=True)
            write_json(work / name, measure(run, max_steps).model_dump())

    spec = StageSpec(SPEC.kind, SPEC.packages, SPEC.libraries, tuple(names))
    return run_stage(context, spec, recipe, [artifacts[stage].as_parent(stage) for stage in stages], body)


def tolerances_of(artifact: Artifact) -> dict[str, Path]:
    """The `tolerance.json` of each stage that a calibration measured."""
    paths = [artifact.path / entry.path for entry in artifact.observations]
    return {path.parent.name: path for path in paths}


def recorded_runs(stages: Sequence[str], artifacts: Mapping[str, Artifact]) -> list[RecordedRun]:
    """The training stages among a release's stages, each with the weights that it started from."""
    found, base = [], ""
    for stage in stages:
        path = artifacts[stage].path
        if (path / "ledger.jsonl").is_file():
            run = RecordedRun(stage, path.resolve(), artifacts["corpus"].path.resolve(), base)
            base = str(run.path / read_json(path / "run.json")["final"]["path"])
            found.append(run)
    return found


def check_measurable(run: RecordedRun) -> None:
    """Refuse what these trials cannot speak of.

    Raises:
        ReleaseError: for `reduction: native`, runs on GPUs, and runs that changed their platform.
    """
    platform = read_json(run.path / "environment.json")["platform"]
    changed = any(record["kind"] == "environment_change" for record in read_chain(run.path / "journal.jsonl"))
    reasons = {
        "reduction native binds bits to a layout of processes": run.recipe["reduction"] != "exact",
        "it ran on GPUs, where nothing was tried yet": bool(platform.get("devices")),
        "it was recorded on more than one platform": changed,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ReleaseError(
                f"no tolerance can be measured for {run.stage}: {reason}",
                expected="a run with reduction: exact on the CPUs of one platform",
                where=str(run.path),
                next_command="openwright release build CONFIG_DIR, without --calibrate",
            )


def choose_stretches(run: RecordedRun, max_steps: int) -> list[Stretch]:
    """Stretches between checkpoints: the first, short and long, that with the largest learning rates, and the last.

    Right after its random start a model amplifies every difference: a few steps can be judged there, and 25 may not.

    Raises:
        ReleaseError: when no checkpoint follows a full one within `max_steps`.
    """
    records = {(record := read_record(path)).step: (record, path) for path in (run.path / "checkpoints").glob("step-*")}
    rates = {step: parse_hex_float(record["learning_rate"]) for step, record in run.steps().items()}
    found: dict[int, list[int]] = {}
    for start, (record, _) in sorted(records.items()):
        ends = sorted(step for step in records if start < step <= start + max_steps and step in rates)
        if ends and (record.kind == "full" or start == 0):
            found[start] = ends
    if not found:
        raise ReleaseError(
            f"no two checkpoints of {run.stage} are at most {max_steps} steps apart, the first of them full",
            expected="a stretch that can be measured",
            where=str(run.path / "checkpoints"),
            next_command="openwright release build CONFIG_DIR --calibrate --calibrate-steps N, with a larger N",
        )
    fastest = max(found, key=lambda start: sum(rates.get(step, 0.0) for step in range(start + 1, found[start][-1] + 1)))
    first = min(found)
    spans = {(start, found[start][-1]) for start in (first, fastest, max(found))}
    spans |= {(first, max(end for end in found[first] if end <= max(first + SHORT_STEPS, found[first][0])))}
    return [Stretch(str(records[start][1]), end, str(records[end][1])) for start, end in sorted(spans)]


def variants(platform: Mapping[str, Any], precision: str) -> list[dict[str, str]]:
    """Variables that bring other kernels to this machine, besides those it takes by itself.

    What turns out to change no bit is stored as such. oneDNN computes nothing of an fp32 step here.
    """
    lower = ["default"] if platform["torch_cpu_capability"] != "DEFAULT" else []
    lower += ["avx2"] if platform["torch_cpu_capability"] == "AVX512" else []
    found = [{"ATEN_CPU_CAPABILITY": level} for level in lower]
    if platform["machine"] == "x86_64":
        found += [{"MKL_CBWR": "COMPATIBLE"}, _LEAST_KERNELS]
        found += [{"ONEDNN_MAX_CPU_ISA": "AVX2"}] if precision == "bf16" else []
    return found


def measure(run: RecordedRun, max_steps: int, tried: Sequence[Mapping[str, str]] | None = None) -> Tolerance:
    """Replay some stretches of a run on every platform at hand.

    Args:
        run: the recorded run.
        max_steps: most steps of a stretch.
        tried: variables of each platform besides this machine as it is; by default `variants`.

    Raises:
        ReleaseError: when the machine of the record does not give the recorded bits.
    """
    recipe = run.recipe
    stretches = choose_stretches(run, max_steps)
    fact(f"{run.stage}: trials of {' and '.join(_span(stretch) for stretch in stretches)}")
    native = run_trial(_request(run, stretches, list(CHANGES)), AS_IT_IS)
    recorded = read_json(run.path / "environment.json")["platform"]
    steps = run.steps()
    first = _platform(AS_IT_IS, native, steps)
    if native["platform"]["digest"] == recorded["digest"] and not first["equal_bits"]:
        raise ReleaseError(
            f"a replay of {run.stage} on the recorded platform does not give the recorded bits",
            expected="equal weights at the end of every stretch",
            where=str(run.path),
            next_command="openwright reproduce BUNDLE, which says where they part",
        )
    tried = variants(native["platform"], recipe["precision"]) if tried is None else tried
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) // recipe["threads_per_process"])) as pool:
        found = list(pool.map(lambda variables: run_trial(_request(run, stretches, []), variables), tried))
    platforms = [first, *(_platform(v, report, steps) for v, report in zip(tried, found, strict=True))]
    return concluded(
        {
            "format": TOLERANCE_FORMAT,
            "stage": run.stage,
            "precision": recipe["precision"],
            "time_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "code": sources_digest(PACKAGES),
            "factor": FACTOR,
            "peak_learning_rate": recipe["optimizer"]["peak_learning_rate"],
            "recorded_platform": recorded,
            "changes": _changes(native, steps),
            "platforms": platforms,
        }
    )


def _span(stretch: Stretch) -> str:
    return f"steps {read_record(Path(stretch.from_checkpoint)).step + 1} to {stretch.last_step}"


def _request(run: RecordedRun, stretches: list[Stretch], changes: list[str]) -> TrialRequest:
    return TrialRequest(
        format=TRIAL_FORMAT,
        stage=run.stage,
        recipe=str(run.path / "recipe.json"),
        corpus=str(run.corpus),
        base_checkpoint=run.base_checkpoint,
        stretches=stretches,
        changes=changes,
        num_threads=run.recipe["threads_per_process"],
    )


def _platform(
    variables: Mapping[str, str], report: Mapping[str, Any], steps: Mapping[int, dict[str, Any]]
) -> dict[str, Any]:
    """A platform of the file without what follows from its distances."""
    stretches = [_stretch(stretch, steps) for stretch in report["stretches"]]
    noise = [value for stretch in stretches for value in MeasuredStretch.model_validate(stretch).noise().values()]
    return {
        "variables": dict(variables),
        "platform": report["platform"],
        "equal_bits": all(value == 0 for value in noise),
        "stretches": stretches,
    }


def _stretch(stretch: Mapping[str, Any], steps: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    found = {name: stretch[name] for name in ("first_step", "last_step", "weights_digest", "weights", "optimizer")}
    for name in ("loss", "gradient_norm"):
        pairs = [(record[name], steps[record["step"]][name]) for record in stretch["steps"]]
        found[name] = hex_float(max(relative_difference(*pair) for pair in pairs))
    return {**found, **NOTHING}


def _changes(native: Mapping[str, Any], steps: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "change": change,
            "first_step": stretch["first_step"],
            "last_step": stretch["last_step"],
            "learning_rate": steps[stretch["last_step"]]["learning_rate"],
            "weights": distances,
        }
        for stretch in native["stretches"]
        for change, distances in sorted(stretch["changes"].items())
    ]
