"""How much memory a process of a training job needs, part by part, before anything runs.

`memory_parts` is the table: one row per part, with the moments of a step at which it is there. The peak is the largest
sum over the rows of one moment. Activations are not guessed: the layers run once on fake tensors, which have shapes and
no memory, and what autograd would keep is added up.

Legend: P parameters, S processes that share a copy of the model, R copies, n passes of a process per step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch._subclasses.fake_tensor import FakeTensorMode

from train.accounting import ModelShape, optimizer_elements
from train.model import build_model, naming_wrong_values
from train.reduction import BUCKET_ELEMENTS
from train.settings import ModelConfig, RunConfig

Moment = Literal["gather", "forward", "loss", "backward", "gradients", "exchange", "update"]
MOMENTS: tuple[Moment, ...] = ("gather", "forward", "loss", "backward", "gradients", "exchange", "update")
"""Of a step's last pass: embedding and head are gathered; activations whole; logits and their gradients; the last
layer's gradients, the other layers' activations still there; gradients whole; copies add theirs up; the optimizer."""

ALWAYS = MOMENTS
PASS: tuple[Moment, ...] = ("gather", "forward", "loss", "backward", "gradients")
FP32, BF16 = 4, 2
GATHERED_BUCKETS = 2
"""gloo has two threads, and each gathers into memory of its own before it copies."""

RESIDENT_ALONE, RESIDENT_COPIES, RESIDENT_SHARDED = 1.25, 1.65, 2.5
"""Resident memory of a process on CPUs, beyond that of its libraries, over its live tensors: what glibc keeps of freed
memory. Measured at 18 million parameters, see docs/plan.md."""


@dataclass(frozen=True)
class MemoryPart:
    """One row of the table.

    Attributes:
        name: what it is.
        num_bytes: size on one process.
        moments: when it is there.
        note: how the size comes about.
    """

    name: str
    num_bytes: int
    moments: tuple[Moment, ...]
    note: str


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps of one window's forward pass, in the dtypes of the recipe.

    Attributes:
        window_tokens: length of the window.
        by_layer: per layer of the decoder.
        outside: embedding, rotary angles, masks, last norm.
        layer_input: hidden state that enters a layer.
    """

    window_tokens: int
    by_layer: tuple[int, ...]
    outside: int
    layer_input: int

    def kept(self, *, recomputed: bool) -> int:
        """Bytes kept until the backward pass; of layers that are computed again only what enters them."""
        return self.outside + (len(self.by_layer) * self.layer_input if recomputed else sum(self.by_layer))


