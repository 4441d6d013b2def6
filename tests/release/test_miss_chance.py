"""The chance to miss forged segments, against counting every possible draw."""

from fractions import Fraction
from itertools import combinations

import pytest

from release.miss_chance import miss_chance, miss_chances, miss_lines, percent


@pytest.mark.parametrize(("num_segments", "num_drawn", "num_forged"), [(5, 2, 1), (6, 3, 2), (4, 4, 1), (7, 1, 7)])
def test_the_chance_is_the_share_of_draws_that_hold_no_forged_segment(num_segments, num_drawn, num_forged):
    draws = list(combinations(range(num_segments), num_drawn))
    missed = sum(not set(draw) & set(range(num_forged)) for draw in draws)
    assert miss_chance(num_segments, num_drawn, num_forged) == Fraction(missed, len(draws))


def test_all_segments_drawn_leave_no_chance():
    assert [case.chance for case in miss_chances(8, 8)] == [0, 0, 0, 0]


def test_shares_are_rounded_up_to_whole_segments():
    cases = miss_chances(150, 3)
    assert [(case.told, case.num_forged) for case in cases] == [
        ("1 segment", 1),
        ("1%", 2),
        ("10%", 15),
        ("50%", 75),
    ]
    assert cases[0].chance == Fraction(147, 150)
    assert [case.chance for case in cases] == sorted((case.chance for case in cases), reverse=True)


def test_a_chance_never_reads_as_none_or_certain_unless_it_is():
    assert percent(Fraction(0)) == "0%"
    assert percent(Fraction(1)) == "100%"
    assert percent(Fraction(1, 10**6)) == "0.0001%"
    assert percent(1 - Fraction(1, 10**6)) == "99.9999%"
    assert miss_lines(10, 1)[1:3] == ["  1 segment forged: 90.0%", "  1% (1 of 10) forged: 90.0%"]
