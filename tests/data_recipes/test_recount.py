"""A corpus counted again: the same as building it with the other thresholds."""

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_fixtures import project_files, prose, pypi_source, tiny_context, tiny_corpus_config
from hypothesis import given, settings
from hypothesis import strategies as st

from data_recipes.corpus import build_corpus
from data_recipes.filters import QUALITY_RULES, STATISTIC_TYPES, QualityRules, broken_rule, measure
from data_recipes.recount import _first_broken, recount
from provenance.errors import ConfigError, DataError

OTHER = [
    *("quality.min_num_words=110", "quality.max_duplicate_line_share=0.4", "quality.min_num_stop_words=2"),
    *("near_duplicates.min_jaccard=0.9", "decontamination.max_item_overlap=0.9"),
]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """One corpus built with its own thresholds, and with others."""
    tmp_path = tmp_path_factory.mktemp("recount")
    files = project_files(1)
    files |= {
        "docs/short.rst": b"Too short.",
        "docs/copy.rst": files["docs/page1.rst"],
        "docs/again.rst": b"\n\n".join(
            [prose(7, 1).encode().strip()] * 2 + [prose(8, 1).encode(), prose(9, 1).encode()]
        ),
        "docs/symbols.rst": b"evaluation ++++++++ " * 40,
        "docs/like.rst": files["docs/page2.rst"]
        + b"\nOne line more than the other page, to be near and not the same.\n",
        "docs/like2.rst": files["docs/page2.rst"]
        + b"\nOne line more than the other page, to be near and not the same.\n",
        "docs/question.rst": prose(11, 8).encode() + project_files(3)["docs/page0.rst"],
    }
    cache = tmp_path / "cache"
    sources = [
        pypi_source(cache, "alpha", files),
        pypi_source(cache, "beta", project_files(2, "cyrillic"), licence="GPL-3.0-only"),
        pypi_source(cache, "delta", project_files(1)),  # the texts of alpha
        pypi_source(cache, "gamma", project_files(3), split="heldout"),
    ]
    made = {}
    own = {"near_duplicates": {"min_jaccard": 0.8}, "decontamination": {"heldout": True, "max_item_overlap": 0.2}}
    for name, overrides in (("own", []), ("other", OTHER)):
        config = tiny_corpus_config(tmp_path, sources=sources, **changed(own, overrides))
        made[name] = build_corpus(config, tiny_context(tmp_path / name)).path
    return made


def changed(recipe, overrides):
    recipe = {"quality": {}, **{section: dict(values) for section, values in recipe.items()}}
    for override in overrides:
        key, _, value = override.partition("=")
        section, _, rule = key.partition(".")
        recipe[section][rule] = json.loads(value)
    return recipe


def decisions(path):
    columns = ["source", "rule", "size_bytes"]
    files = sorted((path / "documents").glob("documents-*.parquet"))
    table = [row for file in files for row in pq.read_table(file, columns=columns).to_pylist()]
    return Counter((row["source"], row["rule"]) for row in table), table


def test_a_recount_is_what_building_with_the_other_thresholds_gives(corpora):
    counted = recount(corpora["own"], OTHER)
    expected, table = decisions(corpora["other"])
    before, _ = decisions(corpora["own"])
    assert expected != before
    for source in counted.by_source:
        found = Counter({rule: number for (name, rule), number in expected.items() if name == source.name and rule})
        assert source.dropped_after == dict(found)
        assert source.kept_after == expected[source.name, ""]
        assert source.kept_before == before[source.name, ""]
        kept = [row["size_bytes"] for row in table if row["source"] == source.name and not row["rule"]]
        assert source.bytes_after == sum(kept)
    by_rule = Counter({rule or "kept": 0 for _, rule in expected})
    assert {rule for _, rule in before} >= {"near_duplicate", "max_item_overlap", "duplicate", "min_num_words"}
    for (_, rule), number in expected.items():
        by_rule[rule or "kept"] += number
    assert {rule: after for rule, (_, after) in counted.by_rule.items() if after} == dict(by_rule)
    assert set(counted.changed) == {text.partition(".")[2].partition("=")[0] for text in OTHER}


