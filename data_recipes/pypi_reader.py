"""Reader of sources of type `pypi`: one part, the source distribution."""

from collections.abc import Iterator, Sequence

from data_recipes.document import ExtractedDocument
from data_recipes.extract import extract_files
from data_recipes.pypi import fetch_sdist, read_pypi_source
from data_recipes.pypi_settings import PypiSource
from data_recipes.reading import PartReport, ReadingContext, SourcePart
from provenance.canonical import Json


class PypiReader:
    """Reads a pinned source distribution; see `data_recipes.reading.SourceReader`."""

    def __init__(self, source: PypiSource, context: ReadingContext) -> None:
        self._source = source
        self._context = context

    def parts(self) -> Sequence[SourcePart]:
        """Fetch the archive; raises as `fetch_sdist`."""
        source = self._source
        fetch_sdist(source, self._context.cache_dir, self._context.index_url)
        return [SourcePart(source.filename, source.size_bytes, {"sha256": source.sha256})]

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield documentation and docstrings; raises as `read_pypi_source`."""
        source = self._source
        archive = fetch_sdist(source, self._context.cache_dir, self._context.index_url)
        contents = read_pypi_source(source, archive)
        files = ((member.path, member.data) for member in contents.members)
        yield from extract_files(
            contents.name, contents.source_digest, files, contents.resolver.resolve, self._context.limits, report
        )
        report.facts = contents.lock

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the entry that was made while the archive was read."""
        entry: dict[str, Json] = reports[0].facts
        return entry
