"""Data recipes against their bars and peers: `python benchmarks/data.py [--json] [--quick] [AREA ...]`.

An area is a function of a module of its own (`data_<area>.py`), entered in AREAS. Nothing is fetched.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_chain import chain_figures
from data_lookup import loader_figure, lookup_figures
from data_signatures import recall_figures, signature_figures
from data_statistics import statistics_figures
from data_text import MEGABYTE, read_texts
from data_tokenize import tokenize_figures
from figures import Figure, print_figures


@dataclass(frozen=True)
class Options:
    """What an area is given.

    Attributes:
        directory: an empty directory of its own, removed afterwards.
        text: directory with real text, at least 100 MB of it; None where the command line names none.
        is_quick: measure little, to see that it runs; its figures mean nothing.
        peers: Python of a virtual environment with the peers (`peer_worker.py`); None where none is named.
    """

    directory: Path
    text: Path | None
    is_quick: bool
    peers: Path | None = None

    def texts(self) -> list[str]:
        """The real text: 100 MB of it, or 2 MB for a quick look."""
        assert self.text is not None, "an area of NEEDS_TEXT"
        return read_texts(self.text, (2 if self.is_quick else 100) * MEGABYTE)


def _lookup(options: Options) -> list[Figure]:
    return lookup_figures(options.directory, 100_000 if options.is_quick else 100_000_000, 50)


def _loader(options: Options) -> list[Figure]:
    return [loader_figure(options.directory, 200_000 if options.is_quick else 500_000, 100)]


def _tokenize(options: Options) -> list[Figure]:
    return tokenize_figures(options.texts())


def _signatures(options: Options) -> list[Figure]:
    assert options.peers is not None, "an area of NEEDS_PEERS"
    return signature_figures(options.texts(), options.peers)


def _recall(options: Options) -> list[Figure]:
    return recall_figures(options.texts(), 200 if options.is_quick else 2_000)


def _statistics(options: Options) -> list[Figure]:
    assert options.peers is not None, "an area of NEEDS_PEERS"
    return statistics_figures(options.texts(), options.peers)


def _chain(options: Options) -> list[Figure]:
    assert options.peers is not None, "an area of NEEDS_PEERS"
    return chain_figures(options.texts(), options.peers, options.directory)


AREAS: dict[str, Callable[[Options], list[Figure]]] = {
    "lookup": _lookup,
    "loader": _loader,
    "tokenize": _tokenize,
    "signatures": _signatures,
    "recall": _recall,
    "statistics": _statistics,
    "chain": _chain,
}
NEEDS_TEXT = frozenset({"tokenize", "signatures", "recall", "statistics", "chain"})
"""Areas that are left out without --text."""
NEEDS_PEERS = frozenset({"signatures", "statistics", "chain"})
"""Areas that are left out without --peers."""


def _missing(area: str, arguments: argparse.Namespace) -> str:
    """Return the option that an area needs and that was not given; empty for none."""
    if area in NEEDS_TEXT and arguments.text is None:
        return "--text"
    return "--peers" if area in NEEDS_PEERS and arguments.peers is None else ""


def main() -> None:
    """Measure the areas named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Data recipes against their bars and peers.")
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"of {', '.join(AREAS)}; all by default")
    parser.add_argument("--json", action="store_true", help="one JSON record per figure")
    parser.add_argument("--text", type=Path, metavar="DIR", help="directory with real text, 100 MB or more")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="Python of a virtual environment with the peers")
    parser.add_argument("--quick", action="store_true", help="measure little, to see that it runs")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where to write; 9 GB for the area lookup")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.areas) - set(AREAS)):
        parser.error(f"no area {unknown[0]}; areas are {', '.join(AREAS)}")
    figures: list[Figure] = []
    for area in arguments.areas or AREAS:
        if missing := _missing(area, arguments):
            if arguments.areas:
                parser.error(f"area {area} needs {missing}")
            print(f"left out {area}: it needs {missing}", file=sys.stderr)
            continue
        print(f"measuring {area} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="openwright-benchmark-", dir=arguments.scratch) as scratch:
            figures += AREAS[area](Options(Path(scratch), arguments.text, arguments.quick, arguments.peers))
    print_figures(figures, arguments.json)


if __name__ == "__main__":
    main()
