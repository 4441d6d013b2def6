"""What the corpus holds out: documents and documented functions of projects that no model was trained on."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from provenance.digests import hash_files
from provenance.errors import EvaluationError

TEXT = "text"
CONVERSATIONS = "conversations"


@dataclass(frozen=True)
class HeldoutDocument:
    """A document of a held-out project."""

    document_id: str
    source: str
    licence: str
    text: str


@dataclass(frozen=True)
class HeldoutFunction:
    """A documented function of a held-out project.

    Attributes:
        question: what the user asks in its conversation.
        signature: the call as written in the source.
        summary: first paragraph of its docstring.
    """

    conversation_id: str
    document_id: str
    source: str
    licence: str
    qualified_name: str
    signature: str
    summary: str
    question: str


def read_documents(corpus: Path, forget: Collection[str] = ()) -> list[HeldoutDocument]:
    """Read the held-out documents, sorted by document id.

    Args:
        forget: ids of documents that were taken down; they are left out.

    Raises:
        EvaluationError: when there are none, or when one of them is in the training split as well.
    """
    columns = ["document_id", "source", "licence", "text"]
    documents = [HeldoutDocument(**row) for row in _rows(corpus, TEXT, "heldout", columns)]
    if not documents:
        raise EvaluationError(
            "the corpus has no held-out text",
            expected="at least one project held out as a whole",
            where=str(corpus / TEXT),
            next_command="name held-out projects in corpus.yaml and run the corpus stage again",
        )
    _refuse_leaks(corpus, {document.document_id for document in documents})
    kept = (document for document in documents if document.document_id not in forget)
    return sorted(kept, key=lambda document: document.document_id)


def read_functions(corpus: Path, forget: Collection[str] = ()) -> list[HeldoutFunction]:
    """Read the held-out functions whose summary occurs in no training conversation, sorted by conversation id.

    Args:
        forget: ids of documents that were taken down; their functions are left out.

    Raises:
        EvaluationError: when one of their documents is in the training split.
    """
    columns = ["conversation_id", "document_id", "source", "licence", "qualified_name", "signature", "summary"]
    rows = _rows(corpus, CONVERSATIONS, "heldout", [*columns, "messages"])
    _refuse_leaks(corpus, {row["document_id"] for row in rows})
    trained = {
        normalise(message["content"].split("\n\n")[0])
        for row in _rows(corpus, CONVERSATIONS, "train", ["messages"])
        for message in row["messages"]
        if message["role"] == "assistant"
    }
    functions = [
        HeldoutFunction(**{name: row[name] for name in columns}, question=_question(row["messages"]))
        for row in rows
        if normalise(row["summary"]) not in trained and row["document_id"] not in forget
    ]
    return sorted(functions, key=lambda function: function.conversation_id)


def heldout_digests(corpus: Path) -> dict[str, str]:
    """sha256 of every held-out file that items are made from, by path relative to the corpus."""
    files = [*_files(corpus, TEXT, "heldout"), *_files(corpus, CONVERSATIONS, "heldout")]
    return {entry.path: entry.sha256 for entry in hash_files(corpus, files)}


@cache
def normalise(text: str) -> str:
    """White space and case do not make two summaries different."""
    return re.sub(r"\s+", " ", text).strip().casefold()


def _question(messages: list[Mapping[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def _files(corpus: Path, folder: str, split: str) -> list[Path]:
    return sorted((corpus / folder).glob(f"{split}-*.parquet"))


def _rows(corpus: Path, folder: str, split: str, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in _files(corpus, folder, split):
        schema = pq.read_schema(path)
        missing = [name for name in columns if name not in schema.names]
        if missing:
            raise EvaluationError(f"no column {missing[0]}", expected=f"columns {', '.join(columns)}", where=str(path))
        rows.extend(pq.read_table(path, columns=columns).to_pylist())
    return rows


def _refuse_leaks(corpus: Path, heldout_ids: set[str]) -> None:
    for row in _rows(corpus, TEXT, "train", ["document_id"]):
        if row["document_id"] in heldout_ids:
            raise EvaluationError(
                f"document {row['document_id']} is held out and trained on",
                expected="held-out documents that no training split holds",
                where=str(corpus / TEXT),
                next_command="run the corpus stage again",
            )
