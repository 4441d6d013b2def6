"""The bundle: layout, roles, digests, loading by plain libraries, the code that ran, shipping, refusals."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Built, release_config, replace_file
from fake_artifacts import make_artifacts
from transformers import AutoModelForCausalLM, AutoTokenizer

from provenance.artifacts import Artifact
from provenance.canonical import read_json
from provenance.digests import sha256_file, tagged_digest
from provenance.errors import BundleError, ReleaseError
from provenance.fingerprint import PACKAGES, CodeIdentity, code_identity, sources_digest
from release.bundle import build_release, bundle_path, manifest_digest
from release.layout import role_of
from release.weights import num_parameters, weights_digest


def _manifest(bundle: Path) -> dict[str, object]:
    return dict(read_json(bundle / "model" / "manifest.json"))


def test_every_file_is_listed_with_its_digest(built: Built) -> None:
    for part in ("model", "dataset"):
        manifest = read_json(built.bundle / part / "manifest.json")
        listed = {entry["path"]: entry for entry in manifest["files"]}
        found = {
            p.relative_to(built.bundle / part).as_posix(): p for p in (built.bundle / part).rglob("*") if p.is_file()
        }
        assert listed.keys() == found.keys() - {"manifest.json"}
        assert all(sha256_file(path) == listed[name]["sha256"] for name, path in found.items() if name in listed)
        assert {entry["role"] for entry in listed.values()} == {"result", "observation", "document"}


def test_no_links_and_no_machine_paths(built: Built) -> None:
    for path in built.bundle.rglob("*"):
        assert not path.is_symlink()
        if path.is_file() and path.suffix in (".json", ".md", ".html", ".yaml") and "code" not in path.parts:
            assert str(built.config_dir.parent) not in path.read_text(encoding="utf-8")


def test_the_content_digest_follows_from_the_results(built: Built) -> None:
    manifest = _manifest(built.bundle)
    results = [{k: e[k] for k in ("path", "size_bytes", "sha256")} for e in manifest["files"] if e["role"] == "result"]
    value = {"name": "tiny", "version": "0.1", "dataset": built.artifacts["corpus"].content_digest, "results": results}
    assert manifest["content_digest"] == tagged_digest("bundle/1", value)
    assert manifest["dataset"]["manifest_sha256"] == sha256_file(built.bundle / "dataset" / "manifest.json")
    assert [stage["stage"] for stage in manifest["stages"]] == ["corpus", "pretrain", "sft", "eval"]
    assert manifest["dev"] is False


def test_the_same_artifacts_give_the_same_bundle(built: Built, project: Path, tmp_path: Path) -> None:
    code = CodeIdentity("ab" * 20, False, sources_digest(PACKAGES, project))
    context, artifacts = make_artifacts(tmp_path / "other", code)
    config_dir = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(built.config_dir, config_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.bundle.project_root", lambda: project)
        again = build_release(release_config(), context, artifacts, config_dir)
    assert manifest_digest(bundle_path(again)) == manifest_digest(built.bundle)
    assert again.content_digest == built.artifact.content_digest


def test_a_built_release_is_found_again(built: Built, rebuild: Callable[..., Artifact]) -> None:
    before = manifest_digest(built.bundle)
    assert rebuild().path == built.artifact.path
    assert manifest_digest(built.bundle) == before
    assert rebuild(description="Another description of the same tiny model.").path != built.artifact.path


def test_an_observation_changes_the_manifest_but_not_the_content(built: Built, project: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(built.context.store, store, ignore=shutil.ignore_patterns("release"))
    artifacts = {}
    for stage, artifact in built.artifacts.items():
        path = store / stage / artifact.path.name
        journal = path / "journal.jsonl"
        journal.write_text(journal.read_text().replace("2026-11-24", "2026-11-25"))
        manifest = read_json(path / "manifest.json")
        for entry in manifest["observations"]:
            entry["sha256"] = sha256_file(path / entry["path"])
        (path / "manifest.json").write_text(json.dumps(manifest))
        artifacts[stage] = replace(artifact, path=path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.bundle.project_root", lambda: project)
        other = bundle_path(
            build_release(release_config(), replace(built.context, store=store), artifacts, built.config_dir)
        )
    assert _manifest(other)["content_digest"] == _manifest(built.bundle)["content_digest"]
    assert manifest_digest(other) != manifest_digest(built.bundle)


def test_model_and_tokenizer_load_plainly_and_the_cards_snippet_runs(built: Built) -> None:
    model = AutoModelForCausalLM.from_pretrained(built.bundle / "model")
    tokenizer = AutoTokenizer.from_pretrained(built.bundle / "model")
    assert tokenizer.decode(tokenizer.encode("τιμή 値")) == "τιμή 値"
    assert model.num_parameters() == num_parameters([built.bundle / "model" / "model.safetensors"])
    card = (built.bundle / "model" / "README.md").read_text(encoding="utf-8")
    snippet = card.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=built.bundle, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "json.dumps" in done.stdout


def test_the_weights_digest_is_the_one_that_training_computes(built: Built) -> None:
    from train.state import state_digest

    model = AutoModelForCausalLM.from_pretrained(built.bundle / "model", dtype=torch.float32)
    files = [built.bundle / "model" / "model.safetensors"]
    assert weights_digest(files) == state_digest(dict(model.state_dict()))
    assert weights_digest(files) == read_json(built.bundle / "model/training/sft/run.json")["final"]["weights_digest"]


def test_the_dataset_loads_with_datasets(built: Built, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(built.bundle / "dataset"), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 15, "heldout": 3}
    conversations = datasets.load_dataset(str(built.bundle / "dataset"), "conversations", cache_dir=str(tmp_path))
    assert conversations["train"][0]["messages"][1]["content"] == "It returns the value: τιμή."


def test_a_run_started_from_the_bundles_code_is_the_same_code(built: Built, project: Path) -> None:
    code = built.bundle / "model" / "code"
    identity = code_identity(code)
    assert identity == built.context.code
    for packages in (("provenance", "data_recipes"), ("provenance", "data_recipes", "train"), PACKAGES):
        script = (
            "from provenance.fingerprint import code_identity, project_root, sources_digest;"
            f"print(project_root(), code_identity().dirty, sources_digest({packages!r}))"
        )
        done = subprocess.run(
            [sys.executable, "-B", "-c", script],
            cwd=code,
            env={"PYTHONPATH": str(code)},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == [str(code.resolve()), "False", sources_digest(packages, project)], done.stderr


def test_an_edited_code_directory_is_dirty(copy: Path) -> None:
    code = copy / "model" / "code"
    replace_file(code / "provenance" / "digests.py", "# other\n")
    assert code_identity(code).dirty


def test_configs_are_shipped_and_statements_are_not_part_of_the_code(
    built: Built, rebuild: Callable[..., Artifact], tmp_path: Path
) -> None:
    config_dir = tmp_path / "tiny"
    shutil.copytree(built.config_dir, config_dir)
    (config_dir / "statements").mkdir()
    (config_dir / "statements" / "OSAID-D12.yaml").write_text("format: x\n")
    bundle = bundle_path(rebuild(config_dir=config_dir))
    assert (bundle / "model/code/configs/tiny/corpus.yaml").is_file()
    assert not (bundle / "model/code/configs/tiny/statements").exists()
    assert (bundle / "model/openness/statements/OSAID-D12.yaml").is_file()
    assert _manifest(bundle)["content_digest"] == _manifest(built.bundle)["content_digest"]


def test_notice_attributes_exactly_what_was_kept(built: Built) -> None:
    notice = (built.bundle / "model" / "NOTICE").read_text(encoding="utf-8")
    for line in (
        "Copyright (c) 2020 Άλφα <Developers>",
        "Copyright 2021 Beta & Co",
        "Copyright (c) 2019, 伽马 authors",
    ):
        assert line in notice
    assert "omega" not in notice
    assert "freely available to all" in notice
    texts = {path.name for path in (built.bundle / "model/openness/LICENSES").iterdir()}
    assert texts == {"Apache-2.0.txt", "BSD-3-Clause.txt", "MIT.txt"}


def test_dev_artifacts_are_refused_or_marked(project: Path, tmp_path: Path) -> None:
    code = CodeIdentity("ab" * 20, True, sources_digest(PACKAGES, project))
    context, artifacts = make_artifacts(tmp_path / "store", code, dev=True)
    config_dir = tmp_path / "tiny"
    config_dir.mkdir()
    with pytest.raises(ReleaseError, match="--dev"):
        build_release(release_config(), replace(context, dev=False), artifacts, config_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.bundle.project_root", lambda: project)
        bundle = bundle_path(build_release(release_config(), context, artifacts, config_dir))
    verdict = read_json(bundle / "model/openness/verdict.json")
    assert _manifest(bundle)["dev"] is True
    assert verdict["dev"] is True
    assert verdict["is_release"] is False
    for name in ("README.md", "index.html"):
        assert "not a release" in (bundle / "model" / name).read_text(encoding="utf-8")


def test_a_missing_stage_is_named(built: Built) -> None:
    artifacts = {stage: a for stage, a in built.artifacts.items() if stage != "sft"}
    with pytest.raises(ReleaseError, match="stage sft is not finished"):
        build_release(release_config(), built.context, artifacts, built.config_dir)


def test_an_unknown_source_in_shipping_is_named(rebuild: Callable[..., Artifact]) -> None:
    with pytest.raises(ReleaseError, match="'delta'"):
        rebuild(shipping={"delta": "index"})


SECRETS = [
    "-----BEGIN RSA " + "PRIVATE KEY-----",
    "hf_" + "a1B2" * 9,
    "ghp_" + "a1B2" * 9,
    "AKIA" + "A1B2C3D4E5F6G7H8",
    "https://user:pass" + "word@example.org/simple",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_credential_stops_the_build(
    built: Built, rebuild: Callable[..., Artifact], tmp_path: Path, secret: str
) -> None:
    config_dir = tmp_path / "tiny"
    shutil.copytree(built.config_dir, config_dir)
    (config_dir / "corpus.yaml").write_text(f"seed: 1\nkey: '{secret}'\n")
    with pytest.raises(ReleaseError, match=r"code/configs/tiny/corpus.yaml:2: looks like") as caught:
        rebuild(config_dir=config_dir)
    assert secret not in str(caught.value)


def test_shipping_leaves_out_what_it_says(built: Built, rebuild: Callable[..., Artifact]) -> None:
    bundle = bundle_path(rebuild(shipping={"alpha": "tokens", "gamma": "index"}))
    dataset = bundle / "dataset"
    assert not (dataset / "text" / "train-00000.parquet").exists()
    assert not (dataset / "text" / "train-shipped-00000.parquet").exists()
    assert (dataset / "tokens/train/alpha/tokens-000.bin").is_file()
    assert not (dataset / "tokens/train/gamma").exists()
    assert not (dataset / "tokens/sft/gamma").exists()
    assert pq.read_table(dataset / "text" / "heldout-00000.parquet").num_rows == 3
    results = {row["id"]: row["result"] for row in read_json(bundle / "model/openness/verdict.json")["results"]}
    assert results["BND-01"] == results["OSAID-D10"] == "pass"
    assert results["OSAID-D14"] == "unknown"
    assert _manifest(bundle)["dataset"]["content_digest"] == built.artifacts["corpus"].content_digest


def test_shipping_keeps_the_rows_of_other_sources(rebuild: Callable[..., Artifact]) -> None:
    dataset = bundle_path(rebuild(shipping={"gamma": "reference"})) / "dataset"
    kept = pq.read_table(dataset / "text" / "train-shipped-00000.parquet")
    assert set(kept["source"].to_pylist()) == {"alpha"}
    card = (dataset / "README.md").read_text(encoding="utf-8")
    assert "gamma as reference" in card


def test_unknown_files_have_no_role() -> None:
    assert role_of("model/checkpoints/sft/step-00000004/model.safetensors") == "result"
    for path in ("model/pickle.bin", "model/checkpoints/sft/notes.txt", "dataset/extra/a.json"):
        with pytest.raises(BundleError):
            role_of(path)
