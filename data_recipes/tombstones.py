"""Takedown: which documents were asked to be forgotten (`openwright-tombstones/1`), and where a corpus holds them.

A corpus that was trained on is never renumbered: its documents keep their rows, ids and places, and the tokens and
texts of forgotten ones are blanked in what is published from then on.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_recipes.conversation_rows import CONVERSATION_SPLITS, conversations_of
from data_recipes.document_index import DocumentIndex
from data_recipes.order import Order
from data_recipes.split_rows import SplitRows
from data_recipes.windows import TokenWindows
from provenance.canonical import Json, read_json, write_json
from provenance.errors import DataError

TOMBSTONES_FORMAT = "openwright-tombstones/1"
TOMBSTONES_NAME = "tombstones.json"

CHAT_FOLDERS = {"chats": "chat", "preferences": "preference"}
"""Folders of conversations that come from files, by the split of their training rows; they have no document."""


@dataclass(frozen=True, order=True)
class Tombstone:
    """A document that was asked to be forgotten.

    Attributes:
        text_sha256: digest of its text, so that an equal text under another id is forgotten with it.
        date: ISO date of the request.
        reason: why, in words that may be published.
    """

    document_id: str
    text_sha256: str
    date: str
    reason: str


@dataclass(frozen=True)
class TokenRange:
    """Tokens of a file of token shards: those from `begin` on, before `end`."""

    split: str
    path: str
    begin: int
    end: int


@dataclass(frozen=True)
class HeldDocument:
    """A document of a corpus that a tombstone names, by its id or by its text.

    A conversation or pair from a file counts as one: its id stands for its text, and its split is that of its row.
    """

    document_id: str
    text_sha256: str
    source: str
    split: str
    decision: str
    num_tokens: int


def read_tombstones(path: Path) -> list[Tombstone]:
    """Read the tombstones of a file; none where there is no file.

    Raises:
        DataError: for another format.
    """
    if not path.is_file():
        return []
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != TOMBSTONES_FORMAT:
        raise DataError("not a list of tombstones", expected=f"format {TOMBSTONES_FORMAT}", where=str(path))
    try:
        return sorted(Tombstone(**entry) for entry in values["tombstones"])
    except (KeyError, TypeError) as error:
        raise DataError(f"a malformed tombstone ({error})", expected=TOMBSTONES_FORMAT, where=str(path)) from None


def write_tombstones(path: Path, tombstones: Iterable[Tombstone], blanked: Json = None) -> None:
    """Write tombstones, sorted by document; one that is there already is kept as it is.

    Args:
        blanked: in a bundle, which token files were blanked where, and with which token.
    """
    known = {tombstone.document_id: tombstone for tombstone in read_tombstones(path)}
    for tombstone in sorted(tombstones):
        known.setdefault(tombstone.document_id, tombstone)
    entries = [asdict(known[document_id]) for document_id in sorted(known)]
    write_json(path, {"format": TOMBSTONES_FORMAT, "tombstones": entries, "blanked": blanked})


def held_documents(corpus: Path, tombstones: Iterable[Tombstone]) -> list[HeldDocument]:
    """The documents of a corpus, kept or dropped, and conversations from files, that tombstones name; sorted by id."""
    named = list(tombstones)
    ids = pa.array([tombstone.document_id for tombstone in named], pa.string())
    texts = pa.array([tombstone.text_sha256 for tombstone in named], pa.string())
    names = list(HeldDocument.__dataclass_fields__)
    found = []
    for path in sorted((corpus / "documents").glob("documents-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=names):
            is_named = pc.or_(pc.is_in(batch["document_id"], ids), pc.is_in(batch["text_sha256"], texts))
            found += [HeldDocument(**row) for row in batch.filter(is_named).to_pylist()]
    wanted = {tombstone.document_id for tombstone in named}
    for split, row in chats_of(corpus):
        if row["chat_id"] in wanted:
            found.append(HeldDocument(row["chat_id"], row["chat_id"], row["source"], split, "kept", 0))
    return sorted(found, key=lambda document: document.document_id)


def token_ranges(corpus: Path, documents: Iterable[HeldDocument]) -> dict[str, list[TokenRange]]:
    """Where the token shards of a corpus hold documents and the conversations made from them, by document id.

    Raises:
        DataError: when the corpus does not say which conversation became which row.
    """
    kept = {document.document_id: document for document in documents if document.decision == "kept"}
    table = read_json(corpus / "tokens" / "tokens.json")["splits"]
    found: dict[str, list[TokenRange]] = {document_id: [] for document_id in kept}
    for document_id, part in (*document_ranges(corpus, kept.values()).items(), *_chat_ranges(corpus, table, kept)):
        found[document_id].append(part)
    for split, rows_split in CONVERSATION_SPLITS.items():
        if rows_split in table:
            for document_id, part in _row_ranges(corpus, split, rows_split, table[rows_split], kept):
                if part not in found[document_id]:  # conversations of one document may share a row
                    found[document_id].append(part)
    return found


def document_ranges(corpus: Path, kept: Iterable[HeldDocument]) -> dict[str, TokenRange]:
    """Where the shards of documents hold kept documents, by document id."""
    by_id = {document.document_id: document for document in kept if document.split in CONVERSATION_SPLITS}
    table = read_json(corpus / "tokens" / "tokens.json")["splits"]
    splits = sorted({document.split for document in by_id.values()})
    return dict(part for split in splits for part in _stream_ranges(corpus, split, table[split], by_id))


def _stream_ranges(
    corpus: Path, split: str, entry: Mapping[str, Any], kept: Mapping[str, HeldDocument]
) -> Iterator[tuple[str, TokenRange]]:
    """Places of documents in a split of documents: its shards hold those of a source in document id order."""
    index = DocumentIndex(corpus)
    rows, windows = SplitRows(index, split, None), TokenWindows(corpus, split, 1)
    sources = {source["name"]: number for number, source in enumerate(entry["sources"])}
    for document in kept.values():
        if document.split == split:
            number = index.find(document.document_id)[0]
            source = sources[document.source]
            shard, begin, end = windows.tokens_of(source, rows.ordinal(document.source, number))
            path = entry["sources"][source]["shards"][shard]["files"]["tokens"]["path"]
            yield document.document_id, TokenRange(split, path, begin, end)


def _row_ranges(
    corpus: Path, split: str, rows_split: str, entry: Mapping[str, Any], kept: Mapping[str, HeldDocument]
) -> Iterator[tuple[str, TokenRange]]:
    """Places of the conversations that were made from documents: rows lie in the order of their keys."""
    by_source: dict[str, list[dict[str, str]]] = {}
    for row in conversations_of(corpus, split):
        by_source.setdefault(row["source"], []).append(row)
    for source in entry["sources"]:
        rows = by_source.get(source["name"], [])
        keys = sorted({row["row_key"] for row in rows} - {""})
        if not any(row["document_id"] in kept for row in rows):
            continue
        if len(keys) != source["num_documents"]:
            raise DataError(
                f"{source['num_documents']} rows of {source['name']!r}, and {len(keys)} that conversations name",
                expected="conversations that say which row each became",
                where=str(corpus / "conversations"),
                next_command="build the corpus again: the one at hand was made by a version that did not say",
            )
        places = _row_places(source, entry["width"])
        ordinals = {key: number for number, key in enumerate(keys)}
        for row in rows:
            if row["document_id"] in kept and row["row_key"]:
                path, begin = places[ordinals[row["row_key"]]]
                yield row["document_id"], TokenRange(rows_split, path, begin, begin + entry["width"])


def chats_of(corpus: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Conversations and pairs that came from files: the split of the row, then `chat_id`, `source` and `row_key`."""
    for folder, name in CHAT_FOLDERS.items():
        for path in sorted((corpus / folder).glob("*.parquet")):
            split = name if path.name.startswith("train-") else f"{name}-heldout"
            for batch in pq.ParquetFile(path).iter_batches(columns=["chat_id", "source", "row_key"]):
                yield from ((split, row) for row in batch.to_pylist())


