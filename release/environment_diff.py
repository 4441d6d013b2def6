"""Where an environment differs from the recorded one: platform fields, Python, versions of libraries."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name

from provenance.canonical import Json
from train.jobs import LIBRARIES

_OURS = "openwright"
_ABSENT = "not there"


@dataclass(frozen=True)
class EnvironmentDifference:
    """One difference.

    Attributes:
        field: `platform.cpu_model`, `python`, `library numpy`.
        is_decisive: whether equal bits are promised only where this agrees: the platform, and libraries that compute.
    """

    field: str
    recorded: str
    here: str
    is_decisive: bool

    def as_json(self) -> dict[str, Json]:
        """The form that `--json` prints."""
        return {"field": self.field, "recorded": self.recorded, "here": self.here, "is_decisive": self.is_decisive}


def environment_differences(
    recorded: dict[str, Any], here: dict[str, Any], libraries: Iterable[str] = LIBRARIES
) -> list[EnvironmentDifference]:
    """Compare two environment records (`openwright-environment/1`); decisive differences come first.

    Args:
        libraries: those whose versions decide results; by default those of training.

    Records of installed files are not compared: those of one wheel differ between directories, by the paths in scripts.
    """
    found = [
        EnvironmentDifference(f"platform.{name}", *pair, is_decisive=True)
        for name, pair in _differing(_platform(recorded), _platform(here))
    ]
    decisive = {canonicalize_name(name) for name in libraries}
    told, installed = library_versions_of(recorded), library_versions_of(here)
    versions = [
        EnvironmentDifference(f"library {name}", *pair, is_decisive=name in decisive)
        for name, pair in _differing(told, installed)
        if name in decisive or (name in told and name in installed)
    ]
    others = [
        EnvironmentDifference(name, *pair, is_decisive=False)
        for name, pair in _differing(*({key: r.get(key) for key in ("python", "libc")} for r in (recorded, here)))
    ]
    return sorted([*found, *versions, *others], key=lambda difference: not difference.is_decisive)


def _platform(environment: dict[str, Any]) -> dict[str, Any]:
    """Fields of the platform record, one for each variable."""
    fields = {key: value for key, value in environment.get("platform", {}).items() if key != "digest"}
    variables = fields.pop("variables", {})
    return {**fields, **{f"variables.{name}": value for name, value in variables.items()}}


def library_versions_of(environment: dict[str, Any]) -> dict[str, str]:
    """Versions of the distributions that an environment record lists, by canonical name; without our own."""
    installed = environment.get("distributions", {})
    versions = {str(canonicalize_name(name)): str(found["version"]) for name, found in installed.items()}
    return {name: version for name, version in sorted(versions.items()) if name != _OURS}


def _differing(recorded: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, tuple[str, str]]]:
    names = sorted({*recorded, *here})
    pairs = [(name, tuple(str(side.get(name, _ABSENT)) for side in (recorded, here))) for name in names]
    return [(name, (told, found)) for name, (told, found) in pairs if told != found]


def difference_lines(differences: Sequence[EnvironmentDifference]) -> list[str]:
    """The differences as a table for people; nothing where there are none."""
    if not differences:
        return []
    rows = [("differs", "recorded", "here"), *((d.field, _cut(d.recorded), _cut(d.here)) for d in differences)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"  {a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}" for a, b, c in rows]


def _cut(text: str) -> str:
    return text if len(text) <= 44 else text[:41] + "..."
