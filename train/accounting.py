"""What a training recipe costs, by arithmetic alone: parameters, FLOPs and checkpoints of a model that is never built.

Models are made on torch's meta device, where tensors have shapes and no memory, so that a model of any size takes
seconds. Legend: L tokens of a window, `pairs` (query, key) pairs of an attention.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from provenance.errors import ConfigError
from train.model import build_model, naming_wrong_values
from train.optimizers import is_hidden_matrix
from train.retention import CheckpointPlan, kept_checkpoints
from train.settings import ModelConfig, RunConfig

FLOPS_PER_MULTIPLY_ADD = 2
BACKWARD_PER_FORWARD = 2  # one product for the gradient of the inputs, one for that of the weights
FP32_BYTES = 4


@dataclass(frozen=True)
class LayerShape:
    """One layer of a decoder.

    Attributes:
        num_parameters: all of them.
        num_inactive_parameters: of experts that a token does not visit.
        num_matmul_weights: weights that every token is multiplied with; of the experts those that it visits.
        num_heads: attention heads.
        key_size: size of a head's queries and keys.
        value_size: size of a head's values.
        window_tokens: length of a sliding window; None for full attention.
    """

    num_parameters: int
    num_inactive_parameters: int
    num_matmul_weights: int
    num_heads: int
    key_size: int
    value_size: int
    window_tokens: int | None


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    Attributes:
        num_parameters: trainable parameters; a tied head counts once, with the embedding.
        num_embedding_parameters: of the input embedding, and of the head where it has a matrix of its own.
        head_weights: elements of the matrix that gives the logits.
        num_matrix_parameters: elements of the matrices that Muon would update.
        num_tensors: parameters counted as tensors.
        largest_matrix: elements of the largest of those matrices (an expert is one).
        layers: the decoder's layers in order.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_parameters: int
    num_embedding_parameters: int
    head_weights: int
    num_matrix_parameters: int
    num_tensors: int
    largest_matrix: int
    layers: tuple[LayerShape, ...]

    @property
    def num_active_parameters(self) -> int:
        """Parameters that take part in one token; all of them without experts."""
        return self.num_parameters - sum(layer.num_inactive_parameters for layer in self.layers)

    @property
    def num_outer_parameters(self) -> int:
        """Parameters outside the layers: embedding, head and last norm."""
        return self.num_parameters - sum(layer.num_parameters for layer in self.layers)


@dataclass(frozen=True)
class TrainingFlops:
    """Floating-point operations of a training stage.

    Attributes:
        model: what the mathematics asks for: no masked pair of an attention, nothing twice. The figure that thresholds
            of laws are about and that model FLOPs utilisation (MFU) is measured with.
        computed: what the kernels run: whole attention squares where a mask is passed, layers again in the backward
            pass where activations are not kept.
        heldout: forward passes of the held-out evaluations.
    """

    model: int
    computed: int
    heldout: int

    def __add__(self, other: "TrainingFlops") -> "TrainingFlops":
        return TrainingFlops(self.model + other.model, self.computed + other.computed, self.heldout + other.heldout)


def meta_model(config: ModelConfig, vocab_size: int, window_tokens: int) -> Any:
    """Build the transformers model of a config on the meta device: shapes, and no memory.

    Raises:
        ConfigError: as `build_model`.
    """
    with torch.device("meta"), naming_wrong_values():
        return build_model(config, vocab_size=vocab_size, eos_id=0, pad_id=1, window_tokens=window_tokens)


def model_shape(model: Any) -> ModelShape:
    """Read the sizes of a transformers decoder, on the meta device or any other.

    Raises:
        ConfigError: when the model is no decoder with a list of layers.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise ConfigError(
            f"models of type {model.config.model_type!r} have no list of layers",
            expected="a decoder such as olmo3, llama, qwen3, smollm3 or deepseek_v3",
            where="pretrain.yaml: model.model_type",
        )
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    matrices = [p for name, p in model.named_parameters() if is_hidden_matrix(name, p.dim())]
    return ModelShape(
        model_type=model.config.model_type,
        vocab_size=embedding.shape[0],
        hidden_size=model.config.hidden_size,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_embedding_parameters=embedding.numel() + (0 if head is embedding else head.numel()),
        head_weights=head.numel(),
        num_matrix_parameters=sum(p.numel() for p in matrices),
        num_tensors=len(list(model.parameters())),
        largest_matrix=max((p.shape[-2] * p.shape[-1] for p in matrices), default=0),
        layers=tuple(_layer_shape(layer, model.config, index) for index, layer in enumerate(layers)),
    )


def _layer_shape(layer: Any, config: Any, index: int) -> LayerShape:
    total = sum(p.numel() for p in layer.parameters())
    experts = sum(p.numel() for p in layer.parameters() if p.dim() == 3)
    matrices = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
    active = 0
    if experts:
        num_experts = next(p.shape[0] for p in layer.parameters() if p.dim() == 3)
        active = experts * config.num_experts_per_tok // num_experts
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    types = getattr(config, "layer_types", None)
    sliding = types is not None and types[index] == "sliding_attention"
    return LayerShape(
        num_parameters=total,
        num_inactive_parameters=experts - active,
        num_matmul_weights=matrices + active,
        num_heads=config.num_attention_heads,
        key_size=getattr(config, "qk_head_dim", None) or head_size,
        value_size=getattr(config, "v_head_dim", None) or head_size,
        window_tokens=config.sliding_window if sliding else None,
    )


# -------------------------------------------------------------------------------------------------------- FLOPs


