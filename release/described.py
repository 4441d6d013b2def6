"""Sources that cannot be shared: what a bundle says in their place (`openwright-described/1`).

Their rows stay with digests and counts alone. `described/` adds, per source, the columns of its files, statistics of
its documents, and a synthetic sample with the same columns: made-up words of as many bytes as real documents have, so
that programs can be tried on it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_recipes.shards import safe_name
from provenance.canonical import Json
from provenance.digests import sha256_bytes, tagged_digest
from release.facts import BundleFacts, SourceFacts
from release.sources import class_of, pin_of

DESCRIBED_FORMAT = "openwright-described/1"
HIDDEN_COLUMNS = ("path", "licence_declared", "licence_reason", "evidence_locator", "copyright", "signals")
"""Columns of `documents/` that are emptied in the rows of such a source."""

_SAMPLE_ROWS = 16
_MAX_SAMPLE_BYTES = 4096
_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te")


@dataclass(frozen=True)
class HiddenSource:
    """An unshareable source, with bytes and tokens of its kept documents, both in order of size."""

    source: SourceFacts
    sizes: list[int]
    tokens: list[int]


def hidden_sources(facts: BundleFacts) -> list[HiddenSource]:
    """Every unshareable source; the table of documents is read once for all of them."""
    hidden = [source for source in facts.sources if class_of(source.lock) == "unshareable"]
    if not hidden:
        return []
    found: dict[str, list[dict[str, Any]]] = {source.name: [] for source in hidden}
    names = pa.array(list(found), pa.string())
    for path in sorted((facts.dataset / "documents").glob("documents-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["source", "decision", "size_bytes", "num_tokens"]):
            is_wanted = pc.and_(pc.is_in(batch["source"], names), pc.equal(batch["decision"], "kept"))
            for row in batch.filter(is_wanted).to_pylist():
                found[row["source"]].append(row)
    return [
        HiddenSource(source, *(sorted(row[key] for row in found[source.name]) for key in ("size_bytes", "num_tokens")))
        for source in hidden
    ]


def descriptions(hidden: Sequence[HiddenSource]) -> dict[str, Json]:
    """The description of every unshareable source, by path."""
    return {f"{_place(h.source)}.json": _description(h.source, h.sizes, h.tokens) for h in hidden}


def samples(hidden: Sequence[HiddenSource]) -> dict[str, bytes]:
    """The synthetic sample of every unshareable source, one JSON object per line, by path."""
    found = {}
    for h in hidden:
        lines = (json.dumps(row, sort_keys=True, ensure_ascii=False) for row in _sample(h.source, h.sizes))
        found[f"{_place(h.source)}-sample.jsonl"] = "".join(f"{line}\n" for line in lines).encode("utf-8")
    return found


def _place(source: SourceFacts) -> str:
    return f"dataset/described/{safe_name(source.name)}"


def _description(source: SourceFacts, sizes: Sequence[int], tokens: Sequence[int]) -> dict[str, Json]:
    return {
        "format": DESCRIBED_FORMAT,
        "source": source.name,
        "data_class": class_of(source.lock),
        "reason": source.lock.get("reason") or "",
        "sha256": pin_of(source.lock),
        "schema": _schema(source),
        "statistics": {
            "num_documents": {"kept": source.num_kept, "dropped": source.num_dropped},
            "dropped_by_rule": dict(sorted(source.drops.items())),
            "licences": dict(sorted(source.licences.items())),
            "size_bytes": _spread(sizes),
            "num_tokens": _spread(tokens),
        },
        "sample": "synthetic: made-up words, the columns and sizes of the source",
    }


def _schema(source: SourceFacts) -> dict[str, Json]:
    """Columns and types of the source's files, as they were seen; a source without columns has texts."""
    stated = source.lock.get("schema")
    return dict(stated) if stated else {"text": ["string"]}


def _spread(values: Sequence[int]) -> dict[str, Json]:
    """Total, extremes and quartiles of ordered whole numbers."""
    if not values:
        return {"total": 0}
    cuts = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    names = ("first_quartile", "median", "third_quartile")
    quartiles = dict(zip(names, (int(cut) for cut in cuts), strict=True))
    return {"total": sum(values), "smallest": values[0], "largest": values[-1], **quartiles}


def _sample(source: SourceFacts, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Rows with the source's columns; of these the text column is as long as a document, up to 4 KiB."""
    schema, column = _schema(source), str(source.lock.get("text_column") or "text")
    rows = []
    for number in range(min(_SAMPLE_ROWS, len(sizes))):
        size = min(sizes[number * len(sizes) // min(_SAMPLE_ROWS, len(sizes))], _MAX_SAMPLE_BYTES)
        seed = tagged_digest("synthetic/1", {"source": source.name, "row": number})
        values = {name: _value(kinds, f"{seed}{name}", 24) for name, kinds in schema.items()}
        if column in schema:
            values[column] = _words(f"{seed}{column}", size)
        rows.append(values)
    return rows


def _value(kinds: Sequence[str], seed: str, size: int) -> Any:
    """A made-up value of the first type that a column had."""
    kind = kinds[0] if kinds else "string"
    if kind.startswith(("int", "uint", "number", "float", "double")):
        return int(sha256_bytes(seed.encode())[:4], 16)
    simple: dict[str, Any] = {"boolean": True, "bool": True, "null": None, "object": {}, "array": []}
    return simple[kind] if kind in simple else _words(seed, size)


def _words(seed: str, size: int) -> str:
    """Made-up words of exactly so many bytes."""
    words: list[str] = []
    length = 0
    while length <= size:  # the last word has no space after it
        digest = bytes.fromhex(sha256_bytes(f"{seed}{len(words)}".encode()))
        word = "".join(_SYLLABLES[byte % len(_SYLLABLES)] for byte in digest[: 1 + digest[31] % 4])
        words.append(word)
        length += len(word) + 1
    return " ".join(words)[:size]
