"""The whole chain without tokenizing: the steps of a corpus build against the same steps of a peer."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from data_peers import Peers, batches_of
from data_text import MEGABYTE
from figures import Figure, make_figure

from data_recipes.corpus import CorpusBuild
from data_recipes.executors import LocalPool
from data_recipes.settings import CorpusConfig
from provenance.digests import sha256_file

BATCH_MEGABYTES = 4
NUM_BATCHES = 3
"""The peer needs some nine seconds for a megabyte."""


def chain_figures(texts: Sequence[str], peers: Path, directory: Path) -> list[Figure]:
    """MB per processor second: read, licence, all statistics, rules, duplicates, near-duplicates, sorted output.

    The peer reads the same file, applies its Gopher quality and repetition filters and makes MinHash signatures; its
    steps after that, and its writing, are not counted. The first batch warms both up.
    """
    batches = batches_of(texts, BATCH_MEGABYTES * MEGABYTE)[: 1 + NUM_BATCHES]
    pairs: list[tuple[float, float, float]] = []
    with Peers(peers) as worker:
        for number, batch in enumerate(batches):
            path = directory / f"batch-{number}.jsonl"
            rows = (json.dumps({"text": text, "id": str(place)}) for place, text in enumerate(batch))
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
            ours = peer = 0.0
            for contender in (("ours", "peer"), ("peer", "ours"))[number % 2]:
                if contender == "ours":
                    ours = _build_seconds(path, directory / "build")
                else:
                    peer = worker.seconds("datatrove-chain", [str(path), str(directory / f"peer-{number}")])
            if number:
                pairs.append((sum(len(text.encode("utf-8")) for text in batch) / MEGABYTE, ours, peer))
    megabytes, our_seconds, peer_seconds = (sum(column) for column in zip(*pairs, strict=True))
    return [
        make_figure(
            "whole chain without tokenizing against datatrove's reader, Gopher filters and MinHash, MB per CPU second",
            megabytes / our_seconds,
            megabytes / peer_seconds,
            ratio=median(peer / ours for _, ours, peer in pairs),
            runs=len(pairs),
            at_least=20,
        )
    ]


def _build_seconds(path: Path, work: Path) -> float:
    """Processor seconds of the steps up to sorted texts, in this process."""
    shutil.rmtree(work, ignore_errors=True)
    config = CorpusConfig.model_validate(_recipe(path))
    began = time.process_time()
    with LocalPool(1) as executor:
        build = CorpusBuild(config, work, executor, lambda kind, **facts: None)
        build.read()
        build.decide()
        build.gather()
    return time.process_time() - began


def _recipe(path: Path) -> dict[str, Any]:
    source = {
        "type": "dataset",
        "name": "text",
        "format": "jsonl",
        "files": [{"path": path.name, "sha256": sha256_file(path)}],
        "licence": {"spdx": "MIT", "evidence": "stands for any licence"},
        "split": "train",
        "as_of": "2026-11-25",
    }
    return {
        "sources": [source],
        "policy": {"allow": ["MIT"]},
        "quality": {"presets": ["gopher-quality", "gopher-repetition"]},
        "near_duplicates": {},
        "tokenizer": {"vocab_size": 300},
        "conversations": {"window_tokens": 64},
        "execution": {"num_workers": 1, "data_dir": path.parent},
    }
