"""From extracted documents to rows with a decision: decoding, licence policy, quality rules, duplicates, split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from data_recipes.deduplicate import Candidate, cluster_exact
from data_recipes.document import ExtractedDocument
from data_recipes.documents import Decision, DocumentRow
from data_recipes.filters import QUALITY_RULES, Statistics, broken_rule
from data_recipes.policy import decide_licence
from data_recipes.settings import CorpusConfig
from data_recipes.text import READING_RULES
from provenance.errors import DataError

FORGOTTEN = "taken down"
LICENCE = "licence"
DUPLICATE = "duplicate"
RULES = (FORGOTTEN, *READING_RULES, LICENCE, *QUALITY_RULES, DUPLICATE)
"""Names of all rules that can drop a document, in the order in which they are applied."""


@dataclass(frozen=True)
class MeasuredDocument:
    """A document that was read, with its statistics."""

    extracted: ExtractedDocument
    statistics: Statistics


@dataclass(frozen=True)
class Extraction:
    """All documents of a source and the files that gave none, counted by reason."""

    source: str
    documents: tuple[MeasuredDocument, ...]
    num_files: int
    skipped: dict[str, int]


def decide(extractions: Iterable[Extraction], config: CorpusConfig) -> list[DocumentRow]:
    """Decide every document and return the rows sorted by document id; tokens are not counted yet.

    Raises:
        DataError: when two documents have one id, which only the same file pinned twice can cause.
    """
    splits = {source.name: source.split for source in config.sources}
    forgotten = {digest for entry in config.forget for digest in (entry.document_id, entry.text_sha256)}
    rows: dict[str, DocumentRow] = {}
    for extraction in extractions:
        for measured in extraction.documents:
            row = _judge(measured, config, splits[extraction.source])
            document_id = row.document.document_id
            if forgotten & {document_id, row.document.text_sha256}:
                row = replace(row, decision=Decision(FORGOTTEN), split="none")
            if document_id in rows:
                raise DataError(
                    f"sources {rows[document_id].document.source!r} and {extraction.source!r} hold the same file",
                    expected="every archive and data file in one source",
                    where=row.document.path,
                    next_command="remove one of the two from the recipe",
                )
            rows[document_id] = row
    return _deduplicated(dict(sorted(rows.items())))


def _judge(measured: MeasuredDocument, config: CorpusConfig, split: str) -> DocumentRow:
    extracted = measured.extracted
    document = extracted.document
    licence = decide_licence(document.licence.spdx, config.policy, is_credited=bool(document.licence.copyright))
    if extracted.broken:
        decision = Decision(extracted.broken)
    elif not licence.allowed:
        decision = Decision(LICENCE)
    else:
        broken = broken_rule(measured.statistics, config.quality)
        decision = Decision(broken.rule, broken.score, broken.threshold) if broken else Decision()
    return DocumentRow(
        document=document,
        statistics=measured.statistics,
        decision=decision,
        split="none" if decision.rule else split,
        num_tokens=0,
        licence_chosen=licence.chosen,
        cluster_sources=(),
        cluster_licences=(),
    )


def _deduplicated(rows: dict[str, DocumentRow]) -> list[DocumentRow]:
    candidates = [
        Candidate(
            document_id,
            row.document.text_sha256,
            row.document.source,
            row.document.licence.spdx,
            row.split == "heldout",
        )
        for document_id, row in rows.items()
        if not row.decision.rule
    ]
    for cluster in cluster_exact(candidates):
        rows[cluster.kept] = replace(
            rows[cluster.kept], cluster_sources=cluster.sources, cluster_licences=cluster.licences
        )
        for document_id in cluster.dropped:
            decision = Decision(DUPLICATE, duplicate_of=cluster.kept)
            rows[document_id] = replace(rows[document_id], decision=decision, split="none")
    return list(rows.values())


def kept_rows(rows: Iterable[DocumentRow], split: str) -> list[DocumentRow]:
    """Return the kept rows of one split, in order."""
    return [row for row in rows if row.split == split]


def require_documents(rows: Sequence[DocumentRow], config: CorpusConfig) -> None:
    """Refuse a corpus in which a split that the recipe asks for is empty.

    Raises:
        DataError: naming the rule that dropped most.
    """
    for split in sorted({source.split for source in config.sources}):
        if kept_rows(rows, split):
            continue
        names = {source.name for source in config.sources if source.split == split}
        dropped = [row.decision.rule for row in rows if row.document.source in names]
        most = max(RULES, key=dropped.count)
        raise DataError(
            f"all {len(dropped)} documents of split {split!r} were dropped, {dropped.count(most)} by rule {most!r}",
            expected="at least one document kept",
            next_command="look at policy.allow and quality in the recipe",
        )
