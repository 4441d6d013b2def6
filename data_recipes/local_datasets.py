"""Sources of type `dataset`: local Parquet, JSONL and text files, checked against their pins and read as a stream."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_recipes.document import ExtractedDocument
from data_recipes.local_files import DatasetFile
from data_recipes.reading import PartReport, ReadingContext, SourcePart
from data_recipes.row_documents import stated_licence
from data_recipes.row_parts import files_entry, read_part, scanned
from data_recipes.row_settings import DatasetSource
from provenance.canonical import Json
from provenance.errors import SourceError


class DatasetReader:
    """Reads local data files; see `data_recipes.reading.SourceReader`."""

    def __init__(self, source: DatasetSource, context: ReadingContext) -> None:
        self._source = source
        self._context = context

    def parts(self) -> Sequence[SourcePart]:
        """Check every file against its pin.

        Raises:
            SourceError: for a missing file or one of another digest.
            DataError: for a Parquet file without a readable footer.
        """
        return [part for file in self._source.files for part in self._parts_of(file)]

    def _parts_of(self, file: DatasetFile) -> list[SourcePart]:
        source, path = self._source, self._path(file.path)
        if not path.is_file():
            raise SourceError(
                f"source {source.name!r}: the file is missing",
                expected=f"a {source.format} file with sha256 {file.sha256}",
                where=str(path),
                next_command="put the file there, or --set corpus.execution.data_dir=DIRECTORY",
            )
        found, parts = scanned(source, file.path, path)
        if found != file.sha256:
            raise SourceError(
                f"source {source.name!r}: sha256 {found}",
                expected=f"sha256 {file.sha256}",
                where=str(path),
                next_command="fetch the pinned file again, or pin the new one if it was meant to change",
            )
        return parts

    def _path(self, name: str) -> Path:
        return self._context.data_dir / name

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield the rows of one part that have a text; raises as `read_part`."""
        max_bytes = self._context.limits.max_document_bytes
        path = self._path(part.pin["path"])
        return read_part(self._source, part, path, max_bytes, stated_licence(self._source), report)

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the entry of all files."""
        source = self._source
        entry = files_entry(source, [report.facts for report in reports])
        if source.licence is None:
            return {**entry, "type": source.type, "licence": {"column": source.licence_column}}
        return {**entry, "type": source.type, "licence": source.licence.lock_entry(source.as_of)}
