"""`openwright branch`: write the config directory of a run that goes on from a checkpoint with something changed."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from data_recipes.order_file import read_order
from openwright.configs import RELEASE, TRAINING_STAGES, check_model, config_model, kept_overrides, require_directory
from provenance.canonical import read_json
from provenance.config import from_recipe, load_config, read_mapping
from provenance.digests import sha256_bytes
from provenance.errors import ArtifactError, ConfigError
from provenance.ledger import read_chain
from release.code_copy import OVERRIDES_FILE
from train.branch import check_left_out, check_same_past, keep_branch_point, leave_out
from train.settings import RunConfig

_HEADER = """\
# yaml-language-server: $schema=../schemas/{stage}.schema.json
# A branch, written by `openwright branch`: the recipe of {run}, from its full checkpoint of step {step}{without}.
"""


def write_branch(
    run: Path,
    step: int,
    config_dir: Path,
    target: Path,
    store: Path,
    overrides: Sequence[str] = (),
    skips: Sequence[tuple[int, int]] = (),
    stage: str = "pretrain",
    without: Sequence[str] = (),
) -> Path:
    """Copy the checkpoint to where branches find it and write a config directory that goes on from it.

    Args:
        run: a run's directory, finished or not, or a bundle.
        step: step of a full checkpoint.
        config_dir: the directory whose other stages the branch takes over.
        target: the new config directory; must not exist.
        store: directory of all releases' artifacts.
        overrides: `key.key=value` texts for the stage's config.
        skips: first and last step of stretches to leave out.
        stage: of a bundle, the training stage.
        without: sources that the branch reads no more.

    Returns:
        The stage's new YAML file.

    Raises:
        ArtifactError: when `run` is neither a run nor a bundle, or its records are none that can be read.
        ConfigError: for a wrong value, a source that cannot be left out, a directory that exists, or a config
            directory or file that does not.
        ResumeMismatch: when there is no such checkpoint, or the data order before it would be another one.
    """
    if target.exists():
        raise ConfigError(
            "the directory exists",
            expected="a new one",
            where=str(target),
            next_command="the same command with another --to",
        )
    require_directory(config_dir)
    records, checkpoints = find_run(run, stage)
    start = _start_record(records / "ledger.jsonl")
    stage, order = start["stage"], read_order(start["order"], records)
    model: Any = config_model(stage)
    before = _recorded_recipe(records / "recipe.json", model)
    point = keep_branch_point(checkpoints, step, store / _release_name(config_dir / f"{RELEASE}.yaml"))
    phases, draws = before.phases, before.draws_before
    if without:
        phases, draws = leave_out(before, order, step, without)
    changes = {"branch": point.model_copy(update={"draws_before": draws}), "phases": phases}
    values = before.model_copy(update=changes).model_dump(mode="json", exclude={"execution"})
    values["skip_steps"] = sorted([*values["skip_steps"], *(list(skip) for skip in skips)])
    own = read_mapping(config_dir / f"{stage}.yaml")
    if "execution" in own:
        values["execution"] = own["execution"]
    left_out = "".join(f", without source {name}" for name in without)
    header = _HEADER.format(stage=stage, run=run.name, step=step, without=left_out)
    shutil.copytree(config_dir, target)
    _drop_overrides(target, stage)
    path = target / f"{stage}.yaml"
    try:
        path.write_text(header + _yaml(values), encoding="utf-8")
        after = load_config(path, model, overrides)
        check_model(after, path, overrides)
        check_same_past(before, after, step, draws)
        check_left_out(after, order, step, without)
        text = header + _yaml(after.model_dump(mode="json", exclude_defaults=True))
        path.write_text(text, encoding="utf-8")
        _give_version(target / f"{RELEASE}.yaml", sha256_bytes(text.encode()))
    except ConfigError as error:
        shutil.rmtree(target)
        following = "the same command with another --set, --skip or --without"
        place = "command line" if error.where.startswith(str(target)) else error.where  # that file is gone
        raise ConfigError(error.found, expected=error.expected, where=place, next_command=following) from None
    except Exception:
        shutil.rmtree(target)
        raise
    return path


def _start_record(ledger: Path) -> dict[str, Any]:
    """What a run began with, as its ledger tells.

    Raises:
        ArtifactError: when that is no ledger of a training run, or the run has not begun.
    """
    start = next(read_chain(ledger), {})
    if start.get("kind") != "start" or start.get("stage") not in TRAINING_STAGES or "order" not in start:
        raise ArtifactError(
            "the ledger does not begin with the start of a training run",
            expected="a run that has begun, or a bundle",
            where=str(ledger),
            next_command="openwright status, which lists the runs",
        )
    return start


def _recorded_recipe(path: Path, model: type[RunConfig]) -> RunConfig:
    """The recipe of a run.

    Raises:
        ArtifactError: when this version of the program does not read it.
    """
    try:
        return from_recipe(read_json(path), model)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ArtifactError(
            f"field {'.'.join(map(str, problem['loc']))!r}: {problem['msg']}",
            expected="a recipe as this version of Openwright writes it",
            where=str(path),
            next_command="branch with the version that made the run; a bundle holds its own in model/code/",
        ) from None


def _give_version(path: Path, digest: str) -> None:
    """Give the release a version of its own: another model must not go by the name of the one that it comes from."""

    def version(found: re.Match[str]) -> str:
        before = re.sub(r"-branch\.[0-9a-f]{8}$", "", str(yaml.safe_load(found[1])))
        return f'version: "{before}-branch.{digest[:8]}"'

    text = re.sub(r"(?m)^version:[ ]*([^#\n]+?)(?=[ ]*(#|$))", version, path.read_text(encoding="utf-8"), count=1)
    path.write_text(text, encoding="utf-8")


def _release_name(path: Path) -> str:
    name = read_mapping(path).get("name")
    if not isinstance(name, str):
        raise ConfigError("key 'name' is missing", expected="a name of the release", where=str(path))
    return name


def find_run(run: Path, stage: str) -> tuple[Path, Path]:
    """Directories of a run's records and of its checkpoints.

    Args:
        run: a run's directory, or a bundle.
        stage: of a bundle, the training stage.

    Raises:
        ArtifactError: when it is neither.
    """
    if (run / "ledger.jsonl").is_file():
        return run, run / "checkpoints"
    records = run / "model" / "training" / stage
    if stage in TRAINING_STAGES and (records / "ledger.jsonl").is_file():
        return records, run / "model" / "checkpoints" / stage
    raise ArtifactError(
        "neither a run nor a bundle",
        expected="a directory with ledger.jsonl, or a bundle with model/training/",
        where=str(run),
        next_command="openwright status, which lists the runs",
    )


def _drop_overrides(target: Path, stage: str) -> None:
    """Take out the kept `--set` texts of the stage: the branch's own file says all of it."""
    kept = [override for override in kept_overrides(target) if not override.startswith(f"{stage}.")]
    (target / OVERRIDES_FILE).unlink(missing_ok=True)
    if kept:
        (target / OVERRIDES_FILE).write_text(_yaml({"overrides": kept}), encoding="utf-8")


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
