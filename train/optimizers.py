"""Optimizers on the parts of tensors that a process holds, with state that has names.

AdamW is in `train.adamw`; Muon, for the matrices of the hidden layers, in `train.muon`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from train.adamw import AdamW
from train.layout import Layout, Part
from train.muon import Muon
from train.settings import OptimizerConfig

STEP_NAME = "optimizer.step"
_OUTER_MODULES = ("wte", "wpe", "lm_head", "score")
_ROUTERS = ("gate", "router")


class Optimizer(Protocol):
    """What the loop asks of an optimizer. Gradients and state cover the same rows as the parts."""

    def step(self, gradients: Mapping[str, torch.Tensor], learning_rate: float) -> None:
        """Update every part in place; gradients by the part's name."""

    def state(self) -> list[Part]:
        """Return the state as named parts, `<parameter>.<state>`, without the step count."""

    def load(self, tensors: Mapping[str, torch.Tensor], num_steps_done: int) -> None:
        """Put back what `state` gave (the rows held, by name) after that many updates.

        Tensors of other names may be there too and are left alone.
        """


class OptimizerGroup:
    """Several optimizers as one, each for parts of its own.

    Args:
        optimizers: the optimizers; no two have a part in common.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = list(optimizers)

    def step(self, gradients: Mapping[str, torch.Tensor], learning_rate: float) -> None:
        """Update the parts of all."""
        for optimizer in self._optimizers:
            optimizer.step(gradients, learning_rate)

    def state(self) -> list[Part]:
        """Return the state of all."""
        return [part for optimizer in self._optimizers for part in optimizer.state()]

    def load(self, tensors: Mapping[str, torch.Tensor], num_steps_done: int) -> None:
        """Put the state of all back."""
        for optimizer in self._optimizers:
            optimizer.load(tensors, num_steps_done)


def is_hidden_matrix(name: str, num_dimensions: int) -> bool:
    """Whether a parameter is one or more matrices of the hidden layers, which Muon may update.

    Decided by the parts of its dotted name and its number of dimensions:

    - Two dimensions: a `weight` that belongs neither to an embedding (a part of the name contains `embed`, or is
      `wte` or `wpe`), nor to the output layer (`lm_head`, `score`), nor to a router (its module is `gate` or
      `router`, or ends in `_gate`). Llama's `gate_proj.weight` is a matrix; the router `mlp.gate.weight` is not.
    - Three dimensions: stacked experts, one matrix each, under a module called `experts`, biases left out.
    """
    *modules, last = name.split(".")
    if num_dimensions == 3:
        return "experts" in modules and not last.endswith("bias")
    if num_dimensions != 2 or last != "weight" or not modules:
        return False
    is_outer = any("embed" in module or module in _OUTER_MODULES for module in modules)
    return not is_outer and modules[-1] not in _ROUTERS and not modules[-1].endswith("_gate")


def build_optimizer(config: OptimizerConfig, parts: Sequence[Part], layout: Layout) -> Optimizer:
    """Return the optimizer of a config over what this process holds of the trainable parameters.

    Args:
        config: settings of the optimizer.
        parts: the parts, in the same order in every process.
        layout: the processes; under `muon` all of them call `step` at the same time.
    """
    if config.name == "adamw":
        return AdamW(config, parts)
    matrices = [part for part in parts if is_hidden_matrix(part.name, len(part.shape))]
    others = [part for part in parts if not is_hidden_matrix(part.name, len(part.shape))]
    optimizers: list[Optimizer] = []
    if matrices:
        optimizers.append(Muon(config, matrices, layout))
    if others:
        optimizers.append(AdamW(config, others))
    return OptimizerGroup(optimizers)
