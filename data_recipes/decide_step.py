"""Step `decide`: what becomes of documents that are compared with others, over columns; texts are not read again."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_recipes.build import Build
from data_recipes.columns import Columns, exact_root, load_columns, near_candidates, row_of
from data_recipes.compare_steps import StoredShingles, texts_of_part
from data_recipes.decisions import DUPLICATE, RULES
from data_recipes.deduplicate import Rows, hexadecimal_of
from data_recipes.documents import DOCUMENTS_SCHEMA, DROPPED, KEPT, NO_SPLIT
from data_recipes.near_duplicates import find_near_duplicates
from data_recipes.part_files import TableWriter
from data_recipes.read_step import part_path
from data_recipes.repeated_text import Cut, find_repeated_text
from data_recipes.rule_settings import CONTAMINATED, NEAR_DUPLICATE, REPEATED_TEXT
from data_recipes.settings import CorpusConfig
from data_recipes.tasks import SCRATCH, Outputs
from provenance.canonical import Json
from provenance.errors import DataError

CHANGES_PATH = f"{SCRATCH}/decide/changes.parquet"
CHANGED = (
    *("split", "decision", "rule", "score", "threshold", "duplicate_of", "cluster_sources", "cluster_licences"),
    *("cluster_size", "contamination", "contamination_hits", "passages_removed", "rule_not_applied"),
)
"""Columns in which a comparison with other documents changes a row."""
CHANGES_SCHEMA = pa.schema([DOCUMENTS_SCHEMA.field(name) for name in ("document_id", *CHANGED)])
_CHANGES_GROUP_ROWS = 4096


@dataclass(frozen=True)
class Decided:
    """What stays.

    Attributes:
        root: for each row, the row of the document that stays in its place.
        jaccard: of each document with that one, where it is a near-duplicate; else NaN.
        cuts: by row, documents of which passages are taken out; holders are rows too.
    """

    root: Rows
    jaccard: npt.NDArray[np.float64]
    cuts: dict[int, Cut] = field(default_factory=dict)

    def drop_of(self, row: int) -> Cut | None:
        """The cut for which the document that stays in the place of one is dropped, and that one with it."""
        cut = self.cuts.get(int(self.root[row]))
        return cut if cut is not None and cut.is_dropped else None


def decide(build: Build, value: Json, outputs: Outputs) -> Json:
    """Find duplicates and near-duplicates; `value` is `{parts: [name of the source of each part]}`.

    Writes the rows that change, sorted by document id.

    Returns:
        `{sources, licences}`, the names that occur, sorted; `near`, how many comparisons were made; `repeated`, how
        much was taken out.

    Raises:
        DataError: when two documents have one id, and when all documents of a split are dropped.
    """
    near = build.config.near_duplicates is not None
    columns = load_columns(build, value["parts"], with_signatures=near)
    decided = Decided(exact_root(build.config, columns), np.full(len(columns), np.nan))
    comparisons = _drop_near_duplicates(build, columns, decided, len(value["parts"])) if near else None
    repeated = _cut_repeated_text(build, columns, decided, len(value["parts"]))
    require_documents(build.config, columns, decided)
    with (
        outputs.file(CHANGES_PATH) as path,
        TableWriter(path, CHANGES_SCHEMA, group_rows=_CHANGES_GROUP_ROWS) as writer,
    ):
        for table in _changes(build.config, columns, decided):
            writer.write(table)
    return {
        "sources": sorted({columns.source_names[code] for code in np.unique(columns.sources)}),
        "licences": sorted({columns.licence_names[code] for code in np.unique(columns.licences)}),
        "near": comparisons,
        "repeated": repeated,
    }


def _drop_near_duplicates(build: Build, columns: Columns, decided: Decided, num_parts: int) -> Json:
    """Compare suspects by their shingles; documents with the text of one that goes, go with it.

    One in place that is like another stays, and this is noted.
    """
    rules = build.config.near_duplicates
    assert rules is not None
    assert columns.signatures is not None
    rows = near_candidates(columns, decided.root)
    stored = StoredShingles(build.root, num_parts)
    num_in_place = int(np.count_nonzero(columns.in_place()[rows]))
    result = find_near_duplicates(
        columns.signatures[rows],
        lambda row: stored.of(hexadecimal_of(columns.ids[rows[row]])),
        rules.min_jaccard,
        num_in_place,
    )
    moved = np.arange(len(columns))
    for found in result.found:
        if found.row < num_in_place:
            columns.note_not_applied(int(rows[found.row]), NEAR_DUPLICATE)
            continue
        moved[rows[found.row]] = rows[found.kept_row]
        decided.jaccard[rows[found.row]] = found.jaccard
    decided.jaccard[:] = decided.jaccard[decided.root]
    decided.root[:] = moved[decided.root]
    return {
        "num_suspects": result.num_suspects,
        "num_compared": result.num_compared,
        "num_not_compared": result.num_not_compared,
    }


def _cut_repeated_text(build: Build, columns: Columns, decided: Decided, num_parts: int) -> Json:
    """Find what is taken out of the documents that stay; those in place and held-out ones come first, left whole."""
    rules = build.config.repeated_text
    if rules is None:
        return None
    rows = near_candidates(columns, decided.root)
    wanted = {int(row): place for place, row in enumerate(rows)}
    texts = [""] * len(rows)
    for number in range(num_parts):
        for document_id, text in texts_of_part(build.root / part_path(number)):
            place = wanted.get(row_of(columns.ids, document_id))
            if place is not None:
                texts[place] = text
    is_whole = columns.heldout() | columns.in_place()
    for place, cut in find_repeated_text(texts, is_whole[rows].tolist(), rules).items():
        passages = tuple(replace(passage, holder=int(rows[passage.holder])) for passage in cut.passages)
        decided.cuts[int(rows[place])] = replace(cut, passages=passages)
    cuts = [cut for cut in decided.cuts.values() if not cut.is_dropped]
    return {
        "num_documents": len(cuts),
        "num_passages": sum(len(cut.passages) for cut in cuts),
        "num_dropped": len(decided.cuts) - len(cuts),
    }


def require_documents(config: CorpusConfig, columns: Columns, decided: Decided) -> None:
    """Refuse a corpus in which a split that the recipe asks for is empty.

    Raises:
        DataError: naming the rule that dropped most.
    """
    splits = np.array(columns.source_splits)[columns.sources]
    is_kept = (columns.rules < 0) & (decided.root == np.arange(len(columns)))
    is_kept[[row for row, cut in decided.cuts.items() if cut.is_dropped]] = False
    for split in sorted({source.split for source in config.sources}):
        of_split = np.flatnonzero(splits == split)
        if np.any(is_kept[of_split]):
            continue
        dropped = Counter(_rule(columns, decided, row) for row in of_split.tolist())
        most = max(RULES, key=lambda rule: dropped[rule])
        raise DataError(
            f"all {len(of_split)} documents of split {split!r} were dropped, {dropped[most]} by rule {most!r}",
            expected="at least one document kept",
            next_command="look at policy.allow and quality in the recipe",
        )


def _rule(columns: Columns, decided: Decided, row: int) -> str:
    if columns.rules[row] >= 0:
        return RULES[int(columns.rules[row])]
    if decided.drop_of(row):
        return REPEATED_TEXT
    if decided.root[row] == row:
        return ""
    return DUPLICATE if np.isnan(decided.jaccard[row]) else NEAR_DUPLICATE


def _changes(config: CorpusConfig, columns: Columns, decided: Decided) -> Iterator[pa.Table]:
    """Yield the rows that change, in document id order."""
    replaced = np.flatnonzero(decided.root != np.arange(len(columns)))
    members: dict[int, list[int]] = defaultdict(list)
    for row in replaced.tolist():
        members[int(decided.root[row])].append(row)
    changed = sorted({*replaced.tolist(), *members, *columns.contaminated, *decided.cuts, *columns.noted})
    for start in range(0, len(changed), _CHANGES_GROUP_ROWS):
        rows = [
            _change(config, columns, decided, row, members.get(row, ()))
            for row in changed[start : start + _CHANGES_GROUP_ROWS]
        ]
        yield pa.Table.from_pylist(rows, schema=CHANGES_SCHEMA)


def _change(
    config: CorpusConfig, columns: Columns, decided: Decided, row: int, others: Sequence[int]
) -> dict[str, Any]:
    """Return the changed columns of a row; a document that stays has the union of its cluster.

    Args:
        others: documents in whose place this one stays.
    """
    rule, shared = _rule(columns, decided, row), columns.contaminated.get(row)
    cluster = [] if rule else [row, *others]
    score = threshold = None
    if rule == CONTAMINATED and shared is not None and config.decontamination is not None:
        score, threshold = shared.overlap, config.decontamination.max_item_overlap
    elif rule == NEAR_DUPLICATE and config.near_duplicates is not None:
        score, threshold = float(decided.jaccard[row]), config.near_duplicates.min_jaccard
    elif rule == REPEATED_TEXT and config.repeated_text is not None and (drop := decided.drop_of(row)):
        score, threshold = float(drop.num_words_left), float(config.repeated_text.min_words_left)
    stands_for_it = decided.root[row] != row and rule != REPEATED_TEXT
    cut = decided.cuts.get(row)
    return {
        "document_id": hexadecimal_of(columns.ids[row]),
        "split": NO_SPLIT if rule else columns.source_splits[columns.sources[row]],
        "decision": DROPPED if rule else KEPT,
        "rule": rule,
        "score": score,
        "threshold": threshold,
        "duplicate_of": hexadecimal_of(columns.ids[decided.root[row]]) if stands_for_it else "",
        "cluster_sources": sorted({columns.source_names[columns.sources[member]] for member in cluster}),
        "cluster_licences": sorted({columns.licence_names[columns.licences[member]] for member in cluster}),
        "cluster_size": len(cluster),
        "contamination": shared.overlap if shared else 0.0,
        "contamination_hits": shared.hits if shared else [],
        "passages_removed": [
            {"document": hexadecimal_of(columns.ids[passage.holder]), "start": passage.start, "end": passage.end}
            for passage in (cut.passages if cut else ())
        ],
        "rule_not_applied": RULES[columns.not_applied[row]] if columns.not_applied[row] >= 0 else "",
    }
