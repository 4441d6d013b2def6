"""Published thresholds of quality rules, by name. Only what can be judged on a whole document is here.

* `gopher-quality`, `gopher-repetition`: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from
  Training Gopher" (arXiv 2112.11446), appendix A.1.1 and its table A1.
* `c4`: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (JMLR
  21:140), section 2.2: pages with fewer than three sentences, with curly brackets or with placeholder text. The single
  lines that C4 takes out are those of `data_recipes/line_rules.py`; shares of such lines, for which nothing is
  published, are for the recipe to bound. Its list of bad words is not used.
* `fineweb`: Penedo et al. 2024, "The FineWeb Datasets" (arXiv 2406.17557), section 3.6. The filter of that name in
  datatrove drops from 0.01 of characters in repeated lines on, where the paper says 0.1.

A score at the threshold is kept. Where two presets bound one statistic, the stricter bound holds.
"""

from typing import Literal

PresetName = Literal["gopher-quality", "gopher-repetition", "c4", "fineweb"]

PRESETS: dict[PresetName, dict[str, float | int]] = {
    "gopher-quality": {
        "min_num_words": 50,
        "max_num_words": 100_000,
        "min_mean_word_length": 3.0,
        "max_mean_word_length": 10.0,
        "max_hash_to_word_ratio": 0.1,
        "max_ellipsis_to_word_ratio": 0.1,
        "max_bullet_line_share": 0.9,
        "max_ellipsis_line_share": 0.3,
        "min_alphabetic_word_share": 0.8,
        "min_num_stop_words": 2,
    },
    "gopher-repetition": {
        "max_repeated_line_share": 0.3,
        "max_repeated_paragraph_share": 0.3,
        "max_duplicate_line_share": 0.2,
        "max_duplicate_paragraph_share": 0.2,
        "max_top_2gram_share": 0.2,
        "max_top_3gram_share": 0.18,
        "max_top_4gram_share": 0.16,
        "max_duplicate_5gram_share": 0.15,
        "max_duplicate_6gram_share": 0.14,
        "max_duplicate_7gram_share": 0.13,
        "max_duplicate_8gram_share": 0.12,
        "max_duplicate_9gram_share": 0.11,
        "max_duplicate_10gram_share": 0.1,
    },
    "c4": {"min_num_sentences": 3, "max_num_braces": 0, "max_num_lorem_ipsum": 0},
    "fineweb": {
        "min_terminal_line_share": 0.12,
        "max_duplicate_line_share": 0.1,
        "max_short_line_share": 0.67,
    },
}


def thresholds_of(presets: list[PresetName]) -> dict[str, float | int]:
    """Return the thresholds of several presets together, the stricter one where two bound the same statistic."""
    together: dict[str, float | int] = {}
    for preset in presets:
        for rule, threshold in PRESETS[preset].items():
            stricter = max if rule.startswith("min_") else min
            together[rule] = stricter(together.get(rule, threshold), threshold)
    return together
