"""Export of texts in the form of the Dolma toolkit: gzipped JSON lines, a file for each source and shard.

A line is a document: `id`, `text`, `source`, `added` (as of when the source was taken) and `metadata`, which holds the
licence with its evidence and what was decided of the document. When it was created is not known and not said.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_recipes.documents import KEPT, TEXT_SPLITS
from data_recipes.megatron_export import EXPORT_FORMAT, EXPORT_NAME, require_new
from data_recipes.part_files import read_columns
from data_recipes.shards import safe_name
from provenance.canonical import Json, read_json, write_json
from provenance.digests import hash_files
from provenance.errors import DataError

_FACTS = (
    *("path", "kind", "split", "num_tokens", "text_sha256", "raw_sha256"),
    *("copyright", "obligations", "signals", "cluster_sources", "cluster_licences", "cluster_size"),
    *("contamination", "redacted_from", "lines_removed", "lines_removed_from"),
    *("passages_removed", "passages_removed_from"),
)
"""Columns of the documents table that go into `metadata` under their own names, where the corpus has them."""
_EVIDENCE = ("kind", "locator", "sha256", "date")
_LEVEL = 6


@dataclass
class _Counts:
    num_documents: int = 0
    num_tokens: int = 0
    num_without_text: int = 0


def export_dolma(corpus: Path, split: str, target: Path) -> dict[str, Json]:
    """Write the texts of a split for the Dolma toolkit, and `export.json`, which says what was exported.

    Files are `<source>/documents/<split>-<shard>.jsonl.gz`, documents in the order of the shards. The same corpus gives
    the same lines, and the same bytes with the same zlib.

    Args:
        corpus: the corpus directory (`dataset/` of a bundle).
        split: `train` or `heldout`.
        target: a new directory.

    Returns:
        The content of `export.json`; kept documents whose text is not here are counted in it, by source.

    Raises:
        DataError: for an unknown split, one without any text here, and tables that do not agree.
    """
    shards = sorted((corpus / "text").glob(f"{split}-*.parquet")) if split in TEXT_SPLITS else []
    if not shards:
        raise DataError(
            f"no texts of split {split!r}",
            expected=f"a corpus or bundle that has them; splits of texts are {', '.join(TEXT_SPLITS)}",
            where=str(corpus / "text"),
            next_command="--format megatron, which exports tokens"
            if split in TEXT_SPLITS
            else "one of these as the split",
        )
    require_new(target)
    added = {
        source["name"]: f"{source['as_of']}T00:00:00.000Z" for source in read_json(corpus / "sources.lock")["sources"]
    }
    counts: dict[str, _Counts] = {}
    for documents in sorted((corpus / "documents").glob("documents-*.parquet")):
        number = documents.stem.removeprefix("documents-")
        _export_shard(documents, corpus / "text" / f"{split}-{number}.parquet", split, target, added, counts)
    description: dict[str, Json] = {
        "format": EXPORT_FORMAT,
        "target": "dolma",
        "split": split,
        "sources": [
            {"name": name, "prefix": safe_name(name), **vars(counted)} for name, counted in sorted(counts.items())
        ],
        "files": [file.as_json() for file in hash_files(target, sorted(target.rglob("*.gz")))],
    }
    write_json(target / EXPORT_NAME, description)
    return description


def _export_shard(
    documents: Path, texts: Path, split: str, target: Path, added: dict[str, str], counts: dict[str, _Counts]
) -> None:
    rows = _texts(texts)
    waiting = next(rows, None)
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for document in _kept(documents, split):
            source = document["source"]
            counted = counts.setdefault(source, _Counts())
            if waiting is None or waiting[0] != document["document_id"]:
                counted.num_without_text += 1
                continue
            if source not in files:
                path = target / safe_name(source) / "documents" / f"{texts.stem}.jsonl.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                raw = stack.enter_context(path.open("wb"))
                files[source] = stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0))
            files[source].write(_line(document, waiting[1], added[source]))
            counted.num_documents += 1
            counted.num_tokens += document["num_tokens"]
            waiting = next(rows, None)
    if waiting is not None:
        raise DataError(
            f"text of {waiting[0]}, which is no kept document", expected=f"those of {documents.name}", where=str(texts)
        )


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Ids and texts of a shard, in order; none where it has no file."""
    if path.is_file():
        for table in read_columns(path, ("document_id", "text")):
            yield from zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True)


def _kept(path: Path, split: str) -> Iterator[dict[str, Any]]:
    """Rows of the kept documents of a split, in order."""
    names = pq.read_schema(path).names
    wanted = ("document_id", "source", "decision", "licence_spdx", "licence_chosen", "licence_declared", *_FACTS)
    evidence = [f"evidence_{name}" for name in _EVIDENCE]
    language = ["stat_language", "stat_language_share"]
    for table in read_columns(path, [name for name in (*wanted, *evidence, *language) if name in names]):
        is_wanted = pc.and_(pc.equal(table.column("decision"), KEPT), pc.equal(table.column("split"), split))
        kept: pa.Table = table.filter(is_wanted)
        yield from kept.to_pylist()


def _line(document: dict[str, Any], text: str, added: str) -> bytes:
    metadata = {
        "license": document["licence_chosen"],
        "license_expression": document["licence_spdx"],
        "license_declared": document["licence_declared"],
        "license_evidence": {name: document[f"evidence_{name}"] for name in _EVIDENCE},
        "language": document.get("stat_language", ""),
        "language_share": document.get("stat_language_share", 0.0),
        **{name: document[name] for name in _FACTS if name in document},
    }
    line = {
        "id": document["document_id"],
        "text": text,
        "source": document["source"],
        "added": added,
        "metadata": metadata,
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"
