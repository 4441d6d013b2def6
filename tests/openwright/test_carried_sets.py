"""Files of evaluation sets in the bundle of the tiny release: what is said of them, and what a forger meets."""

import shutil

import forge
import pytest

from data_recipes.evaluation_sets import CARRIED_SETS, EvaluationSetFile, read_evaluation_set
from provenance.errors import SourceError
from release.evaluation_sets_check import check_evaluation_sets
from release.facts import BundleFacts
from release.rebuild_plan import RebuildOptions, plan_rebuild
from release.rule_checks import share_terms
from release.rule_checks_data import data_processing
from release.verify import verify_bundle


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy")


def carried(bundle):
    (path,) = (bundle / "dataset" / CARRIED_SETS).iterdir()
    return path


def failures(bundle):
    return [(one.name, one.where + one.detail) for one in verify_bundle(bundle, tokens="none") if one.verdict == "FAIL"]


def of_documents(bundle):
    """What `verify.py` finds wrong with the documents, where the sets belong to."""
    return next(detail for name, detail in failures(bundle) if name == "documents")


def test_the_bundle_carries_the_file_that_may_be_passed_on_and_names_the_other(bundle, place):
    data = place / "scratch" / "data"
    assert carried(bundle).read_bytes() == (data / "carried.jsonl").read_bytes()
    first, second = forge.read(bundle / "dataset" / "sources.lock")["evaluation_sets"]
    assert (first["name"], first["licence"]["spdx"], first["shipping"]) == ("carried", "MIT", "file")
    assert (second["name"], second["licence"], second["shipping"]) == ("named", None, "reference")
    assert carried(bundle).name == f"{first['sha256']}.jsonl"
    named = {part["name"]: part for part in BundleFacts(bundle).components["components"]}
    part = named["evaluation set carried"]
    assert (part["licence"], part["paths"]) == ("MIT", [f"dataset/{CARRIED_SETS}/{carried(bundle).name}"])
    assert "evaluation set named" not in named
    notice = (bundle / "model" / "NOTICE").read_text()
    assert "the evaluation set carried, no training data; it comes from made by a test: MIT" in notice
    assert check_evaluation_sets(bundle).verdict == "PASS"
    assert data_processing(BundleFacts(bundle)).result == "pass"


def test_a_rebuild_takes_the_file_from_the_bundle_and_asks_for_the_other(bundle, tmp_path):
    plan = plan_rebuild(bundle, tmp_path / "given", RebuildOptions(data_dir=tmp_path))
    place = bundle / "dataset" / CARRIED_SETS
    assert f'corpus.execution.evaluation_sets_dir="{place}"' in plan.overrides
    missing = [found.detail for found in plan_rebuild(bundle, tmp_path / "none", RebuildOptions()).obstacles]
    told = "the file named.jsonl of the evaluation set named is not in this bundle; give --data, where it lies"
    assert f"{told}; obtained from: made by a test" in missing
    assert "carried.jsonl" not in " ".join(missing)


def test_another_file_fails_and_no_build_reads_it(copy, tmp_path):
    path = carried(copy)
    path.write_bytes(path.read_bytes().replace(b"frozen", b"melted"))
    assert any(path.name in detail for _, detail in failures(copy))
    digest = path.name.removesuffix(".jsonl")
    source = EvaluationSetFile(name="carried", path="carried.jsonl", sha256=digest, text_columns=["question"])
    with pytest.raises(SourceError, match="has sha256"):
        read_evaluation_set(source, tmp_path, path.parent)


def test_another_file_with_all_digests_made_anew_fails_both_verifiers(copy):
    path = carried(copy)
    path.write_bytes(path.read_bytes().replace(b"frozen", b"melted"))
    forge.reseal(copy)
    assert "other files than are pinned" in of_documents(copy)
    found = check_evaluation_sets(copy)
    assert (found.verdict, "the recipe pins" in found.detail) == ("FAIL", True)


def test_a_file_under_another_name_fails_both_verifiers(copy):
    path = carried(copy)
    data = path.read_bytes().replace(b"frozen", b"melted")
    digest, other = path.name.removesuffix(".jsonl"), forge.digest_bytes(data)
    path.rename(path.with_name(f"{other}.jsonl")).write_bytes(data)

    def lie(values):
        values["evaluation_sets"][0] |= {"sha256": other, "size_bytes": len(data)}

    def list_it(values):
        for entry in (*values["files"], *values["corpus"]["results"]):
            entry["path"] = entry["path"].replace(digest, other)

    forge.edit(copy / "dataset" / "sources.lock", lie)
    forge.edit(copy / "dataset" / "manifest.json", list_it)
    forge.reseal(copy)
    assert "other files than are pinned" in of_documents(copy)
    assert check_evaluation_sets(copy).verdict == "FAIL"


def test_a_file_that_was_left_out_fails(copy):
    shutil.rmtree(copy / "dataset" / CARRIED_SETS)
    forge.reseal(copy)
    assert "other files than are pinned" in of_documents(copy)


@pytest.mark.parametrize("field", ["obtain", "licence", "size_bytes"])
def test_records_that_say_other_things_than_the_recipe_fail(copy, field):
    other = {"obtain": "elsewhere", "licence": {"spdx": "CC-BY-NC-4.0", "declared": ""}, "size_bytes": 3}
    forge.edit(
        copy / "dataset" / "sources.lock", lambda values: values["evaluation_sets"][0].update({field: other[field]})
    )
    assert check_evaluation_sets(copy).verdict == "FAIL"


def test_rules_see_a_licence_that_is_not_open_and_a_set_that_nobody_can_obtain(copy):
    def closed(values):
        (part,) = (part for part in values["components"] if part["name"] == "evaluation set carried")
        part["licence"] = "CC-BY-NC-4.0"

    forge.edit(copy / "model" / "openness" / "components.json", closed)
    forge.edit(copy / "dataset" / "sources.lock", lambda values: values["evaluation_sets"][1].update(obtain=""))
    assert check_evaluation_sets(copy).verdict == "FAIL"
    facts = BundleFacts(copy)
    assert "evaluation set carried is under CC-BY-NC-4.0" in share_terms(facts).reason
    assert data_processing(facts).reason.startswith("the evaluation set named is not carried")
