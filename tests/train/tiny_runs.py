"""Small corpora and runs for the tests of the training package, built from its public functions."""

import random
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_recipes.bpe import save_tokenizer, train_tokenizer
from data_recipes.settings import TokenizerConfig
from data_recipes.shards import TokenSequence, write_split, write_tokens_json
from data_recipes.tokenizer_engine import LibraryEngine
from data_recipes.tokenizer_proof import encode_texts
from provenance.artifacts import Artifact
from provenance.canonical import Json
from provenance.config import recipe_of
from provenance.digests import sha256_bytes, sha256_file
from provenance.fingerprint import CodeIdentity
from provenance.stage import StageContext, StageSpec, run_stage
from train.job import TrainingJob
from train.settings import PretrainConfig, RunConfig, SftConfig

WORDS = (
    *("the", "model", "reads", "a", "window", "of", "text", "and", "predicts", "each", "next", "token"),
    *("поезд", "идёт", "быстро", "学习", "语言", "模型", "καλημέρα", "κόσμε"),
)
WINDOW_TOKENS = 24
VOCAB_SIZE = 1021
"""A prime above the tokenizer's own size, so that no number of processes divides the embedding."""

OLMO3 = {
    "model_type": "olmo3",
    "fields": {
        "hidden_size": 66,
        "intermediate_size": 175,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 64,
        "sliding_window": 16,
        "attention_dropout": 0.1,
        "tie_word_embeddings": True,
    },
}
LLAMA = {
    "model_type": "llama",
    "fields": {
        "hidden_size": 32,
        "intermediate_size": 50,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    },
}


def context(tmp_path: Path) -> StageContext:
    """A stage context whose code counts as committed."""
    return StageContext("tiny", tmp_path / "artifacts", CodeIdentity("0" * 40, False, "0" * 64))


def make_texts(seed: int, count: int) -> list[str]:
    """Sentences of known words in several scripts."""
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randint(10, 60))) + "." for _ in range(count)]


def write_corpus(directory: Path) -> None:
    """Write the tokenizer and token shards of a corpus: two training sources, a held-out one, rows for SFT."""
    config = TokenizerConfig(vocab_size=331)
    texts = {"alpha": make_texts(1, 60), "beta": make_texts(2, 25), "held": make_texts(3, 20)}
    every = [text for name in ("alpha", "beta") for text in texts[name]]
    tokenizer = train_tokenizer(every, len(every), config)
    save_tokenizer(tokenizer, config, directory / "tokenizer")
    eos = tokenizer.token_to_id(config.special_tokens.end_of_text)
    pad = tokenizer.token_to_id(config.special_tokens.pad)

    def stream(*names: str) -> list[TokenSequence]:
        return [
            TokenSequence(sha256_bytes(f"{name}{number}".encode()), name, np.array([*ids, eos]))
            for name in names
            for number, ids in enumerate(encode_texts(LibraryEngine(tokenizer), texts[name]))
        ]

    def rows(name: str) -> list[TokenSequence]:
        made = []
        for number, ids in enumerate(encode_texts(LibraryEngine(tokenizer), texts[name])):
            taken = [*ids[: WINDOW_TOKENS - 4], eos]
            padding = WINDOW_TOKENS + 1 - len(taken)
            mask = np.array([0] * 3 + [1] * (len(taken) - 3) + [0] * padding, dtype=np.uint8)
            key = sha256_bytes(f"row {name}{number}".encode())
            made.append(TokenSequence(key, name, np.array(taken + [pad] * padding), mask))
        return made

    def split(name: str, sequences: list[TokenSequence], width: int = 0) -> Json:
        layout: Literal["rows", "stream"] = "rows" if width else "stream"
        return write_split(directory, name, sequences, layout=layout, width=width, dtype="u16", num_shards=2)

    splits = {
        "train": split("train", stream("alpha", "beta")),
        "heldout": split("heldout", stream("held")),
        "sft": split("sft", rows("alpha"), WINDOW_TOKENS + 1),
        "sft-heldout": split("sft-heldout", rows("held"), WINDOW_TOKENS + 1),
    }
    write_tokens_json(
        directory,
        splits,
        vocab_size=VOCAB_SIZE,
        eos_id=eos,
        pad_id=pad,
        tokenizer_sha256=sha256_file(directory / "tokenizer" / "tokenizer.json"),
    )


def make_corpus(tmp_path: Path) -> Artifact:
    """A finished corpus artifact with no more than training reads."""
    spec = StageSpec("corpus", ("provenance",), ("numpy",))
    return run_stage(context(tmp_path), spec, {"tiny": True}, [], write_corpus)


def pretrain_values(**changes: Any) -> dict[str, Any]:
    """Values of a small pretraining config; keyword arguments replace top-level keys."""
    values: dict[str, Any] = {
        "model": OLMO3,
        "seed": 7,
        "data": {
            "split": "train",
            "window_tokens": WINDOW_TOKENS,
            "heldout_split": "heldout",
            "heldout_windows": 5,
            "heldout_every_steps": 4,
        },
        "phases": [{"num_steps": 7, "sequences_per_step": 8}, {"num_steps": 3, "sequences_per_step": 16}],
        "optimizer": {"peak_learning_rate": 5e-3, "max_gradient_norm": 0.5},
        "schedule": {"warmup_steps": 2, "decay_steps": 3},
        "checkpoints": {"weights_until_step": 4, "full_every_steps": 3},
        "num_logical_replicas": 8,
    }
    return {**values, **changes}


def pretrain_config(**changes: Any) -> PretrainConfig:
    """A small pretraining config."""
    return PretrainConfig.model_validate(pretrain_values(**changes))


def sft_config(**changes: Any) -> SftConfig:
    """A small fine-tuning config."""
    values = pretrain_values(**changes)
    del values["model"]
    data = {**values["data"], "split": "sft", "heldout_split": "sft-heldout"}
    return SftConfig.model_validate({**values, "data": data})


def make_job(stage: str, config: RunConfig, corpus: Path, run_dir: Path, **changes: Any) -> TrainingJob:
    """A job that runs without the pipeline."""
    run_dir.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "stage": stage,
        "recipe": recipe_of(config),
        "execution": recipe_of(config.execution),
        "corpus": str(corpus),
        "run_dir": str(run_dir),
        "base_checkpoint": "",
        "parents": (),
        "branch_from": "",
        "replay_from": "",
        "last_step": config.num_steps,
    }
    return TrainingJob(**{**values, **changes})
