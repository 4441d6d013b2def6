"""Computing in bf16 with a whole model on every process: bf16 parameters beside fp32 master weights.

`fully_shard` does the same for sharded models, at a price: it casts and moves every parameter in every pass, which for
small passes costs more than it gives. The bits are the same in both ways: parameters are the masters rounded to bf16,
what goes into the model and into each of its layers is cast to bf16, and a pass's bf16 gradients become fp32 before
they are added to those of another pass.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only


class ComputeCopies:
    """The bf16 parameters of a module and their masters.

    The module's parameters become bf16 in place; the tensors that they had until then are the masters, and stay with
    whoever holds them.

    Args:
        module: the module that trains.
        units: modules whose floating-point inputs are cast, the module itself among them.
    """

    def __init__(self, module: nn.Module, units: Iterable[nn.Module]) -> None:
        self._masters, self._copies = [], []
        for parameter in module.parameters():
            self._masters.append(parameter.data)
            parameter.data = parameter.data.to(torch.bfloat16)
            self._copies.append(parameter.data)
        for unit in units:
            unit.register_forward_pre_hook(_cast_inputs, with_kwargs=True)

    def refresh(self) -> None:
        """Round the masters to bf16 once more, after they have changed."""
        torch._foreach_copy_(self._copies, self._masters)


def _cast_inputs(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    cast: tuple[tuple[Any, ...], dict[str, Any]] = tree_map_only(torch.Tensor, _to_bf16, (args, kwargs))
    return cast


def _to_bf16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
