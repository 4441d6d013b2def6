"""Sources of type `dataset`: local Parquet and JSONL files, read through `datasets.load_dataset`."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_recipes.document import UNRESOLVED, LicenceFinding
from data_recipes.documents import quiet_datasets
from data_recipes.extract import UNDECODABLE, ExtractedDocument, Extraction, ReadSource, make_document, normalise
from data_recipes.filters import measure
from data_recipes.policy import normalise_spdx
from data_recipes.settings import DatasetFile, DatasetSource
from provenance.canonical import Json
from provenance.digests import sha256_bytes, sha256_file
from provenance.errors import DataError, SourceError

_BUILDERS = {"parquet": "parquet", "jsonl": "json"}


def read_dataset_source(source: DatasetSource, data_dir: Path, special_tokens: Sequence[str]) -> ReadSource:
    """Read all rows of a source of type `dataset`.

    Args:
        data_dir: directory that the paths of its files are relative to.
        special_tokens: see `data_recipes.filters.measure`.

    Raises:
        SourceError: for a missing file or one of another digest.
        DataError: for a file that cannot be read, a missing column, or a column without text.
    """
    documents: list[ExtractedDocument] = []
    num_rows = num_empty = 0
    files: list[dict[str, Json]] = []
    for file in source.files:
        path = _checked(source, file, data_dir)
        for row, (raw, licence) in enumerate(_rows(source, file, path)):
            num_rows += 1
            if raw is None:
                num_empty += 1
                continue
            documents.append(_row_document(source, file, row, raw, licence, special_tokens))
        files.append({"path": file.path, "sha256": file.sha256, "size_bytes": path.stat().st_size})
    skipped = {"row without text": num_empty} if num_empty else {}
    return ReadSource(Extraction(source.name, tuple(documents), num_rows, skipped), _lock_entry(source, files))


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


def _rows(source: DatasetSource, file: DatasetFile, path: Path) -> Iterator[tuple[bytes | None, str | None]]:
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
        texts = _column(source, table, source.text_column, path)
        if source.licence_column is None:
            yield from ((text, None) for text in texts)
        else:
            licences = _column(source, table, source.licence_column, path)
            for text, licence in zip(texts, licences, strict=True):
                yield text, (licence or b"").decode("utf-8", errors="replace")


def _column(source: DatasetSource, table: Any, name: str, path: Path) -> list[bytes | None]:
    """Return a column of text as bytes, so that one bad row is that row's problem alone."""
    if name not in table.column_names:
        raise DataError(
            f"source {source.name!r} has no column {name!r}",
            expected=f"one of {', '.join(table.column_names)}",
            where=str(path),
        )
    column = table.column(name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DataError(
            f"source {source.name!r}: column {name!r} holds {column.type}", expected="text", where=str(path)
        )
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values


def _row_document(
    source: DatasetSource, file: DatasetFile, row: int, raw: bytes, licence: str | None, special_tokens: Sequence[str]
) -> ExtractedDocument:
    try:
        text, broken = normalise(raw.decode("utf-8")), ""
    except UnicodeDecodeError:
        text, broken = "", UNDECODABLE
    finding = _stated_licence(source) if licence is None else _row_licence(source, file, row, licence)
    document = make_document(source.name, file.sha256, f"{file.path}#{row}", "row", text, raw, finding)
    return ExtractedDocument(document, measure(text, special_tokens), broken)


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
