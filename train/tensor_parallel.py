"""Tensor parallelism: the matrices of the layers cut over the processes at one place of the grid.

How each matrix is cut, and what the processes tell one another in the passes, is the plan that transformers has for a
model; `apply_tensor_parallelism` puts it into effect. Each process cuts its own pieces out of the whole initial
weights, which all of them made from the same seed: nothing is sent. Only for `reduction: native`, since partial
products of a cut matrix are added in an order that depends on the number of pieces.
"""

from typing import Any

from transformers.distributed.configuration_utils import DistributedConfig
from transformers.distributed.tensor_parallel import apply_tensor_parallelism

from provenance.errors import ConfigError
from train.context_parallel import refuse_dropout
from train.layout import TENSOR, Layout

_WHERE = "execution.tensor_size"
_NEXT = "set execution.tensor_size to 1, and shard_size for less memory per process"
_PARTIAL = "replicated_with_grad_allreduce"
_RULES = {
    "colwise",
    "colwise_gather_output",
    "embedding_rowwise",
    "rowwise",
    "rowwise_split_input",
    _PARTIAL,
}
_HEADS = ("num_attention_heads", "num_key_value_heads")


def cut_layers(model: Any, layout: Layout) -> frozenset[str]:
    """Cut the matrices of a model in place: they become DTensors of which this process holds one piece.

    Returns:
        Names of parameters that every process holds whole and of whose gradients it has a part: a norm within each head
        sees the heads of one process only. After a step's passes the parts are to be added over `layout.tensor_group`.

    Raises:
        ConfigError: for a model that transformers has no plan for, or that cannot be cut evenly.
    """
    check_model(model, layout.tensor_size)
    assert layout.mesh is not None
    plan, _, _ = model._resolve_parallel_plans(DistributedConfig(tp_size=layout.tensor_size))
    # A tied head has no parameter of its own; the rule for its module still applies.
    own = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_modules()}
    # transformers adds these after every backward pass to what is there: of several passes, the first ones many times.
    partial = {name for name, rule in plan.items() if rule == _PARTIAL}
    rules = {name: rule for name, rule in plan.items() if name in own - partial}
    apply_tensor_parallelism(model, layout.mesh[TENSOR], rules)
    model.tie_weights()
    return frozenset(name for name, _ in model.named_parameters() if name in partial)


def check_model(model: Any, tensor_size: int) -> None:
    """Refuse a model that cannot be cut over `tensor_size` processes; raises as `cut_layers`."""
    config = model.config
    if not model.supports_tp_plan or not config.base_model_tp_plan:
        raise ConfigError(
            f"transformers has no tensor parallel plan for {config.model_type}",
            expected="a model with one, such as llama, olmo3, qwen3 or smollm3",
            where=_WHERE,
            next_command=_NEXT,
        )
    unknown = sorted(set(model.tp_plan.values()) - _RULES)
    if unknown:
        raise ConfigError(
            f"transformers' tensor parallel plan for {config.model_type} has the rules {', '.join(unknown)}",
            expected=f"those of dense models: {', '.join(sorted(_RULES))}",
            where=_WHERE,
            next_command=_NEXT,
        )
    sizes = {name: getattr(config, name, None) for name in (*_HEADS, "intermediate_size")}
    uneven = {name: size for name, size in sizes.items() if size is not None and size % tensor_size}
    if uneven:
        raise ConfigError(
            ", ".join(f"{name} {size}" for name, size in uneven.items()),
            expected=f"numbers that divide by {tensor_size}",
            where=_WHERE,
            next_command=_NEXT,
        )
    refuse_dropout(model, _WHERE)
