"""Fake training runs: ledger, checkpoints and recipe as `docs/formats.md` says, in every form that it allows.

The training packages are not used: the digests of states and parameters are written here once more.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fake_store import finish_stage, start_stage
from safetensors.torch import save_file
from transformers import Olmo3Config, Olmo3ForCausalLM

from data_recipes.interleave import largest_remainder
from data_recipes.order import Order, OrderSource, Phase
from data_recipes.order_file import open_order
from provenance.artifacts import Artifact
from provenance.canonical import canonical_json, hex_float, read_json, write_json
from provenance.digests import Parent, tagged_digest
from provenance.ledger import ChainWriter
from provenance.stage import StageContext

WINDOW = 16
ROW = 33
PARENT_HEAD = "c" * 64
BIAS = "model.layers.0.mlp.gate.e_score_correction_bias"
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class FakeRun:
    """What a run looks like.

    Attributes:
        checkpoints: settings that differ from the tests' usual schedule (weights at every step, full at every second).
        branch_step: goes on from the full checkpoint of that step of another run; 0 for a run of its own.
        long_steps: how many of the last steps read windows of twice the usual length.
        leaves_out: the branch does without the split's last source, in the order that goes on from its step.
        by_file: a file gives the order: windows from the last of the split on backwards, in strides.
        has_experts: records routers and holds a buffer that changes between checkpoints.
        sharded: tensors of a checkpoint in two files each.
        demoted: steps whose full checkpoint keeps its weights only; `removed`: steps of which nothing is kept.
    """

    stage: str
    split: str
    seed: int
    num_steps: int = 4
    sequences_per_step: int = 2
    heldout_every_steps: int = 3
    reduction: str = "exact"
    precision: str = "fp32"
    optimizer: str = "adamw"
    skip_steps: tuple[tuple[int, int], ...] = ()
    checkpoints: dict[str, Any] = field(default_factory=dict)
    branch_step: int = 0
    long_steps: int = 0
    leaves_out: bool = False
    by_file: bool = False
    has_experts: bool = False
    sharded: bool = False
    demoted: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    journal: dict[str, Any] = field(default_factory=lambda: {"step": 0, "num_processes": 1, "shard_size": 1})

    def recipe(self, sources: Sequence[str]) -> dict[str, Any]:
        """The resolved recipe, as far as anything of a bundle reads it."""
        schedule = {"weights_until_step": 64, "weights_every_steps": 1, "full_every_steps": 2, "keep_last_full": None}
        return {
            "seed": self.seed,
            "data": {
                "split": self.split,
                "window_tokens": WINDOW if self.split == "train" else ROW - 1,
                "heldout_split": f"{self.split}-heldout" if self.split == "sft" else "heldout",
                "heldout_windows": 1,
                "heldout_every_steps": self.heldout_every_steps,
            },
            "phases": list(self._phases(sources)),
            "branch": None,
            "skip_steps": [list(stretch) for stretch in self.skip_steps],
            "optimizer": {"name": self.optimizer, "peak_learning_rate": hex_float(1e-3)},
            "checkpoints": {**schedule, "published_full_steps": [], "max_file_bytes": 2**30, **self.checkpoints},
            "precision": self.precision,
            "reduction": self.reduction,
            "num_logical_replicas": 2,
        }

    def _phases(self, sources: Sequence[str]) -> Iterator[dict[str, Any]]:
        mixture: Any = "proportional" if self.by_file else dict.fromkeys(sources, 1)
        begun = self.branch_step if self.leaves_out else 0
        if begun:
            yield {"num_steps": begun, "sequences_per_step": self.sequences_per_step, "mixture": mixture}
            mixture = dict.fromkeys(sources[:-1], 1)
        num_steps = self.num_steps - begun - self.long_steps
        phase = {"num_steps": num_steps, "sequences_per_step": self.sequences_per_step, "mixture": mixture}
        yield phase
        if self.long_steps:
            yield {**phase, "num_steps": self.long_steps, "window_tokens": 2 * WINDOW}


def initial_weights(vocab_size: int) -> Tensors:
    """Random weights of a model that transformers opens."""
    torch.manual_seed(1)
    model = Olmo3ForCausalLM(_model_config(vocab_size))
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _model_config(vocab_size: int) -> Olmo3Config:
    return Olmo3Config(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=32,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
        architectures=["Olmo3ForCausalLM"],
        dtype="float32",
    )


# -------------------------------------------------------------------------------- digests of tensors


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().numpy().tobytes())


def state_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest `state/1`."""
    state = hashlib.sha256(b"openwright:state/1\n")
    for name, tensor in sorted(tensors.items()):
        dtype = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header = canonical_json({"name": name, "dtype": dtype, "shape": list(tensor.shape)})
        rows = list(tensor) if tensor.dim() >= 2 else [tensor]
        leaves = b"".join(hashlib.sha256(_bytes_of(row)).digest() for row in rows)
        state.update(hashlib.sha256(b"openwright:state/1:tensor\n" + header + b"\n" + leaves).digest())
    return state.hexdigest()


