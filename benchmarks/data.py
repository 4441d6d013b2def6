"""Data recipes against their bars and peers: `python benchmarks/data.py [--json] [--quick] [AREA ...]`.

An area is a function of a module of its own (`data_<area>.py`), entered in AREAS. Nothing is fetched.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_lookup import loader_figure, lookup_figures
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
    """

    directory: Path
    text: Path | None
    is_quick: bool

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


AREAS: dict[str, Callable[[Options], list[Figure]]] = {"lookup": _lookup, "loader": _loader, "tokenize": _tokenize}
NEEDS_TEXT = frozenset({"tokenize"})
"""Areas that are left out without --text."""


def main() -> None:
    """Measure the areas named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Data recipes against their bars and peers.")
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"of {', '.join(AREAS)}; all by default")
    parser.add_argument("--json", action="store_true", help="one JSON record per figure")
    parser.add_argument("--text", type=Path, metavar="DIR", help="directory with real text, 100 MB or more")
    parser.add_argument("--quick", action="store_true", help="measure little, to see that it runs")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where to write; 9 GB for the area lookup")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.areas) - set(AREAS)):
        parser.error(f"no area {unknown[0]}; areas are {', '.join(AREAS)}")
    needing = sorted(NEEDS_TEXT.intersection(arguments.areas))
    if needing and arguments.text is None:
        parser.error(f"area {needing[0]} needs --text")
    figures: list[Figure] = []
    for area in arguments.areas or AREAS:
        if area in NEEDS_TEXT and arguments.text is None:
            print(f"left out {area}: it needs --text", file=sys.stderr)
            continue
        print(f"measuring {area} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="openwright-benchmark-", dir=arguments.scratch) as scratch:
            figures += AREAS[area](Options(Path(scratch), arguments.text, arguments.quick))
    print_figures(figures, arguments.json)


if __name__ == "__main__":
    main()
