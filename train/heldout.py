"""Held-out loss and bits per byte, the same bits at every number of processes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from data_recipes.windows import TokenWindows
from provenance.canonical import Json, hex_float
from train.reduction import World


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
        places = [(m, w) for m, source in enumerate(windows.sources) for w in range(source.num_windows)]
        count = min(num_windows, len(places))
        chosen = [windows.read(*places[index * len(places) // count]) for index in range(count)]
        ids_BT = np.stack([ids for ids, _ in chosen])
        mask_BT = np.stack([mask for _, mask in chosen]).astype(bool)
        self._ids_BT, self._mask_BT = torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)
        targets = ids_BT[mask_BT]
        self._num_tokens = len(targets)
        self._num_bytes = int(token_num_bytes[targets].sum())

    @torch.no_grad()
    def score(self, model: Any, world: World) -> HeldoutScore:
        """Score the model: each window alone in float64, summed in window order."""
        model.eval()
        sums_B = torch.zeros(len(self._ids_BT), dtype=torch.float64)
        for index in range(world.rank, len(self._ids_BT), world.size):
            losses_T = token_losses(model, self._ids_BT[index : index + 1], self._mask_BT[index : index + 1])
            sums_B[index] = losses_T.double().sum()
        model.train()
        # Every element is non-zero on one process only, so this sum adds zeros and is exact.
        world.all_reduce(sums_B)
        total = math.fsum(sums_B.tolist())
        return HeldoutScore(
            num_tokens=self._num_tokens,
            num_bytes=self._num_bytes,
            loss=total / self._num_tokens,
            bits_per_byte=total / math.log(2) / self._num_bytes,
        )


def token_losses(model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every position of a batch of windows, 0 where the target is not trained.

    Args:
        ids_BT: int64 [B, L + 1] token ids of windows.
        mask_BT: bool [B, L + 1]; position 0 is no target.

    Returns:
        float32 [B * L] losses in nats.
    """
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    targets_BT = ids_BT[:, 1:].masked_fill(~mask_BT[:, 1:], -100)
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-100, reduction="none")
