"""The stage files of a config directory: which model reads which, and how `--set` reaches them."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from openwright.outcome import command
from provenance.config import EXECUTION_SECTION, Config, load_config, wrong_value
from provenance.errors import ConfigError
from provenance.made_model import AVERAGE
from release.code_copy import OVERRIDES_FILE
from train.model_fields import may_have_unknown_name, unknown_name
from train.retention import kept_checkpoints
from train.settings import PretrainConfig

RELEASE = "release"
TRAINING_STAGES = ("pretrain", "sft")
MODEL_STAGES = (*TRAINING_STAGES, AVERAGE)
"""Stages that make a model: those that train, and an average of their checkpoints."""

CONFIG_MODELS = {
    "corpus": ("data_recipes.settings", "CorpusConfig"),
    "pretrain": ("train.settings", "PretrainConfig"),
    "sft": ("train.settings", "SftConfig"),
    AVERAGE: ("train.average_settings", "AverageConfig"),
    "eval": ("eval.settings", "EvalConfig"),
    RELEASE: ("release.settings", "ReleaseConfig"),
}
"""Stage: module and class of its config; `<stage>.yaml` in a config directory is read into it."""

NEEDS: dict[str, tuple[str, ...]] = {
    "corpus": (),
    "pretrain": ("corpus",),
    "sft": ("corpus", "pretrain"),
    AVERAGE: ("corpus", "pretrain"),
    "eval": ("corpus", "pretrain"),
}
"""Stages that must come earlier in the order that release.yaml gives."""


@dataclass(frozen=True)
class StageConfigs:
    """All configs of one release, checked, in the order in which the stages run.

    Attributes:
        directory: where the YAML files lie.
        name: the release's name.
        order: stages without the release itself.
        models: config by stage, the release's among them.
        overrides: `stage.key=value` texts that may decide results: all but those for `execution` sections.
    """

    directory: Path
    name: str
    order: tuple[str, ...]
    models: Mapping[str, Any]
    overrides: tuple[str, ...] = ()


class Overrides(Config):
    """`overrides.yaml`: texts of `--set` that always hold; a bundle's copy of the directory has those of its run."""

    overrides: list[str]


def config_model(stage: str) -> type[Config]:
    """Return the config class of a stage; its module is imported only now."""
    module, name = CONFIG_MODELS[stage]
    model: type[Config] = getattr(importlib.import_module(module), name)
    return model


def require_release(directory: Path) -> None:
    """Refuse a directory that is not the config directory of a release, before something is written into it.

    Raises:
        ConfigError: naming it.
    """
    if not (directory / f"{RELEASE}.yaml").is_file():
        raise ConfigError(f"no {RELEASE}.yaml", expected="the config directory of a release", where=str(directory))


def require_directory(directory: Path) -> None:
    """Refuse a config directory that is not there, or that is the one above config directories.

    Raises:
        ConfigError: naming it.
    """
    if not directory.is_dir():
        raise ConfigError(
            "no such config directory",
            expected=f"a directory with {RELEASE}.yaml and one YAML file per stage",
            where=str(directory),
            next_command="openwright run configs/quickstart",
        )
    below = sorted(path.parent for path in directory.glob(f"*/{RELEASE}.yaml"))
    if below and not (directory / f"{RELEASE}.yaml").is_file():
        raise ConfigError(
            f"no {RELEASE}.yaml",
            expected=f"a config directory; below it {'are' if below[1:] else 'is'} {', '.join(p.name for p in below)}",
            where=str(directory),
            next_command=f"the same command with {quote(str(below[0]))}",
        )


def load_directory(directory: Path, overrides: Sequence[str] = (), *, to_plan: bool = False) -> StageConfigs:
    """Read release.yaml and the file of every stage it orders, before any work begins.

    Args:
        directory: the config directory.
        overrides: `stage.key.key=value` texts; they follow those of `overrides.yaml`, if there is one.
        to_plan: also accept a recipe that says that it is for planning only.

    Raises:
        ConfigError: for a missing directory or file, a wrong value, an override of an unknown stage, a mixture of
            sources that the corpus will not have.
    """
    require_directory(directory)
    overrides = [*kept_overrides(directory), *overrides]
    by_stage = _split_overrides(overrides)
    release: Any = _load(directory, RELEASE, by_stage.pop(RELEASE, ()))
    if release.plan_only and not to_plan:
        raise ConfigError(
            f"this recipe is for planning only: {release.plan_only}",
            expected="a recipe that runs; its twin does",
            where=str(directory / f"{RELEASE}.yaml"),
            next_command=f"{command('plan', directory)}, or {command('run', directory, '--twin')}",
        )
    order = tuple(release.stages)
    _check_order(order, directory)
    _check_overrides(by_stage, order)
    models: dict[str, Any] = {stage: _load(directory, stage, by_stage.get(stage, ())) for stage in order}
    _check_mixtures(models, directory)
    if AVERAGE in models:
        _check_average(models, directory)
    deciding = tuple(override for override in overrides if _decides_results(override))
    return StageConfigs(directory, str(release.name), order, {**models, RELEASE: release}, deciding)


