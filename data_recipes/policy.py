"""Licence policy: which SPDX expressions a recipe accepts, and which alternative of an OR it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing

from data_recipes.document import UNRESOLVED


@dataclass(frozen=True)
class LicenceDecision:
    """What the policy says about one expression.

    Attributes:
        allowed: whether a document under it is kept.
        chosen: the expression that the recipe relies on, with no OR in it; empty where it is not allowed.
    """

    allowed: bool
    chosen: str


REFUSED = LicenceDecision(False, "")


@cache
def spdx_licensing() -> Any:
    """The SPDX list as license-expression reads it; reading it takes longer than judging an expression."""
    return get_spdx_licensing()


def normalise_spdx(text: str) -> str:
    """Return a licence expression in canonical SPDX spelling, or NOASSERTION where it is not one."""
    try:
        parsed = spdx_licensing().parse(text.strip(), validate=True, strict=True)
    except ExpressionError:
        return UNRESOLVED
    return UNRESOLVED if parsed is None else str(parsed)


def decide_licence(expression: str, allow: Sequence[str]) -> LicenceDecision:
    """Judge an SPDX expression by an allow-list.

    AND needs every part allowed; OR needs one, and the one that stands first in the allow-list is chosen.
    NOASSERTION, unknown identifiers and malformed expressions are refused.

    Args:
        expression: SPDX expression of a document.
        allow: SPDX identifiers, `A WITH B` spelled out, the preferred ones first.
    """
    return _decide(expression, tuple(allow))


@lru_cache(maxsize=4096)
def _decide(expression: str, allow: tuple[str, ...]) -> LicenceDecision:
    if not expression or expression == UNRESOLVED:
        return REFUSED
    try:
        parsed = spdx_licensing().parse(expression, validate=True, strict=True)
    except ExpressionError:
        return REFUSED
    places = {identifier: place for place, identifier in enumerate(allow)}
    parts = _choose(parsed, places)
    if parts is None:
        return REFUSED
    return LicenceDecision(True, " AND ".join(parts))


def _choose(node: Any, places: dict[str, int]) -> tuple[str, ...] | None:
    """Return the licences that must be met together, in order of first mention, or None where that is impossible."""
    operator = getattr(node, "operator", "").strip()
    if operator == "AND":
        chosen = [_choose(part, places) for part in node.args]
        if any(part is None for part in chosen):
            return None
        return tuple(dict.fromkeys(name for part in chosen if part for name in part))
    if operator == "OR":
        options = [part for part in (_choose(argument, places) for argument in node.args) if part is not None]
        return min(options, key=lambda names: [places[name] for name in names], default=None)
    name = str(node)
    return (name,) if name in places else None
