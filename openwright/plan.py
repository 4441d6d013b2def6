"""`openwright plan`: what a config directory costs and what it can reach, by arithmetic; nothing is trained or fetched.

The document (`openwright-plan/1`) has a section per training stage, totals, the thresholds of laws, and the outlook on
openness. What cannot be known before the corpus is built, or before a first step was timed, is null and said so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwright.configs import RELEASE, StageConfigs
from provenance.artifacts import Artifact, find_artifact
from provenance.canonical import read_json
from provenance.config import recipe_of
from provenance.errors import ConfigError
from provenance.fingerprint import stage_fingerprint
from provenance.made_model import AVERAGE
from train.accounting import (
    ModelShape,
    TrainingFlops,
    meta_model,
    model_shape,
    num_tokens,
    plan_checkpoints,
    training_flops,
)
from train.devices import ASSUMED_MFU, Device, find_device
from train.jobs import default_processes
from train.memory import measure_activations, memory_parts, peak_bytes, resident_bytes, snapshot_bytes
from train.run_order import build_order, open_windows, settle_phases
from train.settings import ModelConfig, RunConfig

PLAN_FORMAT = "openwright-plan/1"
USABLE_SHARE = 0.9
"""Share of a device's memory that a plan counts on: drivers, kernels and fragmentation take the rest."""

THRESHOLDS = (
    (1e23, "EU AI Act: indicative threshold of a general-purpose AI model that generates language"),
    (1e25, "EU AI Act, Art. 51(2): presumption of systemic risk; notify within two weeks, Art. 52(1)"),
    (1e26, "United States: threshold of Executive Order 14110 (revoked 2025) and of California SB 53"),
)
"""Training FLOPs of laws; not legal advice."""

HARNESS_ENDS = (
    "data parallel and sharded layouts, with tensor and context parallelism under `reduction: native`, which promises "
    "bits for one layout only; there is no pipeline or expert parallelism"
)


@dataclass(frozen=True)
class PlanOptions:
    """What the command line says of the machines.

    Attributes:
        device: a known accelerator; empty for CPUs or what is not known.
        num_devices: processes in all, in the place of the config's; None leaves it.
        shard_size: processes that share a copy of the model, in the place of the config's.
        mfu: share of the peak that is reached; None assumes what `train.devices` says.
        price_per_device_hour: in any currency.
        tokens_per_second: measured, for all devices together; it takes the place of peak and MFU.
    """

    device: str = ""
    num_devices: int | None = None
    shard_size: int | None = None
    mfu: float | None = None
    price_per_device_hour: float | None = None
    tokens_per_second: float | None = None

    def overrides(self, stages: Sequence[str]) -> list[str]:
        """The same as `--set` texts, so that a layout is checked as a config is."""
        fields = {"num_processes": self.num_devices, "shard_size": self.shard_size}
        return [f"{s}.execution.{name}={value}" for s in stages for name, value in fields.items() if value is not None]


def make_plan(configs: StageConfigs, store: Path, options: PlanOptions, *, command: str) -> dict[str, Any]:
    """Return the plan of a config directory.

    Args:
        store: directory of all artifacts, where the corpus is looked for.
        command: the one next command when nothing stands in the way.

    Raises:
        ConfigError: for an unknown device, a model that cannot be planned, or numbers out of range.
    """
    from release.outlook import openness_outlook

    device = find_device(options.device) if options.device else None
    corpus = find_corpus(configs, store)
    models = _models(configs)
    stages = [
        _stage(stage, configs.models[stage], models[stage], _vocab_size(configs, corpus), corpus, device, options)
        for stage in models
    ]
    release = configs.models[RELEASE]
    outlook = openness_outlook(configs.models["corpus"], release).as_json()
    unpinned = [source["name"] for source in outlook["sources"] if not source["is_pinned"]]
    runnable = not release.plan_only and not unpinned
    return {
        "format": PLAN_FORMAT,
        "name": configs.name,
        "config_dir": configs.directory.as_posix(),
        "plan_only": release.plan_only or None,
        "corpus": None if corpus is None else {"path": corpus.path.as_posix(), "content_digest": corpus.content_digest},
        "device": None if device is None else _device(device, options),
        "stages": stages,
        "average": _average(configs, stages),
        "totals": _totals(stages),
        "thresholds": _thresholds(sum(stage["flops"]["model"] for stage in stages)),
        "openness": outlook,
        "harness_ends": HARNESS_ENDS,
        "next": command if runnable else f"{command} --twin",
    }


