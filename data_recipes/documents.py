"""The documents table: Parquet with every decision, a fixed-width index that needs no library, and texts."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_recipes.document import Document
from data_recipes.filters import STATISTIC_TYPES, Statistics
from provenance.canonical import write_json

CODES_FORMAT = "openwright-codes/1"
INDEX_STRUCT = struct.Struct("<32s32sIHHHBBI")
KEPT = "kept"
DROPPED = "dropped"
SPLITS = ("none", "train", "heldout")
ROW_GROUP_ROWS = 4096


@dataclass(frozen=True)
class Decision:
    """What became of a document.

    Attributes:
        rule: the rule that dropped it; empty where it was kept.
        score: what the rule measured, where it measures.
        threshold: what the rule allows, where it measures.
        duplicate_of: id of the document that was kept in its place.
    """

    rule: str = ""
    score: float | None = None
    threshold: float | None = None
    duplicate_of: str = ""


@dataclass(frozen=True)
class DocumentRow:
    """One row of the documents table.

    Attributes:
        split: `train` or `heldout`; `none` where it was dropped.
        num_tokens: tokens in the shards, its end-of-text token included; 0 where it was dropped.
        licence_chosen: the alternative of an OR that the policy took.
    """

    document: Document
    statistics: Statistics
    decision: Decision
    split: str
    num_tokens: int
    licence_chosen: str
    cluster_sources: tuple[str, ...]
    cluster_licences: tuple[str, ...]


_STRING_LIST = pa.list_(pa.string())
_STATISTIC_COLUMNS = {int: pa.int64(), float: pa.float64(), str: pa.string()}
DOCUMENTS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("document_id", "source", "path", "kind", "split")),
        ("text_sha256", pa.string()),
        ("raw_sha256", pa.string()),
        ("size_bytes", pa.int64()),
        ("num_tokens", pa.int64()),
        *((name, pa.string()) for name in ("licence_spdx", "licence_chosen", "licence_declared", "licence_reason")),
        *((f"evidence_{name}", pa.string()) for name in ("kind", "locator", "sha256", "date")),
        ("copyright", _STRING_LIST),
        ("decision", pa.string()),
        ("rule", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
        ("cluster_sources", _STRING_LIST),
        ("cluster_licences", _STRING_LIST),
        *((f"stat_{name}", _STATISTIC_COLUMNS[kind]) for name, kind in STATISTIC_TYPES.items()),
    ]
)


def write_documents(rows: Sequence[DocumentRow], rules: Sequence[str], directory: Path) -> None:
    """Write `documents-00000.parquet`, `index-00000.bin` and `codes.json`.

    Args:
        rows: sorted by document id.
        rules: names of all rules that can drop a document, in order.
    """
    directory.mkdir(parents=True, exist_ok=True)
    codes = {
        "sources": sorted({row.document.source for row in rows}),
        "licences": sorted({row.document.licence.spdx for row in rows}),
        "decisions": [KEPT, *rules],
        "splits": list(SPLITS),
    }
    table = pa.Table.from_pylist([_table_row(row) for row in rows], schema=DOCUMENTS_SCHEMA)
    pq.write_table(
        table, directory / "documents-00000.parquet", compression="zstd", compression_level=3,
        row_group_size=ROW_GROUP_ROWS,
    )  # fmt: skip
    (directory / "index-00000.bin").write_bytes(b"".join(_index_rows(rows, codes)))
    write_json(directory / "codes.json", {"format": CODES_FORMAT, **codes})


def _table_row(row: DocumentRow) -> dict[str, Any]:
    document, licence, decision = row.document, row.document.licence, row.decision
    return {
        "document_id": document.document_id,
        "source": document.source,
        "path": document.path,
        "kind": document.kind,
        "split": row.split,
        "text_sha256": document.text_sha256,
        "raw_sha256": document.raw_sha256,
        "size_bytes": len(document.text.encode("utf-8")),
        "num_tokens": row.num_tokens,
        "licence_spdx": licence.spdx,
        "licence_chosen": row.licence_chosen,
        "licence_declared": licence.declared,
        "licence_reason": licence.reason,
        "evidence_kind": licence.evidence_kind,
        "evidence_locator": licence.evidence_locator,
        "evidence_sha256": licence.evidence_sha256,
        "evidence_date": licence.evidence_date,
        "copyright": list(licence.copyright),
        "decision": DROPPED if decision.rule else KEPT,
        "rule": decision.rule,
        "score": decision.score,
        "threshold": decision.threshold,
        "duplicate_of": decision.duplicate_of,
        "cluster_sources": list(row.cluster_sources),
        "cluster_licences": list(row.cluster_licences),
        **{f"stat_{name}": value for name, value in asdict(row.statistics).items()},
    }


def _index_rows(rows: Iterable[DocumentRow], codes: Mapping[str, Sequence[str]]) -> Iterator[bytes]:
    code = {kind: {name: number for number, name in enumerate(names)} for kind, names in codes.items()}
    for row in rows:
        yield INDEX_STRUCT.pack(
            bytes.fromhex(row.document.document_id),
            bytes.fromhex(row.document.text_sha256),
            row.num_tokens,
            code["sources"][row.document.source],
            code["licences"][row.document.licence.spdx],
            code["decisions"][row.decision.rule or KEPT],
            code["splits"][row.split],
            0,
            0,
        )


def write_texts(rows: Iterable[DocumentRow], path: Path) -> None:
    """Write the texts of kept documents as a data set file."""
    write_dataset(
        [
            {
                "document_id": row.document.document_id,
                "source": row.document.source,
                "path": row.document.path,
                "licence": row.licence_chosen,
                "text": row.document.text,
            }
            for row in rows
        ],
        {name: "string" for name in ("document_id", "source", "path", "licence", "text")},
        path,
    )


def write_dataset(rows: list[dict[str, Any]], columns: Mapping[str, Any], path: Path) -> None:
    """Write rows as Parquet with the `datasets` library, so that its features travel with the file.

    Args:
        columns: name and type of each column: a type name such as `string`, or a `datasets` feature.
    """
    import datasets  # heavy, and not needed by the processes that read sources

    features = datasets.Features(
        {name: datasets.Value(kind) if isinstance(kind, str) else kind for name, kind in columns.items()}
    )
    values = {name: [row[name] for row in rows] for name in columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_datasets():
        datasets.Dataset.from_dict(values, features=features).to_parquet(str(path), batch_size=ROW_GROUP_ROWS)


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Silence the progress bars of `datasets` for the length of a block; ours say more."""
    import datasets

    were_enabled = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_enabled:
            datasets.enable_progress_bars()
