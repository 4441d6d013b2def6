"""Twins: the same config directory with every size divided, so that a laptop runs each option of a large recipe.

The rule, for all configs alike:

* **Widths.** Heads: 3, or as many per key-value head as the real model has (at most 4), over 1 key-value head. A head
  has 22 dimensions, so that no width divides by a power of two; MLP 175. With experts (whose grouped products want
  rows of a multiple of 16 bytes): hidden size 72, experts of 24, 8 of them, at most 3 chosen, at most 2 groups and 2
  shared; multi-head latent attention with ranks 24 and 16 and head sizes 16 + 8 and 20.
* **Depth.** One layer of each kind that the real model has (dense and experts; sliding and full attention), at least 2.
* **Context.** Windows of 48 tokens (127 for conversations), 96 in phases whose windows are longer than the usual ones
  and 24 where they are shorter; sliding windows of 16, 256 positions.
* **Batch.** At most 4 logical replicas with one window each; two in phases whose batch grows.
* **Steps.** One per phase (of the same sources in equal parts, where it is given by epochs), at least 3 in all, the
  first phase taking what is missing; a full checkpoint at step 2;
  warm-up, decay and a skipped stretch are one step long where they exist.
* **Processes.** At most 2, sharded over 2 where the real run is sharded; matrices are not cut nor windows shared.
* **Data.** As many sources as the real corpus has, with the same names, splits, licences and classes of data, made
  by a seeded program (`openwright.twin_corpus`); a tokenizer of 400 tokens trained on them; no limit on epochs.
* **Averages.** As many of the last checkpoints of each stage as the real average names, or all that the twin keeps.
* **Evaluation.** At most 8 items and 6 documents per task.

Everything else stays as it is: architecture, precision, loss, optimizer, schedule, masks, activation checkpointing,
retention, shipping. Compiling is left out (minutes on CPUs), trackers too; a branch becomes a run of its own. A twin is
written as a config directory of its own, is run with `--dev`, and is never released.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from openwright.configs import RELEASE, StageConfigs, config_model
from openwright.twin_corpus import write_twin_source
from provenance.config import EXECUTION_SECTION
from provenance.made_model import AVERAGE
from train.accounting import meta_model, model_shape
from train.average_settings import AverageConfig
from train.retention import kept_checkpoints
from train.settings import ModelConfig, PhaseConfig, RunConfig

SUFFIX = "-twin"
CONFIG_FOLDER = "config"
SOURCES_FOLDER = "sources"
MAX_REPLICAS = 4
MAX_PROCESSES = 2
MIN_STEPS = 3
CHECKPOINT_STEP = 2
WINDOW_TOKENS = 48
CONVERSATION_TOKENS = 127
VOCABULARY = 400
HEAD_SIZE = 22
NUM_HEADS = 3
CHUNK_TOKENS = 20
FILE_BYTES = 2**16
_MOE_FIELDS = {"hidden_size": 72, "moe_intermediate_size": 24}
_MLA_FIELDS = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 20}
_AT_MOST = {"num_experts_per_tok": 3, "n_group": 2, "topk_group": 1, "n_shared_experts": 2, "first_k_dense_replace": 1}
_NUM_EXPERTS = 8
_FIELDS = {"intermediate_size": 175, "max_position_embeddings": 256, "sliding_window": 16}


def write_twin(configs: StageConfigs, store: Path) -> Path:
    """Write the twin of a release and its sources below `<store>/<name>-twin`; returns its config directory."""
    root = store / f"{configs.name}{SUFFIX}"
    directory = root / CONFIG_FOLDER
    directory.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {}
    for stage, config in configs.models.items():
        values = config.model_dump(mode="json")
        twin = twin_average(config, made) if stage == AVERAGE else _TWINS[stage](values, config, root / SOURCES_FOLDER)
        # A twin that is no config is our mistake, found here.
        made[stage] = config_model(stage).model_validate(twin, strict=False)
        header = f"# The twin of {configs.name}, written by openwright --twin; the rule is in openwright/twin.py.\n"
        text = header + yaml.safe_dump(twin, sort_keys=False, allow_unicode=True, width=110)
        (directory / f"{stage}.yaml").write_text(text, encoding="utf-8")
    return directory


def twin_corpus(values: dict[str, Any], _: Any, sources: Path) -> dict[str, Any]:
    """The corpus: small sources, a small vocabulary."""
    allowed = values["policy"]["allow"]
    twins = [write_twin_source(source, allowed, sources) for source in values["sources"]]
    tokenizer = {**values["tokenizer"], "vocab_size": VOCABULARY, "file": None}
    compared = values["decontamination"] and {**values["decontamination"], "sets": []}  # their files are not here
    conversations = {**values["conversations"], "window_tokens": CONVERSATION_TOKENS}
    execution = {"num_workers": 1, "cache_dir": sources.as_posix(), "data_dir": sources.as_posix()}
    changes = {"sources": twins, "tokenizer": tokenizer, "conversations": conversations, "num_shards": 1}
    return {**values, **changes, "decontamination": compared, EXECUTION_SECTION: execution}


def twin_run(values: dict[str, Any], config: RunConfig, _: Path) -> dict[str, Any]:
    """A training stage: its model, batch, steps and layout divided."""
    replicas = min(MAX_REPLICAS, config.num_logical_replicas)
    data = {**values["data"], "heldout_windows": 4, "heldout_every_steps": 2, "max_epochs": None, "order": None}
    data["window_tokens"] = CONVERSATION_TOKENS if config.data.split.startswith("sft") else WINDOW_TOKENS
    twin = {
        **values,
        "data": data,
        "phases": _phases(config, replicas),
        "branch": None,
        "skip_steps": [[1, 1]] if config.skip_steps else [],
        "schedule": {
            **values["schedule"],
            "warmup_steps": min(1, config.schedule.warmup_steps),
            "decay_steps": min(1, config.schedule.decay_steps),
        },
        "checkpoints": _checkpoints(values, config),
        "num_logical_replicas": replicas,
        "compile": False,
        EXECUTION_SECTION: _execution(values, config, replicas),
    }
    if config.loss.chunk_tokens is not None:
        twin["loss"] = {**values["loss"], "chunk_tokens": CHUNK_TOKENS}
    model = getattr(config, "model", None)
    if model is not None:
        twin["model"] = {**values["model"], "fields": twin_fields(model)}
    return twin


def _phases(config: RunConfig, replicas: int) -> list[dict[str, Any]]:
    smallest = min(phase.sequences_per_step for phase in config.phases)
    phases: list[dict[str, Any]] = [
        {
            "num_steps": 1,
            "sequences_per_step": replicas * (2 if phase.sequences_per_step > smallest else 1),
            "mixture": _mixture(phase),
            "window_tokens": _window_tokens(config, phase),
        }
        for phase in config.phases
    ]
    phases[0]["num_steps"] += max(0, MIN_STEPS - len(phases))
    return phases


def _mixture(phase: PhaseConfig) -> str | dict[str, int]:
    if phase.epochs is not None:
        return dict.fromkeys(phase.epochs, 1)
    return phase.mixture if isinstance(phase.mixture, str) else dict(phase.mixture)


def _window_tokens(config: RunConfig, phase: PhaseConfig) -> int | None:
    length, usual = config.window_tokens_of(phase), config.data.window_tokens
    if length == usual:
        return None
    return 2 * WINDOW_TOKENS if length > usual else WINDOW_TOKENS // 2


def _checkpoints(values: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    settings = config.checkpoints
    twin = {
        **values["checkpoints"],
        "weights_until_step": min(1, settings.weights_until_step),
        "weights_every_steps": min(1, settings.weights_every_steps),
        "full_every_steps": CHECKPOINT_STEP,
        "keep_last_full": None if settings.keep_last_full is None else 1,
        "published_full_steps": [CHECKPOINT_STEP] if settings.published_full_steps else [],
    }
    model = getattr(config, "model", None)
    if model is not None and 4 * _num_parameters(model) > settings.max_file_bytes:
        twin["max_file_bytes"] = FILE_BYTES  # several files, as the real model has
    return twin


def _num_parameters(model: ModelConfig) -> int:
    return model_shape(meta_model(model, VOCABULARY, 1)).num_parameters


def _execution(values: dict[str, Any], config: RunConfig, replicas: int) -> dict[str, Any]:
    real = config.execution
    processes = min(real.num_processes or 1, MAX_PROCESSES, replicas)
    return {
        **values[EXECUTION_SECTION],
        "device": "cpu",
        "num_processes": processes,
        "shard_size": min(real.shard_size, processes),
        "tensor_size": 1,  # three heads do not divide, nor do windows of 127 tokens
        "context_size": 1,
        "trackers": [],
    }


def twin_fields(model: ModelConfig) -> dict[str, Any]:
    """The fields of the twin's model; fields that the config leaves to transformers are set too."""
    real = meta_model(model, VOCABULARY, 1).config
    fields = dict(model.fields)
    fields |= {name: size for name, size in _FIELDS.items() if getattr(real, name, None) is not None}
    fields |= _heads(real)
    has_experts = getattr(real, "num_experts_per_tok", None) is not None
    if has_experts:
        fields |= _MOE_FIELDS
        fields |= {name: min(most, getattr(real, name)) for name, most in _AT_MOST.items() if hasattr(real, name)}
        name = "n_routed_experts" if hasattr(real, "n_routed_experts") else "num_experts"
        fields[name] = min(_NUM_EXPERTS, getattr(real, name))
    if hasattr(real, "kv_lora_rank"):
        fields |= {name: size for name, size in _MLA_FIELDS.items() if getattr(real, name, None) is not None}
    fields["num_hidden_layers"] = 2
    kinds = list(dict.fromkeys(getattr(real, "layer_types", None) or ()))
    if kinds:
        fields["layer_types"] = (kinds * 2)[:2] if len(kinds) < 2 else kinds
        fields["num_hidden_layers"] = len(fields["layer_types"])
    return fields


