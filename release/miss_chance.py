"""The chance that a random draw of segments misses every forged one: exact, for draws without repetition."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, comb

SHARES = (Fraction(1, 100), Fraction(1, 10), Fraction(1, 2))
"""Shares of forged segments that a report speaks of, besides a single forged segment."""


@dataclass(frozen=True)
class MissChance:
    """The chance to miss, if so many segments were forged before the seed was drawn.

    Attributes:
        told: how the number of forged segments was given: `1 segment`, `10%`.
        num_forged: the number of forged segments.
        chance: that none of them is drawn.
    """

    told: str
    num_forged: int
    chance: Fraction


def miss_chance(num_segments: int, num_drawn: int, num_forged: int) -> Fraction:
    """Chance that none of `num_forged` of `num_segments` segments is among `num_drawn` different ones."""
    return Fraction(comb(num_segments - num_forged, num_drawn), comb(num_segments, num_drawn))


def miss_chances(num_segments: int, num_drawn: int) -> list[MissChance]:
    """The chances for one forged segment and for each share of `SHARES`, rounded up to whole segments."""
    cases = [("1 segment", 1), *((f"{float(share):.0%}", ceil(share * num_segments)) for share in SHARES)]
    return [MissChance(told, count, miss_chance(num_segments, num_drawn, count)) for told, count in cases]


def miss_lines(num_segments: int, num_drawn: int) -> list[str]:
    """The chances as lines for people."""
    lines = [f"chance that a cheat is missed by {num_drawn} of {num_segments} segments:"]
    for case in miss_chances(num_segments, num_drawn):
        of = f" ({case.num_forged} of {num_segments})" if "%" in case.told else ""
        lines.append(f"  {case.told}{of} forged: {percent(case.chance)}")
    return lines


def percent(chance: Fraction) -> str:
    """A chance in per cent; only what is exactly none or certain reads 0% or 100%."""
    if chance in (0, 1):
        return f"{float(chance):.0%}"
    digits = 1
    while digits < 12 and float(f"{100 * float(chance):.{digits}f}") in (0.0, 100.0):
        digits += 1
    return f"{100 * float(chance):.{digits}f}%"
