"""Look-ups in a synthetic corpus: from a step to its documents and back, and random windows into a batch."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, make_figure

from data_recipes.document_index import CODES_FORMAT, INDEX_DTYPE
from data_recipes.lookup import Lookup
from data_recipes.order import Order, OrderSource, Phase
from data_recipes.windows import TOKENS_FORMAT, tokens_digest_of
from provenance.canonical import Json, write_json

WINDOW = 4096
SEQUENCES_PER_STEP = 1024
NUM_SOURCES = 10
NUM_FILES = 16
LARGEST_DOCUMENT = 2 * 819
"""Documents of 819 tokens on average: a step of 1,024 windows reads about 5,100 of them."""


def lookup_figures(directory: Path, num_documents: int, num_lookups: int) -> list[Figure]:
    """Warm look-ups: every one is of a step or document that was looked up before, so that its pages are in memory.

    By the clock: to be run on a quiet machine.

    Args:
        directory: an empty directory with room for about 90 bytes per document.
    """
    order = write_synthetic_corpus(directory, num_documents)
    lookup = Lookup(directory, order, "train", WINDOW, directory / "cache")
    rng = np.random.default_rng(0)
    steps = [int(step) for step in rng.integers(1, order.num_steps + 1, num_lookups)]
    ids = [window.documents[0].document_id for step in steps for window in lookup.step(step)[:1]]
    forward = [1000 * seconds for seconds in _seconds(lookup.step, steps)]
    back = [1000 * seconds for seconds in _seconds(lambda i: lookup.steps_that_read(lookup.find(i)), ids + ids)]
    of = f"{num_documents / 1e6:g} million documents"
    num_read = sum(len(window.documents) for window in lookup.step(steps[0]))
    to_documents = f"ms from a step to its {num_read:,} documents, {of}"
    forward_ms, back_ms = statistics.median(forward), statistics.median(back[num_lookups:])
    return [
        make_figure(to_documents, forward_ms, 50, runs=num_lookups, at_most=1.0),
        make_figure(f"ms from a document to its steps, {of}", back_ms, 5, runs=num_lookups, at_most=1.0),
    ]


def loader_figure(directory: Path, num_documents: int, num_batches: int) -> Figure:
    """Random windows into int64 batches, in million tokens per processor second, by what training calls.

    Args:
        directory: an empty directory with room for about 1,600 bytes per document, which are read into the page cache.
    """
    order = write_synthetic_corpus(directory, num_documents)
    for path in directory.rglob("tokens-*.bin"):
        np.random.default_rng(2).integers(0, 65536, path.stat().st_size // 2, dtype=np.uint16).tofile(path)
    lookup = Lookup(directory, order, "train", WINDOW)
    rng = np.random.default_rng(1)
    batches = [order.step_draws(int(step))[:256] for step in rng.integers(1, order.num_steps + 1, num_batches)]
    for draws in batches:
        lookup.windows.read_draws(order, draws)
    began = time.process_time()
    num_tokens = sum(lookup.windows.read_draws(order, draws)[0].size for draws in batches)
    rate = num_tokens / (time.process_time() - began) / 1e6
    return make_figure("million tokens per CPU second, windows of 4,096", rate, 300, runs=num_batches, at_least=1.0)


def write_synthetic_corpus(directory: Path, num_documents: int) -> Order:
    """Write index, ends and a hole in the place of tokens; return an order of two epochs over them."""
    rng = np.random.default_rng(num_documents)
    sources = [f"source-{number}" for number in range(NUM_SOURCES)]
    folder = directory / "documents"
    folder.mkdir()
    lengths: dict[str, list[Any]] = {name: [] for name in sources}
    for file, size in enumerate(len(part) for part in np.array_split(np.empty(num_documents, "u1"), NUM_FILES)):
        rows = np.zeros(size, INDEX_DTYPE)
        raw = rows.view("u1").reshape(size, INDEX_DTYPE.itemsize)
        heads = np.sort(rng.integers(file * 2**60, (file + 1) * 2**60, size, dtype=np.uint64))
        raw[:, :8] = heads.astype(">u8").view("u1").reshape(size, 8)
        raw[:, 8:64] = rng.integers(0, 256, (size, 56), dtype=np.uint8)
        rows["num_tokens"] = rng.integers(1, LARGEST_DOCUMENT, size)
        rows["source"], rows["split"] = rng.integers(0, NUM_SOURCES, size), 1
        rows.tofile(folder / f"index-{file:05d}.bin")
        for code, name in enumerate(sources):
            lengths[name].append(rows["num_tokens"][rows["source"] == code])
    codes = {"sources": sources, "licences": ["MIT"], "decisions": ["kept"], "splits": ["none", "train"]}
    write_json(folder / "codes.json", {"format": CODES_FORMAT, **codes})
    described = [_write_shard(directory, name, np.concatenate(lengths[name])) for name in sources]
    split: Json = {"layout": "stream", "dtype": "u16", "width": 0, "sources": described}
    split["digest"] = tokens_digest_of(split)
    tokens = {"vocab_size": 65536, "eos_id": 0, "pad_id": 1, "tokenizer_sha256": "0" * 64, "splits": {"train": split}}
    write_json(directory / "tokens" / "tokens.json", {"format": TOKENS_FORMAT, **tokens})
    write_json(directory / "manifest.json", {"num_documents": num_documents})
    windows = [(source["num_tokens"] - 1) // WINDOW for source in described]
    num_steps = 2 * sum(windows) // SEQUENCES_PER_STEP
    counts = [2 * count for count in windows]
    counts[0] -= sum(counts) - num_steps * SEQUENCES_PER_STEP
    order_sources = tuple(OrderSource(name, count) for name, count in zip(sources, windows, strict=True))
    return Order(split["digest"], 1, order_sources, (Phase(num_steps, SEQUENCES_PER_STEP, tuple(counts)),))


def _write_shard(directory: Path, name: str, lengths: Any) -> dict[str, Json]:
    folder = directory / "tokens" / "train" / name
    folder.mkdir(parents=True)
    ends = np.cumsum(lengths, dtype="<u8")
    ends.tofile(folder / "ends-000.bin")
    with (folder / "tokens-000.bin").open("wb") as file:
        file.truncate(2 * int(ends[-1]))
    files = {role: {"path": f"tokens/train/{name}/{role}-000.bin", "sha256": "0" * 64} for role in ("tokens", "ends")}
    shard = {"num_tokens": int(ends[-1]), "num_documents": len(ends), "files": files}
    return {"name": name, "num_tokens": int(ends[-1]), "num_documents": len(ends), "shards": [shard]}


def _seconds(function: Callable[[Any], Any], arguments: list[Any]) -> list[float]:
    seconds = []
    for argument in arguments:
        began = time.perf_counter()
        function(argument)
        seconds.append(time.perf_counter() - began)
    return seconds
