"""Sources of type `dataset`: local Parquet and JSONL files, read through `datasets.load_dataset`."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_recipes.document import UNRESOLVED, ExtractedDocument, LicenceFinding
from data_recipes.documents import quiet_datasets
from data_recipes.policy import normalise_spdx
from data_recipes.reading import PartReport, ReadingContext, SourcePart
from data_recipes.settings import DatasetFile, DatasetSource
from data_recipes.text import decode_text, make_document
from provenance.canonical import Json
from provenance.digests import sha256_bytes, sha256_file
from provenance.errors import DataError, SourceError

_BUILDERS = {"parquet": "parquet", "jsonl": "json"}
_BATCH_ROWS = 256


class DatasetReader:
    """Reads local data files, a part each; see `data_recipes.reading.SourceReader`."""

    def __init__(self, source: DatasetSource, context: ReadingContext) -> None:
        self._source = source
        self._context = context

    def parts(self) -> Sequence[SourcePart]:
        """Check every file against its pin.

        Raises:
            SourceError: for a missing file or one of another digest.
        """
        parts = []
        for file in self._source.files:
            path = _checked(self._source, file, self._context.data_dir)
            parts.append(SourcePart(file.path, path.stat().st_size, file.model_dump()))
        return parts

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield the rows of one file that have a text.

        Raises:
            DataError: for a file that cannot be read, a missing column, or a column without text.
        """
        file = DatasetFile(**part.pin)
        path = self._context.data_dir / file.path
        max_bytes = self._context.limits.max_document_bytes
        for row, (raw, licence) in enumerate(_rows(self._source, path)):
            report.num_files += 1
            if raw is None:
                report.skipped["row without text"] += 1
            else:
                yield _row_document(self._source, file, row, raw, licence, max_bytes)
        report.facts = {"path": file.path, "sha256": file.sha256, "size_bytes": path.stat().st_size}

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the entry of all files."""
        return _lock_entry(self._source, [report.facts for report in reports])


def _lock_entry(source: DatasetSource, files: list[dict[str, Json]]) -> dict[str, Json]:
    return {
        "name": source.name,
        "type": source.type,
        "format": source.format,
        "files": files,
        "size_bytes": sum(file["size_bytes"] for file in files),
        "text_column": source.text_column,
        "split": source.split,
        "as_of": source.as_of,
        "osaid_class": source.data_class,
        "obtain": source.obtained_from,
        "licence": {"column": source.licence_column}
        if source.licence is None
        else {"spdx": source.licence.spdx, "declared": source.licence.evidence, "evidence_date": source.as_of},
    }


def _checked(source: DatasetSource, file: DatasetFile, data_dir: Path) -> Path:
    path = data_dir / file.path
    if not path.is_file():
        raise SourceError(
            f"source {source.name!r}: the file is missing",
            expected=f"a {source.format} file with sha256 {file.sha256}",
            where=str(path),
            next_command="put the file there, or --set corpus.execution.data_dir=DIRECTORY",
        )
    found = sha256_file(path)
    if found != file.sha256:
        raise SourceError(
            f"source {source.name!r}: sha256 {found}",
            expected=f"sha256 {file.sha256}",
            where=str(path),
            next_command="fetch the pinned file again, or pin the new one if it was meant to change",
        )
    return path


def _rows(source: DatasetSource, path: Path) -> Iterator[tuple[bytes | None, str | None]]:
    """Yield text (as bytes) and licence field of every row of one file."""
    import datasets  # heavy; a corpus without such sources never loads it here

    with tempfile.TemporaryDirectory(prefix="openwright-dataset-") as cache, quiet_datasets():
        try:
            table = datasets.load_dataset(
                _BUILDERS[source.format], data_files=str(path), split="train", cache_dir=cache
            ).data.table
        except (datasets.exceptions.DatasetGenerationError, pa.ArrowInvalid, ValueError) as error:
            cause = error.__cause__ or error
            raise DataError(
                f"source {source.name!r}: the file cannot be read ({cause})",
                expected=f"valid {source.format}",
                where=str(path),
            ) from None
        names = [name for name in (source.text_column, source.licence_column) if name is not None]
        for name in names:
            _check_column(source, table, name, path)
        for batch in table.select(names).to_batches(max_chunksize=_BATCH_ROWS):
            # As bytes, so that one row of bad UTF-8 is that row's problem alone.
            texts, *licences = (column.cast(pa.large_binary()).to_pylist() for column in batch.columns)
            if licences:
                for text, licence in zip(texts, licences[0], strict=True):
                    yield text, (licence or b"").decode("utf-8", errors="replace")
            else:
                yield from ((text, None) for text in texts)


def _check_column(source: DatasetSource, table: Any, name: str, path: Path) -> None:
    if name not in table.column_names:
        raise DataError(
            f"source {source.name!r} has no column {name!r}",
            expected=f"one of {', '.join(table.column_names)}",
            where=str(path),
        )
    kind = table.schema.field(name).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"source {source.name!r}: column {name!r} holds {kind}", expected="text", where=str(path))


def _row_document(
    source: DatasetSource, file: DatasetFile, row: int, raw: bytes, licence: str | None, max_bytes: int
) -> ExtractedDocument:
    text, broken = decode_text(raw, max_bytes)
    finding = _stated_licence(source) if licence is None else _row_licence(source, file, row, licence)
    document = make_document(source.name, file.sha256, f"{file.path}#{row}", "row", text, raw, finding)
    return ExtractedDocument(document, broken)


def _stated_licence(source: DatasetSource) -> LicenceFinding:
    assert source.licence is not None
    return LicenceFinding(
        spdx=source.licence.spdx,
        declared=source.licence.evidence,
        evidence_kind="declared-metadata",
        evidence_locator="recipe: licence.evidence",
        evidence_sha256=sha256_bytes(source.licence.evidence.encode("utf-8")),
        evidence_date=source.as_of,
    )


def _row_licence(source: DatasetSource, file: DatasetFile, row: int, declared: str) -> LicenceFinding:
    spdx = normalise_spdx(declared)
    is_resolved = spdx != UNRESOLVED
    return LicenceFinding(
        spdx=spdx,
        declared=declared,
        evidence_kind="dataset-field" if is_resolved else "none",
        evidence_locator=f"{file.path}#{row}:{source.licence_column}",
        evidence_sha256=file.sha256,
        evidence_date=source.as_of,
        reason="" if is_resolved else "the field is no SPDX expression",
    )
