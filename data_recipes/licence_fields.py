"""Licences as data sets write them in a field of each row or in their card: names and addresses to SPDX."""

import json
import re
from collections.abc import Mapping
from typing import Any

from data_recipes.document import UNRESOLVED
from data_recipes.policy import normalise_spdx

_ADDRESS = re.compile(r"https?://[^\s<>\"')\]]+", re.I)
_CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/(?P<kind>licenses|publicdomain)/(?P<name>[a-z-]+)/(?P<version>\d\.\d)"
    r"(?:/(?:deed(?:\.[a-z-]+)?|legalcode(?:\.[a-z-]+)?)?)?"
)
_PUBLIC_DOMAIN = {"zero": "CC0", "mark": "CC-PDM"}
_ADDRESSES = {
    "apache.org/licenses/license-2.0": "Apache-2.0",
    "opensource.org/licenses/mit": "MIT",
    "opensource.org/licenses/isc": "ISC",
    "opensource.org/licenses/bsd-2-clause": "BSD-2-Clause",
    "opensource.org/licenses/bsd-3-clause": "BSD-3-Clause",
    "opensource.org/licenses/apache-2.0": "Apache-2.0",
    "opendatacommons.org/licenses/by/1-0": "ODC-By-1.0",
    "opendatacommons.org/licenses/by/1.0": "ODC-By-1.0",
    "opendatacommons.org/licenses/odbl/1-0": "ODbL-1.0",
    "opendatacommons.org/licenses/pddl/1-0": "PDDL-1.0",
}
_NAMES = {
    "odc by": "ODC-By-1.0",
    "odbl": "ODbL-1.0",
    "pddl": "PDDL-1.0",
    "mit license": "MIT",
    "isc license": "ISC",
    "bsd 2 clause": "BSD-2-Clause",
    "bsd 2 clause license": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd 3 clause license": "BSD-3-Clause",
    "apache 2 license": "Apache-2.0",
    "apache license 2 0": "Apache-2.0",
    "apache license version 2 0": "Apache-2.0",
    "artistic license 2 0": "Artistic-2.0",
    "cc0": "CC0-1.0",
    "mozilla public license 2 0": "MPL-2.0",
    "mpl 2 0": "MPL-2.0",
}
"""Names with one meaning only, levelled. `BSD`, `GPL`, `CC-BY` and `public domain` have several or none."""
_NO_SPDX = {"gpl"}
"""Words that the library of expressions takes for one, although they say no version."""
_TOGETHER = ") AND ("
_RESTRICTIONS = {"nc": "non ?commercial", "nd": "no ?deriv", "sa": "share ?alike"}


def spdx_of_field(declared: str, names: Mapping[str, str]) -> str:
    """Return the SPDX expression that a field means, or NOASSERTION.

    Args:
        declared: the field as found.
        names: what the recipe says that words mean; they come first.
    """
    text = declared.strip()
    if text in names:
        return names[text]
    if text.startswith("(") and text.endswith(")") and _TOGETHER in text:
        parts = [spdx_of_field(part, names) for part in text[1:-1].split(_TOGETHER)]
        together = " AND ".join(f"({part})" for part in dict.fromkeys(parts))
        return UNRESOLVED if UNRESOLVED in parts else normalise_spdx(together)
    if not text:
        return UNRESOLVED
    spdx = UNRESOLVED if text.lower() in _NO_SPDX else normalise_spdx(text)
    if spdx != UNRESOLVED:
        return spdx
    addresses = _ADDRESS.findall(text)
    if len(addresses) > 1:
        return UNRESOLVED
    if addresses:
        return _agreeing(_of_address(addresses[0]), _ADDRESS.sub(" ", text))
    return _NAMES.get(_levelled(text), UNRESOLVED)


def _of_address(address: str) -> str:
    place = address.lower().rstrip("/.,;").split("://", 1)[1].removeprefix("www.")
    if found := _CREATIVE_COMMONS.fullmatch(place):
        name, version = found["name"], found["version"]
        if found["kind"] == "licenses":
            return normalise_spdx(f"CC-{name.upper()}-{version}")
        return normalise_spdx(f"{_PUBLIC_DOMAIN[name]}-{version}") if name in _PUBLIC_DOMAIN else UNRESOLVED
    return _ADDRESSES.get(re.sub(r"(\.html?|\.txt|/summary)$", "", place), UNRESOLVED)


def _agreeing(spdx: str, words: str) -> str:
    """Return the licence of an address unless the words beside it speak of a restriction that it does not have."""
    levelled = _levelled(words)
    parts = spdx.lower().split("-")
    contradicts = any(re.search(words, levelled) and part not in parts for part, words in _RESTRICTIONS.items())
    return UNRESOLVED if contradicts else spdx


def _levelled(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower().replace("licence", "license")))


def licence_text(value: Any) -> str | None:
    """Return what a licence field says: its text; of a list, all of them together; None where it says nothing."""
    if value is None or value == "":
        return None
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value[0] if len(value) == 1 else f"({_TOGETHER.join(value)})"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
