"""What a person sees while work goes on: headings, facts, progress. All of it on standard error.

Progress is a live bar on a terminal and a plain line every few seconds elsewhere, so that logs stay readable.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_LINE_EVERY_SECONDS = 5.0
_BAR_WIDTH = 28


@dataclass
class Progress:
    """Counts towards a total and reports now and then.

    Attributes:
        label: what is counted.
        total: how many there are; 0 where it is not known.
        unit: the unit printed behind the numbers.
    """

    label: str
    total: int
    unit: str = ""
    done: int = 0
    _started: float = field(default_factory=time.monotonic)
    _reported: float = 0.0

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more; `note` is printed behind the numbers."""
        self.done += amount
        now = time.monotonic()
        on_terminal = sys.stderr.isatty()
        every = 0.1 if on_terminal else _LINE_EVERY_SECONDS
        if now - self._reported < every and self.done != self.total:
            return
        self._reported = now
        print(
            self._text(note, now - self._started),
            end="\r" if on_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def _text(self, note: str, seconds: float) -> str:
        counts = f"{self.done:,}/{self.total:,}" if self.total else f"{self.done:,}"
        left = ""
        if self.total and self.done:
            left = f"{seconds * (self.total - self.done) / self.done:4.0f} s left"
        bar = ""
        if self.total and sys.stderr.isatty():
            filled = min(_BAR_WIDTH, _BAR_WIDTH * self.done // self.total)
            bar = "[" + "=" * filled + " " * (_BAR_WIDTH - filled) + "] "
        return f"  {self.label}: {bar}{counts} {self.unit} {left} {note}".rstrip()


@contextmanager
def progress(label: str, total: int, unit: str = "") -> Iterator[Progress]:
    """Show progress for the length of a block."""
    bar = Progress(label, total, unit)
    try:
        yield bar
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def heading(text: str) -> None:
    """Print the name of the step that begins."""
    print(f"== {text}", file=sys.stderr, flush=True)


def fact(text: str) -> None:
    """Print one indented line."""
    print(f"   {text}", file=sys.stderr, flush=True)
