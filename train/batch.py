"""What one step reads, and what the ledger says of it."""

from dataclasses import dataclass

import numpy as np
import torch

from data_recipes.order import Draw, Order
from data_recipes.pools import WindowPools
from data_recipes.windows import Mask, TokenIds, token_digest
from provenance.canonical import Json
from provenance.errors import TrainingError


@dataclass(frozen=True)
class StepBatch:
    """The windows of a step, in slot order.

    Attributes:
        ids: [N, L + 1] token ids.
        mask: [N, L + 1], 1 where the token is a trained target.
    """

    step: int
    draws: list[Draw]
    ids: TokenIds
    mask: Mask

    @property
    def num_trained(self) -> int:
        """Trained tokens of the step."""
        return int(self.mask.sum())

    def rows(self, places: slice, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (int64) and mask (bool) of some windows on a device."""
        ids_BT = torch.from_numpy(np.ascontiguousarray(self.ids[places]))
        mask_BT = torch.from_numpy(np.ascontiguousarray(self.mask[places])).bool()
        return ids_BT.to(device), mask_BT.to(device)

    def tokens_by_source(self, order: Order) -> dict[str, int]:
        """Positions read from each source."""
        tokens: dict[str, int] = {}
        for draw in self.draws:
            name = order.sources[draw.source].name
            tokens[name] = tokens.get(name, 0) + self.ids.shape[1] - 1
        return tokens

    def ledger_fields(self, order: Order) -> dict[str, Json]:
        """The fields of the ledger's step record that say what was read."""
        return {
            "order_digest": order.digest_of_draws(self.draws),
            "token_digest": token_digest(self.ids, self.mask),
            "tokens_by_source": self.tokens_by_source(order),
            "num_trained_tokens": self.num_trained,
        }

    def documents(self, order: Order, windows: WindowPools) -> list[dict[str, Json]]:
        """Where each window lies: source, window, and the first and last document it touches, as ordinals there."""
        found = []
        for slot, draw in enumerate(self.draws):
            first, last = windows.documents_of(draw.source, draw.window)
            place = {"source": order.sources[draw.source].name, "window": draw.window, "documents": [first, last]}
            found.append({"slot": slot, **place})
        return found


def read_batch(windows: WindowPools, order: Order, step: int) -> StepBatch:
    """Read the windows of a step.

    Raises:
        TrainingError: when none of its tokens is trained.
    """
    draws = order.step_draws(step)
    batch = StepBatch(step, draws, *windows.read_draws(order, draws))
    if batch.num_trained == 0:
        raise TrainingError(f"step {step} has no trained token", expected="at least one")
    return batch
