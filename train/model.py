"""Models: transformers configs, random initial weights, and the named tensors that checkpoints hold."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from provenance.digests import tagged_digest
from provenance.errors import ConfigError
from train.settings import ModelConfig


def build_model(config: ModelConfig, *, vocab_size: int, eos_id: int, pad_id: int, window_tokens: int) -> Any:
    """Return the transformers model of a config on the CPU in fp32, its weights left as the caller's seed makes them.

    Raises:
        ConfigError: for an unknown model type, an unknown field, or a context shorter than a window.
    """
    try:
        transformers_config = AutoConfig.for_model(config.model_type)
    except ValueError:
        raise ConfigError(
            f"model.model_type {config.model_type!r}", expected="a model type that transformers knows, such as olmo3"
        ) from None
    for key in config.fields:
        if not hasattr(transformers_config, key):
            raise ConfigError(
                f"model.fields.{key} is no field of {type(transformers_config).__name__}",
                expected="fields of the transformers config class",
            )
    transformers_config = AutoConfig.for_model(
        config.model_type,
        **config.fields,
        vocab_size=vocab_size,
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
    )
    if transformers_config.max_position_embeddings < window_tokens:
        raise ConfigError(
            f"max_position_embeddings {transformers_config.max_position_embeddings}",
            expected=f"at least data.window_tokens = {window_tokens}",
        )
    model = AutoModelForCausalLM.from_config(
        transformers_config, attn_implementation=config.attention, dtype=torch.float32
    )
    model.config.architectures = [type(model).__name__]
    return model.train()


def open_model(checkpoint: Path, attention: str = "sdpa") -> Any:
    """Load the model of a checkpoint directory as a stranger would, in training mode."""
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, attn_implementation=attention, dtype=torch.float32, local_files_only=True
    )
    return model.train()


def named_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Return parameters and persistent buffers by name, in name order; tied ones once, as `from_pretrained` expects."""
    state = model.state_dict()
    names = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    return {name: state[name] for name in sorted(names) if name in state}


def trainable_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the trainable parameters by name, in name order; tied ones once."""
    return {name: p for name, p in sorted(model.named_parameters()) if p.requires_grad}


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose, such as (step, logical replica): digest `seed/1`."""
    return int(tagged_digest("seed/1", [seed, *parts])[:16], 16) >> 1
