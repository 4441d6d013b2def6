"""Held-out loss and bits per byte, the same bits at every number of processes."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from data_recipes.windows import TokenWindows, spread_windows
from provenance.canonical import Json, hex_float
from train.layout import Layout


@dataclass(frozen=True)
class HeldoutScore:
    """Mean loss in nats per token and the same in bits per byte of text."""

    num_tokens: int
    num_bytes: int
    loss: float
    bits_per_byte: float

    def ledger_record(self, step: int, split: str) -> dict[str, Json]:
        """The ledger's record of this evaluation."""
        return {
            "kind": "evaluation",
            "step": step,
            "split": split,
            "num_tokens": self.num_tokens,
            "num_bytes": self.num_bytes,
            "loss": hex_float(self.loss),
            "bits_per_byte": hex_float(self.bits_per_byte),
        }


class HeldoutSet:
    """Windows spread evenly over a held-out split.

    Args:
        windows: the split.
        num_windows: how many at most.
        token_num_bytes: bytes of text behind each token id.
    """

    def __init__(self, windows: TokenWindows, num_windows: int, token_num_bytes: npt.NDArray[np.int64]) -> None:
        chosen = [windows.read(*place) for place in spread_windows(windows, num_windows)]
        ids_BT = np.stack([ids for ids, _ in chosen])
        mask_BT = np.stack([mask for _, mask in chosen]).astype(bool)
        self._ids_BT, self._mask_BT = torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)
        targets = ids_BT[mask_BT]
        self._num_tokens = len(targets)
        self._num_bytes = int(token_num_bytes[targets].sum())

    @torch.no_grad()
    def score(self, module: nn.Module, layout: Layout) -> HeldoutScore:
        """Score the model: each window alone in float64, summed in window order.

        Args:
            module: the language model with its loss, as it is laid out over the processes.
            layout: the processes; those that share a copy of the model make the same number of forward passes, those at
                one place of the grid over the same windows.
        """
        module.eval()
        world, count = layout.world, len(self._ids_BT)
        sums_B = torch.zeros(count, dtype=torch.float64, device=world.device)
        for first in range(0, count, layout.num_readers):
            index = first + layout.reader
            if index >= count and layout.shard_size == 1:
                break
            place = min(index, count - 1)
            ids_BT, mask_BT = self._ids_BT[place : place + 1], self._mask_BT[place : place + 1]
            _, loss_sum = module(ids_BT.to(world.device), mask_BT.to(world.device), 1.0)
            if index < count and layout.tensor == 0:
                sums_B[index] = loss_sum
        module.train()
        # Every element is non-zero on one process only, so this sum adds zeros and is exact. (With context parallelism
        # those that share a window each have the sum of a stretch.)
        world.all_reduce(sums_B)
        total = math.fsum(sums_B.tolist())
        return HeldoutScore(
            num_tokens=self._num_tokens,
            num_bytes=self._num_bytes,
            loss=total / self._num_tokens,
            bits_per_byte=total / math.log(2) / self._num_bytes,
        )
