"""Sources of type `warc`: web archives (WARC 1.0 and 1.1, plain or gzip), a document per page.

Every record is counted: as a document, kept or dropped by a rule, or among `skipped` with the reason. Of a page, bytes
up to the limit are in memory; of what is longer, and of all other records, a block at a time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from data_recipes import web_pages, web_signals
from data_recipes.derived_files import DerivedFile, derived_file
from data_recipes.document import Document, ExtractedDocument, LicenceFinding
from data_recipes.licences import unresolved
from data_recipes.local_files import DatasetFile, pinned_path
from data_recipes.page_licences import licence_of_page
from data_recipes.reading import PartReport, ReadingContext, SourcePart, is_wanted
from data_recipes.site_statements import SiteStatements, SiteTable, merge_tables
from data_recipes.text import UNPARSABLE, normalise
from data_recipes.warc_pages import (
    CHECKED,
    NOT_CHECKED,
    Body,
    broken_block,
    no_page,
    no_page_response,
    read_body,
    target_of,
)
from data_recipes.warc_records import MalformedRecord, Record, RecordReader
from data_recipes.warc_settings import WarcSource
from data_recipes.warc_stream import ArchiveStream, DamagedArchive
from data_recipes.web_responses import CODINGS, Head, UnreadableResponse, read_head
from data_recipes.web_signals import broken_signal, site_file
from provenance.canonical import Json
from provenance.digests import sha256_bytes
from provenance.errors import DataError
from provenance.fingerprint import library_versions

LIBRARIES = ("Protego", "Resiliparse")
WITHOUT_TEXT = "page without text"
_MAX_STORED_SITE_BYTES = 4 * 2**20
_TABLE_BYTES = 64 * 2**20  # of what site files say is in memory before it is written out and the next is begun


class WarcReader:
    """Reads web archives, each of them a part; see `data_recipes.reading.SourceReader`."""

    def __init__(self, source: WarcSource, context: ReadingContext) -> None:
        self._source = source
        self._data_dir, self._cache_dir = context.data_dir, context.cache_dir
        self._max_bytes = min(source.max_page_bytes, context.limits.max_document_bytes)

    def parts(self) -> Sequence[SourcePart]:
        """Check every file against its pin.

        Raises:
            SourceError: for a missing file or one of another digest.
            CodeError: where the libraries that read pages are not installed.
            DataError: as `read`, for an archive in `site_files`.
        """
        versions = library_versions(LIBRARIES)
        site_files = [self._path(file) for file in self._source.site_files]
        paths = [self._path(file) for file in self._source.files]
        table = self._table(site_files) if site_files else None
        parts = []
        for file, path in zip(self._source.files, paths, strict=True):
            pin = {**file.model_dump(), "site_table": table, "libraries": versions}
            parts.append(SourcePart(file.path, path.stat().st_size, pin))
        return parts

    def _table(self, site_files: Sequence[Path]) -> str:
        """Work out what `site_files` say, once for all parts; the digest of the table."""
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            tables: list[BinaryIO] = []
            sites = SiteStatements(self._source.signals)
            for path in site_files:
                self._collect(path, sites)
                if sites.size_bytes > _TABLE_BYTES or path == site_files[-1]:
                    tables.append(stack.enter_context(TemporaryFile(dir=self._cache_dir)))
                    sites.write(tables[-1])
                    tables[-1].seek(0)
                    sites = SiteStatements(self._source.signals)
            made = stack.enter_context(DerivedFile(self._cache_dir))
            merge_tables(tables, made.file)
            return made.keep()

    def _path(self, file: DatasetFile) -> Path:
        return pinned_path(file, self._data_dir, f"source {self._source.name!r}", "a web archive")

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield the pages of one archive.

        Raises:
            DataError: for an archive that is cut short or damaged, and a record in it that cannot be left out alone.
        """
        source, path = self._source, self._data_dir / part.pin["path"]
        table = part.pin["site_table"]
        shared = SiteTable(derived_file(self._cache_dir, table, f"source {source.name!r}")) if table else None
        sites = SiteStatements(source.signals, shared)
        self._collect(path, sites)
        pages = _Pages(source, part, self._max_bytes, sites, report)
        with self._reading(path) as reader:
            yield from pages.of(reader)
        report.facts = {**pages.facts(), "size_bytes": path.stat().st_size}

    def _collect(self, path: Path, sites: SiteStatements) -> None:
        """Find what holds for whole sites in an archive: it may stand behind the pages."""
        with self._reading(path) as reader:
            while True:
                try:
                    record = reader.begin()
                    if record is None:
                        return
                    if record.kind == "response" and site_file(target_of(record)):
                        _add_site_file(reader, record, sites)
                except MalformedRecord as error:
                    reader.give_up(error)
                    sites.num_unread += 1

    @contextmanager
    def _reading(self, path: Path) -> Iterator[RecordReader]:
        """Open an archive, and say which one of which source could not be read."""
        try:
            with path.open("rb") as file:
                yield RecordReader(ArchiveStream(file))
        except FileNotFoundError:
            raise
        except (DamagedArchive, OSError) as error:
            raise DataError(
                f"source {self._source.name!r}: the archive cannot be read ({error})",
                expected="whole records of WARC 1.0 or 1.1, plain or in gzip members",
                where=str(path),
                next_command="fetch the file again, or leave it out of the recipe",
            ) from None

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the entry of all files."""
        source, facts = self._source, [report.facts for report in reports]
        licence = None if source.licence is None else source.licence.lock_entry(source.as_of)
        statistics: Counter[str] = Counter()
        for part in facts:
            statistics.update(part["statistics"])
        return {
            "name": source.name,
            "type": source.type,
            "files": [{key: part[key] for key in ("path", "sha256", "size_bytes")} for part in facts],
            "site_files": [file.model_dump() for file in source.site_files],
            "size_bytes": sum(part["size_bytes"] for part in facts),
            "split": source.split,
            **source.terms_entry(),
            "signals": source.signals.model_dump(),
            "licence": {"of_pages": True, "stated": licence, "evidence_date": source.as_of},
            "schema": {"text": ["string"]},
            "statistics": dict(sorted(statistics.items())),
        }


def _add_site_file(reader: RecordReader, record: Record, sites: SiteStatements) -> None:
    try:
        head = read_head(reader.read)
    except UnreadableResponse:
        sites.num_unread += 1
        return
    if head.status != 200:
        return
    body = read_body(reader, record, head, _MAX_STORED_SITE_BYTES, Counter())
    if body.broken or head.coding not in CODINGS:
        sites.num_unread += 1
    else:
        sites.add(target_of(record), body.data[: web_signals.MAX_SITE_FILE_BYTES])


class _Pages:
    """Makes the documents of one archive."""

    def __init__(
        self, source: WarcSource, part: SourcePart, max_bytes: int, sites: SiteStatements, report: PartReport
    ) -> None:
        self._source, self._max_bytes, self._sites, self._report = source, max_bytes, sites, report
        self._path, self._sha256 = part.pin["path"], part.pin["sha256"]
        self._of_all = None if source.licence is None else source.licence.finding(source.as_of)
        self._digests: Counter[str] = Counter()
        self._num_pages = self._text_bytes = 0

    def of(self, reader: RecordReader) -> Iterator[ExtractedDocument]:
        """Yield a document for each page and each record that is broken; count the others.

        Raises:
            DamagedArchive: as `RecordReader.give_up`.
        """
        while True:
            try:
                record = reader.begin()
                if record is None:
                    return
                found = self._page(reader, record)
                reader.finish()
            except MalformedRecord as error:
                lost = reader.give_up(error)
                found = self._broken("", lost.place, Body(b"", lost.sha256, UNPARSABLE), lost.reason)
            self._report.num_files += 1
            if isinstance(found, str):
                self._report.skipped[found] += 1
            else:
                yield found

    def _page(self, reader: RecordReader, record: Record) -> ExtractedDocument | str:
        """The document of a record, or why it gives none."""
        address, source = target_of(record), self._source
        if reason := no_page(record):
            return reason
        if not is_wanted(address, source.keep, source.skip):
            return "address that the recipe leaves out"
        try:
            head = read_head(reader.read)
        except UnreadableResponse as error:
            return self._broken(address, record.place, broken_block(reader, error.taken), str(error))
        if reason := no_page_response(head):
            return reason
        body = read_body(reader, record, head, self._max_bytes, self._digests)
        if body.broken:
            return self._broken(address, record.place, body, f"the page is {body.broken}")
        return self._whole(address, record.place, head, body)

    def _whole(self, address: str, place: str, head: Head, body: Body) -> ExtractedDocument | str:
        source, agents = self._source, self._source.signals.agents
        is_html = head.media_type in web_pages.HTML_TYPES
        page = web_pages.read_page(body.data, address, head.charset, is_html=is_html, main_content=source.main_content)
        said = chain(
            self._sites.of(address),
            web_signals.signals_of_header(head.fields, agents),
            web_signals.signals_of_page(page.metas, agents),
        )
        signals = tuple(dict.fromkeys(said))  # a page may repeat one a hundred thousand times
        licence = licence_of_page(page, body.sha256, source.as_of, self._of_all)
        broken = page.broken or broken_signal(signals, source.signals)
        text = "" if broken else normalise(page.text)
        if not broken and not text:
            return WITHOUT_TEXT
        self._num_pages += 1
        self._text_bytes += len(text.encode("utf-8"))
        return ExtractedDocument(self._document(address, place, text, body.sha256, licence), broken, signals=signals)

    def _broken(self, address: str, place: str, body: Body, reason: str) -> ExtractedDocument:
        licence = unresolved(reason, self._source.as_of)
        return ExtractedDocument(self._document(address, place, "", body.sha256, licence), body.broken)

    def _document(self, address: str, place: str, text: str, sha256: str, licence: LicenceFinding) -> Document:
        text_sha256 = sha256_bytes(text.encode("utf-8"))
        path = f"{address}#{self._path}@{place}"
        return Document(self._source.name, self._sha256, path, "page", text, sha256, text_sha256, licence)

    def facts(self) -> dict[str, Json]:
        """Return what the source lock has to know of this part."""
        statistics = {
            "num_records": self._report.num_files,
            "num_pages": self._num_pages,
            "text_bytes": self._text_bytes,
            "num_digests_checked": self._digests[CHECKED],
            "num_digests_not_checked": self._digests[NOT_CHECKED],
            "num_site_files": self._sites.num_files,
            "num_site_files_unread": self._sites.num_unread,
        }
        return {"path": self._path, "sha256": self._sha256, "statistics": statistics}
