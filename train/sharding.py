"""How the model is laid out over the processes: torch `fully_shard` on every layer, whole copies, or torch's own DDP.

One path on CPU and GPU. With `reduction: exact` the rows of the grid are independent copies for torch (a mesh of one
row, or no mesh where nothing is sharded), and the gradients of the rows meet in `train.reduction.ReplicaReducer`; with
`reduction: native` torch sees the whole grid and reduces as it likes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from train.compute_copies import ComputeCopies
from train.context_parallel import share_windows
from train.layout import SHARD, Layout, Part
from train.lm_loss import LanguageModelLoss
from train.model import model_parts
from train.reduction import TreeReduceScatter
from train.settings import RunConfig
from train.tensor_parallel import cut_layers

_UNLIMITED = 2**31


def decoder_layers(model: Any) -> nn.ModuleList:
    """The layers of a transformers decoder; each is computed, sharded and compiled as one unit."""
    layers = model.get_decoder().layers
    assert isinstance(layers, nn.ModuleList)
    return layers


@dataclass(frozen=True)
class PreparedModel:
    """A model laid out over the processes.

    Attributes:
        trained: the module whose forward pass trains.
        weights: what this process holds of the fp32 parameters and of the buffers.
        refresh: to be called before passes: the module computes with the weights as they are now.
        partial: names of parameters whose gradients are still to be added over the processes at a place of the grid.
    """

    trained: nn.Module
    weights: list[Part]
    refresh: Callable[[], None]
    partial: frozenset[str] = frozenset()


def prepare_model(module: LanguageModelLoss, config: RunConfig, layout: Layout) -> PreparedModel:
    """Lay the model out as the config says.

    Parameters are changed in place: those of a sharded model become DTensors whose rows lie on the processes of a row
    of the grid; those of a whole copy that computes in bf16 become bf16.

    Raises:
        ConfigError: when the model cannot be cut over `execution.tensor_size` processes, or its windows not be shared
            by `execution.context_size`.
    """
    partial = cut_layers(module.model, layout) if layout.tensor_size > 1 else frozenset()
    if layout.context_size > 1:
        module.stretches = share_windows(module.model, layout)
    if layout.shard_size == 1 and config.reduction == "exact" and config.precision == "bf16":
        weights = model_parts(module.model, layout)
        trained = _lay_out(module, config, layout, is_whole=True)
        copies = ComputeCopies(module, [module, *decoder_layers(module.model)])
        return PreparedModel(trained, weights, copies.refresh)
    is_whole = layout.shard_size == 1 and config.precision == "fp32" and layout.tensor_size in (1, layout.world.size)
    trained = _lay_out(module, config, layout, is_whole=is_whole)
    return PreparedModel(trained, model_parts(module.model, layout), lambda: None, partial)


def _lay_out(module: LanguageModelLoss, config: RunConfig, layout: Layout, *, is_whole: bool) -> nn.Module:
    if config.execution.activation_checkpointing:
        module.model.activation_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        compile_layers(decoder_layers(module.model))
    if is_whole:
        if config.reduction == "native" and layout.num_readers > 1:
            # DDP else regroups gradients after its first backward pass in a process, and with three or more processes
            # a resumed run would add them in another order than the straight one.
            return DistributedDataParallel(module, gradient_as_bucket_view=True, find_unused_parameters=True)
        return module
    assert layout.mesh is not None, "sharding and torch's own bf16 need a process group"
    mesh = layout.mesh[SHARD] if config.reduction == "exact" else layout.grid
    policy = MixedPrecisionPolicy()
    if config.precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in decoder_layers(module.model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    for part in fsdp_modules(module):
        part.set_reduce_scatter_unused_params(True, recurse=False)
        if layout.world.size > 1:
            # Losses are divided by the step's count of trained tokens before the backward pass: gradients are sums.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        if config.reduction == "exact" and layout.shard_size > 1:
            part.set_custom_reduce_scatter(TreeReduceScatter())
    return module


def compile_layers(layers: nn.ModuleList, backend: str = "inductor") -> None:
    """Have each layer compiled, anew for each shape and mode that it meets.

    Left to itself, torch goes over to kernels for any shape after the second one, and after eight variants of a layer
    to no compiled kernels at all, with a warning in a log. A run that is resumed in a later phase has met other shapes
    than the straight one: it would get other bits.
    """
    torch._dynamo.config.recompile_limit = _UNLIMITED
    torch._dynamo.config.accumulated_recompile_limit = _UNLIMITED
    for layer in layers:
        layer.compile(backend=backend, dynamic=False)


def fsdp_modules(module: nn.Module) -> Iterator[FSDPModule]:
    """The sharded units of a module, itself among them."""
    return (part for part in module.modules() if isinstance(part, FSDPModule))
