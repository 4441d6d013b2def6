"""Models: transformers configs, random initial weights, and the named tensors that checkpoints hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from provenance.digests import tagged_digest
from provenance.errors import ConfigError
from train.layout import Layout, Part, part_of
from train.model_fields import unknown_name
from train.routing import EXPERT_SETTINGS
from train.settings import ModelConfig


def build_model(config: ModelConfig, *, vocab_size: int, eos_id: int, pad_id: int, window_tokens: int) -> Any:
    """Return the transformers model of a config on the CPU in fp32, its weights left as the caller's seed makes them.

    Raises:
        ConfigError: for an unknown model type, an unknown field, a value of another type, or a context shorter than a
            window.
    """
    if unknown := unknown_name(config):
        raise ConfigError(unknown.found, expected=unknown.expected)
    with naming_wrong_values():
        transformers_config = AutoConfig.for_model(
            config.model_type,
            **config.fields,
            vocab_size=vocab_size,
            bos_token_id=None,
            eos_token_id=eos_id,
            pad_token_id=pad_id,
        )
    _check_context(transformers_config, window_tokens)
    model = AutoModelForCausalLM.from_config(
        transformers_config, attn_implementation=config.attention, dtype=torch.float32, **EXPERT_SETTINGS
    )
    model.config.architectures = [type(model).__name__]
    return model.train()


@contextmanager
def naming_wrong_values() -> Iterator[None]:
    """Say of whatever transformers raises that the values of a config are at fault.

    For code in which nothing else can be: no memory is taken, and no numbers are computed.

    Raises:
        ConfigError: with the first lines of the error.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"transformers makes no model of these fields ({' '.join(str(error).split())[:200]})",
            expected="values that go together",
            where="pretrain.yaml: model.fields",
        ) from error


def _check_context(transformers_config: Any, window_tokens: int) -> None:
    if transformers_config.max_position_embeddings < window_tokens:
        raise ConfigError(
            f"max_position_embeddings {transformers_config.max_position_embeddings}",
            expected=f"at least {window_tokens}, the tokens of the longest window",
        )


def open_model(checkpoint: Path, attention: str = "sdpa", *, window_tokens: int = 0) -> Any:
    """Load the model of a checkpoint directory as a stranger would, in training mode.

    Raises:
        ConfigError: when its context is shorter than windows of `window_tokens`.
    """
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, attn_implementation=attention, dtype=torch.float32, local_files_only=True, **EXPERT_SETTINGS
    )
    _check_context(model.config, window_tokens)
    return model.train()


def model_parts(model: Any, layout: Layout) -> list[Part]:
    """What this process holds of parameters and persistent buffers, in name order; tied ones once.

    A tied parameter has the name that `from_pretrained` expects.
    """
    persistent = set(model.state_dict())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [part_of(name, tensors[name], layout) for name in sorted(tensors) if name in persistent]


def trainable_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the trainable parameters by name in the model's own order; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose, such as (step, logical replica): digest `seed/1`."""
    return int(tagged_digest("seed/1", [seed, *parts])[:16], 16) >> 1
