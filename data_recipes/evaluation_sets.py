"""Evaluation sets as a corpus sees them: items of text from files, whose exact bytes the recipe pins."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from data_recipes.local_files import DatasetFile
from provenance.digests import sha256_bytes
from provenance.errors import DataError, SourceError


class EvaluationSetFile(DatasetFile):
    """An evaluation set in a local JSON Lines file, such as the items of a task of `openwright run`.

    Attributes:
        name: name of the set.
        path: relative to `execution.data_dir`.
        sha256: digest of the file.
        text_columns: fields with text: a string, or a list of strings as the choices of a question.
        id_column: field that names an item; empty for the number of the line, from 0.
    """

    name: str = Field(min_length=1)
    text_columns: list[str] = Field(min_length=1)
    id_column: str = ""


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


def read_evaluation_set(source: EvaluationSetFile, data_dir: Path) -> list[EvaluationItem]:
    """Read the items of a set.

    Raises:
        SourceError: when the file is missing or is not the pinned one.
        DataError: for a line that is no JSON object with the columns that the recipe names.
    """
    path = data_dir / source.path
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