def forward_flops(shape: ModelShape, tokens: int, pairs: int | None = None, *, layers_only: bool = False) -> int:
    """FLOPs of one forward pass over one sequence of `tokens`.

    A multiply-add counts as two. Every weight matrix `[m, n]` that a token meets costs `2 m n`: projections, MLP, the
    router, the experts chosen for it, and the head; the embedding is a look-up and costs nothing. Attention of a layer
    costs `2 heads (key_size + value_size)` per pair: one product for the score, one for the weighted sum. Norms,
    rotary embeddings, activations, softmax and loss are left out, as is usual: they grow with the width, not with its
    square. It is the count of Kaplan et al. 2020 (arXiv:2001.08361, section 2.1), with attention as in Chowdhery et
    al. 2022 (PaLM, arXiv:2204.02311, appendix B) but only for the pairs that are attended to, and multi-head latent
    attention in the form that transformers computes in training: keys and values expanded from their latents by
    matrices that are counted like any other.

    Args:
        pairs: pairs per layer; by default those attended to, so that a sliding window and the future cost nothing.
        layers_only: leave out the head.
    """
    flops = 0
    for layer in shape.layers:
        attended = attended_pairs(tokens, layer.window_tokens) if pairs is None else pairs
        flops += layer.num_matmul_weights * tokens + layer.num_heads * (layer.key_size + layer.value_size) * attended
    return FLOPS_PER_MULTIPLY_ADD * (flops + (0 if layers_only else shape.head_weights * tokens))


def attended_pairs(tokens: int, window_tokens: int | None) -> int:
    """Pairs of a causal attention: position i sees itself and what is before it, at most a window of it."""
    reach = tokens if window_tokens is None else min(window_tokens, tokens)
    return reach * (reach + 1) // 2 + (tokens - reach) * reach


def computed_pairs(layer: LayerShape, tokens: int, attention: str, *, document_masking: bool) -> int:
    """Pairs that the kernels work on: the whole square where a mask is a tensor, half of it where it is a flag.

    torch's scaled-dot-product kernels skip the future only when no mask is passed; transformers passes one for a
    sliding window that is not longer than the sequence, and for documents that may not see one another.
    """
    masked = layer.window_tokens is not None and layer.window_tokens <= tokens
    if attention == "eager" or masked or document_masking:
        return tokens * tokens
    return attended_pairs(tokens, None)


def training_flops(shape: ModelShape, config: RunConfig, attention: str) -> TrainingFlops:
    """FLOPs of all steps of a stage: forward, twice that backward, and what is computed again or for nothing.

    Steps that the recipe skips cost nothing. Recomputed layers (`activation_checkpointing`) are counted under
    `computed` only. A loss in chunks costs nothing more: the gradients of a chunk's logits are made with the logits.
    """
    heldout = len(list(heldout_steps(config))) * config.data.heldout_windows
    total = TrainingFlops(0, 0, heldout * forward_flops(shape, config.data.window_tokens))
    for phase, sequences in zip(config.phases, phase_sequences(config), strict=True):
        model, computed = _sequence_flops(shape, config, attention, config.window_tokens_of(phase))
        total += TrainingFlops(sequences * model, sequences * computed, 0)
    return total


def _sequence_flops(shape: ModelShape, config: RunConfig, attention: str, tokens: int) -> tuple[int, int]:
    """FLOPs of training on one window of `tokens`: what the mathematics asks for, and what is computed."""
    masks = config.data.document_masking
    by_kernels = FLOPS_PER_MULTIPLY_ADD * sum(
        layer.num_matmul_weights * tokens
        + layer.num_heads
        * (layer.key_size + layer.value_size)
        * computed_pairs(layer, tokens, attention, document_masking=masks)
        for layer in shape.layers
    )
    head = FLOPS_PER_MULTIPLY_ADD * shape.head_weights * tokens
    again = by_kernels if config.execution.activation_checkpointing else 0
    passes = 1 + BACKWARD_PER_FORWARD
    return forward_flops(shape, tokens) * passes, (by_kernels + head) * passes + again


def phase_sequences(config: RunConfig) -> list[int]:
    """Sequences that the steps of each phase read; skipped steps read none."""
    found, first = [], 1
    for phase in config.phases:
        steps = range(first, first + phase.num_steps)
        skipped = sum(max(0, min(b, steps[-1]) - max(a, steps[0]) + 1) for a, b in config.skip_steps)
        found.append((phase.num_steps - skipped) * phase.sequences_per_step)
        first += phase.num_steps
    return found


def num_sequences(config: RunConfig) -> int:
    """Sequences that the steps of all phases read."""
    return sum(phase_sequences(config))


def num_tokens(config: RunConfig) -> int:
    """Positions that the steps of all phases read."""
    pairs = zip(config.phases, phase_sequences(config), strict=True)
    return sum(sequences * config.window_tokens_of(phase) for phase, sequences in pairs)


def heldout_steps(config: RunConfig) -> Iterator[int]:
    """Steps after which the held-out loss is taken."""
    every = config.data.heldout_every_steps
    yield from range(0, config.num_steps, every)
    yield config.num_steps


# -------------------------------------------------------------------------------------------------------- checkpoints


def optimizer_elements(shape: ModelShape, optimizer: str) -> int:
    """Elements of the optimizer's state: two per parameter for AdamW, one for a matrix under Muon."""
    if optimizer == "muon":
        return 2 * shape.num_parameters - shape.num_matrix_parameters
    return 2 * shape.num_parameters


def plan_checkpoints(shape: ModelShape, config: RunConfig) -> CheckpointPlan:
    """Which checkpoints the schedule and the retention of a config leave, and how large they are."""
    size = FP32_BYTES * shape.num_parameters
    state = FP32_BYTES * optimizer_elements(shape, config.optimizer.name)
    return kept_checkpoints(config, size, size + state)
