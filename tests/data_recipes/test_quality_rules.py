"""Statistics of a text and the quality rules over them."""

from dataclasses import replace

import pytest
from corpus_fixtures import prose
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.filters import QUALITY_RULES, QualityRules, broken_rule, measure

RULES = QualityRules()
LONG_TEXTS = {
    "english": prose(1),
    "russian": prose(2, script="cyrillic"),
    "chinese": "开放的语言模型需要公开数据、代码和权重。" * 5 + "\n\n" + "每个文件都有自己的许可证与证据。" * 5,
    "japanese": "すべての文書には、その許諾と証拠が記録されています。" * 8,
    "thai": "เอกสารทุกฉบับมีใบอนุญาตและหลักฐานของตัวเอง" * 8,
    "hindi": "हर दस्तावेज़ के साथ उसका लाइसेंस और प्रमाण दर्ज होता है। " * 8,
    "arabic": "كل وثيقة لها رخصة ودليل مسجل في البيان المفتوح. " * 8,
}


@pytest.mark.parametrize("language", LONG_TEXTS)
def test_prose_of_any_script_passes(language):
    assert broken_rule(measure(LONG_TEXTS[language]), RULES) is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("min_num_words", "Too short."),
        ("max_num_special_tokens", prose(1) + " <|endoftext|>"),
        ("max_mean_word_length", " ".join(["x" * 40] * 40)),
        ("min_alphabetic_share", " ".join(str(1000 + number) for number in range(200))),
        ("max_symbol_to_word_ratio", "evaluation ++++++++ " * 40),
        ("max_duplicate_line_share", "the same line again and again\n" * 30),
        ("max_directive_line_share", ".. automodule:: package.module.name of words\n   :members: one\n" * 1 + "\n".join(
            f".. autofunction:: package.module.function_{number}" for number in range(30)
        )),
    ],
)  # fmt: skip
def test_each_rule_catches_what_it_is_for(rule, text):
    broken = broken_rule(measure(text, ("<|endoftext|>",)), RULES)
    assert broken is not None
    assert broken.rule == rule
    assert (broken.score < broken.threshold) == rule.startswith("min")


@pytest.mark.parametrize("rule", QUALITY_RULES)
def test_a_score_at_the_threshold_is_kept(rule):
    statistics = measure(LONG_TEXTS["english"])
    name = rule.partition("_")[2]
    edge = replace(statistics, **{name: getattr(RULES, rule)})
    assert broken_rule(edge, RULES) is None


@given(st.text())
def test_statistics_are_defined_for_any_text(text):
    statistics = measure(text)
    assert statistics.num_chars == len(text)
    assert 0 <= statistics.alphabetic_share <= 1
    assert 0 <= statistics.duplicate_line_share < 1
    assert 0 <= statistics.directive_line_share <= 1
    assert statistics.num_words >= len(text.split())


def test_marks_count_as_letters():
    assert measure("हिन्दी").alphabetic_share == 1.0
    assert measure("e\u0301").alphabetic_share == 1.0
