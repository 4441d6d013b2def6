"""AdamW by torch's fused kernel, arranged so that its bits do not depend on where a tensor is cut.

The kernel computes whole vectors with fused multiply-adds and what is left at the end of a tensor without: an element
gets other bits in a tail. Here it sees no tails. Of every tensor it updates the part that fills whole vectors where it
lies, and the rests of all tensors in one padded tensor beside them. On a GPU nothing
else is done (whole against cut tensors: equal bits, measured on one NVIDIA H200, 2026-11-26).
"""

from collections.abc import Mapping, Sequence

import torch
from torch.optim.adamw import adamw

from train.layout import Part
from train.settings import OptimizerConfig

UNIT_ELEMENTS = 64
"""A multiple of every vector, and of the cache line by which the kernel shares a tensor out over threads."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW:
    """AdamW; weight decay acts on tensors of two or more dimensions.

    Args:
        config: settings of the optimizer.
        parts: what this process holds of the parameters it updates.
    """

    def __init__(self, config: OptimizerConfig, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        self._moments = {moment: [torch.zeros_like(part.tensor) for part in parts] for moment in _MOMENTS}
        self._config = config
        self._arrange(0)

    def _arrange(self, num_steps_done: int) -> None:
        """Cut weights and moments anew, decayed and not; after this their memory is updated."""
        held = ([part.tensor for part in self._parts], *self._moments.values())
        self._groups = []
        for is_decayed, weight_decay in ((True, self._config.weight_decay), (False, 0.0)):
            places = [place for place, part in enumerate(self._parts) if (len(part.shape) >= 2) is is_decayed]
            if places:
                of_group = [[tensors[place] for place in places] for tensors in held]
                self._groups.append((places, _Group(self._config, weight_decay, of_group, num_steps_done)))

    def step(self, gradients: Mapping[str, torch.Tensor], learning_rate: float) -> None:
        """Update every part in place."""
        for places, group in self._groups:
            group.step([gradients[self._parts[place].name] for place in places], learning_rate)

    def state(self) -> list[Part]:
        """Return both moments of every part."""
        return [
            part.like(f"{part.name}.{moment}", self._moments[moment][place])
            for place, part in enumerate(self._parts)
            for moment in _MOMENTS
        ]

    def load(self, tensors: Mapping[str, torch.Tensor], num_steps_done: int) -> None:
        """Put both moments of every part back."""
        for moment in _MOMENTS:
            self._moments[moment] = [tensors[f"{part.name}.{moment}"].clone() for part in self._parts]
        self._arrange(num_steps_done)


class _Group:
    """Tensors with one weight decay, cut into what fills whole vectors and the rests.

    Args:
        config: settings of the optimizer.
        weight_decay: that of these tensors.
        held: weights, first moments and second moments, whose memory is updated.
        num_steps_done: updates that were made.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        weight_decay: float,
        held: Sequence[Sequence[torch.Tensor]],
        num_steps_done: int,
    ) -> None:
        self._config = config
        self._weight_decay = weight_decay
        sizes = [tensor.numel() for tensor in held[0]]
        self._cuts = [size - size % UNIT_ELEMENTS for size in sizes]
        self._num_rest = sum(sizes) - sum(self._cuts)
        held = [[tensor.view(-1) for tensor in tensors] for tensors in held]  # a copy would never be updated
        self._rests = [_rests(tensors, self._cuts) for tensors in held]
        units = -(-self._num_rest // UNIT_ELEMENTS)
        self._gradient_rest, *self._padded = torch.zeros(4, units * UNIT_ELEMENTS, device=held[0][0].device)
        self._updated = [
            [*_wholes(tensors, self._cuts), *([padded] if units else [])]
            for tensors, padded in zip(held, self._padded, strict=True)
        ]
        self._steps = [torch.tensor(float(num_steps_done), device=tensor.device) for tensor in self._updated[0]]

    def step(self, gradients: Sequence[torch.Tensor], learning_rate: float) -> None:
        """Update the tensors in place."""
        updating = _wholes(gradients, self._cuts)
        if self._num_rest:
            held = [_rests(gradients, self._cuts), *self._rests]
            for padded, rests in zip((self._gradient_rest, *self._padded), held, strict=True):
                torch.cat(rests, out=padded[: self._num_rest])
            updating.append(self._gradient_rest)
        adamw(
            self._updated[0],
            updating,
            self._updated[1],
            self._updated[2],
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=self._config.beta1,
            beta2=self._config.beta2,
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=self._config.epsilon,
            maximize=False,
        )
        for rests, padded in zip(self._rests, self._padded, strict=True):
            if rests:
                torch._foreach_copy_(rests, padded[: self._num_rest].split([rest.numel() for rest in rests]))


def _wholes(tensors: Sequence[torch.Tensor], cuts: Sequence[int]) -> list[torch.Tensor]:
    return [tensor.reshape(-1)[:cut] for tensor, cut in zip(tensors, cuts, strict=True) if cut]


def _rests(tensors: Sequence[torch.Tensor], cuts: Sequence[int]) -> list[torch.Tensor]:
    pairs = zip(tensors, cuts, strict=True)
    return [tensor.reshape(-1)[cut:] for tensor, cut in pairs if cut < tensor.numel()]
