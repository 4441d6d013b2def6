"""Evaluation sets as a corpus sees them: items of text from files, whose exact bytes the recipe pins."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from data_recipes.local_files import DatasetFile, pinned_file
from data_recipes.row_settings import StatedLicence
from provenance.canonical import Json
from provenance.digests import sha256_bytes
from provenance.errors import DataError, SourceError

CARRIED_SETS = "evaluation-sets"
"""Folder of a corpus with the exact files of the sets that it ships."""


class EvaluationSetFile(DatasetFile):
    """An evaluation set in a local JSON Lines file, such as the items of a task of `openwright run`.

    Attributes:
        name: name of the set.
        path: relative to `execution.data_dir`.
        sha256: digest of the file.
        text_columns: fields with text: a string, or a list of strings as the choices of a question.
        id_column: field that names an item; empty for the number of the line, from 0.
        obtained_from: where a stranger gets the file, with the version.
        licence: its licence, with the text that says so.
        shipping: `file`, corpus and bundle carry it, for which its licence has to be stated; or `reference`, they name
            its digest and where it was obtained.
    """

    name: str = Field(min_length=1)
    text_columns: list[str] = Field(min_length=1)
    id_column: str = ""
    obtained_from: str = ""
    licence: StatedLicence | None = None
    shipping: Literal["file", "reference"] = "reference"

    @model_validator(mode="after")
    def _may_be_shipped(self) -> "EvaluationSetFile":
        if self.shipping == "file" and self.licence is None:
            raise ValueError("shipping: file takes a licence under which the file may be passed on")
        return self

    @property
    def carried_name(self) -> str:
        """Name of the file where it is carried."""
        return f"{self.sha256}.jsonl"

    def lock_entry(self, size_bytes: int) -> dict[str, Json]:
        """Return what `sources.lock` says of it."""
        licence = self.licence and {"spdx": self.licence.spdx, "declared": self.licence.evidence}
        entry = {"name": self.name, "path": self.path, "sha256": self.sha256, "size_bytes": size_bytes}
        return {**entry, "obtain": self.obtained_from, "licence": licence, "shipping": self.shipping}


@dataclass(frozen=True)
class EvaluationItem:
    """An item that no training document should hold.

    Attributes:
        set_name: name of its set.
        item_id: its name in the set.
        texts: its pieces of text, each looked for by itself.
    """

    set_name: str
    item_id: str
    texts: tuple[str, ...]


def set_path(source: EvaluationSetFile, data_dir: Path, carried: Path | None) -> Path:
    """Return where a set should lie: among files that a bundle carries, or else below `data_dir`."""
    if carried is not None and (path := carried / source.carried_name).is_file():
        return path
    return data_dir / source.path


def carry_sets(
    sets: Iterable[EvaluationSetFile], data_dir: Path, carried: Path | None, corpus: Path
) -> list[dict[str, Json]]:
    """Copy the files that a corpus ships into it, and return what `sources.lock` says of all sets, by name.

    Raises:
        SourceError: when a file is missing or is not the pinned one.
    """
    entries = []
    for source in sorted(sets, key=lambda source: source.name):
        user = f"evaluation set {source.name!r}"
        path = pinned_file(set_path(source, data_dir, carried), source.sha256, user, "a JSON Lines file")
        entries.append(source.lock_entry(path.stat().st_size))
        if source.shipping == "file":
            target = corpus / CARRIED_SETS / source.carried_name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    return entries


def read_evaluation_set(source: EvaluationSetFile, data_dir: Path, carried: Path | None = None) -> list[EvaluationItem]:
    """Read the items of a set.

    Args:
        data_dir: directory that its path is relative to.
        carried: directory in which files that a bundle carries are looked for first.

    Raises:
        SourceError: when the file is missing or is not the pinned one.
        DataError: for a line that is no JSON object with the columns that the recipe names.
    """
    path = set_path(source, data_dir, carried)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"evaluation set {source.name!r} cannot be read: {error.strerror or error}",
            expected="the file that the recipe names, under execution.data_dir",
            where=source.path,
            next_command="put it there, or remove the set from decontamination.sets",
        ) from None
    if (found := sha256_bytes(data)) != source.sha256:
        raise SourceError(
            f"evaluation set {source.name!r} has sha256 {found}",
            expected=source.sha256,
            where=source.path,
            next_command="get the pinned file, or pin this one if it is the set you mean",
        )
    lines = (line for line in enumerate(data.split(b"\n")) if line[1].strip())
    return [_item(source, number, line) for number, line in lines]


def _item(source: EvaluationSetFile, number: int, line: bytes) -> EvaluationItem:
    try:
        row = json.loads(line)
        item_id = str(row[source.id_column]) if source.id_column else str(number)
        texts = tuple(_strings(row[column] for column in source.text_columns))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"line {number + 1} of evaluation set {source.name!r} is not readable: {type(error).__name__}: {error}",
            expected=f"a JSON object with {', '.join([*source.text_columns, source.id_column]).rstrip(', ')}",
            where=source.path,
            next_command="name the columns of this file in decontamination.sets",
        ) from None
    return EvaluationItem(source.name, item_id, texts)


def _strings(values: Iterable[Any]) -> Iterator[str]:
    """Yield strings, also those in lists."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _strings(value)
        else:
            raise TypeError(f"text or a list of texts, not {type(value).__name__}")
