"""The licence of a web page: what the page itself names, held against what the recipe states for the whole source."""

from dataclasses import replace
from functools import lru_cache

from data_recipes.document import UNRESOLVED, LicenceFinding
from data_recipes.licence_fields import spdx_of_field
from data_recipes.licences import unresolved
from data_recipes.web_pages import Page

_MAX_DECLARED_CHARS = 500


@lru_cache(maxsize=4096)
def _spdx_of(address: str) -> str:
    return spdx_of_field(address, {})


def licence_of_page(page: Page, sha256: str, as_of: str, of_all: LicenceFinding | None) -> LicenceFinding:
    """Return the licence of a page.

    A page that names one licence has that one. One that names several, or what is no known licence, has none: it does
    not say which part of it each is for.

    Args:
        sha256: digest of the page.
        as_of: ISO date of the evidence.
        of_all: licence that is stated for all pages; a page that names another has none.
    """
    addresses = tuple(dict.fromkeys(link.address for link in page.licences))
    declared = " ".join(addresses)[:_MAX_DECLARED_CHARS]
    if not addresses:
        if of_all is None:
            return unresolved("the page names no licence", as_of, copyright_found=page.credits)
        return replace(of_all, copyright=page.credits)
    found = {_spdx_of(address) for address in addresses}
    problem = ""
    if UNRESOLVED in found:
        problem = "the page names what is no known licence"
    elif len(found) > 1:
        problem = f"the page names several licences: {', '.join(sorted(found))}"
    elif of_all is not None and found != {of_all.spdx}:
        problem = f"the page names {found.pop()}, the recipe {of_all.spdx}"
    if problem:
        return unresolved(problem[:_MAX_DECLARED_CHARS], as_of, declared=declared, copyright_found=page.credits)
    first = page.licences[0]
    return LicenceFinding(found.pop(), declared, first.kind, first.place, sha256, as_of, page.credits)
