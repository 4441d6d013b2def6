"""What a bundle carries per source: text, tokens, index, reference; what stands in the place of unshareable data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pyarrow.parquet as pq
import pytest
from conftest import release_config
from fake_artifacts import NAME, make_artifacts

from provenance.artifacts import Artifact
from provenance.canonical import read_json
from provenance.errors import ReleaseError
from provenance.fingerprint import PACKAGES, CodeIdentity, sources_digest
from release.bundle import build_release, bundle_path
from release.checks import verify_release
from release.shipping import check_shipping
from release.verify import verify_bundle

SECRET = "伽马 authors"
"""Part of the copyright line of the source `gamma`."""

OPEN = {"osaid_class": "open", "obtain": "pip download alpha", "sha256": "a" * 64}


@pytest.fixture(scope="session")
def hidden(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose source `gamma` is unshareable."""
    base = tmp_path_factory.mktemp("hidden")
    (base / "configs" / NAME).mkdir(parents=True)
    code = CodeIdentity("ab" * 20, False, sources_digest(PACKAGES, project))
    context, artifacts = make_artifacts(base / "artifacts" / NAME, code, hidden=("gamma",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.bundle.project_root", lambda: project)
        config = release_config(shipping={"gamma": "index"})
        return bundle_path(build_release(config, context, artifacts, base / "configs" / NAME))


def _verdicts(bundle: Path) -> dict[str, str]:
    return {result.name: result.verdict for result in verify_release(bundle, expect=None, tokens="all")}


@pytest.mark.parametrize(
    ("kind", "unverified"),
    [
        ("tokens", {"texts"}),
        ("index", {"texts", "token shards", "documents", "pretrain tokens", "sft tokens"}),
        ("reference", {"texts", "token shards", "documents", "pretrain tokens", "sft tokens"}),
    ],
)
def test_what_is_not_shipped_is_unverified_and_nothing_fails(
    built: Any, rebuild: Callable[..., Artifact], kind: str, unverified: set[str]
) -> None:
    before = _verdicts(built.bundle)
    after = _verdicts(bundle_path(rebuild(shipping={"gamma": kind})))
    assert set(after.values()) == {"PASS", "UNVERIFIED"}
    changed = {name for name, verdict in after.items() if verdict != before[name]}
    assert {name for name in unverified if "sft" not in name} <= changed <= unverified


def test_verify_py_alone_says_the_same(rebuild: Callable[..., Artifact]) -> None:
    bundle = bundle_path(rebuild(shipping={"gamma": "index"}))
    found = {result.name: result for result in verify_bundle(bundle, tokens="all")}
    assert {result.verdict for result in found.values()} == {"PASS", "UNVERIFIED"}
    assert "not shipped" in found["documents"].detail


def test_of_an_unshareable_source_only_digests_and_counts_are_there(hidden: Path) -> None:
    for path in hidden.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".md", ".txt", ".html", ".jsonl", ""):
            assert "Gamma number" not in path.read_text(encoding="utf-8", errors="replace"), path
    table = pq.read_table(hidden / "dataset" / "documents" / "documents-shipped-00000.parquet").to_pylist()
    rows = [row for row in table if row["source"] == "gamma"]
    assert {row["path"] for row in rows} == {""}
    assert all(row["copyright"] == row["signals"] == [] for row in rows)
    assert all(len(row["text_sha256"]) == 64 and row["num_tokens"] for row in rows)
    assert any(row["path"] for row in table if row["source"] == "alpha")
    assert not (hidden / "dataset" / "documents" / "documents-00000.parquet").exists()
    assert SECRET not in (hidden / "model" / "NOTICE").read_text(encoding="utf-8")
    assert SECRET not in (hidden / "dataset" / "ATTRIBUTION.txt").read_text(encoding="utf-8")


def test_a_description_and_a_synthetic_sample_stand_in_its_place(hidden: Path) -> None:
    described = read_json(hidden / "dataset" / "described" / "gamma.json")
    assert described["statistics"]["num_documents"] == {"kept": 6, "dropped": 0}
    assert described["statistics"]["size_bytes"]["largest"] >= described["statistics"]["size_bytes"]["smallest"] > 0
    assert (described["reason"], described["data_class"]) == ("contract", "unshareable")
    lines = (hidden / "dataset" / "described" / "gamma-sample.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 6
    assert all(row.keys() == described["schema"].keys() and isinstance(row["year"], int) for row in rows)
    sizes = described["statistics"]["size_bytes"]
    assert sum(len(row["text"].encode()) for row in rows) == sizes["total"]


def test_the_release_of_an_unshareable_source_verifies(hidden: Path) -> None:
    found = _verdicts(hidden)
    assert set(found.values()) == {"PASS", "UNVERIFIED"}
    assert found["generated documents"] == found["document rows"] == "PASS"
    results = {row["id"]: row["result"] for row in read_json(hidden / "model/openness/verdict.json")["results"]}
    assert results["OSAID-D11"] == "needs_statement"
    assert results["BND-01"] == "pass"


def test_a_changed_description_is_found(hidden: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(hidden, tmp_path / "copy"))
    path = copy / "dataset" / "described" / "gamma.json"
    described = read_json(path)
    described["statistics"]["num_documents"]["kept"] = 60_000
    forge.write(path, described)
    forge.reseal(copy)
    assert _verdicts(copy)["generated documents"] == "FAIL"


@pytest.mark.parametrize(
    ("lock", "kind", "words"),
    [
        ({"osaid_class": "unshareable"}, "text", "unshareable"),
        ({"osaid_class": "unshareable"}, "tokens", "unshareable"),
        ({"osaid_class": "unshareable"}, "reference", "unshareable"),
        ({"obtain": ""}, "reference", "no stranger can fetch it"),
        ({"osaid_class": "obtainable"}, "reference", "no stranger can fetch it"),
        ({"sha256": ""}, "reference", "no stranger can fetch it"),
    ],
)
def test_what_cannot_be_shipped_so_is_refused(lock: dict[str, str], kind: str, words: str) -> None:
    with pytest.raises(ReleaseError, match=words):
        check_shipping({"alpha": {**OPEN, **lock}}, {"alpha": kind})


@pytest.mark.parametrize(
    ("lock", "kind"), [({}, "reference"), ({}, "text"), ({"osaid_class": "unshareable"}, "index"), ({}, "tokens")]
)
def test_what_can_be_is_not(lock: dict[str, str], kind: str) -> None:
    check_shipping({"alpha": {**OPEN, **lock}}, {"alpha": kind})
