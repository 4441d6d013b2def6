"""The columns by which documents are compared with one another, of all part files together, in document id order."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_recipes.build import Build
from data_recipes.decisions import DUPLICATE, RULES
from data_recipes.deduplicate import Digests, Rows, digests_of, first_equal, hexadecimal_of, kept_rows, sorted_rows
from data_recipes.near_duplicates import NUM_BANDS
from data_recipes.part_files import read_columns, read_range
from data_recipes.read_step import part_path
from data_recipes.rule_settings import CONTAMINATED
from data_recipes.settings import CorpusConfig
from data_recipes.tasks import SCRATCH
from provenance.canonical import Json
from provenance.errors import DataError


@dataclass(frozen=True)
class Contaminated:
    """What a document shares with evaluation sets, as columns of the documents table hold it."""

    overlap: float
    hits: list[dict[str, Json]]


@dataclass(frozen=True)
class Columns:
    """What is held in memory of all documents: about 80 bytes of each, and 160 more where signatures are needed.

    Attributes:
        ids: document ids, sorted.
        texts: digests of the normalised texts.
        sources: place of each document's source in `source_names`.
        licences: place of its licence in `licence_names`.
        rules: place of the rule that dropped it in `RULES`, -1 where none did.
        not_applied: of a document in place, the rule that would have dropped it; else -1.
        signatures: [documents, NUM_BANDS]; None where nothing asked for them. Of dropped documents they are 0.
        contaminated: by row, the documents that share text with evaluation sets.
        noted: rows of `not_applied` that comparisons have changed.
    """

    ids: Digests
    texts: Digests
    sources: npt.NDArray[np.int32]
    licences: npt.NDArray[np.int32]
    rules: npt.NDArray[np.int16]
    not_applied: npt.NDArray[np.int16]
    source_names: list[str]
    source_splits: list[str]
    sources_in_place: list[bool]
    licence_names: list[str]
    contaminated: dict[int, Contaminated]
    signatures: npt.NDArray[np.uint64] | None = None
    noted: set[int] = field(default_factory=set, init=False)

    def __len__(self) -> int:
        return len(self.ids)

    def heldout(self) -> npt.NDArray[np.bool_]:
        """Whether each document is of a source that is held out."""
        is_heldout = np.array([split == "heldout" for split in self.source_splits])
        return is_heldout[self.sources]

    def in_place(self) -> npt.NDArray[np.bool_]:
        """Whether each document is of a source in place: it is kept, whatever it is like."""
        return np.array(self.sources_in_place)[self.sources]

    def precedence(self) -> npt.NDArray[np.int8]:
        """Which document stays of those that are alike: one in place before any other, then a held-out one."""
        return 2 * (~self.in_place()).astype(np.int8) + ~self.heldout()

    def note_not_applied(self, row: int, rule: str) -> None:
        """Note the first rule that would have dropped a document in place."""
        if self.not_applied[row] < 0:
            self.not_applied[row] = RULES.index(rule)
            self.noted.add(row)


def contamination_path(number: int) -> str:
    """Path of what documents of a part share with evaluation sets, below the build."""
    return f"{SCRATCH}/contamination/{number:05d}.parquet"


def load_columns(build: Build, part_sources: Sequence[str], *, with_signatures: bool = False) -> Columns:
    """Read the columns of all part files.

    Args:
        part_sources: name of the source of each part.

    Raises:
        DataError: when two documents have one id, which only the same file pinned twice can cause.
    """
    source_names = sorted(set(part_sources))
    licence_codes: dict[str, int] = {}
    found: dict[str, list[npt.NDArray[Any]]] = defaultdict(list)
    names = ["document_id", "text_sha256", "licence_spdx", "rule", "rule_not_applied"]
    names += ["signature"] if with_signatures else []
    for number, source in enumerate(part_sources):
        for table in read_columns(build.root / part_path(number), names):
            ids, texts, licences = (table.column(name).to_pylist() for name in names[:3])
            found["ids"].append(digests_of("".join(ids).encode()))
            found["texts"].append(digests_of("".join(texts).encode()))
            codes = [licence_codes.setdefault(licence, len(licence_codes)) for licence in licences]
            found["licences"].append(np.array(codes, dtype=np.int32))
            found["rules"].append(_rule_codes(table.column("rule")))
            found["not_applied"].append(_rule_codes(table.column("rule_not_applied")))
            found["sources"].append(np.full(len(ids), source_names.index(source), dtype=np.int32))
            if with_signatures:
                found["signatures"].append(_signatures(table.column("signature").to_pylist()))
    made = {name: np.concatenate(found.pop(name)) for name in list(found)}
    order = sorted_rows(made["ids"])
    place = first_equal(made["ids"], order)
    if place >= 0:
        raise _same_document(build, part_sources, hexadecimal_of(made["ids"][order[place]]))
    ordered = {name: column[order] for name, column in made.items()}
    split_of = {source.name: source.split for source in build.config.sources}
    contaminated = _contaminated(build, ordered["ids"], len(part_sources))
    return Columns(
        **ordered,
        source_names=source_names,
        source_splits=[split_of[name] for name in source_names],
        sources_in_place=[name in build.config.in_place for name in source_names],
        licence_names=list(licence_codes),
        contaminated=contaminated,
    )


def _rule_codes(names: pa.ChunkedArray) -> npt.NDArray[np.int16]:
    """Place of each rule in `RULES`, -1 for none."""
    places = pc.index_in(names, value_set=pa.array(["", *RULES]))
    assert not places.null_count, "parts come from this code, which knows every rule"
    codes: npt.NDArray[np.int16] = (places.to_numpy() - 1).astype(np.int16)
    return codes


def exact_root(config: CorpusConfig, columns: Columns) -> Rows:
    """Return for each document the row of the one that stays in its place, itself where its text is the first.

    A document that holds evaluation items is dropped by that rule, which is entered into `columns.rules`, unless its
    text is that of a held-out document, or of one in place: it then is a duplicate of this one, whose cluster names it.
    Documents in place stay; what would have dropped them is entered into `columns.not_applied`.
    """
    candidates = np.flatnonzero(columns.rules < 0)
    kept = kept_rows(columns.texts[candidates], columns.precedence()[candidates])
    root = np.arange(len(columns))
    root[candidates] = candidates[kept]
    is_in_place, is_heldout = columns.in_place(), columns.heldout()
    for row in np.flatnonzero(is_in_place & (root != np.arange(len(columns)))).tolist():
        columns.note_not_applied(row, DUPLICATE)
        root[row] = row
    rules = config.decontamination
    if rules is not None and rules.action == "drop":
        for row, shared in columns.contaminated.items():
            if shared.overlap <= rules.max_item_overlap:
                continue
            if is_in_place[row]:
                columns.note_not_applied(row, CONTAMINATED)
            elif not (is_heldout[root[row]] or is_in_place[root[row]]):
                columns.rules[row], root[row] = RULES.index(CONTAMINATED), row
    return root


def near_candidates(columns: Columns, root: Rows) -> Rows:
    """Return the rows that are compared for likeness, by `Columns.precedence`: those to be kept first at the front."""
    rows = np.flatnonzero((columns.rules < 0) & (root == np.arange(len(columns))))
    return rows[np.argsort(columns.precedence()[rows], kind="stable")]


def row_of(ids: Digests, document_id: str) -> int:
    """Return the row of a document that is there, given all ids in order."""
    first, end = 0, len(ids)
    for word, wanted in enumerate(digests_of(document_id.encode())[0]):
        of_range = ids[first:end, word]
        first, end = (
            first + int(np.searchsorted(of_range, wanted)),
            first + int(np.searchsorted(of_range, wanted, "right")),
        )
    assert end == first + 1, document_id
    return first


def _contaminated(build: Build, ids: Digests, num_parts: int) -> dict[int, Contaminated]:
    """Load what the step `contamination` found, by row."""
    if build.config.decontamination is None:
        return {}
    return {
        row_of(ids, row["document_id"]): Contaminated(row["overlap"], row["hits"])
        for number in range(num_parts)
        for table in read_columns(build.root / contamination_path(number), ("document_id", "overlap", "hits"))
        for row in table.to_pylist()
    }


def _signatures(values: Sequence[bytes | None]) -> npt.NDArray[np.uint64]:
    nothing = bytes(8 * NUM_BANDS)
    return np.frombuffer(b"".join(value or nothing for value in values), dtype=np.uint64).reshape(-1, NUM_BANDS)


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