def _chat_ranges(
    corpus: Path, table: Mapping[str, Any], kept: Mapping[str, HeldDocument]
) -> Iterator[tuple[str, TokenRange]]:
    """Places of the rows of conversations and pairs that came from files."""
    if all(document.split in CONVERSATION_SPLITS for document in kept.values()):
        return
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for split, row in chats_of(corpus):
        rows.setdefault((split, row["source"]), {})[row["chat_id"]] = row["row_key"]
    for (split, name), keys in sorted(rows.items()):
        source = next(source for source in table[split]["sources"] if source["name"] == name)
        places = _row_places(source, table[split]["width"])
        ordinals = {key: number for number, key in enumerate(sorted(set(keys.values())))}
        for chat_id in sorted(keys.keys() & kept.keys()):
            path, begin = places[ordinals[keys[chat_id]]]
            yield chat_id, TokenRange(split, path, begin, begin + table[split]["width"])


def _row_places(source: Mapping[str, Any], width: int) -> list[tuple[str, int]]:
    """Path and first token of every row of a source, in order."""
    return [
        (shard["files"]["tokens"]["path"], number * width)
        for shard in source["shards"]
        for number in range(shard["num_documents"])
    ]


def windows_touching(entry: Mapping[str, Any], part: TokenRange, window_tokens: int) -> tuple[str, range]:
    """Source and window numbers of the windows that hold any token of a stretch.

    Args:
        entry: the split as `tokens.json` describes it.
        window_tokens: targets per window; a window holds one token more.

    Raises:
        DataError: for a stretch of a file that the split does not name.
    """
    is_stream = entry["layout"] == "stream"
    stride = window_tokens if is_stream else entry["width"]
    for source in entry["sources"]:
        offset = 0
        for shard in source["shards"]:
            num_windows = max(0, shard["num_tokens"] - 1) // stride if is_stream else shard["num_tokens"] // stride
            if shard["files"]["tokens"]["path"] == part.path:
                # A window of a stream also holds the first token of the next one.
                first = max(0, -(-(part.begin - stride) // stride)) if is_stream else part.begin // stride
                past = min((part.end - 1) // stride + 1, num_windows)
                return source["name"], range(offset + min(first, past), offset + past)
            offset += num_windows
    raise DataError(f"{part.path} is no token file of the split", expected="a file that tokens.json names")


def windows_of_pools(
    order: Order, window_tokens: int, entry: Mapping[str, Any], parts: Iterable[TokenRange]
) -> Iterator[tuple[int, range]]:
    """Pools of an order, by number, with the windows that hold any token of some stretches; as `windows_touching`.

    Args:
        window_tokens: length of the windows of pools that have none of their own.
    """
    for part in parts:
        for number, pool in enumerate(order.sources):
            source, windows = windows_touching(entry, part, pool.window_tokens or window_tokens)
            if source == pool.name:
                yield number, windows


def duplicates_of(corpus: Path, document_ids: Iterable[str]) -> list[dict[str, str]]:
    """Documents that were dropped as duplicates of some others: id, text digest, source, path and the document kept."""
    kept = pa.array(sorted(document_ids), pa.string())
    columns = ["document_id", "text_sha256", "source", "path", "rule", "duplicate_of"]
    found: list[dict[str, str]] = []
    for path in sorted((corpus / "documents").glob("documents-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=columns):
            found += batch.filter(pc.is_in(batch["duplicate_of"], kept)).to_pylist()
    return found
