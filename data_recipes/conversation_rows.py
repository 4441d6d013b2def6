"""Which documents stand behind the rows that fine-tuning reads: those that its conversations were made from."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

CONVERSATION_SPLITS = {"train": "sft", "heldout": "sft-heldout"}
"""Splits of rows that conversations of a split of documents become."""

CONVERSATION_COLUMNS = ("conversation_id", "document_id", "source")


def conversations_of(corpus: Path, split: str) -> Iterator[dict[str, str]]:
    """Conversations that were made from the documents of a split, with the key of the row that each became."""
    columns = list(CONVERSATION_COLUMNS)
    for path in sorted((corpus / "conversations").glob(f"{split}-*.parquet")):
        file = pq.ParquetFile(path)
        says_rows = "row_key" in file.schema_arrow.names
        for batch in file.iter_batches(columns=[*columns, "row_key"] if says_rows else columns):
            # Before conversations named their rows, each was a row under its own id, if it was not too long.
            yield from ({"row_key": row["conversation_id"], **row} for row in batch.to_pylist())


def documents_of_rows(corpus: Path, rows_split: str) -> dict[str, list[list[str]]]:
    """Ids of the documents of each row of a source, in the order of the rows, which is that of their keys.

    Args:
        rows_split: split of rows of tokens.

    Returns:
        By source; empty for a split of anything but conversations made from documents.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for split, name in CONVERSATION_SPLITS.items():
        for row in conversations_of(corpus, split) if name == rows_split else ():
            if row["row_key"]:
                ids = found.setdefault(row["source"], {}).setdefault(str(row["row_key"]), [])
                ids += [] if row["document_id"] in ids else [str(row["document_id"])]
    return {source: [rows[key] for key in sorted(rows)] for source, rows in found.items()}
