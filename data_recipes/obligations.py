"""What a licence asks of whoever passes a document on: attribution, share-alike, notice, network, limits of use.

The table is read from the licence texts themselves: each entry names the clauses that say so. It is no legal advice. A
licence that is not in it has unknown obligations, and whoever has to rule out an obligation has to refuse it.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

TABLE_VERSION = "obligations/1"
"""Version of the table; a changed entry is a new version."""

Obligation = Literal["attribution", "notice", "share-alike", "network", "non-commercial", "no-derivatives"]
OBLIGATIONS: tuple[Obligation, ...] = get_args(Obligation)

MEANINGS: dict[Obligation, str] = {
    "attribution": "name the copyright holders (and title, source and changes where the licence says so)",
    "notice": "pass the licence text or its address on, with notices and disclaimers",
    "share-alike": "offer what is derived under the same terms",
    "network": "the same for whoever only uses it over a network",
    "non-commercial": "no commercial use",
    "no-derivatives": "do not pass changed versions on",
}


@dataclass(frozen=True)
class Terms:
    """What one licence asks.

    Attributes:
        obligations: in the order of `OBLIGATIONS`.
        clauses: where the licence text says so; for a licence that asks nothing, where it says that.
    """

    obligations: tuple[Obligation, ...]
    clauses: str


_LETTERS: dict[str, Obligation] = {
    "A": "attribution",
    "N": "notice",
    "S": "share-alike",
    "W": "network",
    "C": "non-commercial",
    "D": "no-derivatives",
}

_TABLE = {
    "0BSD": ("", "grants all without a condition"),
    "AGPL-3.0": ("ANSW", "4, 5 (copies, changed versions), 6 (source), 13 (use over a network)"),
    "Apache-1.1": ("AN", "1, 2 (notices and disclaimer kept), 3 (acknowledgment)"),
    "Apache-2.0": ("AN", "4(a) (licence), 4(b) (changes), 4(c) (notices kept), 4(d) (NOTICE file)"),
    "BSD-2-Clause": ("AN", "1, 2 (copyright notice, conditions, disclaimer)"),
    "BSD-3-Clause": ("AN", "1, 2 (copyright notice, conditions, disclaimer), 3 (no endorsement)"),
    "BSD-4-Clause": ("AN", "1, 2 (copyright notice, conditions, disclaimer), 3 (acknowledgment in advertising)"),
    "BSL-1.0": ("AN", "second paragraph (copyright notices and statement in all copies of source)"),
    "CC-PDM-1.0": ("", "no licence, but a mark: no copyright is known to hold"),
    "CC0-1.0": ("", "2 (waiver of all rights)"),
    "CDDL-1.0": ("ANS", "3.1 (source), 3.2, 3.3 (notices)"),
    "CDLA-Permissive-1.0": ("AN", "3.2 (agreement, credit and notices kept)"),
    "CDLA-Permissive-2.0": ("N", "2.1 (text of the agreement with shared data)"),
    "CDLA-Sharing-1.0": ("ANS", "3.1 (published under the same agreement), 3.2 (credit and notices kept)"),
    "EPL-2.0": ("ANS", "3.1 (source under the same terms), 3.2 (licence), 3.3 (notices kept)"),
    "EUPL-1.2": ("ANSW", "1 (distribution includes online access), 5 (attribution, copyleft)"),
    "GFDL-1.2": ("ANS", "2 (verbatim copies), 4 (changed versions)"),
    "GFDL-1.3": ("ANS", "2 (verbatim copies), 4 (changed versions)"),
    "GPL-2.0": ("ANS", "1 (notices and licence), 2(b) (the same terms), 3 (source)"),
    "GPL-3.0": ("ANS", "4 (notices and licence), 5(c) (the same terms), 6 (source)"),
    "HPND": ("AN", "the one paragraph of conditions (notice in all copies)"),
    "ISC": ("AN", "the first paragraph (copyright and permission notice in all copies)"),
    "LGPL-2.0": ("ANS", "1 (notices and licence), 2(c) (the same terms), 4 (source)"),
    "LGPL-2.1": ("ANS", "1 (notices and licence), 2(c) (the same terms), 4 (source)"),
    "LGPL-3.0": ("ANS", "2 (changed versions), and GPL-3.0 4 to 6"),
    "MIT": ("AN", "the second paragraph (copyright and permission notice in all copies)"),
    "MIT-0": ("", "grants all without a condition"),
    "MIT-CMU": ("AN", "the one paragraph of conditions (notice in all copies)"),
    "MPL-2.0": ("ANS", "3.1 (source form under the same terms), 3.4 (notices kept)"),
    "ODC-By-1.0": ("AN", "4.2 (licence and notices), 4.3 (notice for produced works)"),
    "ODbL-1.0": ("ANS", "4.2 (licence and notices), 4.3 (notice for produced works), 4.4 (share alike)"),
    "OGL-UK-3.0": ("A", "attribution statement under the heading 'You must'"),
    "OSL-3.0": ("ANSW", "1(c) (the same licence), 5 (external deployment), 6 (attribution rights)"),
    "PDDL-1.0": ("", "3 (dedication and licence)"),
    "PSF-2.0": ("AN", "2 (licence and notice of copyright), 3 (summary of changes)"),
    "Python-2.0": ("AN", "PSF licence 2 (licence and notice of copyright), 3 (summary of changes)"),
    "Python-2.0.1": ("AN", "PSF licence 2 (licence and notice of copyright), 3 (summary of changes)"),
    "Unlicense": ("", "the first paragraph (dedication to the public domain)"),
    "WTFPL": ("", "0 (all is allowed)"),
    "ZPL-1.1": ("AN", "1, 2 (notices and disclaimer), 4 (acknowledgment), 6 (changes)"),
    "ZPL-2.0": ("AN", "1, 2 (notices and disclaimer), 5 (changes)"),
    "ZPL-2.1": ("AN", "1, 2 (notices and disclaimer), 5 (changes)"),
    "Zlib": ("AN", "2 (changes marked), 3 (notice kept in sources)"),
}  # fmt: skip
"""Obligations as letters of `_LETTERS`, and the clauses; of a GNU licence for -only and -or-later alike."""

_VERSION_ALONE = re.compile(r"(?:-no-invariants|-invariants)?(?:-only|-or-later)$")
"""What SPDX puts behind the version of a GNU licence: the same clauses hold."""
_CREATIVE_COMMONS = re.compile(r"CC-BY(?P<use>-NC)?(?P<changes>-SA|-ND)?-(?P<version>2\.0|2\.5|3\.0|4\.0)")


@cache
def terms_of(identifier: str) -> Terms | None:
    """What a licence asks, or None where the table does not know it.

    Args:
        identifier: an SPDX identifier, or `A WITH B`: an exception gives more freedom and takes none.
    """
    spdx = identifier.split(" WITH ")[0]
    if found := _CREATIVE_COMMONS.fullmatch(spdx):
        letters = (
            "AN" + "S" * (found["changes"] == "-SA") + "C" * bool(found["use"]) + "D" * (found["changes"] == "-ND")
        )
        clauses = "3(a), 3(b), and 2(a)(1) for limits of use" if found["version"] == "4.0" else "3 and 4(a) to 4(c)"
    else:
        name = _VERSION_ALONE.sub("", spdx)
        entry = _TABLE.get(spdx) or _TABLE.get(name)
        if entry is None:
            return None
        letters, clauses = entry
    found_obligations = {_LETTERS[letter] for letter in letters}
    return Terms(tuple(name for name in OBLIGATIONS if name in found_obligations), clauses)


def identifiers_of(chosen: str) -> list[str]:
    """Licences of an expression that a policy chose: it has ANDs only."""
    return [name.strip("() ") for name in chosen.split(" AND ")] if chosen else []


def obligations_of(chosen: str) -> tuple[Obligation, ...] | None:
    """All that an expression asks which a policy chose, or None where one of its licences is not in the table.

    Args:
        chosen: the licences that are relied on, joined by AND; there is no OR in it any more.
    """
    every = [terms_of(name) for name in identifiers_of(chosen)]
    if not every or any(terms is None for terms in every):
        return None
    asked = {obligation for terms in every if terms is not None for obligation in terms.obligations}
    return tuple(name for name in OBLIGATIONS if name in asked)
