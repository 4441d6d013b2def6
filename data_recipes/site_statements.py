"""What holds for whole sites, by host: the robots.txt and tdmrep.json of an archive, and of archives that hold no more.

Of the latter, which hold for every archive of a source, a table is written once; each archive looks up the hosts of its
pages there, so that neither time nor memory of an archive grows with the number of sites.
"""

import heapq
import importlib
import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from data_recipes.document import Signal
from data_recipes.warc_settings import SignalRules
from data_recipes.web_signals import ROBOTS_PATH, authority_of, matches, relevant_groups, tdm_rules
from provenance.errors import DataError

MAX_SITE_BYTES = 256 * 2**20
"""Of the statements of one archive."""

_ENTRY_BYTES = 600  # about what one takes in memory besides its text
_MAX_VERSIONS = _MAX_RECENT = 32  # a host's are parsed and looked up once, as long as its pages follow one another

TdmRules = tuple[tuple[str, str], ...]


@dataclass
class HostStatements:
    """What one host says: each robots.txt, as far as it speaks to the wanted crawlers, and each tdmrep.json's rules."""

    robots: list[str] = field(default_factory=list)
    tdm: list[TdmRules] = field(default_factory=list)


class SiteTable:
    """A table of statements on disk, memory-mapped, as `SiteStatements.write` writes it.

    Attributes:
        num_files, num_unread: as of `SiteStatements`.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._end = self._data.rfind(b"\n", 0, len(self._data) - 1) + 1
        self.num_files, self.num_unread = json.loads(self._data[self._end :])

    def of(self, host: str) -> HostStatements:
        """Return what a host says; of one that is not in the table, nothing."""
        key = _key(host)
        first, end = 0, self._end
        while first < end:  # lines are in order of their keys
            begin = self._data.rfind(b"\n", 0, (first + end) // 2) + 1
            line_end = self._data.find(b"\n", begin)
            found = self._data[begin : self._data.find(b"\t", begin, line_end)]
            if found == key:
                return _statements(self._data[begin + len(key) : line_end])
            if found < key:
                first = line_end + 1
            else:
                end = begin
        return HostStatements()


def _key(host: str) -> bytes:
    return json.dumps(host).encode("ascii")


def _line(key: bytes, said: HostStatements) -> bytes:
    return key + b"\t" + json.dumps([said.robots, said.tdm]).encode("ascii") + b"\n"


def _statements(text: bytes) -> HostStatements:
    robots, tdm = json.loads(text)
    return HostStatements(robots, [tuple((place, value) for place, value in rules) for rules in tdm])


def merge_tables(tables: Sequence[BinaryIO], file: BinaryIO) -> None:
    """Write one table with all that several say, as if the files of each had been added after those before it."""
    num_files = num_unread = 0
    for key, lines in groupby(heapq.merge(*tables, key=_key_of), key=_key_of):
        if key.startswith(b"["):  # the counts of tables, which sort behind all hosts
            num_unread += sum(json.loads(line)[1] for line in lines)
            continue
        together = HostStatements()
        for said in (_statements(line[len(key) :]) for line in lines):
            num_unread += sum(not _is_kept(together.robots, text) for text in said.robots)
            num_unread += sum(not _is_kept(together.tdm, rules) for rules in said.tdm)
        num_files += len(together.robots) + len(together.tdm)
        file.write(_line(key, together))
    file.write(json.dumps([num_files, num_unread]).encode("ascii") + b"\n")


def _key_of(line: bytes) -> bytes:
    return line.partition(b"\t")[0]


def _is_kept(known: list[Any], value: Any) -> bool:
    """Add a value unless it is there already; False where there are too many."""
    if value not in known:
        if len(known) == _MAX_VERSIONS:
            return False
        known.append(value)
    return True


class SiteStatements:
    """The robots.txt and tdmrep.json files of an archive, by host. Where a host has several, each of them holds.

    Args:
        shared: what is known besides, which counts as if it had been added first.

    Attributes:
        num_files: how many there are.
        num_unread: files besides these that were not read: no JSON, too long for it, or too many of one host.
        size_bytes: about how much memory those take that were added.
    """

    def __init__(self, rules: SignalRules, shared: SiteTable | None = None) -> None:
        self._agents = rules.agents
        self._wanted = {agent.lower() for agent in rules.agents}
        self._hosts: dict[str, HostStatements] = {}
        self.size_bytes = self.num_files = self.num_unread = 0
        self._parsed = lru_cache(maxsize=_MAX_RECENT)(_parse_robots)
        self._shared = lru_cache(maxsize=_MAX_RECENT)(shared.of if shared else lambda host: HostStatements())
        if shared is not None:
            self.num_files, self.num_unread = shared.num_files, shared.num_unread

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
        host, path = found
        if path == ROBOTS_PATH:
            groups = relevant_groups(text, self._wanted)
            self._keep(self._own(host).robots, groups, len(groups))
        elif (rules := tdm_rules(text)) is None:
            self.num_unread += 1
        else:
            self._keep(self._own(host).tdm, rules, len(text))

    def _own(self, host: str) -> HostStatements:
        """What a host says, to add to."""
        if host not in self._hosts:
            shared = self._shared(host)
            self._hosts[host] = HostStatements(list(shared.robots), list(shared.tdm))
        return self._hosts[host]

    def _keep(self, known: list[Any], value: Any, size_bytes: int) -> None:
        num_before = len(known)
        if not _is_kept(known, value):
            self.num_unread += 1
        if len(known) == num_before:
            return
        self.num_files += 1
        self.size_bytes += size_bytes + _ENTRY_BYTES
        if self.size_bytes > MAX_SITE_BYTES:
            raise DataError(
                f"more than {MAX_SITE_BYTES} bytes of robots.txt and tdmrep.json in one archive",
                expected="archives whose site files fit in memory",
                next_command="divide the archive, so that each file has the pages of fewer hosts",
            )

    def write(self, file: BinaryIO) -> None:
        """Write a table for `SiteTable`: a line for each host, in order of its key, then one with both counts.

        A line is the host as JSON, which is its key, a tab, and `[robots, tdm]` as JSON, all in ASCII.
        """
        for key, host in sorted((_key(host), host) for host in self._hosts):
            file.write(_line(key, self._hosts[host]))
        file.write(json.dumps([self.num_files, self.num_unread]).encode("ascii") + b"\n")

    def of(self, address: str) -> Iterator[Signal]:
        """Yield what these files say of a page."""
        found = authority_of(address)
        if found is None:
            return
        host, path = found
        said = self._hosts.get(host) or self._shared(host)
        kept_out: set[str] = set()
        for text in said.robots:
            robots = self._parsed(text)
            kept_out.update(agent for agent in self._agents if not robots.can_fetch(address, agent))
        for agent in self._agents:
            if agent in kept_out:
                yield Signal("robots_txt", "robots.txt", agent)
        for rules in said.tdm:
            value = next((value for location, value in rules if matches(location, path)), None)
            if value is not None:
                yield Signal("tdm_reservation", "tdmrep.json", value)


def _parse_robots(text: str) -> Any:
    """Parse by protego, which only processes that read web archives need."""
    return importlib.import_module("protego").Protego.parse(text)
