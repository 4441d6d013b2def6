"""What configs alone say of openness: each thing that stands in the way is named, and nothing is promised."""

import pytest

from data_recipes.settings import CorpusConfig
from release.outlook import FROM_CONFIGS, LATER, openness_outlook
from release.rule_table import load_rules
from release.rules import CHECKS, EVIDENCE_COMPLETE, EVIDENCE_MISSING, STATEMENT_NEEDED
from release.settings import ReleaseConfig

PIN = "ab" * 32


def source(name="слова", **changes):
    values = {
        "type": "dataset",
        "name": name,
        "format": "jsonl",
        "files": [{"path": f"{name}.jsonl", "sha256": PIN}],
        "licence": {"spdx": "MIT", "evidence": "the data set's card"},
        "split": "train",
        "as_of": "2026-11-01",
        "obtained_from": "https://example.org/words",
    }
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def corpus(*sources, allow=("MIT", "Apache-2.0"), tokenizer=None, sets=()):
    values = {
        "sources": list(sources) or [source()],
        "policy": {"allow": list(allow)},
        "decontamination": {"sets": list(sets)},
        "tokenizer": tokenizer or {"vocab_size": 300},
        "conversations": {"window_tokens": 64},
    }
    return CorpusConfig.model_validate(values, strict=False)


def release(**changes):
    values = {
        "name": "probe",
        "version": "1.0",
        "description": "A release that is only looked forward to.",
        "provider": {"name": "Test", "contact": "test@example.org"},
        "intended_use": "Testing what configs alone can say.",
        "limitations": ["Nothing was trained."],
        "data": {
            "selection": "Words were chosen by a program for this test alone.",
            "labelling": "No labels by people.",
        },
    }
    return ReleaseConfig.model_validate({**values, **changes}, strict=False)


def outlook(corpus_config=None, release_config=None):
    return openness_outlook(corpus_config or corpus(), release_config or release()).as_json()


def best(found, profile="osaid-1.0"):
    return next(row["best_verdict"] for row in found["profiles"] if row["profile"] == profile)


def reasons(found, key="rules"):
    return {row["id"]: (row["result"], row["reason"]) for row in found[key]}


def test_an_open_recipe_can_reach_all_but_what_people_answer():
    found = outlook()
    assert best(found) == STATEMENT_NEEDED
    assert best(found, "bundle") == EVIDENCE_COMPLETE
    assert [row["id"] for row in found["rules"] if row["command"]] == ["OSAID-D12"]
    assert "openwright release statement OSAID-D12" in reasons_command(found, "OSAID-D12")
    assert found["risks"] == []
    assert found["sources"] == [{"name": "слова", "class": "open", "is_pinned": True, "problems": []}]
    assert "not a certificate" in found["notice"]
    assert "certified" not in str(found)


def reasons_command(found, rule):
    return next(row["command"] for row in found["rules"] if row["id"] == rule)


def test_every_rule_of_the_table_is_foreseen_once():
    findings = openness_outlook(corpus(), release()).findings
    assert [rule.id for rule, _ in findings] == [rule.id for rule in load_rules().rules]
    assert {found.result for _, found in findings} >= {"pass", "unknown", LATER}
    assert set(FROM_CONFIGS) <= set(CHECKS)


