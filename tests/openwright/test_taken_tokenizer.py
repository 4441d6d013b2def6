"""A tokenizer made elsewhere, in the tiny release: what is recorded of it, and what a forger meets."""

import shutil

import forge
import pytest

from data_recipes.settings import TAKEN_TOKENIZER
from release.cards import model_card
from release.facts import BundleFacts
from release.rebuild_plan import RebuildOptions, plan_rebuild
from release.rule_checks import one_expression, use_terms
from release.rule_checks_code import supporting_libraries
from release.tokenizer_check import check_taken_tokenizer
from release.verify import verify_bundle


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy")


def test_the_bundle_carries_the_file_and_says_whence_and_under_which_licence(bundle, place):
    given = (place / "scratch" / "data" / "tokenizer.json").read_bytes()
    assert (bundle / "dataset" / TAKEN_TOKENIZER).read_bytes() == given
    lock = forge.read(bundle / "dataset" / "sources.lock")["tokenizer"]
    assert (lock["path"], lock["obtain"], lock["licence"]["spdx"]) == ("tokenizer.json", "made by a test", "MIT")
    (part,) = (part for part in BundleFacts(bundle).components["components"] if part["name"] == "tokenizer")
    assert part["licence"] == "MIT"
    assert "made elsewhere and comes from made by a test: MIT" in (bundle / "model" / "NOTICE").read_text()
    assert check_taken_tokenizer(bundle).verdict == "PASS"
    assert supporting_libraries(BundleFacts(bundle)).result == "pass"


def test_the_cards_say_what_the_tokenizer_keeps_of_the_texts(bundle, copy):
    found = forge.read(bundle / "dataset" / "corpus.json")["tokenizer"]
    number = found["round_trip"]["num_documents"]
    assert found == {"num_unknown_tokens": 0, "round_trip": found["round_trip"]}
    assert f"{number} of {number} texts of a sample come back" in (bundle / "dataset" / "README.md").read_text()
    verdict = forge.read(bundle / "model" / "openness" / "verdict.json")
    warning = "Bits per byte count too little here"
    assert warning not in model_card(BundleFacts(bundle), verdict)
    forge.edit(copy / "dataset" / "corpus.json", lambda values: values["tokenizer"].update(num_unknown_tokens=1234))
    assert f"**{warning}**: 1,234 tokens" in model_card(BundleFacts(copy), verdict)


def test_a_rebuild_takes_the_file_from_the_bundle(bundle, tmp_path):
    plan = plan_rebuild(bundle, tmp_path, RebuildOptions(data_dir=tmp_path))
    assert f'corpus.execution.tokenizer_file="{bundle / "dataset" / TAKEN_TOKENIZER}"' in plan.overrides


def test_another_file_fails_the_bytes(copy):
    (copy / "dataset" / TAKEN_TOKENIZER).write_bytes(b"{}")
    failed = [result for result in verify_bundle(copy, tokens="none") if result.verdict == "FAIL"]
    assert any("taken-tokenizer" in result.where + result.detail for result in failed)


def test_another_file_with_all_digests_made_anew_fails_the_check_of_the_recipe(copy):
    (copy / "dataset" / TAKEN_TOKENIZER).write_bytes(b"{}")

    def lie(values):
        values["tokenizer"] |= {"sha256": forge.digest_bytes(b"{}"), "size_bytes": 2}

    forge.edit(copy / "dataset" / "sources.lock", lie)
    forge.reseal(copy)
    found = check_taken_tokenizer(copy)
    assert (found.verdict, "the recipe pins" in found.detail) == ("FAIL", True)


@pytest.mark.parametrize(
    ("licence", "words"), [(None, "states no licence"), ({"spdx": "CC-BY-NC-4.0", "declared": ""}, "not known to be")]
)
def test_a_tokenizer_without_an_open_licence_is_seen_by_the_rules(copy, licence, words):
    forge.edit(copy / "dataset" / "sources.lock", lambda values: values["tokenizer"].update(licence=licence))
    found = check_taken_tokenizer(copy)
    assert (found.verdict, "other things of it" in found.detail) == ("FAIL", True)
    assert "do not agree" in supporting_libraries(BundleFacts(copy)).reason
    spdx = licence["spdx"] if licence else "NOASSERTION"

    def lie(values):
        (part,) = (part for part in values["components"] if part["name"] == "tokenizer")
        part["licence"] = spdx

    forge.edit(copy / "model" / "openness" / "components.json", lie)
    facts = BundleFacts(copy)
    for result in (supporting_libraries(facts), use_terms(facts)):
        assert result.result == "fail"
    assert words in supporting_libraries(facts).reason
    assert one_expression(facts).result == ("pass" if licence else "fail")
