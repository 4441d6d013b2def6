"""From rows of data files to documents with their licence and the evidence for it."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from data_recipes.document import UNRESOLVED, Document, ExtractedDocument, LicenceFinding
from data_recipes.licence_fields import spdx_of_field
from data_recipes.licences import unresolved
from data_recipes.reading import PartReport
from data_recipes.row_files import Row
from data_recipes.row_schema import SchemaSeen
from data_recipes.row_settings import RowSource
from data_recipes.text import decode_text, make_document
from provenance.canonical import Json
from provenance.digests import sha256_bytes

WITHOUT_TEXT = "row without text"
_NO_TEXT_SHA256 = sha256_bytes(b"")


class RowDocuments:
    """Makes the documents of one file.

    Args:
        path: the file's path in the source.
        sha256: its digest.
        max_bytes: longest text.
        of_all: licence of rows that state none of their own; None leaves them unresolved.
    """

    def __init__(
        self, source: RowSource, path: str, sha256: str, max_bytes: int, of_all: LicenceFinding | None
    ) -> None:
        self._source, self._path, self._sha256, self._max_bytes = source, path, sha256, max_bytes
        self._of_all = of_all
        self._spdx_of = lru_cache(maxsize=4096)(lambda declared: spdx_of_field(declared, source.licence_names))
        self.num_texts = self.text_bytes = 0

    def of(self, rows: Iterable[Row], report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield a document for each row with a text and for each broken row; count the others."""
        for row in rows:
            report.num_files += 1
            if row.broken:
                yield self._broken(row)
            elif row.raw is None:
                report.skipped[WITHOUT_TEXT] += 1
            else:
                yield self._whole(row, row.raw)

    def _whole(self, row: Row, raw: bytes) -> ExtractedDocument:
        self.num_texts += 1
        self.text_bytes += len(raw)
        text, broken = decode_text(raw, self._max_bytes)
        finding = self._licence(row)
        document = make_document(self._source.name, self._sha256, self._place(row), "row", text, raw, finding)
        return ExtractedDocument(document, broken)

    def _broken(self, row: Row) -> ExtractedDocument:
        finding = self._unresolved("", "the row could not be read")
        source = self._source.name
        place = self._place(row)
        digests = (row.raw_sha256, _NO_TEXT_SHA256)
        return ExtractedDocument(Document(source, self._sha256, place, "row", "", *digests, finding), row.broken)

    def _place(self, row: Row) -> str:
        return f"{self._path}#{row.number}"

    def _licence(self, row: Row) -> LicenceFinding:
        column = self._source.licence_column
        if row.licence is None:
            return self._of_all or self._unresolved("", f"the row has no {column}")
        spdx = self._spdx_of(row.licence)
        if spdx == UNRESOLVED:
            return self._unresolved(row.licence, f"{column}: no SPDX expression and no known name")
        place = f"{self._place(row)}:{column}"
        return LicenceFinding(spdx, row.licence, "dataset-field", place, self._sha256, self._source.as_of)

    def _unresolved(self, declared: str, reason: str) -> LicenceFinding:
        return unresolved(reason, self._source.as_of, declared=declared)

    def facts(self, report: PartReport, seen: SchemaSeen, size_bytes: int) -> dict[str, Json]:
        """Return what the source lock has to know of this part."""
        return {
            "path": self._path,
            "sha256": self._sha256,
            "size_bytes": size_bytes,
            "num_rows": report.num_files,
            "num_texts": self.num_texts,
            "text_bytes": self.text_bytes,
            "schema": seen.as_json(),
        }


def stated_licence(source: RowSource) -> LicenceFinding | None:
    """Return the licence that the recipe states for all rows, if it does."""
    return None if source.licence is None else source.licence.finding(source.as_of)
