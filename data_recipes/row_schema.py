"""The columns of data files as they were seen while reading: names and types, for the source lock."""

from collections.abc import Iterable
from typing import Any

from provenance.canonical import Json

_MAX_COLUMNS = 256
_JSON_TYPES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    dict: "object",
    list: "array",
    type(None): "null",
}


class SchemaSeen:
    """Columns by name with every type that a value had; columns beyond the 256th are counted as one, `...`."""

    def __init__(self) -> None:
        self.columns: dict[str, set[str]] = {}

    def add(self, name: str, kind: str) -> None:
        """Take up a column."""
        if name not in self.columns and len(self.columns) >= _MAX_COLUMNS:
            name = "..."
        self.columns.setdefault(name, set()).add(kind)

    def add_object(self, values: dict[str, Any]) -> None:
        """Take up the fields of a JSON object."""
        for name, value in values.items():
            kind = _JSON_TYPES[type(value)]
            if kind not in self.columns.get(name, ()):
                self.add(name, kind)

    def as_json(self) -> dict[str, Json]:
        """Return names and types, both in order."""
        return {name: sorted(kinds) for name, kinds in sorted(self.columns.items())}


def merged_schema(schemas: Iterable[dict[str, Json]]) -> dict[str, Json]:
    """Return the columns of several files together."""
    seen = SchemaSeen()
    for schema in schemas:
        for name, kinds in schema.items():
            for kind in kinds:
                seen.add(name, kind)
    return seen.as_json()
