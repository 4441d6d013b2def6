"""Sources whose documents are rows of data files: where text and licence of a row stand, and local files."""

from typing import Literal

from pydantic import Field, model_validator

from data_recipes.document import LicenceFinding
from data_recipes.local_files import DatasetFile
from data_recipes.policy import Spdx
from data_recipes.source_terms import SourceTerms
from provenance.canonical import Json
from provenance.config import Config
from provenance.digests import sha256_bytes

RowFormat = Literal["parquet", "jsonl", "text"]


class StatedLicence(Config):
    """A licence that holds for every row of a data set, with the text that says so."""

    spdx: Spdx
    evidence: str = Field(min_length=1)

    def finding(self, as_of: str) -> LicenceFinding:
        """Return it as the licence of a document; `as_of` is the ISO date of the evidence."""
        digest = sha256_bytes(self.evidence.encode("utf-8"))
        return LicenceFinding(self.spdx, self.evidence, "declared-metadata", "recipe: licence.evidence", digest, as_of)

    def lock_entry(self, as_of: str) -> dict[str, Json]:
        """Return what `sources.lock` says of it."""
        return {"spdx": self.spdx, "declared": self.evidence, "evidence_date": as_of}


class RowSource(SourceTerms):
    """Data files whose rows are documents.

    Attributes:
        name: name of the source.
        format: `parquet`; `jsonl`, one object per line; or `text`, where `text_unit` says what a document is. Files
            of the last two may be compressed (`.gz`, `.zst`).
        text_column: column with the text; `metadata.body` is the field `body` in the column `metadata`.
        text_unit: of the format `text`, whether each line or the whole file is a document.
        licence_column: column with a licence per row: an SPDX expression, a name or address that is known, or one of
            `licence_names`.
        licence_names: what words of that column mean, as SPDX expressions, where the words are no such expressions.
        licence: the licence of all rows, in the place of a column.
        split: `train` or `heldout`, for the whole source.
    """

    name: str = Field(min_length=1)
    format: RowFormat
    text_column: str = Field(default="text", min_length=1)
    text_unit: Literal["file", "line"] = "file"
    licence_column: str | None = Field(default=None, min_length=1)
    licence_names: dict[str, Spdx] = Field(default={})
    licence: StatedLicence | None = None
    split: Literal["train", "heldout"]

    @model_validator(mode="after")
    def _goes_together(self) -> "RowSource":
        if self.format == "text" and (self.licence_column is not None or self.text_column != "text"):
            raise ValueError("no columns in files of the format text")
        if self.format != "text" and self.text_unit != "file":
            raise ValueError("text_unit only for the format text")
        if self.licence_names and self.licence_column is None:
            raise ValueError("licence_names only beside a licence_column")
        return self


class DatasetSource(RowSource):
    """Local files of rows, in `execution.data_dir`.

    Attributes:
        files: the files with their digests.
    """

    type: Literal["dataset"]
    files: list[DatasetFile] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_one_licence(self) -> "DatasetSource":
        if (self.licence_column is None) == (self.licence is None):
            raise ValueError("exactly one of licence_column and licence")
        return self

    @property
    def pins(self) -> list[str]:
        """The sha256 of each file."""
        return [file.sha256 for file in self.files]
