"""A causal language model with its loss: the module that is trained, sharded and scored.

Legend: B windows, T positions, N trained tokens, D hidden size, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.distributed.tensor import DTensor

from train.context_parallel import Stretches
from train.settings import LossConfig


class LanguageModelLoss(nn.Module):
    """The loss of the trained tokens of some windows.

    The model's own parameters keep their names below `model.`; sharding wraps this module, so that the output layer is
    whole while the loss is computed.

    Args:
        model: a transformers model with a decoder and an output layer.
        config: how the loss is computed.
        document_ends_with: token id after which attention and positions begin anew; None for no document masking.
    """

    def __init__(self, model: Any, config: LossConfig, document_ends_with: int | None = None) -> None:
        super().__init__()
        self.model = model
        self._config = config
        self._document_ends_with = document_ends_with
        self.stretches: Stretches | None = None

    def forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is differentiated, and the plain sum of losses.

        Args:
            ids_BT: int64 [B, T + 1] token ids of windows.
            mask_BT: bool [B, T + 1], true where the token is a trained target; position 0 is none.
            scale: one over the step's number of trained tokens.

        Returns:
            The sum of the tokens' losses (with z-loss) times `scale`, and their sum in nats (without) as float64,
            detached. With context parallelism, of the tokens of this process's stretch of each window.
        """
        settings, own = self._of_positions(ids_BT[:, :-1])
        inputs_BT, targets_BT, trained_BT = ids_BT[:, :-1][:, own], ids_BT[:, 1:][:, own], mask_BT[:, 1:][:, own]
        if self._config.chunk_tokens is None:
            logits_BTV = self.model(input_ids=inputs_BT, use_cache=False, **settings).logits
            return self._whole(logits_BTV, targets_BT, trained_BT, scale)
        hidden_BTD = self.model.get_decoder()(input_ids=inputs_BT, use_cache=False, **settings).last_hidden_state
        weight_VD = self.model.get_output_embeddings().weight
        if isinstance(weight_VD, DTensor):  # tensor parallelism: each process holds some rows
            weight_VD = weight_VD.full_tensor()
        losses_N, objective = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
            hidden_BTD[trained_BT],
            weight_VD,
            targets_BT[trained_BT],
            scale,
            self._config.z_loss,
            self._config.chunk_tokens,
            torch.is_grad_enabled(),
        )
        return objective, losses_N.double().sum()

    def _of_positions(self, inputs_BT: torch.Tensor) -> tuple[dict[str, torch.Tensor], slice]:
        """What the model is told of positions and documents, and the positions that this process computes."""
        places_BT = None
        if self._document_ends_with is not None:
            places_BT = document_positions(inputs_BT, self._document_ends_with)
        if self.stretches is None:
            return ({} if places_BT is None else {"position_ids": places_BT}), slice(None)
        own = self.stretches.of(inputs_BT.shape[1])
        self.stretches.documents = None if places_BT is None else (places_BT == 0).cumsum(dim=1)
        if places_BT is None:
            places_BT = torch.arange(inputs_BT.shape[1], device=inputs_BT.device).expand_as(inputs_BT)
        # The mask tells transformers how many keys there are, and that it is not to look for documents itself.
        return {"position_ids": places_BT[:, own], "attention_mask": torch.ones_like(inputs_BT)}, own

    def _whole(
        self, logits_BTV: torch.Tensor, targets_BT: torch.Tensor, trained_BT: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits_NV = logits_BTV.flatten(0, 1).float()
        targets_N = targets_BT.masked_fill(~trained_BT, -100).flatten()
        losses_N = F.cross_entropy(logits_NV, targets_N, ignore_index=-100, reduction="none")
        objective = losses_N.sum()
        if self._config.z_loss:
            squares_N = torch.logsumexp(logits_NV, dim=-1).square()
            objective = objective + self._config.z_loss * squares_N.masked_fill(~trained_BT.flatten(), 0.0).sum()
        return objective * scale, losses_N.detach().double().sum()


class _ChunkedLoss(torch.autograd.Function):
    """Cross-entropy whose gradients are computed with the logits, some tokens at a time; the logits are not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        scale: float,
        z_loss: float,
        chunk_tokens: int,
        with_gradients: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        objective = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        hidden_grad_ND = torch.empty_like(hidden_ND) if with_gradients else None
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if with_gradients else None
        for start in range(0, len(targets_N), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            hidden, targets = hidden_ND[rows], targets_N[rows, None]
            logits_NV = F.linear(hidden, weight_VD).float()
            normaliser_N = torch.logsumexp(logits_NV, dim=-1, keepdim=True)
            losses_N[rows] = (normaliser_N - logits_NV.gather(1, targets)).squeeze(1)
            objective += losses_N[rows].sum() + z_loss * normaliser_N.square().sum()
            if hidden_grad_ND is None or weight_grad_VD is None:
                continue
            logits_grad_NV = logits_NV.sub_(normaliser_N).exp_()
            if z_loss:
                logits_grad_NV.mul_(1.0 + 2.0 * z_loss * normaliser_N)
            logits_grad_NV.scatter_add_(1, targets, torch.full_like(normaliser_N, -1.0))
            logits_grad_NV = logits_grad_NV.mul_(scale).to(hidden.dtype)
            hidden_grad_ND[rows] = logits_grad_NV @ weight_VD
            if hidden.dtype == torch.float32:
                weight_grad_VD.addmm_(logits_grad_NV.T, hidden)
            else:
                weight_grad_VD.add_(logits_grad_NV.T @ hidden)
        if hidden_grad_ND is not None and weight_grad_VD is not None:
            ctx.save_for_backward(hidden_grad_ND, weight_grad_VD.to(weight_VD.dtype))
        ctx.mark_non_differentiable(losses_N)
        return losses_N, objective * scale

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor, objective_grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_grad_ND, weight_grad_VD = ctx.saved_tensors
        return hidden_grad_ND.mul_(objective_grad), weight_grad_VD.mul_(objective_grad), None, None, None, None, None


def document_positions(ids_BT: torch.Tensor, document_ends_with: int) -> torch.Tensor:
    """Positions that begin anew after each end of a document; transformers masks attention between such runs.

    Args:
        ids_BT: int64 [B, T].
        document_ends_with: token id that ends a document and belongs to it.

    Returns:
        int64 [B, T].
    """
    places_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device).expand_as(ids_BT)
    begins_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    begins_BT[:, 1:] = ids_BT[:, :-1] == document_ends_with
    return places_BT - torch.where(begins_BT, places_BT, 0).cummax(dim=1).values