@pytest.mark.parametrize(
    ("changes", "problem", "rule"),
    [
        ({"files": [{"path": "x.jsonl", "sha256": "0" * 64}]}, "not pinned", "OSAID-D2"),
        ({"data_class": "unshareable"}, "does not state reason", "OSAID-D11"),
        ({"data_class": "obtainable"}, "does not state vendor", "OSAID-D8"),
        ({"data_class": "public", "obtained_from": ""}, "does not say where to obtain it", "OSAID-D7"),
        ({"obtained_from": ""}, "names no origin", "OSAID-D2"),
        (
            {"licence": {"spdx": "CC-BY-NC-4.0", "evidence": "its card"}},
            "keeps documents under CC-BY-NC-4.0",
            "OSAID-D9",
        ),
    ],
)
def test_what_stands_in_a_sources_way_is_named(changes, problem, rule):
    allow = ("MIT", "Apache-2.0", "CC-BY-NC-4.0")
    found = outlook(corpus(source(), source("other", **changes), allow=allow))
    rows = {row["name"]: row["problems"] for row in found["sources"]}
    assert any(problem in text for text in rows["other"]), rows
    assert rows["слова"] == []
    assert reasons(found)[rule][0] == "fail"
    assert best(found) == EVIDENCE_MISSING


def test_a_card_alone_is_no_licence_to_a_policy_that_takes_no_weak_evidence():
    rows = {"type": "hub", "name": "rows", "repo_id": "org/rows", "revision": "c0" * 20, "format": "jsonl"}
    terms = {"card_licence": True, "split": "train", "as_of": "2026-11-01"}
    config = corpus(source(), {**rows, "files": ["*.gz"], **terms})
    strict = config.model_copy(update={"policy": config.policy.model_copy(update={"weak_evidence": "deny"})})
    found = [outlook(c)["sources"][1]["problems"] for c in (config, strict)]
    assert found == [[], ["the policy allows no licence that it states: every document is dropped"]]


def test_a_tokenizer_made_elsewhere_is_a_part_with_a_licence():
    for licence, result in ((None, "fail"), ({"spdx": "MIT", "evidence": "its card"}, "pass")):
        file = {"path": "tokenizer.json", "sha256": PIN, "licence": licence}
        config = corpus(tokenizer={"vocab_size": 300, "file": file})
        found = outlook(config)
        spdx = licence["spdx"] if licence else "NOASSERTION"
        assert [part["licence"] for part in found["parts"] if part["name"] == "tokenizer"] == [spdx]
        assert reasons(found).get("OSAID-F1", ("pass",))[0] == result
    assert "tokenizer" not in [part["name"] for part in outlook()["parts"]]


def test_an_evaluation_set_that_is_carried_is_a_part_with_a_licence():
    for spdx, shipping, result in (
        ("CC-BY-NC-4.0", "file", "fail"),
        ("MIT", "file", "pass"),
        ("CC-BY-NC-4.0", "reference", "pass"),
    ):
        licence = {"spdx": spdx, "evidence": "its card"}
        pin = {"path": "quiz.jsonl", "sha256": PIN, "text_columns": ["question"]}
        found = outlook(corpus(sets=[{"name": "quiz", **pin, "licence": licence, "shipping": shipping}]))
        parts = [part["licence"] for part in found["parts"] if part["name"] == "evaluation set quiz"]
        assert parts == [spdx] * (shipping == "file")
        assert reasons(found).get("OSAID-F4", ("pass",))[0] == result


def test_what_obtainable_and_unshareable_sources_state_is_enough():
    sold = source("sold", data_class="obtainable", vendor="A. Publisher", fee="EUR 400 once")
    secret = source("secret", data_class="unshareable", reason="personal data")
    found = outlook(corpus(source(), sold, secret))
    rows = {row["name"]: row["problems"] for row in found["sources"]}
    assert rows["sold"] == []
    assert rows["secret"] == ["is unshareable; a person states why"]
    assert "OSAID-D8" not in reasons(found)
    assert reasons(found)["OSAID-D11"][0] == "needs_statement"


def test_a_source_of_the_hub_has_a_place_and_its_commit_as_pin():
    remote = source(
        "remote", type="hub", files=["*.jsonl"], repo_id="org/rows", revision="c0" * 20, obtained_from=None
    )  # fmt: skip
    rows = {row["name"]: row["problems"] for row in outlook(corpus(source(), remote))["sources"]}
    assert rows["remote"] == []
    unpinned = {**remote, "revision": None}
    rows = {row["name"]: row["problems"] for row in outlook(corpus(source(), unpinned))["sources"]}
    assert any("not pinned" in problem for problem in rows["remote"])