def _heads(real: Any) -> dict[str, int]:
    per_key_value_head = real.num_attention_heads // real.num_key_value_heads
    heads, key_value_heads = (NUM_HEADS, NUM_HEADS) if per_key_value_head == 1 else (min(4, per_key_value_head), 1)
    fields = {
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "hidden_size": heads * HEAD_SIZE,
    }
    if getattr(real, "head_dim", None) is not None and not hasattr(real, "kv_lora_rank"):
        fields["head_dim"] = HEAD_SIZE
    return fields


def twin_average(config: AverageConfig, twins: Mapping[str, RunConfig]) -> dict[str, Any]:
    """An average: of the last checkpoints that the twins of its stages keep."""
    groups, weights, place = [], list[int](), 0
    for group in config.ingredients:
        kept = kept_checkpoints(twins[group.stage], 0, 0).steps[-len(group.steps) :]
        groups.append({"stage": group.stage, "steps": list(kept)})
        weights += config.weights[place : place + len(kept)]
        place += len(group.steps)
    return {"kind": config.kind, "ingredients": groups, "weights": weights, "decay": config.decay}


def twin_eval(values: dict[str, Any], *_: Any) -> dict[str, Any]:
    """The evaluation: few items."""
    few = {
        "context_tokens": CONVERSATION_TOKENS + 1,
        "min_items": min(2, values["min_items"]),
        "bits_per_byte": {**values["bits_per_byte"], "max_documents": 6, "max_characters": 400},
        "docstring_choice": _few(values["docstring_choice"]),
        "cloze": _few(values["cloze"]),
        "intervals": {**values["intervals"], "num_resamples": 100},
    }
    return {**values, **few, EXECUTION_SECTION: {"num_processes": 1}}


def _few(task: dict[str, Any] | None) -> dict[str, Any] | None:
    """A task with few items; more than one solved example would not fit the twin's context."""
    if task is None:
        return None
    return {**task, "max_items": 8, "num_fewshot": min(1, task["num_fewshot"])}


def twin_release(values: dict[str, Any], *_: Any) -> dict[str, Any]:
    """The release: the same under another name; a recipe for planning only has a twin that runs."""
    return {**values, "name": f"{values['name']}{SUFFIX}", "plan_only": ""}


_TWINS: Mapping[str, Any] = {
    "corpus": twin_corpus,
    "pretrain": twin_run,
    "sft": twin_run,
    "eval": twin_eval,
    RELEASE: twin_release,
}
