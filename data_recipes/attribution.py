"""Which licences the kept documents are used under, what those ask, and the file that credits these documents."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_recipes.decisions import LICENCE, LICENCE_EVIDENCE
from data_recipes.obligations import MEANINGS, TABLE_VERSION, identifiers_of, obligations_of, terms_of
from data_recipes.policy import credit_lines
from provenance.canonical import Json

_WITH_NOTICE = "Apache-2.0"
"""The licence that asks, in 4(d), to pass the NOTICE file of a work on."""

_COLUMNS = (
    *("document_id", "source", "decision", "rule", "licence_spdx", "licence_chosen", "size_bytes", "num_tokens"),
    "copyright",
)


@dataclass
class LicenceUse:
    """Kept documents of one licence expression.

    Attributes:
        chosen: the expression that the policy relies on.
        num_without_credit: documents for which no copyright line is known.
        credits: copyright lines by source, as they were found.
    """

    chosen: str
    num_documents: int = 0
    size_bytes: int = 0
    num_tokens: int = 0
    num_without_credit: int = 0
    documents_by_source: Counter[str] = field(default_factory=Counter)
    credits: dict[str, set[str]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one kept document."""
        self.num_documents += 1
        self.size_bytes += row["size_bytes"]
        self.num_tokens += row["num_tokens"]
        named = credit_lines(row["copyright"] or ())
        self.num_without_credit += not named
        self.documents_by_source[row["source"]] += 1
        self.credits.setdefault(row["source"], set()).update(named)

    def as_json(self) -> dict[str, Json]:
        """Return what `openwright data licences --json` prints of it."""
        obligations = obligations_of(self.chosen)
        return {
            "licence": self.chosen,
            "num_documents": self.num_documents,
            "size_bytes": self.size_bytes,
            "num_tokens": self.num_tokens,
            "num_without_credit": self.num_without_credit,
            "obligations": None if obligations is None else list(obligations),
            "sources": dict(sorted(self.documents_by_source.items())),
        }


@dataclass(frozen=True)
class LicenceReport:
    """Licences of a corpus.

    Attributes:
        uses: of kept documents, the most documents first.
        refused: documents that the licence policy dropped, by the expression that was found.
    """

    uses: tuple[LicenceUse, ...]
    refused: dict[str, int]

    def as_json(self) -> dict[str, Json]:
        """Return the document that `openwright data licences --json` prints."""
        return {
            "format": "openwright-licences/1",
            "table": TABLE_VERSION,
            "licences": [use.as_json() for use in self.uses],
            "refused": self.refused,
        }


def read_licences(documents: Path, without: Collection[str] = ()) -> LicenceReport:
    """Count licences over the rows of `documents/`; texts are not read.

    Args:
        documents: directory with `documents-*.parquet`.
        without: ids of kept documents that are left out, since they were taken down.
    """
    uses: dict[str, LicenceUse] = {}
    refused: Counter[str] = Counter()
    for row in _rows(documents):
        if row["document_id"] in without:
            continue
        if row["decision"] == "kept":
            uses.setdefault(row["licence_chosen"], LicenceUse(row["licence_chosen"])).add(row)
        elif row["rule"] in (LICENCE, LICENCE_EVIDENCE):
            refused[row["licence_spdx"]] += 1
    ordered = sorted(uses.values(), key=lambda use: (-use.num_documents, use.chosen))
    return LicenceReport(tuple(ordered), dict(sorted(refused.items())))


def _rows(documents: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(documents.glob("documents-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=list(_COLUMNS)):
            yield from batch.to_pylist()


def attribution_text(title: str, report: LicenceReport, lock: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ATTRIBUTION file of a corpus: what each licence asks, and whom to credit for which source.

    It names the kept documents and no other; the row of each document in `documents/` says where it comes from. Files
    of conversations and pairs are named with what is stated for them.

    Args:
        title: name and version of the release.
        lock: entries of `sources.lock` by source name.
    """
    lines = [
        f"Attribution for the training data of {title}",
        "",
        "Every document keeps its own licence. Below, for each licence that documents are used under: what it asks of",
        "whoever passes them on, and the copyright lines found in them, by source. The texts were extracted and their",
        "line ends and Unicode form made uniform; the rows of documents/ name the place that each was taken from. What",
        f"a licence asks is read from its text (table {TABLE_VERSION}); this is no legal advice.",
    ]
    for use in report.uses:
        lines += ["", f"== {use.chosen}: {_documents(use.num_documents)}", *_obligation_lines(use.chosen)]
        for source, count in sorted(use.documents_by_source.items()):
            lines += ["", f"-- {_source_line(source, lock.get(source, {}))}: {_documents(count)}"]
            lines += sorted(use.credits[source]) or ["No copyright line was found in these documents."]
            if _WITH_NOTICE in identifiers_of(use.chosen):
                lines += _notice_lines(lock.get(source, {}))
    chats = [(name, entry) for name, entry in sorted(lock.items()) if entry.get("type") == "chat"]
    if chats:
        lines += ["", "== conversations and preference pairs from files"]
    for name, entry in chats:
        lines += [
            "",
            f"-- {_source_line(name, entry)}: {entry['num_rows']} rows",
            *_chat_licence_lines(entry["licence"]),
        ]
    return "\n".join(lines) + "\n"


def _obligation_lines(chosen: str) -> list[str]:
    lines = []
    for name in identifiers_of(chosen):
        terms = terms_of(name)
        if terms is None:
            lines.append(f"{name}: not in the table; read its text")
        elif not terms.obligations:
            lines.append(f"{name} asks nothing: {terms.clauses}")
        else:
            asked = "; ".join(f"{obligation}: {MEANINGS[obligation]}" for obligation in terms.obligations)
            lines += [f"{name} asks: {asked}", f"{name} says so in: {terms.clauses}"]
    return lines


def _chat_licence_lines(licence: Mapping[str, Any]) -> list[str]:
    """What is stated for all rows of a file of conversations, or where each row has it."""
    if "spdx" not in licence:
        return ["The licence of each is in the column `licence` of its row in chats/ or preferences/."]
    return [f"{licence['spdx']}, as said by: {licence['declared']}", *_obligation_lines(licence["spdx"])]


def _notice_lines(entry: Mapping[str, Any]) -> list[str]:
    """The NOTICE files of a source, each line indented."""
    lines = []
    for notice in entry.get("notices", ()):
        lines += [f"{notice['path']} of this source says:", *(f"    {line}" for line in notice["text"].splitlines())]
    return lines


def _source_line(name: str, entry: Mapping[str, Any]) -> str:
    version = f" {entry['version']}" if entry.get("version") else ""
    place = entry.get("obtain") or entry.get("obtained_from")
    return f"{name}{version}" + (f" (obtained from: {place})" if place else "")


def _documents(count: int) -> str:
    return "1 document" if count == 1 else f"{count} documents"