def _checksum(weights: Mapping[str, torch.Tensor]) -> str:
    """Digest `parameter-checksum/1`."""
    bits = np.concatenate([tensor.numpy().reshape(-1).view("<i4") for _, tensor in sorted(weights.items())])
    plain = sum(int(b) for b in bits)
    weighed = sum((i + 1) * int(b) for i, b in enumerate(bits))
    return f"{plain % 2**64:016x}-{weighed % 2**64:016x}"


# -------------------------------------------------------------------------------- the run


def make_run(
    context: StageContext, shape: FakeRun, corpus: Artifact, parents: Sequence[Parent], weights: Tensors
) -> tuple[Artifact, Tensors]:
    """Make the artifact of a run; returns it with its final weights."""
    work = start_stage(context, shape.stage)
    entry = read_json(corpus.path / "tokens" / "tokens.json")["splits"][shape.split]
    recipe = shape.recipe([source["name"] for source in entry["sources"]])
    order = _write_order(work, shape, recipe, entry) if shape.by_file else _make_order(shape, recipe, entry)
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    if shape.has_experts:
        weights[BIAS] = torch.zeros(4)
    if shape.branch_step:
        state = state_digest({**weights, **_optimizer_state(shape, weights, shape.branch_step)})
        recipe["branch"] = {"ledger_head": PARENT_HEAD, "step": shape.branch_step, "state_digest": state}
        if shape.leaves_out:
            drawn = [(s.name, s.window_tokens, s.draws_before) for s in order.sources if s.draws_before]
            pools = [dict(zip(("source", "window_tokens", "num_draws"), pool, strict=True)) for pool in drawn]
            recipe["branch"]["draws_before"] = {"step": shape.branch_step, "pools": pools}
    write_json(work / "recipe.json", recipe)
    (work / "accelerate.yaml").write_text("num_processes: 1\nuse_cpu: true\n")
    ledger = ChainWriter(work / "ledger.jsonl")
    ledger.append(_start_record(shape, recipe, order, parents))
    evaluations: list[dict[str, Any]] = []
    num_tokens, final = 0, {}
    for step in _steps_of(shape, ledger):
        if step > shape.branch_step:
            for tensor in weights.values():
                tensor.add_(0.001 * step)
            data, by_source, trained = _windows(corpus.path, entry, order, step)
            num_tokens += sum(by_source.values())
            ledger.append(_step_record(shape, step, order, data, by_source, trained, weights))
        is_last = step == shape.num_steps
        if (step % shape.heldout_every_steps == 0 or is_last) and step >= shape.branch_step + bool(shape.branch_step):
            evaluations.append(_evaluation_record(step, recipe["data"]["heldout_split"]))
            ledger.append(evaluations[-1])
        kind = "full" if shape.branch_step and step == shape.branch_step else _due_kind(recipe, step, shape.num_steps)
        if kind:
            final = _write_checkpoint(work, corpus.path, weights, shape, step, ledger, kind)
    ledger.append({"kind": "end", "step": shape.num_steps, **final})
    ledger.close()
    _apply_retention(work, shape)
    write_json(work / "run.json", _summary(shape, weights, num_tokens, final, ledger, evaluations))
    return finish_stage(context, work, shape.stage, parents, recipe, **shape.journal), weights


