import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.intervals import Interval
from eval.samples import ChoiceSample, TextSample
from eval.scoring import LN_2, baseline_verdict, chance_verdict, choose, plain_scores, results_bytes, score_samples
from provenance.canonical import hex_float, parse_hex_float


def text(name: str, num_bytes: int, bits_per_byte: float) -> TextSample:
    return TextSample(name, num_bytes, -bits_per_byte * num_bytes * LN_2)


def choice(answer: int, *loglikelihoods: float) -> ChoiceSample:
    return ChoiceSample("x", answer, (10, 20, 30, 40), loglikelihoods)


def test_bits_per_byte_is_of_all_bytes_together() -> None:
    scores = plain_scores([text("a", 100, 2.0), text("b", 300, 1.0)])
    assert scores == {"bits_per_byte": pytest.approx(1.25)}


def test_accuracy_plain_and_per_character() -> None:
    # Plain: the first choice wins. Per character: -1.0, -0.75, -1.0, -1.0, so the second wins.
    samples = [choice(0, -10, -15, -30, -40), choice(1, -10, -15, -30, -40), choice(3, -10, -15, -30, -40)]
    assert plain_scores(samples) == {"acc": 1 / 3, "acc_norm": 1 / 3}
    assert [choose(s.loglikelihoods) for s in samples] == [0, 0, 0]
    assert choose([-2.0, -1.0, -1.0]) == 1


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.26, 0.4, "above chance"),
        (0.1, 0.24, "below chance"),
        (0.2, 0.3, "cannot be told from chance"),
        (0.25, 0.4, "cannot be told from chance"),
    ],
)
def test_chance_in_a_plain_word(low: float, high: float, word: str) -> None:
    assert chance_verdict(Interval(low, high), 0.25) == word


def test_baselines_in_words() -> None:
    samples = [text(f"{n}", 100 + n, 2.0) for n in range(20)]

    def token_row(name: str, shift: float) -> dict[str, object]:
        per_document = [(2.0 + (shift if shift else (-1) ** n * 0.5)) * s.num_bytes for n, s in enumerate(samples)]
        return {"name": name, "value": hex_float(0.0), "document_bits": [hex_float(b) for b in per_document]}

    rows = [
        token_row("unigram", 1.0),
        token_row("trigram", 0.0),
        {"name": "gzip", "value": hex_float(2.5), "document_bits": None},
        {"name": "xz", "value": hex_float(1.5), "document_bits": None},
    ]
    assert baseline_verdict(samples, rows, 200, 0) == (
        "better than unigram, gzip; cannot be told from trigram; worse than xz"
    )


FINITE = st.floats(-1000, -1e-3)


@given(st.lists(st.tuples(st.integers(0, 3), st.tuples(FINITE, FINITE, FINITE, FINITE)), min_size=1, max_size=30))
def test_rows_are_complete_and_their_intervals_hold_the_value(cases: list[tuple[int, tuple[float, ...]]]) -> None:
    samples = {"model": {"task": [choice(answer, *values) for answer, values in cases]}}
    results = score_samples(samples, [], 100, 0)
    assert results_bytes(results) == results_bytes(score_samples(samples, [], 100, 0))
    for row in results["rows"]:
        assert parse_hex_float(row["low"]) <= parse_hex_float(row["value"]) + 1e-12
        assert parse_hex_float(row["value"]) <= parse_hex_float(row["high"]) + 1e-12
        assert parse_hex_float(row["chance"]) == 0.25
        assert row["num_items"] == len(cases)
        assert math.isclose(
            parse_hex_float(row["value"]) * len(cases), round(parse_hex_float(row["value"]) * len(cases))
        )
