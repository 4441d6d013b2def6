"""The stage `average`: a model made of checkpoints that are on record, so that anyone can make it again.

The arithmetic is in `train.averaging`; what the stage leaves is specified in `docs/formats.md` under "Average".
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from provenance.artifacts import Artifact
from provenance.canonical import Json, write_json
from provenance.config import recipe_of
from provenance.console import fact
from provenance.environment import environment_record
from provenance.errors import TrainingError
from provenance.ledger import Journal
from provenance.made_model import AVERAGE, AVERAGE_RECORD, made_model
from provenance.stage import StageContext, StageSpec, run_stage
from train.average_settings import AverageConfig
from train.averaging import ARITHMETIC, AverageDigests, average_weights, numerators_of
from train.checkpoint_records import CHECKPOINTS, OPTIMIZER_STEM, RECORD, checkpoint_name, read_record

AVERAGE_FORMAT = "openwright-average/1"
AVERAGED = "averaged"
"""Directory of the weights, where a run has those of its steps."""

# No library is named: what numpy does here is IEEE arithmetic, which has no versions.
SPEC = StageSpec(AVERAGE, ("provenance", "data_recipes", "train"), libraries=())


def average(config: AverageConfig, context: StageContext, runs: Mapping[str, Artifact]) -> Artifact:
    """Average checkpoints of training stages.

    Args:
        runs: artifacts of training stages by name; those that the config names are read.

    Raises:
        TrainingError: for a checkpoint that a run does not keep or that is not what its record says, for tensors that
            differ in shape or are not F32, and for a weight that rounds to nothing.
    """
    numerators = numerators_of(config.kind, len(config.checkpoints), config.weights, config.decay)
    _check_numerators(config, numerators)
    sources = [checkpoint_directory(runs[stage], step) for stage, step in config.checkpoints]
    parents = [runs[stage].as_parent(stage) for stage in config.stages]

    def body(work: Path) -> None:
        for left_over in work.iterdir():
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        journal = Journal(work / "journal.jsonl")
        journal.note("start")
        started = time.monotonic()
        target = work / CHECKPOINTS / AVERAGED
        target.mkdir(parents=True)
        digests = average_weights(sources, numerators, target)
        _check_digests(sources, digests)
        _copy_companions(sources[-1], target)
        write_json(work / "recipe.json", recipe_of(config))
        last = made_model(runs[config.checkpoints[-1][0]].path)
        about: dict[str, Json] = {"model_type": last.model_type, "num_parameters": last.num_parameters}
        write_json(work / AVERAGE_RECORD, average_record(config, numerators, digests) | about)
        write_json(work / "environment.json", environment_record())
        journal.note("finish", seconds=f"{time.monotonic() - started:.1f}")
        journal.close()
        fact(f"average of {len(sources)} checkpoints, weights {digests.average[:12]}")

    return run_stage(context, SPEC, recipe_of(config), parents, body)


def average_record(config: AverageConfig, numerators: list[int], digests: AverageDigests) -> dict[str, Json]:
    """What `average.json` says of the ingredients and of what came out."""
    named = zip(config.checkpoints, numerators, digests.ingredients, strict=True)
    return {
        "format": AVERAGE_FORMAT,
        "stage": AVERAGE,
        "kind": config.kind,
        "arithmetic": ARITHMETIC,
        "denominator": sum(numerators),
        "ingredients": [
            {"stage": stage, "step": step, "numerator": numerator, "weights_digest": digest}
            for (stage, step), numerator, digest in named
        ],
        "final": {"path": f"{CHECKPOINTS}/{AVERAGED}", "weights_digest": digests.average},
    }


def checkpoint_directory(run: Artifact, step: int) -> Path:
    """Directory of a checkpoint that a run keeps.

    Raises:
        TrainingError: naming those that it keeps.
    """
    path = run.path / CHECKPOINTS / checkpoint_name(step)
    if not (path / RECORD).is_file():
        kept = sorted(read_record(found.parent).step for found in (run.path / CHECKPOINTS).glob(f"step-*/{RECORD}"))
        raise TrainingError(
            f"{run.kind} keeps no checkpoint of step {step}",
            expected=f"steps of {', '.join(map(str, kept))}",
            where="average.yaml: ingredients",
            next_command="name steps that it keeps, or keep more with checkpoints.weights_every_steps",
        )
    return path


def _check_numerators(config: AverageConfig, numerators: list[int]) -> None:
    for (stage, step), numerator in zip(config.checkpoints, numerators, strict=True):
        if not numerator:
            raise TrainingError(
                f"step {step} of {stage} would count for less than one part in {sum(numerators)}",
                expected="checkpoints that count",
                where="average.yaml",
                next_command="leave its step out, or choose a decay nearer to 1",
            )


def _check_digests(sources: list[Path], digests: AverageDigests) -> None:
    for source, digest in zip(sources, digests.ingredients, strict=True):
        recorded = read_record(source).weights_digest
        if recorded != digest:
            raise TrainingError(
                f"weights {digest}",
                expected=f"{recorded}, as {RECORD} says",
                where=str(source),
            )


def _copy_companions(source: Path, target: Path) -> None:
    """Config, tokenizer and index of the files, so that the average loads with plain `from_pretrained`."""
    for path in sorted(source.iterdir()):
        is_its_own = path.name == RECORD or path.name.startswith(OPTIMIZER_STEM) or path.suffix == ".safetensors"
        if not is_its_own:
            shutil.copyfile(path, target / path.name)
