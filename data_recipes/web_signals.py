"""What a site says of the use of its pages for text and data mining: robots.txt, tdmrep.json, headers, meta elements.

Robots exclusion as RFC 9309 has it (protego reads it, in `data_recipes/site_statements.py`), the directives `noindex`,
`noai` and `noimageai` of robots meta tags and X-Robots-Tag, and the TDM Reservation Protocol of 2024: header before
file, page before header.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from data_recipes.document import Signal
from data_recipes.warc_records import Fields
from data_recipes.warc_settings import SIGNAL_RULES, SignalRules

ROBOTS_PATH, TDM_PATH = "/robots.txt", "/.well-known/tdmrep.json"
MAX_SITE_FILE_BYTES = 512 * 1024
"""Of a longer robots.txt the beginning is read, as RFC 9309 asks for; a longer tdmrep.json cannot be."""

_DIRECTIVES = {"noai": "noai", "noimageai": "noimageai", "noindex": "noindex", "none": "noindex"}
_WITH_VALUE = ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after")
_AGENT_LINE = re.compile(r"user[- ]?agent\b\s*:?\s*(\*|[\w-]*)", re.I)
_OF_SITE = re.compile(r"(?:sitemaps?|site-map|host)\b", re.I)  # such lines end no list of crawlers
_MAX_VALUE_CHARS = 200
_PORTS = {"http": 80, "https": 443}


def authority_of(address: str) -> tuple[str, str] | None:
    """Return host with port, and path with query, of an address; None where it has none.

    http and https of a host are one: what is said on either holds for both.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.scheme not in _PORTS:
        return None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return (host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"), path


def site_file(address: str) -> str:
    """Return which of the files that hold for a whole site an address is; empty for none."""
    found = authority_of(address)
    return found[1] if found is not None and found[1] in (ROBOTS_PATH, TDM_PATH) else ""


def relevant_groups(text: str, wanted: set[str]) -> str:
    """Return the groups of a robots.txt that speak to some crawlers, or to all; lines of other groups are left out.

    A file may repeat thousands of rules for thousands of names, each of which the parser would keep.

    Args:
        wanted: names of crawlers in lower case.
    """
    kept: list[str] = []
    is_relevant, in_names = False, False
    for line in (line.partition("#")[0].strip() for line in text.splitlines()):
        agent = _AGENT_LINE.match(line)
        if agent is not None:
            is_relevant = is_relevant and in_names
            in_names = True
            if agent[1] == "*" or agent[1].lower() in wanted:
                kept.append(f"User-agent: {agent[1]}")
                is_relevant = True
        elif line and not _OF_SITE.match(line):
            in_names = False
            if is_relevant:
                kept.append(line)
    return "\n".join(kept)


def tdm_rules(text: str) -> tuple[tuple[str, str], ...] | None:
    """Return location and value of each rule of a tdmrep.json, in order; None for what is no list.

    What is no rule is as if absent.
    """
    try:
        rules = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rules, list):
        return None
    return tuple(
        (rule["location"], _tdm_value(str(rule["tdm-reservation"]), str(rule.get("tdm-policy", ""))))
        for rule in rules
        if isinstance(rule, dict) and isinstance(rule.get("location"), str)
        if not isinstance(rule.get("tdm-reservation"), bool) and str(rule.get("tdm-reservation")) in ("0", "1")
    )


def _tdm_value(reservation: str, policy: str) -> str:
    return f"{reservation} {policy}".strip()[:_MAX_VALUE_CHARS]


def matches(location: str, path: str) -> bool:
    """Whether a path begins as a location says: `*` stands for any characters, `$` at the end for the end."""
    is_whole = location.endswith("$")
    first, *others = location.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if not others:
        return not is_whole or path == first
    place = len(first)
    for piece in others[:-1] if is_whole else others:
        place = path.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return not is_whole or (path.endswith(others[-1]) and len(path) - len(others[-1]) >= place)


def signals_of_header(fields: Fields, agents: Sequence[str]) -> Iterator[Signal]:
    """Yield what the header of a response says."""
    for line in fields.all("X-Robots-Tag"):
        yield from _directives(line, "header", agents)
    yield from _tdm_signals(fields.all("tdm-reservation"), fields.get("tdm-policy"), "header")


def signals_of_page(metas: Iterable[tuple[str, str]], agents: Sequence[str]) -> Iterator[Signal]:
    """Yield what the meta elements of a page say; `metas` has names in lower case and contents."""
    values: dict[str, list[str]] = {}
    for name, value in metas:
        values.setdefault(name, []).append(value)
    for name in ("robots", *(agent.lower() for agent in agents)):
        for value in values.get(name, ()):
            yield from _directives(value, "meta", ())
    yield from _tdm_signals(values.get("tdm-reservation", []), next(iter(values.get("tdm-policy", ())), ""), "meta")


def _tdm_signals(values: Sequence[str], policy: str, place: str) -> Iterator[Signal]:
    for value in dict.fromkeys(value.strip() for value in values):
        if value in ("0", "1"):
            yield Signal("tdm_reservation", place, _tdm_value(value, policy))


def _directives(line: str, place: str, agents: Sequence[str]) -> Iterator[Signal]:
    """Directives of a robots line; those behind the name of another crawler than `agents` are left out."""
    wanted, is_wanted = {agent.lower() for agent in agents}, True
    for part in line.lower().split(","):
        agent, colon, directive = part.strip().partition(":")
        if colon and agent.strip() not in _WITH_VALUE:
            is_wanted = agent.strip() in wanted
        found = _DIRECTIVES.get((directive if colon else agent).strip())
        if found is not None and is_wanted:
            yield Signal(found, place, part.strip()[:_MAX_VALUE_CHARS])


def broken_signal(signals: Sequence[Signal], rules: SignalRules) -> str:
    """Return the first rule that drops a page with such signals; empty where none does."""
    stated = {signal.rule for signal in signals if signal.rule != "tdm_reservation"}
    if _is_reserved(signals):
        stated.add("tdm_reservation")
    return next((name for name in SIGNAL_RULES if name in stated and name in rules.drop), "")


def _is_reserved(signals: Sequence[Signal]) -> bool:
    """Whether TDM rights are reserved: by the page if it says so, else its header, else the file of its site."""
    for place in ("meta", "header", "tdmrep.json"):
        values = [signal.value[:1] for signal in signals if (signal.rule, signal.place) == ("tdm_reservation", place)]
        if values:
            return "1" in values
    return False
