"""Statistics of a text and the quality rules over them."""

from dataclasses import replace

import pytest
from corpus_fixtures import prose
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_recipes.filters import QUALITY_RULES, BrokenRule, QualityRules, broken_rule, measure
from data_recipes.quality_presets import PRESETS

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


ALL_RULES = QualityRules(
    presets=list(PRESETS),
    languages=["en"],
    min_language_share=0.9,
    max_line_break_to_word_ratio=0.3,
    max_javascript_line_share=0.0,
    max_policy_line_share=0.0,
    max_num_emails=0,
    max_num_phone_numbers=0,
    max_num_ip_addresses=0,
    max_num_secrets=0,
)


@pytest.mark.parametrize("rule", [rule for rule in QUALITY_RULES if rule != "languages"])
def test_a_score_at_the_threshold_is_kept_and_one_beyond_is_not(rule):
    side, _, name = rule.partition("_")
    threshold = getattr(ALL_RULES, rule)
    only = QualityRules.model_construct(**{name: None for name in QUALITY_RULES} | {rule: threshold})
    statistics = measure(LONG_TEXTS["english"])
    assert broken_rule(replace(statistics, **{name: threshold}), only) is None
    beyond = threshold - 0.01 if side == "min" else threshold + 0.01
    assert broken_rule(replace(statistics, **{name: beyond}), only) == BrokenRule(rule, beyond, threshold)


BAD_TEXTS = {
    "languages": LONG_TEXTS["russian"],
    "max_bullet_line_share": "\n".join(f"- {prose(seed, 1).strip()}" for seed in range(20)),
    "max_hash_to_word_ratio": prose(1).replace(" ", " # "),
    "max_ellipsis_line_share": "\n".join(prose(seed, 1).strip() + ".." for seed in range(20)),
    "max_ellipsis_to_word_ratio": prose(1).replace(" ", "... "),
    "min_alphabetic_word_share": prose(1).replace(" ", " 12 "),
    "min_num_stop_words": "Wonderful prose without small words gives readers no sense of reading something. " * 3,
    "min_mean_word_length": "a b c. I am. " * 30,
    "min_terminal_line_share": "\n".join(f"An entry of a table of contents number {n}" for n in range(40)),
    "max_short_line_share": "\n".join(f"Entry {n} is short." for n in range(40)),
    "max_line_break_to_word_ratio": "\n".join(f"word{n}\nother{n}" for n in range(100)),
    "max_javascript_line_share": prose(1) + "\nPlease enable JavaScript to read on.",
    "max_policy_line_share": prose(1) + "\nThis site uses cookies.",
    "min_num_sentences": "no sentence ends in this text " * 20,
    "max_num_braces": prose(1) + "{",
    "max_num_lorem_ipsum": prose(1) + "Lorem ipsum dolor sit amet.",
    "max_repeated_line_share": "\n".join(
        [*(f"Line {n} of the page has its words." for n in range(20)), *["So it ends."] * 20]
    ),
    "max_repeated_paragraph_share": "\n\n".join([*(prose(n, 1) for n in range(9)), *["So it ends."] * 9]),
    "max_duplicate_paragraph_share": "\n\n".join([prose(1, 1), prose(2, 1), prose(1, 1)]),
    "max_top_2gram_share": "He wonders whether considerably interesting considerably interesting. " * 1
    + " ".join(f"considerably interesting w{n}" for n in range(60)),
    "max_duplicate_10gram_share": prose(1, 3) + "\n" + prose(1, 3).replace("\n", " "),
    "max_num_emails": prose(1) + " Write to jane.doe@mail.org now.",
    "max_num_phone_numbers": prose(1) + " Call +1 650 253 0000 now.",
    "max_num_ip_addresses": prose(1) + " It runs on 8.8.8.8 now.",
    "max_num_secrets": prose(1) + " The key is AKIA" + "Q7XM2ABCD5KLZ3WP.",
    "max_num_words": "word " * 100_001,
}


@pytest.mark.parametrize("rule", BAD_TEXTS)
def test_each_optional_rule_catches_what_it_is_for_and_lets_prose_pass(rule):
    only = QualityRules.model_construct(**{name: None for name in QUALITY_RULES} | {rule: getattr(ALL_RULES, rule)})
    broken = broken_rule(measure(BAD_TEXTS[rule]), only)
    assert broken is not None
    assert broken.rule == rule
    english = "The licence of each document is recorded together with the evidence that we have for it.\n" + prose(3)
    assert broken_rule(measure(english), only) is None


def test_presets_fill_in_what_the_recipe_does_not_set_and_the_stricter_holds():
    rules = QualityRules(presets=["gopher-repetition", "fineweb"], max_top_2gram_share=None)
    assert rules.max_duplicate_line_share == PRESETS["fineweb"]["max_duplicate_line_share"]
    assert rules.max_top_3gram_share == PRESETS["gopher-repetition"]["max_top_3gram_share"]
    assert rules.max_top_2gram_share is None
    assert QualityRules(presets=["gopher-quality"], min_num_words=7).min_num_words == 7
    assert QualityRules.model_validate(rules.model_dump()) == rules
    assert QualityRules().max_top_3gram_share is None


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValidationError, match="gopher-quality"):
        QualityRules(presets=["gofer"])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_rules_that_exist(preset):
    assert set(PRESETS[preset]) <= set(QUALITY_RULES)


def test_rules_made_for_english_or_for_spaces_are_not_held_against_other_texts():
    gopher = QualityRules(presets=["gopher-quality", "fineweb"], min_num_words=0)
    assert broken_rule(measure(LONG_TEXTS["russian"]), gopher) is None
    chinese = "开放的语言模型需要公开数据、代码和权重。\n每个文件都有自己的许可证与证据。"
    assert broken_rule(measure(chinese), gopher) is None
    assert broken_rule(replace(measure(chinese), unspaced_share=0.5), gopher).rule == "min_mean_word_length"
    assert broken_rule(replace(measure(LONG_TEXTS["russian"]), language="en"), gopher).rule == "min_num_stop_words"


@settings(deadline=None)
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