def test_a_source_whose_licence_the_policy_drops_gives_no_text():
    found = outlook(corpus(source(), source("gnu", licence={"spdx": "GPL-3.0-only", "evidence": "its card"})))
    rows = {row["name"]: row["problems"] for row in found["sources"]}
    assert "every document is dropped" in rows["gnu"][0]


def test_a_licence_of_the_policy_that_is_not_open_is_a_risk_and_no_verdict():
    free = source(licence=None, licence_column="licence")
    found = outlook(corpus(free, allow=("MIT", "CC-BY-NC-4.0", "MPL-2.0")))
    assert best(found) == STATEMENT_NEEDED
    risks = reasons(found, "risks")
    assert risks["OSAID-D9"][0] == risks["OSAID-T6"][0] == "fail"
    assert "CC-BY-NC-4.0" in risks["OSAID-T6"][1]
    copyleft = reasons(outlook(corpus(free, allow=("MIT", "MPL-2.0"))), "risks")
    assert copyleft["OSAID-T6"][0] == "needs_statement"


@pytest.mark.parametrize(
    ("changes", "rule", "result"),
    [
        ({"licences": {"weights": "CC-BY-NC-4.0"}}, "OSAID-P3", "fail"),
        ({"licences": {"weights": "CC0-1.0"}}, "OSAID-P3", "needs_statement"),
        ({"licences": {"code": "CC-BY-4.0"}}, "OSAID-C7", "fail"),
        ({"licences": {"data_information": "my own terms"}}, "OSAID-T5", "fail"),
        ({"acceptable_use": "Only for good."}, "OSAID-T1", "fail"),
        ({"distribution": [{"location": "a hub", "gated": True}]}, "OSAID-T2", "fail"),
        ({"hyperparameter_search": {"used": True, "code_path": "sweeps"}}, "OSAID-C5", "fail"),
        (
            {
                "data": {
                    "selection": "TODO: say how the words were chosen, and why.",
                    "labelling": "No labels by people at all.",
                }
            },
            "OSAID-D4",
            "fail",
        ),
    ],
)
def test_what_a_release_declares_decides(changes, rule, result):
    found = outlook(release_config=release(**changes))
    assert reasons(found)[rule][0] == result
    assert best(found) == (EVIDENCE_MISSING if result == "fail" else STATEMENT_NEEDED)


def test_a_search_whose_code_is_in_the_tree_can_pass():
    search = {"used": True, "code_path": "openwright/plan.py"}
    assert "OSAID-C5" not in reasons(outlook(release_config=release(hyperparameter_search=search)))


def test_a_licence_without_a_text_in_the_project_is_named():
    found = outlook(corpus(source(licence={"spdx": "ODbL-1.0", "evidence": "its card"}), allow=("ODbL-1.0",)))
    assert "ODbL-1.0" in reasons(found)["OSAID-T4"][1]


def test_a_source_that_is_not_shipped_needs_a_public_place():
    found = outlook(corpus(source(obtained_from="")), release(shipping={"слова": "reference"}))
    assert reasons(found)["OSAID-D10"][0] == "fail"
    there = outlook(release_config=release(shipping={"слова": "reference"}))
    assert "OSAID-D10" not in reasons(there)
    assert reasons(there)["OSAID-D14"][0] == "unknown"


def test_an_archive_of_the_index_has_a_place_and_a_pin():
    archive = {
        "type": "pypi", "project": "probe", "version": "1.0", "filename": "probe-1.0.tar.gz", "sha256": PIN,
        "size_bytes": 10, "split": "train", "as_of": "2026-11-01",
    }  # fmt: skip
    found = outlook(corpus(archive))
    assert found["sources"][0]["problems"] == []
    assert best(found) == STATEMENT_NEEDED
