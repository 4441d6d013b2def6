"""HTML pages: characters, what their metadata says of use and licence, and their text (parsed by resiliparse)."""

import importlib
import re
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any
from urllib.parse import urljoin

from data_recipes.text import UNDECODABLE, UNPARSABLE

HTML_TYPES = ("text/html", "application/xhtml+xml")
PLAIN_TYPE = "text/plain"
MAX_DEPTH = 512
"""Elements within one another, from which on a page is not read: extraction takes time in the square of it."""

MAX_ATTRIBUTES = MAX_OPTIONS = 10_000
"""Attributes of an element, and options of a page, above which it is not read: parsing takes time in their square."""

STEP_TAGS = 20_000
"""Tags after which a page of more is looked at for its depth before the others are parsed."""

_TOO_DEEP = " > ".join(["*"] * (MAX_DEPTH + 1))
_META_CHARSET = re.compile(rb"""<meta[^>]*?charset\s*=\s*(?:["']\s*)?([\w.:+-]+)""", re.I)
_PRESCAN_BYTES = 1024
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))
# What the web means by these names is a superset of what Python does.
_SUPERSETS = {"gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}
_LICENCE_NAMES = {
    *("license", "licence", "rights", "dc.rights", "dc.license", "dcterms.license", "dcterms.rights", "cc:license"),
    *("dc:rights", "dcterms:license", "dcterms:rights", "copyright", "og:license"),
}
_CREDIT_NAMES = {"author", "copyright", "dc.creator", "dcterms.creator", "dcterms.rightsholder", "cc:attributionname"}
_CREATIVE_COMMONS = re.compile(r"(?:https?:)?//creativecommons\.org/[^\s<>\"')\]]+", re.I)
_MAX_VALUE_CHARS = 500
# Parsers begin these elements again in every paragraph until they are closed: a page of 128 kB, all `<font size=N><p>`,
# took more than 6 GB. None of them means anything to extraction, and nothing is begun again as a span.
_FORMATTING = re.compile(r"(</?)(?:b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(?=[ \t\n\f\r/>])", re.I)
_START_TAG = re.compile(r"""<[a-z](?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+""", re.I)
_QUOTED = re.compile(r"""=\s*+(?:"[^"]*+"|'[^']*+')""")
_BETWEEN = re.compile(r"[\s/]+")
_OPTION = re.compile("<option", re.I)


@dataclass(frozen=True)
class LicenceLink:
    """An address that a page names as that of its licence.

    Attributes:
        kind: `page-link` for elements with `rel=license`, `page-metadata` for meta elements.
        place: such as `<link rel=license>`.
    """

    kind: str
    place: str
    address: str


@dataclass(frozen=True)
class Page:
    """What a page holds.

    Attributes:
        text: as extracted, not in normal form; empty where `broken` says which rule it breaks.
        metas: names in lower case and contents of its meta elements.
        licences: addresses of licences, in order.
        credits: whom its metadata names as author or holder.
    """

    text: str
    broken: str = ""
    metas: tuple[tuple[str, str], ...] = ()
    licences: tuple[LicenceLink, ...] = ()
    credits: tuple[str, ...] = ()


def read_page(data: bytes, address: str, charset: str, *, is_html: bool, main_content: bool) -> Page:
    """Read a page.

    Args:
        data: its bytes, encodings undone.
        address: where it stood.
        charset: what the response says of its characters; empty for nothing.
        main_content: leave out menus, footers and the like.
    """
    text = _characters(data, charset, is_html=is_html)
    if text is None:
        return Page("", UNDECODABLE)
    if not is_html:
        return Page(text)
    if _takes_too_long(text):
        return Page("", UNPARSABLE)
    tree = _parse(_FORMATTING.sub(r"\1span", text))
    if tree is None:
        return Page("", UNPARSABLE)
    # As a list: the library looks for every element from the beginning on when it is asked for one after the other.
    elements = tree.document.query_selector_all('meta, [rel~="license" i]').values()
    metas = tuple((name, value) for element in elements if element.tag == "meta" for name, value in [_meta(element)])
    extract = _library("extract.html2text").extract_plain_text
    return Page(
        extract(tree, main_content=main_content, preserve_formatting=True, comments=not main_content),
        "",
        metas,
        tuple(link for element in elements for link in _licence_links(element, address)),
        tuple(dict.fromkeys(value for name, value in metas if name in _CREDIT_NAMES and value)),
    )


def _parse(text: str) -> Any:
    """Parse a page; None where elements are nested too deep, at its end or at a place where it is looked at before.

    Many a tag makes the parser look through all elements that are open. A page of more than `STEP_TAGS` tags is first
    parsed up to so many of them, and on in steps of that or a third of what was looked at, so that no more can pile up
    before it is seen; parsing to the end at once would find out after as many steps as the page has tags, squared.
    """
    places = [found.start() for found in re.finditer("<", text)] if text.count("<") > STEP_TAGS else []
    num_tags = STEP_TAGS
    while num_tags < len(places):
        if _is_too_deep(_tree(text[: places[num_tags]])):
            return None
        num_tags += max(STEP_TAGS, num_tags // 3)
    tree = _tree(text)
    return None if _is_too_deep(tree) else tree


def _tree(text: str) -> Any:
    return _library("parse.html").HTMLTree.parse(text)


def _is_too_deep(tree: Any) -> bool:
    return tree.document.query_selector(_TOO_DEEP) is not None


def _takes_too_long(text: str) -> bool:
    """Whether a page seems to have more options than `MAX_OPTIONS`, or an element more attributes than its limit.

    Tags are told from what else stands in a page by their form alone, so that a script may look like one, and one that
    is made to may hide some.
    """
    if len(text) < 2 * MAX_ATTRIBUTES:
        return False
    for found in _START_TAG.finditer(text):
        if found.end() - found.start() >= 2 * MAX_ATTRIBUTES:
            tag = _QUOTED.sub("=", found[0])
            if max(tag.count("="), len(_BETWEEN.findall(tag))) > MAX_ATTRIBUTES:
                return True
    return len(_OPTION.findall(text)) > MAX_OPTIONS


def _characters(data: bytes, charset: str, *, is_html: bool) -> str | None:
    """Decode by the mark at the beginning, what the response says, what the page says, or as UTF-8; None if impossible.

    The first of these that names a known set of characters counts.
    """
    codec = next((codec for mark, codec in _MARKS if data.startswith(mark)), "") or _codec(charset)
    if not codec and is_html and (found := _META_CHARSET.search(data[:_PRESCAN_BYTES])):
        codec = _codec(found[1].decode("ascii", "ignore"))
        if codec.startswith("utf-16"):  # which the page could not have said so in
            codec = "utf-8"
    try:
        return data.decode(codec or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None


@cache
def _codec(charset: str) -> str:
    """Python's name of a character set as the web names it; empty for none and unknown ones."""
    name = _library("parse.encoding").map_encoding_to_html5(charset, False) or ""
    return _SUPERSETS.get(name, name)


def _meta(element: Any) -> tuple[str, str]:
    name = element.getattr("name") or element.getattr("property") or element.getattr("http-equiv") or ""
    return name.strip().lower(), " ".join((element.getattr("content") or "").split())[:_MAX_VALUE_CHARS]


def _licence_links(element: Any, address: str) -> list[LicenceLink]:
    if element.tag == "meta":
        name, value = _meta(element)
        found = _CREATIVE_COMMONS.search(value) if name in _LICENCE_NAMES else None
        return [] if found is None else [_link("page-metadata", f"<meta {name}>", found[0], address)]
    if element.tag not in ("a", "area", "link"):
        return []
    return [_link("page-link", f"<{element.tag} rel=license>", element.getattr("href") or "", address)]


def _link(kind: str, place: str, href: str, address: str) -> LicenceLink:
    try:
        target = urljoin(address, href.strip())
    except ValueError:
        target = href
    return LicenceLink(kind, place, target[:_MAX_VALUE_CHARS])


@cache
def _library(name: str) -> ModuleType:
    """Import a module of resiliparse, which only processes that read web archives need."""
    return importlib.import_module(f"resiliparse.{name}")
