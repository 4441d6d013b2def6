"""Step `decide`: what needs all documents at once, over columns of metadata; no text is read."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_recipes.build import Build
from data_recipes.decisions import DUPLICATE, RULES
from data_recipes.deduplicate import (
    Digests,
    Rows,
    digests_of,
    first_equal,
    hexadecimal_of,
    kept_rows,
    sorted_rows,
)
from data_recipes.documents import DOCUMENTS_SCHEMA, DROPPED, KEPT, NO_SPLIT
from data_recipes.part_files import TableWriter, read_columns, read_range
from data_recipes.read_step import part_path
from data_recipes.settings import CorpusConfig
from data_recipes.tasks import SCRATCH, Outputs
from provenance.canonical import Json
from provenance.errors import DataError

CHANGES_PATH = f"{SCRATCH}/decide/changes.parquet"
CHANGED = (*("split", "decision", "rule", "score", "threshold", "duplicate_of", "cluster_sources", "cluster_licences"),)
"""Columns in which a comparison with other documents changes a row."""
CHANGES_SCHEMA = pa.schema([DOCUMENTS_SCHEMA.field(name) for name in ("document_id", *CHANGED)])
_CHANGES_GROUP_ROWS = 4096


@dataclass(frozen=True)
class Columns:
    """What is held in memory of all documents, in document id order: about 80 bytes of each.

    Attributes:
        ids: document ids.
        texts: digests of the normalised texts.
        sources: place of each document's source in `source_names`.
        licences: place of its licence in `licence_names`.
        rules: place of the rule that dropped it in `RULES`, -1 where none did.
    """

    ids: Digests
    texts: Digests
    sources: npt.NDArray[np.int32]
    licences: npt.NDArray[np.int32]
    rules: npt.NDArray[np.int16]
    source_names: list[str]
    licence_names: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def decide(build: Build, value: Json, outputs: Outputs) -> Json:
    """Find documents with one text; `value` is `{parts: [name of the source of each part]}`.

    Writes the rows that change, sorted by document id.

    Returns:
        `{sources, licences}`, the names that occur, sorted.

    Raises:
        DataError: when two documents have one id, and when all documents of a split are dropped.
    """
    columns = load_columns(build, value["parts"])
    candidates = np.flatnonzero(columns.rules < 0)
    is_heldout = np.array([split == "heldout" for split in _splits(build.config, columns.source_names)])
    kept = kept_rows(columns.texts[candidates], is_heldout[columns.sources[candidates]])
    root = np.arange(len(columns))
    root[candidates] = candidates[kept]
    require_documents(build.config, columns, root)
    with (
        outputs.file(CHANGES_PATH) as path,
        TableWriter(path, CHANGES_SCHEMA, group_rows=_CHANGES_GROUP_ROWS) as writer,
    ):
        for table in _changes(build.config, columns, root):
            writer.write(table)
    return {
        "sources": sorted({columns.source_names[code] for code in np.unique(columns.sources)}),
        "licences": sorted({columns.licence_names[code] for code in np.unique(columns.licences)}),
    }


def load_columns(build: Build, part_sources: Sequence[str]) -> Columns:
    """Read the columns that decisions need from all part files.

    Raises:
        DataError: when two documents have one id, which only the same file pinned twice can cause.
    """
    source_names = sorted(set(part_sources))
    rule_codes = {"": -1, **{name: code for code, name in enumerate(RULES)}}
    licence_codes: dict[str, int] = {}
    found: dict[str, list[npt.NDArray[Any]]] = defaultdict(list)
    names = ("document_id", "text_sha256", "licence_spdx", "rule")
    for number, source in enumerate(part_sources):
        for table in read_columns(build.root / part_path(number), names):
            ids, texts, licences, rules = (table.column(name).to_pylist() for name in names)
            found["ids"].append(digests_of("".join(ids).encode()))
            found["texts"].append(digests_of("".join(texts).encode()))
            codes = [licence_codes.setdefault(licence, len(licence_codes)) for licence in licences]
            found["licences"].append(np.array(codes, dtype=np.int32))
            found["rules"].append(np.array([rule_codes[rule] for rule in rules], dtype=np.int16))
            found["sources"].append(np.full(len(ids), source_names.index(source), dtype=np.int32))
    made = {name: np.concatenate(found.pop(name)) for name in list(found)}
    order = sorted_rows(made["ids"])
    place = first_equal(made["ids"], order)
    if place >= 0:
        raise _same_document(build, part_sources, hexadecimal_of(made["ids"][order[place]]))
    ordered = {name: column[order] for name, column in made.items()}
    return Columns(**ordered, source_names=source_names, licence_names=list(licence_codes))


def _same_document(build: Build, part_sources: Sequence[str], document_id: str) -> DataError:
    holders = [
        (source, table.column("path")[0].as_py())
        for number, source in enumerate(part_sources)
        for table in read_range(build.root / part_path(number), document_id, document_id + "g", ["document_id", "path"])
        for _ in range(table.num_rows)
    ]
    (first, path), (second, _) = holders[:2]
    return DataError(
        f"sources {first!r} and {second!r} hold the same file",
        expected="every archive and data file in one source, once",
        where=path,
        next_command="remove one of the two from the recipe",
    )


def _splits(config: CorpusConfig, source_names: Sequence[str]) -> list[str]:
    split_of = {source.name: source.split for source in config.sources}
    return [split_of[name] for name in source_names]


def require_documents(config: CorpusConfig, columns: Columns, root: Rows) -> None:
    """Refuse a corpus in which a split that the recipe asks for is empty.

    Args:
        root: for each row the row of the document that stays in its place.

    Raises:
        DataError: naming the rule that dropped most.
    """
    splits = np.array(_splits(config, columns.source_names))[columns.sources]
    is_kept = (columns.rules < 0) & (root == np.arange(len(columns)))
    for split in sorted({source.split for source in config.sources}):
        of_split = splits == split
        if np.any(of_split & is_kept):
            continue
        rules = columns.rules[of_split]
        dropped = Counter(RULES[code] if code >= 0 else DUPLICATE for code in rules.tolist())
        most = max(RULES, key=lambda rule: dropped[rule])
        raise DataError(
            f"all {len(rules)} documents of split {split!r} were dropped, {dropped[most]} by rule {most!r}",
            expected="at least one document kept",
            next_command="look at policy.allow and quality in the recipe",
        )


def _changes(config: CorpusConfig, columns: Columns, root: Rows) -> Iterator[pa.Table]:
    """Yield the rows that change, in document id order."""
    replaced = np.flatnonzero(root != np.arange(len(root)))
    members: dict[int, list[int]] = defaultdict(list)
    for row in replaced.tolist():
        members[int(root[row])].append(row)
    splits = _splits(config, columns.source_names)
    changed = np.union1d(replaced, np.fromiter(members, dtype=np.int64, count=len(members)))
    for start in range(0, len(changed), _CHANGES_GROUP_ROWS):
        rows = []
        for row in changed[start : start + _CHANGES_GROUP_ROWS].tolist():
            change = (
                _kept(columns, splits, [row, *members[row]]) if row in members else _dropped(columns, int(root[row]))
            )
            rows.append({"document_id": hexadecimal_of(columns.ids[row]), **change})
        yield pa.Table.from_pylist(rows, schema=CHANGES_SCHEMA)


def _kept(columns: Columns, splits: Sequence[str], cluster: Sequence[int]) -> dict[str, Any]:
    """What becomes of a document that stays for others: the union of where they come from and of their licences."""
    return {
        "split": splits[columns.sources[cluster[0]]],
        "decision": KEPT,
        "rule": "",
        "score": None,
        "threshold": None,
        "duplicate_of": "",
        "cluster_sources": sorted({columns.source_names[columns.sources[row]] for row in cluster}),
        "cluster_licences": sorted({columns.licence_names[columns.licences[row]] for row in cluster}),
    }


def _dropped(columns: Columns, kept: int) -> dict[str, Any]:
    return {
        "split": NO_SPLIT,
        "decision": DROPPED,
        "rule": DUPLICATE,
        "score": None,
        "threshold": None,
        "duplicate_of": hexadecimal_of(columns.ids[kept]),
        "cluster_sources": [],
        "cluster_licences": [],
    }