def memory_parts(
    shape: ModelShape, config: RunConfig, activations: Activations, num_processes: int, shard_size: int
) -> list[MemoryPart]:
    """The table of one process's memory: the largest process where they differ.

    Args:
        activations: of one window (`measure_activations`); the table is of the phases with windows of that length,
            at the largest batch among them.
        num_processes: processes in all.
        shard_size: processes that share one copy of the model.
    """
    shards, copies = shard_size, num_processes // shard_size
    passes = max(1, config.num_logical_replicas // num_processes)
    length = activations.window_tokens
    batches = [phase.sequences_per_step for phase in config.phases if config.window_tokens_of(phase) == length]
    windows = max(batches) // config.num_logical_replicas or 1
    exact = config.reduction == "exact"
    whole_bf16 = exact and shards == 1 and config.precision == "bf16"
    built: tuple[Moment, ...] = ("exchange", "update")
    if not whole_bf16 and not (exact and passes > 1):  # else it is added to what stands among the partial sums
        built = ("gradients", *built)
    own = -(-shape.num_parameters // shards)
    state = -(-optimizer_elements(shape, config.optimizer.name) // shards)
    sums = own * (passes.bit_length() - 1) * exact
    gathered = own + min(own, GATHERED_BUCKETS * BUCKET_ELEMENTS)
    exchange = gathered * (exact and copies > 2)  # two copies add in place
    logits = _logits_bytes(shape, config, windows * length)
    parts = [
        MemoryPart("master weights", FP32 * own, ALWAYS, "fp32, P/S"),
        MemoryPart("optimizer state", FP32 * state, ALWAYS, f"fp32, {config.optimizer.name}"),
        MemoryPart(
            "partial sums",
            FP32 * sums,
            (*PASS, "exchange") if whole_bf16 and copies == 1 else PASS,
            f"exact reduction: log2 of {passes} passes, P/S each",
        ),
        MemoryPart("gradients", FP32 * own, built, "fp32, P/S; copies send from here"),
        MemoryPart("exchange", FP32 * exchange, ("exchange",), "received from other copies; what gloo gathers into"),
        *_activation_parts(shape, config, activations, windows),
        MemoryPart("logits", logits, ("loss",), "whole" if config.loss.chunk_tokens is None else "one chunk"),
        *(_whole_parts(shape, config, passes) if shards == 1 and exact else _unit_parts(shape, config, shards, passes)),
    ]
    return [part for part in parts if part.num_bytes]


def _whole_parts(shape: ModelShape, config: RunConfig, passes: int) -> Iterator[MemoryPart]:
    """What a whole copy of the model holds to compute with; gradients that are added at once are there one by one."""
    if config.precision == "bf16":
        yield MemoryPart("bf16 copies", BF16 * shape.num_parameters, ALWAYS, "what passes compute with")
        yield MemoryPart("bf16 gradients", BF16 * shape.num_parameters, ("gradients",), "of one pass")
    elif passes > 1:
        moments: tuple[Moment, ...] = ("backward", "gradients")
        yield MemoryPart("gradient of the head", FP32 * shape.head_weights, moments, "the largest that is added")


def _unit_parts(shape: ModelShape, config: RunConfig, shards: int, passes: int) -> Iterator[MemoryPart]:
    """What `fully_shard` holds of its units (a layer; embedding and head): copies to compute with, and gradients.

    What is gathered is copied out once more, and gloo gathers into memory of its own before. In the backward pass the
    next layer is gathered ahead, and what a reduce-scatter sent is kept until the next one.
    """
    compute = _compute_bytes(config)
    if shards == 1 and compute == FP32:
        return
    kind = "bf16 copies" if compute == BF16 else "gathered"
    gathered, received = (compute, FP32) if shards > 1 else (0, 0)
    layer, outer = max(layer.num_parameters for layer in shape.layers), shape.num_outer_parameters
    head = compute * shape.head_weights
    weights: tuple[Moment, ...] = ("gather", "forward", "loss", "backward")
    yield MemoryPart("outer weights", compute * outer, weights, f"{kind}: embedding and head, whole")
    yield MemoryPart("outer weights gathered", 2 * gathered * outer, ("gather",), "by gloo, and to be copied out")
    yield MemoryPart("layer weights", (compute + gathered) * layer, weights[1:], f"{kind}: this layer and the next")
    yield MemoryPart("layer weights gathered", gathered * layer, ("forward", "backward"), "by gloo")
    sent = FP32 * layer + -(-FP32 * layer // shards)
    yield MemoryPart("unit gradients", sent + head, ("backward",), "a layer as it was sent, its share; the head")
    last = max(
        compute * outer + head + max(FP32 + received, FP32 + 2 * compute) * layer,  # the first layer
        compute * outer + 2 * head + FP32 * layer,  # the embedding's gradient is added to the head's
        FP32 * outer + max(received, compute) * outer,  # and sent
    )
    yield MemoryPart("last units", last, ("gradients",), "first layer, then embedding and head: weights and gradients")
    if config.reduction == "native" and shards > 1 and passes > 1:
        yield MemoryPart(
            "whole gradients", FP32 * shape.num_parameters, PASS, "native: not sharded until the last pass"
        )


def _compute_bytes(config: RunConfig) -> int:
    return BF16 if config.precision == "bf16" else FP32


def peak_bytes(parts: list[MemoryPart]) -> tuple[int, Moment]:
    """The largest sum over parts that are there at the same moment, and which moment that is."""
    sums = {moment: sum(part.num_bytes for part in parts if moment in part.moments) for moment in MOMENTS}
    moment = max(MOMENTS, key=lambda name: sums[name])
    return sums[moment], moment


def resident_bytes(peak: int, num_processes: int, shard_size: int) -> int:
    """Resident memory on CPUs beyond that of the libraries, roughly, for a peak of live tensors."""
    if num_processes == 1:
        return round(RESIDENT_ALONE * peak)
    return round((RESIDENT_SHARDED if shard_size > 1 else RESIDENT_COPIES) * peak)


def _activation_parts(
    shape: ModelShape, config: RunConfig, activations: Activations, windows: int
) -> Iterator[MemoryPart]:
    recomputed = config.execution.activation_checkpointing
    square = 0
    if config.data.document_masking:  # full attention then has a mask as well, in the dtype of the attention
        square = activations.window_tokens**2 * _compute_bytes(config)
    masks = square * sum(layer.window_tokens is None for layer in shape.layers)
    kept = activations.kept(recomputed=recomputed) + (0 if recomputed else masks)
    yield MemoryPart("activations", windows * kept, ("forward", "loss"), "inputs of layers" if recomputed else "")
    left = windows * (kept - (activations.layer_input if recomputed else activations.by_layer[-1]))
    yield MemoryPart("activations left", left, ("backward",), "without those of the last layer")
    if recomputed:
        again = windows * (max(activations.by_layer) + square)
        yield MemoryPart("layer done again", again, ("forward", "backward", "gradients"), "of the largest layer")


def _logits_bytes(shape: ModelShape, config: RunConfig, tokens: int) -> int:
    """Logits with what the loss makes of them: logarithms of the softmax, and the gradients of both."""
    compute = _compute_bytes(config)
    if config.loss.chunk_tokens is None:
        copies = 3 * FP32 + (compute if compute != FP32 else 0) + (2 * FP32 if config.loss.z_loss else 0)
        return copies * tokens * shape.vocab_size
    chunk = 2 * FP32 * min(config.loss.chunk_tokens, tokens) * shape.vocab_size
    kept = (FP32 + (compute if compute != FP32 else 0)) * shape.head_weights  # the head's gradient
    return chunk + kept + 2 * compute * tokens * shape.hidden_size


def snapshot_bytes(shape: ModelShape, config: RunConfig, num_processes: int) -> int:
    """Bytes of host memory that the largest process has for copies of a full checkpoint, from the first one on.

    Files of at most `max_file_bytes` are shared out over processes; they are written from these copies.
    """
    limit = config.checkpoints.max_file_bytes
    sizes = [*_files(FP32 * shape.num_parameters, limit)]
    sizes += _files(FP32 * optimizer_elements(shape, config.optimizer.name), limit)
    return max(sum(sizes[rank::num_processes]) for rank in range(min(num_processes, len(sizes))))


def _files(total: int, limit: int) -> Iterator[int]:
    yield from (limit for _ in range(total // limit))
    if total % limit:
        yield total % limit


# ---------------------------------------------------------------------------------------------------------- activations


def measure_activations(config: ModelConfig, precision: str, vocab_size: int, window_tokens: int) -> Activations:
    """Run the decoder on one window of fake tensors and add up what autograd keeps for the backward pass.

    Attention runs in the kernel of CPUs, which keeps the same tensors as the fused kernels of GPUs. Experts, whose
    choice depends on values, are given even loads.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build_model(config, vocab_size=vocab_size, eos_id=0, pad_id=1, window_tokens=window_tokens)
        for module in model.modules() if precision == "bf16" else ():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(parameter.detach().to(torch.bfloat16)))
        decoder = model.get_decoder()
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        kept = _Kept(weights)
        for index, layer in enumerate(decoder.layers):
            layer.register_forward_pre_hook(kept.enter(index))
            layer.register_forward_hook(kept.leave)
        for module in decoder.modules():
            if any(parameter.dim() == 3 for parameter in module.parameters(recurse=False)):
                module.forward = _even_experts.__get__(module)
        with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            ids_BT = torch.zeros(1, window_tokens, dtype=torch.int64)
            with naming_wrong_values():
                hidden_BTD = decoder(input_ids=ids_BT, use_cache=False).last_hidden_state
        layer_input = hidden_BTD.numel() * hidden_BTD.element_size()
        by_layer = tuple(kept.bytes_at(index) for index in range(len(decoder.layers)))
        return Activations(window_tokens, by_layer, kept.bytes_at(_Kept.OUTSIDE), layer_input)


class _Kept:
    """Storages that autograd keeps, by the layer that was running when it asked for them first."""

    OUTSIDE = -1

    def __init__(self, weights: set[int]) -> None:
        self._weights = weights
        self._storages: dict[int, tuple[int, Any]] = {}
        self._place = self.OUTSIDE

    def enter(self, index: int) -> Any:
        def hook(*_: Any) -> None:
            self._place = index

        return hook

    def leave(self, *_: Any) -> None:
        self._place = self.OUTSIDE

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._storages.setdefault(storage._cdata, (self._place, storage))
        return tensor

    def bytes_at(self, place: int) -> int:
        return sum(storage.nbytes() for where, storage in self._storages.values() if where == place)


def _even_experts(
    self: Any, hidden_TD: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Experts as one product over all (token, expert) pairs: the tensors kept are those of any distribution."""
    num_chosen = top_k_index.shape[-1]
    rows = hidden_TD.repeat_interleave(num_chosen, dim=0)
    gate, up = F.linear(rows, self.gate_up_proj[0]).chunk(2, dim=-1)
    out = F.linear(self.act_fn(gate) * up, self.down_proj[0]) * top_k_weights.reshape(-1, 1)
    return out.view(len(hidden_TD), num_chosen, -1).sum(dim=1)