def _steps_of(shape: FakeRun, ledger: ChainWriter) -> Iterator[int]:
    """Steps with records, from step 0 or the branch point on; records of stretches that are left out are written."""
    skipped = {step for first, last in shape.skip_steps for step in range(first, last + 1)}
    for step in range(shape.branch_step, shape.num_steps + 1):
        for first, last in shape.skip_steps:
            if first == step > shape.branch_step:
                ledger.append({"kind": "skip", "first": first, "last": last})
        if step not in skipped or step == shape.branch_step:
            yield step


def _due_kind(recipe: Mapping[str, Any], step: int, num_steps: int) -> str:
    settings = recipe["checkpoints"]
    if step and (step == num_steps or step % settings["full_every_steps"] == 0):
        return "full"
    powers = step <= settings["weights_until_step"] and step & (step - 1) == 0
    every = settings["weights_every_steps"]
    return "weights" if step == 0 or powers or (every and step % every == 0) else ""


def _make_order(shape: FakeRun, recipe: Mapping[str, Any], entry: Mapping[str, Any]) -> Order:
    """The order that follows from a recipe over the shards of a split."""
    stream, usual = entry["layout"] == "stream", recipe["data"]["window_tokens"]
    lengths = list(dict.fromkeys(phase.get("window_tokens", usual) for phase in recipe["phases"]))
    pools = [
        OrderSource(source["name"], (source["num_tokens"] - 1) // n if stream else source["num_tokens"] // ROW, n)
        for n in lengths
        for source in entry["sources"]
    ]
    phases = []
    for phase in recipe["phases"]:
        length = phase.get("window_tokens", usual)
        weights = [phase["mixture"].get(p.name, 0) if p.window_tokens == length else 0 for p in pools]
        counts = largest_remainder(phase["num_steps"] * phase["sequences_per_step"], weights)
        phases.append(Phase(phase["num_steps"], phase["sequences_per_step"], counts, length))
    if shape.leaves_out:
        pools = [replace(pool, draws_before=n) for pool, n in zip(pools, phases[0].counts, strict=True)]
        return Order(entry["digest"], shape.seed, tuple(pools), tuple(phases[1:]), usual, shape.branch_step + 1)
    if shape.long_steps:
        return Order(entry["digest"], shape.seed, tuple(pools), tuple(phases), usual)
    plain = tuple(OrderSource(pool.name, pool.num_windows) for pool in pools)
    return Order(entry["digest"], shape.seed, plain, tuple(replace(phase, window_tokens=None) for phase in phases))


def _write_order(work: Path, shape: FakeRun, recipe: dict[str, Any], entry: Mapping[str, Any]) -> Order:
    """Write the file of an `order/3`, with more windows than are read, and pin it in the recipe."""
    sources = tuple(OrderSource(source["name"], (source["num_tokens"] - 1) // WINDOW) for source in entry["sources"])
    total, phase = sum(source.num_windows for source in sources), recipe["phases"][0]
    span = phase["num_steps"], phase["sequences_per_step"]
    numbers = np.array([(total - 1 - 31 * place) % total for place in range(span[0] * span[1] + 3)], "<u4")
    (work / "order.bin").write_bytes(numbers.tobytes())
    pin = {"dtype": "u32", "sha256": hashlib.sha256(numbers.tobytes()).hexdigest(), "tokens_digest": entry["digest"]}
    recipe["data"]["order"] = {"path": "orders/backwards.bin", **pin}
    return open_order(work / "order.bin", **pin, seed=shape.seed, sources=sources, shape=[span])


def _windows(corpus: Path, entry: Mapping[str, Any], order: Order, step: int) -> tuple[bytes, dict[str, int], int]:
    """Bytes that the token digest of a step is made of, tokens by source and number of trained tokens."""
    data, by_source, trained = b"", {source["name"]: 0 for source in entry["sources"]}, 0
    for draw in order.step_draws(step):
        length = order.sources[draw.source].window_tokens or WINDOW
        source = entry["sources"][draw.source % len(entry["sources"])]
        files = source["shards"][0]["files"]
        tokens = np.frombuffer((corpus / files["tokens"]["path"]).read_bytes(), "<u2").astype("<u4")
        if entry["layout"] == "stream":
            ids = tokens[draw.window * length : draw.window * length + length + 1]
            mask = np.array([0] + [1] * length, "u1")
        else:
            ids = tokens.reshape(-1, ROW)[draw.window]
            mask = np.frombuffer((corpus / files["mask"]["path"]).read_bytes(), "u1").reshape(-1, ROW)[draw.window]
        data += ids.tobytes() + mask.tobytes()
        by_source[source["name"]] += len(ids) - 1
        trained += int(mask.sum())
    return data, {name: n for name, n in by_source.items() if n}, trained


# -------------------------------------------------------------------------------- records


def _start_record(shape: FakeRun, recipe: Any, order: Order, parents: Sequence[Parent]) -> dict[str, Any]:
    branch = {key: value for key, value in (recipe["branch"] or {}).items() if key != "draws_before"}
    return {
        "kind": "start",
        "format": "openwright-ledger/1",
        "stage": shape.stage,
        "recipe_digest": tagged_digest("recipe/1", recipe),
        "reduction": shape.reduction,
        "num_logical_replicas": 2,
        "order": {
            "version": order.version,
            "tokens_digest": order.tokens_digest,
            "split": shape.split,
            "seed": order.seed,
            "window_tokens": recipe["data"]["window_tokens"],
            "sources": [
                {
                    "name": source.name,
                    "num_windows": source.num_windows,
                    **({"window_tokens": source.window_tokens} if order.window_tokens else {}),
                    **({"draws_before": source.draws_before} if order.window_tokens else {}),
                }
                for source in order.sources
            ],
            "phases": [
                {
                    "num_steps": phase.num_steps,
                    "sequences_per_step": phase.sequences_per_step,
                    **({} if shape.by_file else {"counts": list(phase.counts)}),
                    **({"window_tokens": phase.window_tokens} if order.window_tokens else {}),
                }
                for phase in order.phases
            ],
            **({"first_step": order.first_step} if order.window_tokens else {}),
            **({"file": {key: recipe["data"]["order"][key] for key in ("dtype", "sha256")}} if shape.by_file else {}),
        },
        "parents": [parent.as_json() for parent in sorted(parents)],
        **({"branch": branch} if branch else {}),
    }


def _step_record(
    shape: FakeRun, step: int, order: Order, data: bytes, by_source: dict[str, int], trained: int, weights: Tensors
) -> dict[str, Any]:
    loads = {"num_choices": 2 * trained, "smallest_load": 1, "largest_load": trained}
    layer = {"router": "model.layers.0.mlp.gate", "num_experts": 4, **loads}
    router = {"layers": [layer], "counts_sha256": hashlib.sha256(bytes([step % 256])).hexdigest()}
    return {
        "kind": "step",
        "step": step,
        "order_digest": order.order_digest(step),
        "token_digest": hashlib.sha256(data).hexdigest(),
        "tokens_by_source": by_source,
        "num_trained_tokens": trained,
        "loss": hex_float(5.7 - 0.3 * step),
        "gradient_norm": hex_float(1.0),
        "learning_rate": hex_float(1e-3),
        "parameter_checksum": _checksum(weights),
        **({"router": router} if shape.has_experts else {}),
    }


def _evaluation_record(step: int, split: str) -> dict[str, Any]:
    loss = 5.7 - 0.25 * step
    values = {"loss": hex_float(loss), "bits_per_byte": hex_float(loss * 0.6)}
    return {"kind": "evaluation", "step": step, "split": split, "num_tokens": 100, "num_bytes": 240, **values}


def _summary(
    shape: FakeRun,
    weights: Tensors,
    num_tokens: int,
    final: dict[str, Any],
    ledger: ChainWriter,
    evaluations: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    keys = ("step", "loss", "bits_per_byte", "num_tokens", "num_bytes")
    places = {"first": evaluations[0], "last": evaluations[-1]}
    return {
        "format": "openwright-run/1",
        "stage": shape.stage,
        "model_type": "olmo3",
        "num_parameters": sum(tensor.numel() for name, tensor in weights.items() if name != BIAS),
        "num_steps": shape.num_steps,
        "num_tokens": num_tokens,
        "final": {"step": shape.num_steps, **final, "path": f"checkpoints/step-{shape.num_steps:08d}"},
        "ledger": {"head": ledger.head, "num_records": ledger.num_records},
        "heldout": {place: {key: record[key] for key in keys} for place, record in places.items()},
    }


# -------------------------------------------------------------------------------- checkpoints


def _optimizer_state(shape: FakeRun, weights: Tensors, step: int) -> Tensors:
    state: Tensors = {"optimizer.step": torch.tensor(step, dtype=torch.int64)}
    for name, tensor in weights.items():
        if name == BIAS:
            continue
        if shape.optimizer == "muon" and tensor.dim() >= 2 and "embed" not in name:
            state[f"{name}.momentum_buffer"] = torch.full_like(tensor, 0.5)
        else:
            state |= {f"{name}.exp_avg": torch.zeros_like(tensor), f"{name}.exp_avg_sq": torch.zeros_like(tensor)}
    return state


def _write_checkpoint(
    work: Path, corpus: Path, weights: Tensors, shape: FakeRun, step: int, ledger: ChainWriter, kind: str
) -> dict[str, Any]:
    target = work / "checkpoints" / f"step-{step:08d}"
    target.mkdir(parents=True)
    _save(weights, target, "model", shape.sharded)
    _model_config(300).save_pretrained(target)
    for path in (corpus / "tokenizer").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    optimizer = _optimizer_state(shape, weights, step)
    if kind == "full":
        _save(optimizer, target, "optimizer", shape.sharded)
    state = state_digest({**weights, **optimizer}) if kind == "full" else None
    digests = {"weights_digest": state_digest(weights), "state_digest": state}
    place = {"num_records": ledger.num_records, "size_bytes": ledger.size_bytes, "head": ledger.head}
    record = {"format": "openwright-checkpoint/1", "kind": kind, "step": step, **digests, "ledger": place}
    write_json(target / "checkpoint.json", record)
    ledger.append({"kind": "checkpoint", "step": step, "checkpoint_kind": kind, **digests})
    return digests


def _save(tensors: Tensors, target: Path, stem: str, sharded: bool) -> None:
    if not sharded:
        save_file(dict(tensors), target / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"{stem}-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, target / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(target / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _apply_retention(work: Path, shape: FakeRun) -> None:
    for step in shape.removed:
        shutil.rmtree(work / "checkpoints" / f"step-{step:08d}")
    for step in shape.demoted:
        folder = work / "checkpoints" / f"step-{step:08d}"
        for path in folder.glob("optimizer*"):
            path.unlink()
        record = read_json(folder / "checkpoint.json")
        write_json(folder / "checkpoint.json", {**record, "kind": "weights", "state_digest": None})
