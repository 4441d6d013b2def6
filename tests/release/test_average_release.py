"""A release whose model is an average of checkpoints: built, verified, made again, and forged."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forge
import pytest
import torch
from conftest import Built, release_config
from fake_artifacts import make_evaluation
from fake_average import averaged, make_average
from fake_runs import state_digest
from safetensors.torch import load_file, save_file

from openwright.bundles import open_bundle
from openwright.needs import fetch_for_average
from openwright.summary import summarise, summary_lines
from provenance.artifacts import Artifact
from provenance.canonical import hex_float, read_json
from provenance.config import from_recipe
from provenance.errors import BundleError
from release import verify
from release.average_check import check_average
from release.bundle import build_release, bundle_path
from release.checks import verify_release
from release.readable import require_average
from release.rebuild_compare import compare_stage
from release.verify import verify_bundle
from train.average import average
from train.average_settings import AverageConfig

STAGES = ["corpus", "pretrain", "sft", "average", "eval"]
AVERAGE = "model/training/average/average.json"
WEIGHTS = "model/checkpoints/average/averaged/model.safetensors"
RECIPE = {
    "kind": "ema",
    "ingredients": [{"stage": "pretrain", "steps": [1, 2, 4]}, {"stage": "sft", "steps": [2]}],
    "weights": [],
    "decay": hex_float(0.75),
}
NUMERATORS = [27, 9, 12, 16]
"""Of 64, worked out by hand: 27/64, 9/64, 3/16 and 1/4; the stage states them in parts of 2**29."""


def make_bundle(base: Path, built: Built, project: Path) -> tuple[Path, dict[str, Artifact]]:
    context = replace(built.context, store=base / "store")
    artifacts = {name: built.artifacts[name] for name in ("corpus", "pretrain", "sft")}
    artifacts["average"] = make_average(context, artifacts, RECIPE, [n * 2**23 for n in NUMERATORS])
    models = {name: artifacts[name] for name in ("pretrain", "sft", "average")}
    artifacts["eval"] = make_evaluation(context, artifacts["corpus"], models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.bundle.project_root", lambda: project)
        release = build_release(release_config(stages=STAGES), context, artifacts, built.config_dir)
    return bundle_path(release), artifacts


@pytest.fixture(scope="module")
def released(built: Built, project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Artifact]]:
    """A bundle whose model is the average of four checkpoints of two stages, and its artifacts."""
    return make_bundle(tmp_path_factory.mktemp("averaged"), built, project)


def failures(bundle: Path) -> dict[str, str]:
    """What `verify.py` finds wrong: name and detail."""
    return {r.name: r.detail for r in verify_bundle(bundle, tokens="none") if r.verdict == "FAIL"}


def test_an_average_is_released_verified_and_described(released):
    bundle, _ = released
    found = {result.name: result for result in verify_release(bundle, expect=None, tokens="none")}
    assert [result for result in found.values() if result.verdict == "FAIL"] == []
    assert found["average ingredients"].verdict == found["average weights"].verdict == "PASS"
    assert found["average recomputed"].verdict == "PASS"
    made = read_json(bundle / AVERAGE)
    assert [part["numerator"] for part in made["ingredients"]] == [n * 2**23 for n in NUMERATORS]
    assert found["final weights"].detail == f"state/1 {made['final']['weights_digest']}, the end of average"
    assert (bundle / "model/model.safetensors").read_bytes() == (bundle / WEIGHTS).read_bytes()
    rules = {rule["id"]: rule["result"] for rule in read_json(bundle / "model/openness/verdict.json")["results"]}
    assert {rules[rule] for rule in ("BND-01", "BND-05", "BND-06", "BND-08", "OSAID-P1", "OSAID-P2")} == {"pass"}
    card, page = ((bundle / "model" / name).read_text() for name in ("README.md", "index.html"))
    assert "| sft, step 2 | 134,217,728 of 536,870,912 |" in card
    assert "kind ema, of pretrain step 1 (226,492,416 of 536,870,912)" in page
    opened = open_bundle(bundle)
    assert (opened.training_stages, opened.average) == (["pretrain", "sft"], made)
    assert "average    ema, of the checkpoints pretrain 1, pretrain 2, pretrain 4, sft 2" in summary_lines(
        summarise(bundle)
    )


def test_the_stage_makes_what_the_formats_page_says(released, built, tmp_path):
    _, artifacts = released
    context = replace(built.context, store=tmp_path)
    made = average(from_recipe(RECIPE, AverageConfig), context, artifacts)
    for entry in artifacts["average"].results:
        assert (made.path / entry.path).read_bytes() == (artifacts["average"].path / entry.path).read_bytes()
    assert (made.content_digest, made.parents) == (artifacts["average"].content_digest, artifacts["average"].parents)
    assert average(from_recipe(RECIPE, AverageConfig), context, artifacts) == made


def test_what_an_average_is_made_again_from_is_fetched(released):
    asked: list[str] = []
    fetch_for_average(SimpleNamespace(path=released[0], fetch=lambda *patterns: asked.extend(patterns)))
    places = ["pretrain/step-00000001", "pretrain/step-00000002", "pretrain/step-00000004", "sft/step-00000002"]
    assert asked == [f"model/checkpoints/{place}/model*" for place in (*places, "average/averaged")]


def edit(change: Callable[[dict[str, Any]], object], name: str = "average") -> Callable[[Path], None]:
    def forgery(bundle: Path) -> None:
        path = bundle / "model/training/average" / f"{name}.json"
        values = forge.read(path)
        change(values)
        forge.write(path, values)
        if name == "recipe":
            manifest = bundle / "model/training/average/manifest.json"
            forge.write(manifest, {**forge.read(manifest), "recipe": values})

    return forgery


def put_weights(bundle: Path, weights: dict[str, Any]) -> None:
    """Other weights in the place of the average, with every digest of them made anew."""
    for path in (bundle / WEIGHTS, bundle / "model/model.safetensors"):
        save_file(weights, path, metadata={"format": "pt"})
    digest = state_digest(weights)
    edit(lambda made: made["final"].update(weights_digest=digest))(bundle)
    record = bundle / "model/evaluation/record.json"
    values = forge.read(record)
    next(model for model in values["models"] if model["name"] == "average")["weights_digest"] = digest
    forge.write(record, values)


def flip_one_bit(bundle: Path) -> None:
    weights = load_file(bundle / WEIGHTS)
    name = sorted(weights)[3]
    weights[name].view(torch.int32).view(-1)[5] ^= 1
    put_weights(bundle, weights)


def other_sum(bundle: Path) -> None:
    """The checkpoints count alike; record and recipe go on to say otherwise."""
    folders = [forge.checkpoint(bundle, "pretrain", step) for step in (1, 2, 4)]
    folders.append(forge.checkpoint(bundle, "sft", 2))
    put_weights(bundle, averaged([load_file(folder / "model.safetensors") for folder in folders], [1] * 4))


def other_sum_on_record(bundle: Path) -> None:
    """The same, and the record says so: the recipe alone says otherwise."""
    other_sum(bundle)
    edit(lambda made: [part.update(numerator=1) for part in made["ingredients"]])(bundle)
    edit(lambda made: made.update(denominator=4))(bundle)


def another_step(bundle: Path) -> None:
    """The recipe names step 3, and the record says that its weights are those of step 2."""
    edit(lambda made: made["ingredients"][1].update(step=3))(bundle)
    edit(lambda recipe: recipe["ingredients"][0].update(steps=[1, 3, 4]), "recipe")(bundle)


def release_a_checkpoint(bundle: Path) -> None:
    shutil.copyfile(forge.checkpoint(bundle, "sft", 2) / "model.safetensors", bundle / "model/model.safetensors")


def change_an_ingredient(bundle: Path) -> None:
    path = forge.checkpoint(bundle, "pretrain", 1) / "model.safetensors"
    weights = load_file(path)
    weights[min(weights)].view(-1)[0] += 1
    save_file(weights, path, metadata={"format": "pt"})


def forget_a_parent(bundle: Path) -> None:
    manifest = bundle / "model/training/average/manifest.json"
    values = forge.read(manifest)
    forge.write(manifest, {**values, "parents": values["parents"][:1]})


FORGERIES: dict[str, tuple[Callable[[Path], None], dict[str, str], str]] = {
    "one bit": (flip_one_bit, {"average weights": "is not the average of the checkpoints"}, "the average of the"),
    "other sum": (other_sum, {"average weights": "is not the average of the checkpoints"}, "the average of the"),
    "other sum on record": (
        other_sum_on_record,
        {"average ingredients": "numerators that do not follow from the recipe"},
        "says other checkpoints, numbers",
    ),
    "another step": (
        another_step,
        {
            "average ingredients": "step 3 of pretrain: the ledger records",
            "average weights": "have another digest than the average was made of",
        },
        "step 3 of",
    ),
    "a decay": (
        edit(lambda recipe: recipe.update(decay=hex_float(0.5)), "recipe"),
        {"average ingredients": "numerators that do not follow from the recipe"},
        "says other checkpoints, numbers",
    ),
    "no decay": (
        edit(lambda recipe: recipe.update(decay=hex_float(0.0)), "recipe"),
        {"average ingredients": "decay 0.0 does not lie between"},
        "malformed (ValidationError",
    ),
    "a recipe apart": (
        edit(lambda made: made["ingredients"].pop()),
        {
            "average ingredients": "the recipe names other checkpoints",
            "average weights": "is not the average of the checkpoints",
        },
        "says other checkpoints, numbers",
    ),
    "a parent": (forget_a_parent, {"average ingredients": "its parents are not the stages"}, ""),
    "a checkpoint": (release_a_checkpoint, {"final weights": "not the final ones of average"}, ""),
    "an ingredient": (
        change_an_ingredient,
        {
            "pretrain checkpoints": "another weights_digest",
            "average weights": "have another digest than the average was made of",
        },
        "step 1 of pretrain has the weights",
    ),
}
"""What a forger changes, the checks of `verify.py` that fail, and what making the average again says."""


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_average_that_was_hashed_anew_fails(released, tmp_path, name):
    bundle = tmp_path / "bundle"
    shutil.copytree(released[0], bundle, ignore=shutil.ignore_patterns("code"))
    forgery, expected, told = FORGERIES[name]
    forgery(bundle)
    forge.reseal(bundle)
    found = failures(bundle)
    del found["code"]  # it was not copied
    assert {check: expected[check] in detail for check, detail in found.items()} == dict.fromkeys(expected, True)
    recomputed = check_average(bundle)
    assert (recomputed.verdict, told in recomputed.detail) == ("FAIL" if told else recomputed.verdict, True)


def test_an_average_that_cannot_be_read_fails_in_words(released, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(released[0], bundle, ignore=shutil.ignore_patterns("code"))
    data = (bundle / WEIGHTS).read_bytes()
    for wrong in (data[:-4], b"", b"\xff" * 8, data[:9] + b"[" + data[10:]):
        (bundle / WEIGHTS).write_bytes(wrong)
        assert check_average(bundle).verdict == "FAIL"
    (bundle / AVERAGE).write_text('{"format": "openwright-average/1"}')
    with pytest.raises(BundleError, match="missing or unknown fields"):
        require_average(bundle)
    (bundle / AVERAGE).write_text('{"format": "openwright-average/2"}')
    assert {r.name: r.verdict for r in verify_bundle(bundle, tokens="none")}["average ingredients"] == "UNVERIFIED"


def test_of_a_large_model_a_sample_is_added_up_and_the_check_says_so(released, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "AVERAGE_BLOCK", 64)
    monkeypatch.setattr(verify, "MAX_PRODUCTS", 64 * 10)
    (weights,) = [r for r in verify_bundle(released[0], tokens="none", rng_seed=5) if r.name == "average weights"]
    assert weights.verdict == "PASS"
    assert weights.detail.startswith("10 of ")
    assert "(--seed 5; a single wrong one is missed with probability 0.9" in weights.detail


def test_an_average_that_comes_out_otherwise_in_a_rebuild_fails_whatever_the_machine(released, built, tmp_path):
    _, artifacts = released
    recipe = {**RECIPE, "kind": "uniform", "decay": None}
    other = average(from_recipe(recipe, AverageConfig), replace(built.context, store=tmp_path), artifacts)
    compared = compare_stage(released[0], "average", other.path)
    assert (compared.verdict, compared.divergence, compared.environment) == ("FAIL", None, ())
    assert compare_stage(released[0], "average", artifacts["average"].path).verdict == "PASS"