def test_documents_are_let_in_by_looser_thresholds(corpora):
    counted = recount(corpora["own"], ["quality.min_num_words=0", "quality.max_symbol_to_word_ratio=9"])
    assert counted.num_let_in == 2
    assert counted.by_rule["min_num_words"][1] == 0
    assert sum(source.tokens_after for source in counted.by_source) == sum(
        source.tokens_before for source in counted.by_source
    )


def test_without_other_thresholds_nothing_changes(corpora):
    counted = recount(corpora["own"], [])
    assert counted.changed == {}
    assert all(before == after for before, after in counted.by_rule.values())
    assert counted.num_let_in == 0


def test_a_preset_is_tried_and_what_is_set_beside_it_holds(corpora):
    counted = recount(corpora["own"], ["quality.presets=[gopher-quality]", "quality.min_num_words=7"])
    assert counted.changed["min_num_words"] == (30, 7)
    assert counted.changed["max_mean_word_length"] == (18.0, 10.0)


@pytest.mark.parametrize("override", ["quality.min_num_wrds=1", "quality.min_num_words=many", "policy.allow=[]"])
def test_what_is_no_threshold_is_refused(corpora, override):
    with pytest.raises(ConfigError):
        recount(corpora["own"], [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [("lines.min_num_words=3", "which lines are taken out"), ("near_duplicates.shingle_words=4", "compared with")],
)
def test_what_only_texts_can_tell_is_refused(corpora, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        recount(corpora["own"], [override])
    assert caught.value.next_command.endswith("openwright data build")


def test_a_corpus_without_the_statistic_is_told_so(corpora, tmp_path):
    (tmp_path / "documents").mkdir()
    for name in ("corpus.json", "documents/codes.json"):
        (tmp_path / name).write_bytes((corpora["own"] / name).read_bytes())
    for file in (corpora["own"] / "documents").glob("documents-*.parquet"):
        old = pq.read_table(file).drop_columns(["stat_num_braces", "stat_language", "stat_unspaced_share"])
        pq.write_table(old, tmp_path / "documents" / file.name)
    assert recount(tmp_path, []).num_let_in == 0
    with pytest.raises(DataError, match="stat_num_braces"):
        recount(tmp_path, ["quality.max_num_braces=3"])


def near(value):
    return st.floats(0, 1) if isinstance(value, float) else st.integers(0, 40)


STATISTICS = measure(prose(1))
RULES = QualityRules(
    presets=["gopher-quality", "gopher-repetition", "c4", "fineweb"], languages=["en", "zh"], min_num_words=10,
    max_num_words=30, max_mean_word_length=0.9, max_num_emails=1,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {name: near(getattr(STATISTICS, name)) for name, kind in STATISTIC_TYPES.items() if kind is not str}
            | {"language": st.sampled_from(["", "en", "zh", "de"])}
        ),
        max_size=5,
    ),
    st.sets(st.sampled_from(QUALITY_RULES[1:])),
)
def test_columns_are_judged_as_single_documents_are(rows, left_out):
    rules = RULES.model_copy(update=dict.fromkeys(left_out))
    statistics = [replace(STATISTICS, **row) for row in rows]
    columns = {f"stat_{name}": [asdict(item)[name] for item in statistics] for name in STATISTIC_TYPES}
    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    batch = pa.record_batch(
        {name: pa.array(values, types[STATISTIC_TYPES[name[5:]]]) for name, values in columns.items()}
    )
    expected = [broken_rule(item, rules) for item in statistics]
    places = np.array([QUALITY_RULES.index(item.rule) if item else -1 for item in expected], dtype=np.int16)
    assert _first_broken(batch, rules).tolist() == places.tolist()
