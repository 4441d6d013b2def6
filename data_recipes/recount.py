"""What a corpus would be under other thresholds, from the rows of `documents/` and no text.

Quality rules, the bound on contamination and exact de-duplication are applied anew; what a rule before them dropped
stays dropped. A near-duplicate stays dropped as long as it is like enough and the document kept in its place passes.
Documents that are let in anew were not compared with others for likeness and contamination: they are counted as such.
Passages that were taken out because they stand in another document stay out, and what was dropped for it stays dropped.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_recipes.decisions import DUPLICATE
from data_recipes.documents import KEPT
from data_recipes.filters import ENGLISH_RULES, QUALITY_RULES, SPACED_RULES, QualityRules
from data_recipes.quality_presets import thresholds_of
from data_recipes.recount_chats import ChatCount, count_chats
from data_recipes.rule_settings import (
    CONTAMINATED,
    NEAR_DUPLICATE,
    REPEATED_TEXT,
    DecontaminationRules,
    LineRules,
    NearDuplicateRules,
    RepeatedTextRules,
)
from provenance.canonical import read_json
from provenance.config import Config, from_recipe, override_config
from provenance.errors import ConfigError, DataError

RECOUNT_FORMAT = "openwright-recount/1"
_STEPS = {
    "lines": "line rules",
    "quality": "quality rules",
    "decontamination": "decontamination",
    "near_duplicates": "near-duplicates",
    "repeated_text": "repeated passages",
}
"""Section of the recipe: step of `corpus.json` that records it."""

_NUM_DIGESTS = 2
"""The first columns that are read, ids and digests, are kept as bytes."""

Mask = NDArray[np.bool_]


class _Recipe(Config):
    """The part of a recipe that can be tried anew; `--set` names its keys."""

    lines: LineRules | None = None
    quality: QualityRules
    decontamination: DecontaminationRules | None = None
    near_duplicates: NearDuplicateRules | None = None
    repeated_text: RepeatedTextRules | None = None

    def thresholds(self) -> dict[str, Any]:
        """All thresholds by rule."""
        found = {rule: getattr(self.quality, rule) for rule in QUALITY_RULES}
        if self.decontamination is not None:
            found |= {"action": self.decontamination.action, CONTAMINATED: self.decontamination.max_item_overlap}
        if self.near_duplicates is not None:
            found["min_jaccard"] = self.near_duplicates.min_jaccard
        return found


@dataclass(frozen=True)
class SourceCount:
    """What is kept of a source, before and after; tokens after are those of documents that were tokenized."""

    name: str
    num_documents: int
    kept_before: int
    kept_after: int
    bytes_before: int
    bytes_after: int
    tokens_before: int
    tokens_after: int
    dropped_after: Mapping[str, int]


@dataclass(frozen=True)
class Recount:
    """A corpus counted again.

    Attributes:
        changed: threshold before and after, by rule.
        by_rule: documents before and after, by rule; `kept` is the first.
        by_source: in the order of `corpus.json`.
        num_let_in: kept now and not before: they have no tokens yet.
        num_not_compared: of these, those that later rules have not compared with others.
        chats: conversations and pairs from files, by split of rows.
    """

    changed: Mapping[str, tuple[Any, Any]]
    by_rule: Mapping[str, tuple[int, int]]
    by_source: tuple[SourceCount, ...]
    num_let_in: int
    num_not_compared: int
    chats: tuple[ChatCount, ...]


def recount(dataset: Path, overrides: Sequence[str]) -> Recount:
    """Count a corpus again.

    Args:
        dataset: directory of a corpus. Takes about 700 bytes of memory per document (measured on a million).
        overrides: `section.key=value` texts: all of `quality`, `decontamination.max_item_overlap` and `.action`, and
            `near_duplicates.min_jaccard`, which may only be raised.

    Raises:
        ConfigError: for an unknown key or a wrong value, or one that only building the corpus anew can tell of.
        DataError: for a rule over a statistic that the corpus does not hold.
    """
    corpus = read_json(dataset / "corpus.json")
    before = _recipe_of(corpus, dataset)
    after = _overridden(before, overrides)
    names: list[str] = read_json(dataset / "documents" / "codes.json")["decisions"]
    first_quality = min(number for number, name in enumerate(names) if name in QUALITY_RULES)
    documents = _Documents.read(dataset / "documents", after.quality)
    heldout = {source["name"] for source in corpus["sources"] if source["split"] == "heldout"}
    in_place = {source["name"] for source in corpus["sources"] if source.get("in_place")}
    decided = _decide(documents, after, set(names[1:first_quality]), heldout, in_place)
    let_in = (decided == "") & (documents.rules != "")
    is_compared = after.decontamination is not None or after.near_duplicates is not None
    thresholds = after.thresholds()
    return Recount(
        changed={
            rule: (threshold, thresholds[rule])
            for rule, threshold in before.thresholds().items()
            if threshold != thresholds[rule]
        },
        by_rule=_by_rule(names, documents.rules, decided),
        by_source=tuple(_source(source["name"], documents, decided) for source in corpus["sources"]),
        num_let_in=int(let_in.sum()),
        num_not_compared=int(let_in.sum()) if is_compared else 0,
        chats=count_chats(dataset, after.quality, after.decontamination),
    )


def _recipe_of(corpus: Mapping[str, Any], dataset: Path) -> _Recipe:
    recorded = {step["name"]: step["parameters"] for step in corpus["steps"]}
    if _STEPS["quality"] not in recorded:
        raise DataError(
            f"no step {_STEPS['quality']!r}",
            expected="a corpus to which quality rules were applied",
            where=str(dataset / "corpus.json"),
        )
    return from_recipe({section: recorded[step] for section, step in _STEPS.items() if step in recorded}, _Recipe)


def _overridden(recipe: _Recipe, overrides: Sequence[str]) -> _Recipe:
    """Apply overrides; presets that they name set all rules but those that they set themselves.

    Raises:
        ConfigError: also for what documents/ cannot tell.
    """
    values = recipe.model_dump(exclude_none=True)
    values["quality"] = recipe.quality.model_dump()
    named = {override.partition("=")[0].strip() for override in overrides}
    if "quality.presets" in named:
        presets = [override for override in overrides if override.startswith("quality.presets=")]
        chosen = override_config({"quality": {}}, _Recipe, presets).quality.presets
        values["quality"] = {
            rule: value for rule, value in values["quality"].items() if rule not in thresholds_of(chosen)
        }
    after = override_config(values, _Recipe, overrides)
    if after.lines != recipe.lines:
        raise _untold("a change of which lines are taken out of texts, of which only what is left was measured")
    if after.repeated_text != recipe.repeated_text:
        raise _untold("a change of which passages are taken out of texts")
    if _without_thresholds(after) != _without_thresholds(recipe):
        raise _untold("a change of what documents were compared with, or how")
    if after.thresholds().get("min_jaccard", 1.0) < recipe.thresholds().get("min_jaccard", 0.0):
        raise _untold("near_duplicates.min_jaccard below that of the corpus")
    return after


def _without_thresholds(recipe: _Recipe) -> dict[str, Any]:
    return recipe.model_dump(
        exclude={"quality": True, "decontamination": {CONTAMINATED, "action"}, "near_duplicates": {"min_jaccard"}}
    )


def _untold(what: str) -> ConfigError:
    return ConfigError(
        what,
        expected="thresholds over what documents/ holds",
        where="--set",
        next_command="build the corpus anew with it: openwright data build",
    )


@dataclass(frozen=True)
class _Documents:
    """Columns of the rows of `documents/`, in the order of document ids.

    Attributes:
        rules: the rule that dropped a row; empty where it was kept.
        broken: the first quality rule that it breaks now, as a place in `QUALITY_RULES`; -1 for none.
    """

    ids: NDArray[np.bytes_]
    text_sha256: NDArray[np.bytes_]
    rules: NDArray[np.object_]
    sources: NDArray[np.object_]
    duplicate_of: NDArray[np.object_]
    score: NDArray[np.float64]
    contamination: NDArray[np.float64]
    size_bytes: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    broken: NDArray[np.int16]

    @staticmethod
    def read(directory: Path, rules: QualityRules) -> "_Documents":
        """Read the columns that are needed, one group of rows at a time."""
        columns = (
            *("document_id", "text_sha256", "rule", "source", "duplicate_of", "score", "contamination"),
            *("size_bytes", "num_tokens"),
        )
        before = "passages_removed_from"
        read: list[list[NDArray[Any]]] = [[] for _ in range(len(columns) + 1)]
        for path in sorted(directory.glob("documents-*.parquet")):
            file = pq.ParquetFile(path)
            there = file.schema_arrow.names
            for batch in file.iter_batches(columns=[*columns, before, *_statistics(rules, there, path)]):
                for number, name in enumerate(columns):
                    # Corpora were made before contamination was measured.
                    column = batch.column(name) if name in there else pa.array(np.zeros(batch.num_rows))
                    if name == "text_sha256" and before in there:
                        # Copies have the text before anything was taken out of it.
                        column = pc.if_else(pc.equal(batch.column(before), ""), column, batch.column(before))
                    values = _interned(column)
                    read[number].append(values.astype("S64") if number < _NUM_DIGESTS else values)
                read[-1].append(_first_broken(batch, rules))
        return _Documents(*(np.concatenate(parts) for parts in read))


def _interned(column: pa.Array) -> NDArray[Any]:
    """Return a column as an array; equal texts of a group of rows are one object."""
    if pa.types.is_string(column.type):
        return np.asarray(column.dictionary_encode().to_numpy(zero_copy_only=False), dtype=object)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _statistics(rules: QualityRules, there: Sequence[str], path: Path) -> list[str]:
    """Return the columns that the rules need.

    Raises:
        DataError: for one that is not there.
    """
    wanted = {f"stat_{_statistic(rule)}" for rule in QUALITY_RULES if getattr(rules, rule) is not None}
    missing = sorted(wanted - set(there))
    if missing:
        raise DataError(
            f"no column {missing[0]!r}: this corpus was made before that statistic was",
            expected="rules over statistics that it holds",
            where=str(path),
            next_command="build the corpus anew, or try another rule",
        )
    return sorted(wanted | ({"stat_language", "stat_unspaced_share"} & set(there)))


def _statistic(rule: str) -> str:
    return "language" if rule == "languages" else rule.partition("_")[2]


def _first_broken(batch: pa.RecordBatch, rules: QualityRules) -> NDArray[np.int16]:
    """`data_recipes.filters.broken_rule` on columns; without a language or scripts no rule is left out for them."""
    number_of_rows = batch.num_rows
    names = batch.schema.names
    foreign = unspaced = np.zeros(number_of_rows, dtype=np.bool_)
    if "stat_language" in names:
        foreign = ~np.isin(_interned(batch.column("stat_language")).astype(str), ["", "en"])
    if "stat_unspaced_share" in names:
        unspaced = _interned(batch.column("stat_unspaced_share")) > 0.5
    first = np.full(number_of_rows, -1, dtype=np.int16)
    for number, rule in enumerate(QUALITY_RULES):
        threshold = getattr(rules, rule)
        if threshold is None:
            continue
        scores = _interned(batch.column(f"stat_{_statistic(rule)}"))
        if rule == "languages":
            breaks = ~np.isin(scores.astype(str), threshold)
        else:
            breaks = scores < threshold if rule.startswith("min_") else scores > threshold
        if rule in ENGLISH_RULES:
            breaks = breaks & ~foreign
        if rule in SPACED_RULES:
            breaks = breaks & ~unspaced
        first[breaks & (first < 0)] = number
    return first


def _decide(
    documents: _Documents, recipe: _Recipe, earlier: set[str], heldout: set[str], in_place: set[str]
) -> NDArray[np.object_]:
    """Return the rule that drops each document now; empty where it is kept, as all of sources in place are."""
    decided = documents.rules.copy()
    judged = ~_is_in(documents.rules, earlier)
    decided[judged] = ""
    stays = _is_in(documents.sources, in_place)
    breaks = judged & (documents.broken >= 0) & ~stays
    decided[breaks] = np.array(QUALITY_RULES, dtype=object)[documents.broken[breaks]]
    rules = recipe.decontamination
    if rules is not None and rules.action == "drop":
        # A copy of a held-out document is its duplicate, not contaminated by it; so is one of a document in place.
        is_first = (_is_in(documents.sources, heldout) | stays) & (decided == "")
        is_copy = np.isin(documents.text_sha256, documents.text_sha256[is_first])
        decided[(decided == "") & (documents.contamination > rules.max_item_overlap) & ~is_copy] = CONTAMINATED
    decided[(decided == "") & (documents.rules == REPEATED_TEXT)] = REPEATED_TEXT
    if recipe.near_duplicates is not None:
        like = (decided == "") & (documents.rules == NEAR_DUPLICATE)
        like &= documents.score >= recipe.near_duplicates.min_jaccard
        rows = np.flatnonzero(like)
        stand_ins = np.searchsorted(documents.ids, documents.duplicate_of[rows].astype("S64"))
        decided[rows[decided[stand_ins] == ""]] = NEAR_DUPLICATE
    _drop_duplicates(documents, decided, heldout, stays)
    return decided


def _drop_duplicates(documents: _Documents, decided: NDArray[np.object_], heldout: set[str], stays: Mask) -> None:
    """Of documents with one text keep those that stay; else one, held-out before others, then of the smallest id."""
    rows = np.flatnonzero(decided == "")
    is_trained_on = ~_is_in(documents.sources[rows], heldout)
    order = np.lexsort((rows, is_trained_on, ~stays[rows], documents.text_sha256[rows]))
    digests = documents.text_sha256[rows][order]
    again = np.zeros(len(rows), dtype=np.bool_)
    again[1:] = digests[1:] == digests[:-1]
    dropped = rows[order[again]]
    decided[dropped[~stays[dropped]]] = DUPLICATE


def _is_in(values: NDArray[np.object_], names: set[str]) -> Mask:
    return np.fromiter((value in names for value in values), dtype=np.bool_, count=len(values))


def _by_rule(
    names: Sequence[str], before: NDArray[np.object_], after: NDArray[np.object_]
) -> dict[str, tuple[int, int]]:
    counts = Counter(before.tolist()), Counter(after.tolist())
    every = dict.fromkeys((KEPT, *names[1:], *QUALITY_RULES))
    rows = {name: tuple(count["" if name == KEPT else name] for count in counts) for name in every}
    return {name: (row[0], row[1]) for name, row in rows.items() if any(row) or name == KEPT}


def _source(name: str, documents: _Documents, decided: NDArray[np.object_]) -> SourceCount:
    here = documents.sources == name
    before, after = here & (documents.rules == ""), here & (decided == "")
    return SourceCount(
        name=name,
        num_documents=int(here.sum()),
        kept_before=int(before.sum()),
        kept_after=int(after.sum()),
        bytes_before=int(documents.size_bytes[before].sum()),
        bytes_after=int(documents.size_bytes[after].sum()),
        tokens_before=int(documents.num_tokens[before].sum()),
        tokens_after=int(documents.num_tokens[after].sum()),
        dropped_after=dict(sorted(Counter(decided[here & (decided != "")].tolist()).items())),
    )
