"""The documents table: its columns with every decision, its fixed-width index that needs no library, and texts."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_recipes.document import Document
from data_recipes.filters import STATISTIC_TYPES, Statistics
from data_recipes.obligations import obligations_of

CODES_FORMAT = "openwright-codes/1"
INDEX_STRUCT = struct.Struct("<32s32sIHHHBBI")
KEPT = "kept"
DROPPED = "dropped"
NO_SPLIT = "none"
TEXT_SPLITS = ("train", "heldout")
SPLITS = (NO_SPLIT, *TEXT_SPLITS)
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
class KeptDocument:
    """What conversations need to know of a document that is kept.

    Attributes:
        licence: the alternative of an OR that the policy took.
    """

    document_id: str
    source: str
    licence: str
    split: str


_STRING_LIST = pa.list_(pa.string())
_STATISTIC_COLUMNS = {int: pa.int64(), float: pa.float64(), str: pa.string()}
REMOVED_TYPE = pa.struct([("rule", pa.string()), ("num_lines", pa.int64()), ("num_chars", pa.int64())])
SIGNAL_TYPE = pa.struct([(name, pa.string()) for name in ("rule", "place", "value")])
PASSAGE_TYPE = pa.struct([("document", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
HIT_TYPE = pa.struct(
    [("set", pa.string()), ("item", pa.string()), *((name, pa.int64()) for name in ("start", "end", "num_runs"))]
)
SPAN_TYPE = pa.struct([("kind", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
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
        ("obligations", _STRING_LIST),
        ("decision", pa.string()),
        ("rule", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
        ("cluster_sources", _STRING_LIST),
        ("cluster_licences", _STRING_LIST),
        ("cluster_size", pa.int64()),
        ("contamination", pa.float64()),
        ("contamination_hits", pa.list_(HIT_TYPE)),
        ("signals", pa.list_(SIGNAL_TYPE)),
        ("personal_data", pa.list_(SPAN_TYPE)),
        ("redacted_from", pa.string()),
        ("lines_removed", pa.list_(REMOVED_TYPE)),
        ("lines_removed_from", pa.string()),
        ("passages_removed", pa.list_(PASSAGE_TYPE)),
        ("passages_removed_from", pa.string()),
        ("rule_not_applied", pa.string()),
        *((f"stat_{name}", _STATISTIC_COLUMNS[kind]) for name, kind in STATISTIC_TYPES.items()),
    ]
)


def document_row(
    document: Document, statistics: Statistics, decision: Decision, licence_chosen: str, split: str
) -> dict[str, Any]:
    """Return the row of a document that was compared with no other yet; its tokens are not counted.

    Args:
        licence_chosen: the alternative of an OR that the policy took; empty where it is not allowed.
        split: split of its source.
    """
    licence, is_kept = document.licence, not decision.rule
    return {
        "document_id": document.document_id,
        "source": document.source,
        "path": document.path,
        "kind": document.kind,
        "split": split if is_kept else NO_SPLIT,
        "text_sha256": document.text_sha256,
        "raw_sha256": document.raw_sha256,
        "size_bytes": len(document.text.encode("utf-8")),
        "num_tokens": 0,
        "licence_spdx": licence.spdx,
        "licence_chosen": licence_chosen,
        "licence_declared": licence.declared,
        "licence_reason": licence.reason,
        "evidence_kind": licence.evidence_kind,
        "evidence_locator": licence.evidence_locator,
        "evidence_sha256": licence.evidence_sha256,
        "evidence_date": licence.evidence_date,
        "copyright": list(licence.copyright),
        "obligations": obligations_of(licence_chosen),
        "decision": KEPT if is_kept else DROPPED,
        "rule": decision.rule,
        "score": decision.score,
        "threshold": decision.threshold,
        "duplicate_of": decision.duplicate_of,
        "cluster_sources": [document.source] if is_kept else [],
        "cluster_licences": [licence.spdx] if is_kept else [],
        "cluster_size": int(is_kept),
        "contamination": 0.0,
        "contamination_hits": [],
        "signals": [],
        "personal_data": [],
        "redacted_from": "",
        "lines_removed": [],
        "lines_removed_from": "",
        "passages_removed": [],
        "passages_removed_from": "",
        "rule_not_applied": "",
        **{f"stat_{name}": value for name, value in vars(statistics).items()},
    }


def index_bytes(table: pa.Table, codes: Mapping[str, Sequence[str]]) -> bytes:
    """Return the rows of the fixed-width index for rows of the documents table.

    Args:
        codes: names of `sources`, `licences`, `decisions` and `splits` by code.
    """
    code = {kind: {name: number for number, name in enumerate(names)} for kind, names in codes.items()}
    names = ("document_id", "text_sha256", "num_tokens", "source", "licence_spdx", "rule", "split")
    return b"".join(
        INDEX_STRUCT.pack(
            bytes.fromhex(document_id),
            bytes.fromhex(text_sha256),
            num_tokens,
            code["sources"][source],
            code["licences"][licence],
            code["decisions"][rule or KEPT],
            code["splits"][split],
            0,
            0,
        )
        for document_id, text_sha256, num_tokens, source, licence, rule, split in zip(
            *(table.column(name).to_pylist() for name in names), strict=True
        )
    )


def text_schema() -> pa.Schema:
    """Schema of the files with the texts of kept documents, with the features of the `datasets` library."""
    return dataset_schema({name: "string" for name in ("document_id", "source", "path", "licence", "text")})


def dataset_schema(columns: Mapping[str, Any]) -> pa.Schema:
    """Schema of a Parquet file that the `datasets` library reads with these features; arguments as `write_dataset`."""
    return _features(columns).arrow_schema


def _features(columns: Mapping[str, Any]) -> Any:
    import datasets  # heavy, and not needed by the processes that read sources

    return datasets.Features(
        {name: datasets.Value(kind) if isinstance(kind, str) else kind for name, kind in columns.items()}
    )


def write_dataset(rows: list[dict[str, Any]], columns: Mapping[str, Any], path: Path) -> None:
    """Write rows as Parquet with the `datasets` library, so that its features travel with the file.

    Args:
        columns: name and type of each column: a type name such as `string`, or a `datasets` feature.
    """
    import datasets  # heavy, and not needed by the processes that read sources

    features = _features(columns)
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