def find_corpus(configs: StageConfigs, store: Path) -> Artifact | None:
    """The finished corpus of exactly this recipe and code, or None."""
    from data_recipes.corpus import spec_of

    spec = spec_of(configs.models["corpus"])
    recipe = recipe_of(configs.models["corpus"])
    fingerprint = stage_fingerprint(spec.kind, recipe, (), spec.packages, spec.libraries)
    return find_artifact(store / configs.name, spec.kind, fingerprint)


def _models(configs: StageConfigs) -> dict[str, ModelConfig]:
    """The model of each training stage; fine-tuning goes on with the one before it."""
    found: dict[str, ModelConfig] = {}
    for stage in configs.order:
        config = configs.models[stage]
        if isinstance(config, RunConfig):
            model = getattr(config, "model", None) or next(reversed(found.values()), None)
            if model is None:
                raise ConfigError(f"stage {stage} has no model", expected="a pretraining stage before it")
            found[stage] = model
    return found


def _vocab_size(configs: StageConfigs, corpus: Artifact | None) -> int:
    if corpus is not None:
        return int(read_json(corpus.path / "tokens" / "tokens.json")["vocab_size"])
    return int(configs.models["corpus"].tokenizer.vocab_size)


def _stage(
    stage: str,
    config: RunConfig,
    model: ModelConfig,
    vocab_size: int,
    corpus: Artifact | None,
    device: Device | None,
    options: PlanOptions,
) -> dict[str, Any]:
    if corpus is not None:
        config = settle_phases(config, corpus.path)
    shape = model_shape(meta_model(model, vocab_size, config.longest_window))
    flops = training_flops(shape, config, model.attention)
    num_processes = config.execution.num_processes or default_processes(config.num_logical_replicas)
    tokens = num_tokens(config)
    return {
        "stage": stage,
        "model": _model(shape),
        "num_steps": config.num_steps,
        "num_tokens": tokens,
        "tokens_per_step": sorted({p.sequences_per_step * config.window_tokens_of(p) for p in config.phases}),
        "epochs": None if corpus is None else _epochs(config, corpus),
        "mixtures": [phase.mixture if phase.epochs is None else None for phase in config.phases],
        "flops": {"model": flops.model, "computed": flops.computed, "heldout": flops.heldout},
        "layout": {
            "num_processes": num_processes,
            "shard_size": config.execution.shard_size,
            "tensor_size": config.execution.tensor_size,
            "context_size": config.execution.context_size,
            "num_copies": num_processes // (config.execution.shard_size * config.execution.tensor_size),
            "precision": config.precision,
            "reduction": config.reduction,
            "activation_checkpointing": config.execution.activation_checkpointing,
        },
        "memory": _memory(shape, config, model, vocab_size, num_processes, device),
        "checkpoints": _checkpoints(shape, config),
        "time": _time(flops, tokens, num_processes, config.precision, device, options),
    }


def _model(shape: ModelShape) -> dict[str, Any]:
    return {
        "type": shape.model_type,
        "vocab_size": shape.vocab_size,
        "num_layers": len(shape.layers),
        "num_parameters": shape.num_parameters,
        "num_active_parameters": shape.num_active_parameters,
        "num_embedding_parameters": shape.num_embedding_parameters,
    }


def _epochs(config: RunConfig, corpus: Artifact) -> dict[str, float]:
    """How often the stage reads each source, at all window lengths together."""
    order = build_order(config, open_windows(config, corpus.path), config.order_source)
    epochs = dict.fromkeys((source.name for source in order.sources), 0.0)
    for source, count in zip(order.sources, order.draws_until(order.num_steps), strict=True):
        epochs[source.name] += count / source.num_windows if source.num_windows else 0.0
    return epochs


