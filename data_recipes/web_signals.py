"""What a site says of the use of its pages for text and data mining: robots.txt, tdmrep.json, headers, meta elements.

Robots exclusion as RFC 9309 has it (protego reads it), the directives `noindex`, `noai` and `noimageai` of robots meta
tags and X-Robots-Tag, and the TDM Reservation Protocol of 2024: header before file, page before header.
"""

import importlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from data_recipes.document import Signal
from data_recipes.warc_records import Fields
from data_recipes.warc_settings import SIGNAL_RULES, SignalRules
from provenance.errors import DataError

ROBOTS_PATH, TDM_PATH = "/robots.txt", "/.well-known/tdmrep.json"
MAX_SITE_FILE_BYTES = 512 * 1024
"""Of a longer robots.txt the beginning is read, as RFC 9309 asks for; a longer tdmrep.json cannot be."""
MAX_SITE_BYTES = 256 * 2**20

_DIRECTIVES = {"noai": "noai", "noimageai": "noimageai", "noindex": "noindex", "none": "noindex"}
_WITH_VALUE = ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after")
_AGENT_LINE = re.compile(r"user[- ]?agent\b\s*:?\s*(\*|[\w-]*)", re.I)
_OF_SITE = re.compile(r"(?:sitemaps?|site-map|host)\b", re.I)  # such lines end no list of crawlers
_MAX_VALUE_CHARS = 200
_MAX_VERSIONS = _MAX_PARSED = 32  # those of one host are parsed once, as long as its pages follow one another
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


class SiteStatements:
    """The robots.txt and tdmrep.json files of an archive, by host. Where a host has several, each of them holds.

    Attributes:
        num_files: how many there are.
        num_unread: files besides these that were not read: no JSON, too long for it, or too many of one host.
    """

    def __init__(self, rules: SignalRules) -> None:
        self._agents = rules.agents
        self._wanted = {agent.lower() for agent in rules.agents}
        self._robots: dict[str, list[str]] = {}
        self._tdm: dict[str, list[tuple[tuple[str, str], ...]]] = {}
        self._size_bytes = self.num_files = self.num_unread = 0
        self._parsed = lru_cache(maxsize=_MAX_PARSED)(_parse_robots)

    def add(self, address: str, data: bytes) -> None:
        """Add a file; one that is there already changes nothing.

        Args:
            data: its first `MAX_SITE_FILE_BYTES`.

        Raises:
            DataError: when all of them take more memory than is meant for them.
        """
        found = authority_of(address)
        text = data.decode("utf-8", "replace").removeprefix("\ufeff")
        if found is None:
            return
        if found[1] == ROBOTS_PATH:
            self._keep(self._robots.setdefault(found[0], []), relevant_groups(text, self._wanted), len(text))
        elif (rules := tdm_rules(text)) is None:
            self.num_unread += 1
        else:
            self._keep(self._tdm.setdefault(found[0], []), rules, len(text))

    def _keep(self, known: list[Any], value: Any, size_bytes: int) -> None:
        if value in known:
            return
        if len(known) == _MAX_VERSIONS:
            self.num_unread += 1
            return
        known.append(value)
        self.num_files += 1
        self._size_bytes += size_bytes
        if self._size_bytes > MAX_SITE_BYTES:
            raise DataError(
                f"more than {MAX_SITE_BYTES} bytes of robots.txt and tdmrep.json",
                expected="archives whose site files fit in memory",
                next_command="divide the archive, so that each file has the pages of fewer hosts",
            )

    def of(self, address: str) -> Iterator[Signal]:
        """Yield what these files say of a page."""
        found = authority_of(address)
        if found is None:
            return
        host, path = found
        texts = self._robots.get(host, ())
        kept_out: set[str] = set()
        for text in texts:
            robots = self._parsed(text)
            kept_out.update(agent for agent in self._agents if not robots.can_fetch(address, agent))
        for agent in self._agents:
            if agent in kept_out:
                yield Signal("robots_txt", "robots.txt", agent)
        for rules in self._tdm.get(host, ()):
            value = next((value for location, value in rules if matches(location, path)), None)
            if value is not None:
                yield Signal("tdm_reservation", "tdmrep.json", value)


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


def _parse_robots(text: str) -> Any:
    """Parse by protego, which only processes that read web archives need."""
    return importlib.import_module("protego").Protego.parse(text)