def _load(directory: Path, stage: str, overrides: Sequence[str]) -> Config:
    """Load the config of a stage; an override that is refused is named as it was typed."""
    path = directory / f"{stage}.yaml"
    try:
        config = load_config(path, config_model(stage), overrides)
        check_model(config, path, overrides)
        return config
    except ConfigError as error:
        where = error.where.replace("--set ", f"--set {stage}.", 1)
        raise ConfigError(error.found, expected=error.expected, where=where, next_command=error.next_command) from None


def check_model(config: Any, path: Path, overrides: Sequence[str]) -> None:
    """Refuse a model that transformers does not know, with line and nearest name: before anything is fetched.

    Raises:
        ConfigError: as `load_config`.
    """
    if not isinstance(config, PretrainConfig) or not may_have_unknown_name(config.model):
        return
    if unknown := unknown_name(config.model):
        raise wrong_value(path, overrides, ("model", *unknown.keys), unknown.found, unknown.expected)


def _check_mixtures(models: Mapping[str, Any], directory: Path) -> None:
    """Refuse a phase, however late, that reads a source which the corpus will not have: before anything is fetched.

    Raises:
        ConfigError: naming stage, phase and source.
    """
    for stage in set(TRAINING_STAGES).intersection(models):
        data, phases = models[stage].data, models[stage].phases
        known = sorted(source.name for source in models["corpus"].sources if source.split == data.split)
        if not known:
            continue  # splits of rows are made from conversations, whose sources are known when they are read
        named = [(f"phases.{number}.mixture", phase.mixture) for number, phase in enumerate(phases)]
        named += [(f"phases.{number}.epochs", phase.epochs) for number, phase in enumerate(phases)]
        for key, sources in (*named, ("data.max_epochs", data.max_epochs)):
            unknown = sorted(set(sources) - set(known)) if isinstance(sources, Mapping) else []
            if unknown:
                raise ConfigError(
                    f"{key} names {unknown[0]!r}",
                    expected=f"sources of split {data.split!r} in corpus.yaml: {', '.join(known)}",
                    where=str(directory / f"{stage}.yaml"),
                )


def _check_average(models: Mapping[str, Any], directory: Path) -> None:
    """Refuse an average of checkpoints that no stage will keep, before any of them is made.

    Raises:
        ConfigError: naming stage and step.
    """
    where = str(directory / f"{AVERAGE}.yaml")
    for stage, step in models[AVERAGE].checkpoints:
        if stage not in models:
            told = f"ingredients: {stage} is no stage of this release"
            raise ConfigError(told, expected=f"one of {', '.join(models)}", where=where)
        if not all(phase.num_steps for phase in models[stage].phases):
            continue  # phases by epochs have no steps before the corpus is there: the stage itself looks again
        kept = kept_checkpoints(models[stage], 0, 0).steps
        if step not in kept:
            told = f"ingredients: {stage} keeps no checkpoint of step {step}"
            raise ConfigError(told, expected=f"one of {', '.join(map(str, kept))}", where=where)


def kept_overrides(directory: Path) -> list[str]:
    """What the `overrides.yaml` of a config directory holds; nothing where there is none."""
    path = directory / OVERRIDES_FILE
    return load_config(path, Overrides).overrides if path.is_file() else []


def _decides_results(override: str) -> bool:
    key = override.partition("=")[0].split(".")[1:]
    return key[:1] != [EXECUTION_SECTION]


def stage_of(path: Path, allowed: Iterable[str]) -> str:
    """Return the stage that a single YAML file configures: its name without the suffix.

    Raises:
        ConfigError: when the name is no stage that the command runs.
    """
    names = sorted(allowed)
    if path.suffix != ".yaml" or path.stem not in names:
        raise ConfigError(
            f"{path.name} is not the config of such a stage",
            expected=f"one of {', '.join(f'{name}.yaml' for name in names)} in a config directory",
            where=str(path),
            next_command=f"the same command with {path / f'{names[0]}.yaml' if path.is_dir() else 'such a file'}",
        )
    return path.stem


def _split_overrides(overrides: Sequence[str]) -> dict[str, list[str]]:
    by_stage: dict[str, list[str]] = {}
    for override in overrides:
        stage, dot, rest = override.partition(".")
        if not dot or "=" in stage or stage not in CONFIG_MODELS:
            raise ConfigError(
                f"--set {override}",
                expected=f"--set STAGE.KEY=VALUE with a stage of {', '.join(CONFIG_MODELS)}",
                where="command line",
                next_command="the same command with another --set",
            )
        by_stage.setdefault(stage, []).append(rest)
    return by_stage


def _check_order(order: Sequence[str], directory: Path) -> None:
    where = str(directory / f"{RELEASE}.yaml")
    for index, stage in enumerate(order):
        if stage not in NEEDS or stage in order[:index]:
            raise ConfigError(
                f"stages: {stage!r} is unknown or named twice",
                expected=f"each of {', '.join(NEEDS)} at most once",
                where=where,
            )
        missing = [need for need in NEEDS[stage] if need not in order[:index]]
        if missing:
            raise ConfigError(f"stages: {stage!r} comes without {missing[0]!r} before it", where=where)


def _check_overrides(by_stage: Mapping[str, Sequence[str]], order: Sequence[str]) -> None:
    unused = [stage for stage in by_stage if stage not in order]
    if unused:
        raise ConfigError(
            f"--set {unused[0]}.{by_stage[unused[0]][0]}",
            expected=f"a stage that this release runs: {', '.join(order)} or {RELEASE}",
            where="command line",
        )