def _memory(
    shape: ModelShape,
    config: RunConfig,
    model: ModelConfig,
    vocab_size: int,
    num_processes: int,
    device: Device | None,
) -> dict[str, Any] | None:
    """The table of the process that needs most; None for layouts within windows, which `train.memory` does not know."""
    if max(config.execution.tensor_size, config.execution.context_size) > 1:
        return None
    measured = [measure_activations(model, config.precision, vocab_size, length) for length in config.window_lengths]
    shards = config.execution.shard_size
    tables = [memory_parts(shape, config, activations, num_processes, shards) for activations in measured]
    parts = max(tables, key=lambda table: peak_bytes(table)[0])  # of the phases that need most
    peak, moment = peak_bytes(parts)
    usable = None if device is None else round(USABLE_SHARE * device.memory_bytes)
    return {
        "parts": [
            {"part": part.name, "bytes": part.num_bytes, "moments": list(part.moments), "note": part.note}
            for part in parts
        ],
        "peak_bytes": peak,
        "peak_moment": moment,
        "resident_bytes": resident_bytes(peak, num_processes, shards) if device is None else None,
        "snapshot_bytes": snapshot_bytes(shape, config, num_processes),
        "usable_bytes": usable,
        "fits": None if usable is None else peak <= usable,
    }


def _checkpoints(shape: ModelShape, config: RunConfig) -> dict[str, Any]:
    plan = plan_checkpoints(shape, config)
    return {
        "num_weights": len(plan.weights_steps),
        "num_full": len(plan.full_steps),
        "weights_bytes": plan.weights_bytes,
        "full_bytes": plan.full_bytes,
        "total_bytes": plan.total_bytes,
    }


def _average(configs: StageConfigs, stages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What an average of checkpoints reads and writes, where there is one; its time is that of reading the files."""
    config = configs.models.get(AVERAGE)
    if config is None:
        return None
    weights_bytes = {stage["stage"]: stage["checkpoints"]["weights_bytes"] for stage in stages}
    return {
        "kind": config.kind,
        "ingredients": [{"stage": stage, "step": step} for stage, step in config.checkpoints],
        "read_bytes": sum(weights_bytes[stage] for stage, _ in config.checkpoints),
        "weights_bytes": weights_bytes[config.checkpoints[-1][0]],
    }


def _time(
    flops: TrainingFlops,
    num_tokens: int,
    num_devices: int,
    precision: str,
    device: Device | None,
    options: PlanOptions,
) -> dict[str, Any] | None:
    """Hours from a measured rate, or from peak and MFU; what is computed again costs time as well."""
    if options.tokens_per_second is not None:
        seconds = num_tokens / options.tokens_per_second
        basis = f"measured {options.tokens_per_second:,.0f} tokens/s"
    elif device is not None:
        peak = device.flops_per_second[precision]
        share = options.mfu or ASSUMED_MFU
        seconds = flops.computed / (peak * share * num_devices)
        basis = f"{share:.0%} of {peak / 1e12:,.0f} TFLOP/s in {precision}, assumed"
    else:
        return None
    device_hours = seconds * num_devices / 3600
    price = options.price_per_device_hour
    return {
        "basis": basis,
        "seconds": seconds,
        "device_hours": device_hours,
        "tokens_per_second": num_tokens / seconds,
        "cost": None if price is None else device_hours * price,
        "energy_kwh": None if device is None else device_hours * device.watts / 1000,
    }


def _device(device: Device, options: PlanOptions) -> dict[str, Any]:
    return {
        "name": device.name,
        "flops_per_second": device.flops_per_second,
        "memory_bytes": device.memory_bytes,
        "watts": device.watts,
        "source": device.source,
        "assumed_mfu": options.mfu or ASSUMED_MFU,
        "price_per_device_hour": options.price_per_device_hour,
    }


def _totals(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    times = [stage["time"] for stage in stages]
    timed = None not in times

    def total(key: str) -> float | None:
        return sum(time[key] for time in times) if timed and None not in [time[key] for time in times] else None

    return {
        "num_tokens": sum(stage["num_tokens"] for stage in stages),
        "flops": {key: sum(stage["flops"][key] for stage in stages) for key in ("model", "computed", "heldout")},
        "checkpoint_bytes": sum(stage["checkpoints"]["total_bytes"] for stage in stages),
        "device_hours": total("device_hours") if timed else None,
        "seconds": total("seconds") if timed else None,
        "cost": total("cost") if timed else None,
        "energy_kwh": total("energy_kwh") if timed else None,
    }


def _thresholds(flops: int) -> list[dict[str, Any]]:
    return [
        {"flops": value, "what": what, "share": flops / value, "reached": flops > value} for value, what in THRESHOLDS
    ]
