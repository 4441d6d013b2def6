"""Bits per byte without a neural network, on the same held-out bytes as the models: `baselines.json`.

`unigram` and `trigram` predict the tokens of each document after an end-of-text token, as the models do, and know
the training tokens only (`eval/ngram.py` has the method). `gzip` and `xz` compress all documents as one file, at
level 9; they have seen nothing before, which is why they do badly on little text and better on much.
"""

import gzip
import lzma
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_recipes.windows import TOKEN_DTYPES
from eval.intervals import ratio_interval
from eval.ngram import NUM_BUCKETS, WEIGHT_STEPS, Tokens, information_bits, train_trigram, unigram_probabilities
from eval.settings import BaselinesConfig, IntervalConfig
from provenance.canonical import Json, hex_float, read_json
from provenance.digests import sha256_bytes
from provenance.errors import EvaluationError

BASELINES_FORMAT = "openwright-baselines/1"
TRAIN_SPLIT = "train"


def measure_baselines(corpus: Path, items: Sequence[Json], config: BaselinesConfig, intervals: IntervalConfig) -> Json:
    """Build the value of `baselines.json`.

    Args:
        corpus: directory of the corpus artifact.
        items: the items of bits per byte, in order.

    Raises:
        EvaluationError: when the corpus has too few training tokens.
    """
    index = read_json(corpus / "tokens" / "tokens.json")
    texts = [str(item["text"]) for item in items]
    num_bytes = [len(text.encode("utf-8")) for text in texts]
    counted, heldback = _training_tokens(corpus, index, config)
    vocab_size, eos_id = int(index["vocab_size"]), int(index["eos_id"])
    trigram = train_trigram(counted, heldback, vocab_size)
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))
    unigram_bits, trigram_bits = [], []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        tokens = np.asarray([eos_id, eos_id, *ids], dtype=np.int64)
        unigram_bits.append(information_bits(unigram_probabilities(trigram.counts, tokens[2:])))
        trigram_bits.append(information_bits(trigram.probabilities(tokens)))
    data = b"".join(text.encode("utf-8") for text in texts)
    return {
        "format": BASELINES_FORMAT,
        "document_ids": [item["item_id"] for item in items],
        "document_num_bytes": num_bytes,
        "num_bytes": len(data),
        "text_sha256": sha256_bytes(data),
        "training": {
            "tokens_digest": index["splits"][TRAIN_SPLIT]["digest"],
            "num_counted_tokens": len(counted),
            "num_heldback_tokens": len(heldback),
        },
        "trigram": {
            "method": "ngram/1",
            "weight_steps": WEIGHT_STEPS,
            "num_buckets": NUM_BUCKETS,
            "pair_weights": list(trigram.pair_weights),
            "triple_weights": list(trigram.triple_weights),
        },
        "zlib_version": zlib.ZLIB_RUNTIME_VERSION,
        "rows": [
            _token_row("unigram", unigram_bits, num_bytes, intervals),
            _token_row("trigram", trigram_bits, num_bytes, intervals),
            _compressor_row("gzip", len(gzip.compress(data, compresslevel=9, mtime=0)), len(data)),
            _compressor_row("xz", len(lzma.compress(data, preset=9)), len(data)),
        ],
    }


def _token_row(name: str, document_bits: list[float], num_bytes: list[int], intervals: IntervalConfig) -> Json:
    interval = ratio_interval(document_bits, num_bytes, intervals.num_resamples, intervals.seed)
    return {
        "name": name,
        "metric": "bits_per_byte",
        "value": hex_float(math.fsum(document_bits) / sum(num_bytes)),
        "low": hex_float(interval.low),
        "high": hex_float(interval.high),
        "document_bits": [hex_float(value) for value in document_bits],
        "compressed_bytes": None,
    }


def _compressor_row(name: str, compressed_bytes: int, num_bytes: int) -> Json:
    """A compressor gives one size for all documents together: there is nothing to resample."""
    return {
        "name": name,
        "metric": "bits_per_byte",
        "value": hex_float(8 * compressed_bytes / num_bytes),
        "low": None,
        "high": None,
        "document_bits": None,
        "compressed_bytes": compressed_bytes,
    }


def _training_tokens(corpus: Path, index: Any, config: BaselinesConfig) -> tuple[Tokens, Tokens]:
    """Training tokens to count and, from the end of each shard, those held back to choose weights."""
    sources = index["splits"][TRAIN_SPLIT]["sources"]
    shards = [shard for source in sources for shard in source["shards"]]
    total = sum(int(shard["num_tokens"]) for shard in shards)
    dtype = TOKEN_DTYPES[index["splits"][TRAIN_SPLIT]["dtype"]]
    counted, heldback = [], []
    for shard in shards:
        taken = int(shard["num_tokens"]) * min(total, config.max_training_tokens) // total
        tokens = np.fromfile(corpus / shard["files"]["tokens"]["path"], dtype=dtype, count=taken).astype(np.int64)
        cut = taken - taken // config.heldback_share
        counted.append(tokens[:cut])
        heldback.append(tokens[cut:])
    if sum(map(len, counted)) < 3 or sum(map(len, heldback)) < 3:
        raise EvaluationError(
            f"{total} training tokens",
            expected=f"at least {4 * config.heldback_share}, for the unigram and trigram baselines",
            where=str(corpus / "tokens" / "tokens.json"),
        )
    return np.concatenate(counted), np.concatenate(heldback)
