"""Context parallelism: processes that share windows, each with a stretch of the positions.

A process computes the layers for its stretch of each window. In attention it gathers the keys and values of all
stretches and applies the mask of the whole window to its own queries: the mask is transformers' for the model (causal,
sliding), with documents kept apart where they are. Everything else in the supported models works on single positions.
The gradients of weights are sums over positions, so that these processes add theirs as readers of different windows do.

torch's own ring attention (2.13.0) has no kernel for CPUs and takes no mask but the causal one; this is one code for
all devices.

Legend: B windows, H heads, T positions of a window, S of a stretch, D size of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import and_masks, sdpa_mask

from provenance.errors import ConfigError
from train.layout import Layout

ATTENTION = "openwright_stretches"
"""Name under which transformers calls the attention of this module."""

MODEL_TYPES = ("deepseek_v3", "llama", "olmo3", "qwen3", "smollm3")
"""Models whose losses and gradients were compared with those of one process. Any other may mix positions elsewhere."""

_WHERE = "execution.context_size"


@dataclass
class Stretches:
    """Which positions of a window this process computes.

    Attributes:
        group: the processes that share windows.
        number, count: of this process among them, and how many they are.
        documents: [B, T] number of the document of each position of the pass's windows; None for one document each.
    """

    group: Any
    number: int
    count: int
    documents: torch.Tensor | None = None

    def of(self, num_positions: int) -> slice:
        """The positions of a window that this process computes."""
        size = num_positions // self.count
        return slice(self.number * size, (self.number + 1) * size)

    def attend(
        self,
        module: torch.nn.Module,
        query_BHSD: torch.Tensor,
        key_BHSD: torch.Tensor,
        value_BHSD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attention of this stretch's queries to the keys of the whole window; called by transformers."""
        assert attention_mask is not None, "the mask says which keys lie before a query"
        key_BHTD, value_BHTD = (
            _Gathered.apply(tensor, self.group, self.count)  # type: ignore[no-untyped-call]
            for tensor in (key_BHSD, value_BHSD)
        )
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query_BHSD, key_BHTD, value_BHTD, attention_mask, **settings
        )
        return attended

    def mask(self, q_length: int, kv_length: int, mask_function: Any, **settings: Any) -> torch.Tensor:
        """The rows of a window's mask that belong to this stretch's queries; called by transformers."""
        assert kv_length == q_length * self.count
        documents_BT = self.documents
        if documents_BT is not None:
            mask_function = and_masks(
                mask_function, lambda batch, head, query, key: documents_BT[batch, query] == documents_BT[batch, key]
            )
        settings |= {"q_offset": self.of(kv_length).start, "attention_mask": None, "allow_is_causal_skip": False}
        mask_BHST: torch.Tensor = sdpa_mask(
            q_length=q_length, kv_length=kv_length, mask_function=mask_function, **settings
        )
        return mask_BHST


class _Gathered(torch.autograd.Function):
    """Stretches of all processes, one after the other; backward, each gets the sum of the gradients of its own."""

    @staticmethod
    def forward(ctx: Any, own_BHSD: torch.Tensor, group: Any, count: int) -> torch.Tensor:
        ctx.group, ctx.count = group, count
        stretches = [torch.empty_like(own_BHSD, memory_format=torch.contiguous_format) for _ in range(count)]
        dist.all_gather(stretches, own_BHSD.contiguous(), group=group)
        return torch.cat(stretches, dim=2)

    @staticmethod
    def backward(ctx: Any, gradient_BHTD: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        sent = torch.stack(gradient_BHTD.chunk(ctx.count, dim=2)).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=ctx.group)
        return received.sum(0), None, None


def share_windows(model: Any, layout: Layout) -> Stretches:
    """Have a model compute this process's stretch of each window; its attention is changed in place.

    Raises:
        ConfigError: for a model that was not compared with one process, or with dropout.
    """
    config = model.config
    if config.model_type not in MODEL_TYPES or config._attn_implementation != "sdpa":
        raise ConfigError(
            f"a model of the type {config.model_type} with attention {config._attn_implementation}",
            expected=f"one of {', '.join(MODEL_TYPES)}, and attention: sdpa",
            where=_WHERE,
            next_command="set execution.context_size to 1",
        )
    refuse_dropout(model, _WHERE)
    stretches = Stretches(layout.context_group, layout.stretch, layout.context_size)
    AttentionInterface.register(ATTENTION, stretches.attend)
    AttentionMaskInterface.register(ATTENTION, stretches.mask)
    model.set_attn_implementation(ATTENTION)
    return stretches


def refuse_dropout(model: Any, where: str) -> None:
    """Processes that compute one window together draw alike: heads or stretches would lose the same places.

    Raises:
        ConfigError: for a model with dropout.
    """
    values = {name: value for name, value in model.config.to_dict().items() if "drop" in name}
    drawn = {name: value for name, value in values.items() if isinstance(value, int | float) and value}
    drawn |= {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p}
    if drawn:
        raise ConfigError(
            ", ".join(f"{name} {value}" for name, value in drawn.items()),
            expected="no dropout where processes compute one window together",
            where=where,
            next_command=f"set {where} to 1",
        )
