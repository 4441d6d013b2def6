"""What all contenders of the training benchmark train: the quickstart's model on a corpus made here from a seed."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_recipes.bpe import save_tokenizer, token_id, train_tokenizer
from data_recipes.settings import TokenizerConfig
from data_recipes.shards import TokenSequence, write_split, write_tokens_json
from data_recipes.tokenizer_engine import LibraryEngine
from data_recipes.tokenizer_proof import encode_texts
from provenance.config import load_config, recipe_of
from provenance.digests import sha256_bytes, sha256_file
from train.job import TrainingJob
from train.model import build_model, derive_seed
from train.run_order import build_order, open_windows
from train.settings import PretrainConfig

QUICKSTART = Path(__file__).resolve().parent.parent / "configs" / "quickstart" / "pretrain.yaml"
VOCAB_SIZE = 4096
TOKENS_PER_STEP = 8 * 256
NEVER = 10**9
SYLLABLES = ("ba", "che", "do", "fi", "gu", "ha", "jo", "ki", "lem", "mo", "na", "ost", "pri", "qua", "ru", "set")


def write_corpus(directory: Path, seed: int = 11, vocab_size: int = VOCAB_SIZE) -> None:
    """Write tokenizer and token shards: sentences of some thousand made-up words, drawn as rarely as real ones are.

    Args:
        vocab_size: rows of the model's embedding; the tokenizer has `VOCAB_SIZE` tokens.
    """
    draw = random.Random(seed)
    words = sorted({"".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(9000)})
    weights = [1 / (rank + 5) for rank in range(len(words))]
    draw.shuffle(words)
    names = {"train": 1200, "heldout": 60}
    texts = {name: [" ".join(draw.choices(words, weights, k=300)) for _ in range(n)] for name, n in names.items()}
    config = TokenizerConfig(vocab_size=VOCAB_SIZE)
    tokenizer = train_tokenizer(texts["train"], len(texts["train"]), config)
    save_tokenizer(tokenizer, config, directory / "tokenizer")
    eos = token_id(tokenizer, config.special_tokens.end_of_text)
    splits = {}
    for name in names:
        sequences = [
            TokenSequence(sha256_bytes(f"{name}{number}".encode()), "words", np.array([*ids, eos]))
            for number, ids in enumerate(encode_texts(LibraryEngine(tokenizer), texts[name]))
        ]
        splits[name] = write_split(directory, name, sequences, layout="stream", width=0, dtype="u16", num_shards=1)
    write_tokens_json(
        directory,
        splits,
        vocab_size=vocab_size,
        eos_id=eos,
        pad_id=token_id(tokenizer, config.special_tokens.pad),
        tokenizer_sha256=sha256_file(directory / "tokenizer" / "tokenizer.json"),
    )


def load_workload(num_steps: int, *overrides: str) -> PretrainConfig:
    """The quickstart's recipe over some steps, without held-out losses and the checkpoints of its first steps."""
    values = [
        f"phases=[{{num_steps: {num_steps}, sequences_per_step: 8, mixture: proportional}}]",
        f"schedule={{name: wsd, warmup_steps: {min(15, num_steps)}, decay_steps: 0, final_fraction: 0.0}}",
        f"data.heldout_every_steps={NEVER}",
        "data.heldout_windows=2",
        "checkpoints.weights_until_step=0",
        *overrides,
    ]
    return load_config(QUICKSTART, PretrainConfig, values)


def make_job(config: PretrainConfig, corpus: Path, run_dir: Path) -> TrainingJob:
    """A job over the corpus; its run directory is made."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        stage="pretrain",
        recipe=recipe_of(config),
        execution=recipe_of(config.execution),
        corpus=str(corpus),
        run_dir=str(run_dir),
        base_checkpoint="",
        parents=(),
        branch_from="",
        replay_from="",
        last_step=config.num_steps,
    )


def read_windows(config: PretrainConfig, corpus: Path) -> torch.Tensor:
    """Every window that the recipe reads, in order and in memory: int64 [steps, windows of a step, tokens + 1]."""
    windows = open_windows(config, corpus)
    order = build_order(config, windows)
    steps = [windows.read_draws(order, order.step_draws(step))[0] for step in range(1, config.num_steps + 1)]
    return torch.from_numpy(np.stack(steps))


def plain_model(config: PretrainConfig, corpus: Path) -> Any:
    """The model with the initial weights of the recipe, with nothing of ours around it."""
    torch.manual_seed(derive_seed(config.seed, "init"))
    window, vocab_size = config.data.window_tokens, open_windows(config, corpus).vocab_size
    return build_model(config.model, vocab_size=vocab_size, eos_id=0, pad_id=1, window_tokens=window)
