"""Tokenizing: the compiled engine and `tokenizers`, batch by batch in turn, with ids that must be equal."""

import statistics
import time

import numpy as np
from data_text import MEGABYTE
from figures import Figure, make_figure

from data_recipes.bpe import train_tokenizer
from data_recipes.settings import TokenizerConfig
from data_recipes.tokenizer_engine import CompiledEngine, Engine, LibraryEngine, TokenArray

VOCAB_SIZE = 32_768
TRAINING_TEXTS = 2_000
BATCH_TEXTS = 500


def tokenize_figures(texts: list[str]) -> list[Figure]:
    """MB of text per processor second of both; the library's is `encode_batch_fast`, the faster of its two ways.

    Raises:
        SystemExit: when an id differs.
    """
    tokenizer = train_tokenizer(texts[:TRAINING_TEXTS], TRAINING_TEXTS, TokenizerConfig(vocab_size=VOCAB_SIZE))
    engine, library = CompiledEngine(tokenizer), LibraryEngine(tokenizer)
    for warmed in (engine, library):
        warmed.encode(texts[:10])
    rates: list[tuple[float, float]] = []
    size_bytes = seconds_ours = seconds_peer = 0.0
    for number, batch in enumerate(texts[begin : begin + BATCH_TEXTS] for begin in range(0, len(texts), BATCH_TEXTS)):
        megabytes = sum(len(text.encode()) for text in batch) / MEGABYTE
        first, second = (engine, library) if number % 2 else (library, engine)
        results = {used.name: _timed(used, batch) for used in (first, second)}
        (ours, mine), (peer, theirs) = results[engine.name], results[library.name]
        if not all(map(np.array_equal, mine, theirs)):
            raise SystemExit("the engines give different ids")
        rates.append((megabytes / ours, megabytes / peer))
        size_bytes, seconds_ours, seconds_peer = size_bytes + megabytes, seconds_ours + ours, seconds_peer + peer
    ratio = statistics.median(ours / peer for ours, peer in rates)
    name = f"MB per CPU second tokenized with identical ids, {size_bytes:.0f} MB"
    ours, peer = size_bytes / seconds_ours, size_bytes / seconds_peer
    return [make_figure(name, ours, peer, ratio=ratio, runs=len(rates), at_least=4.0)]


def _timed(engine: Engine, texts: list[str]) -> tuple[float, list[TokenArray]]:
    began = time.process_time()
    ids = engine.encode(texts)
    return time.process_time() - began, ids
