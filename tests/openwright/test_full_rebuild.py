"""`reproduce --full` on the tiny release: the bundle from a Hub and its sources from an index, both on loopback."""

import json
import shutil
from contextlib import contextmanager

import debian_fixtures
import forge
import pytest
from forge_signatures import Key
from loopback_hub import Repository, files_of, loopback_hub
from loopback_index import serve_archives

PASSED = [(name, "PASS") for name in ("corpus", "pretrain", "sft", "eval", "bundle")]


def report(done):
    return json.loads(done.stdout)


def verdicts(found):
    return [(check["name"], check["verdict"]) for check in found["checks"]]


@pytest.fixture(scope="session")
def published(bundle):
    """The tiny release on a Hub of its own, which child processes ask."""

    @contextmanager
    def serve():
        repositories = {
            "models/org/tiny": Repository(files_of(bundle / "model"), "a1" * 20),
            "datasets/org/tiny-second-0.1-dataset": Repository(files_of(bundle / "dataset"), "d2" * 20),
        }
        with loopback_hub(repositories) as hub, pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", hub.url)
            patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
            yield hub

    return serve


@pytest.fixture(scope="session")
def remade(made_once, published, place, openwright):
    """What remained of rebuilding the published bundle: `work/`, `cache/`, the report, and what was downloaded.

    The data that is given is that of the sources and of a set that is not carried: the tokenizer, made elsewhere, and
    the other set come from the bundle.
    """

    def make(root):
        (root / "data").mkdir(parents=True)
        for name in ("строки.jsonl", "theirs.bin", "theirs.idx", "named.jsonl"):
            shutil.copyfile(place / "scratch" / "data" / name, root / "data" / name)
        arguments = ["reproduce", "hf:org/tiny", "--full", "--yes", "--json", "--cache", str(root / "cache")]
        arguments += ["--data", str(root / "data"), "--work", str(root / "work")]
        cache = place / "scratch" / "cache"
        package = {path.name: path.read_bytes() for path in cache.glob("*/tiny_*")}
        with (
            published(),
            serve_archives(cache) as (url, downloaded),
            debian_fixtures.debian_archive(package) as (archive, asked),
        ):
            done = openwright(*arguments, "--index-url", url, "--debian-archive", archive)
        assert done.returncode == 0, done.stdout + done.stderr
        (root / "report.json").write_text(done.stdout)
        told = {"downloaded": sorted(downloaded), "asked": sorted(asked), "stderr": done.stderr}
        (root / "told.json").write_text(json.dumps(told))

    return made_once("second-release-rebuilt", make)


def test_a_published_bundle_is_made_again_from_itself(remade, bundle):
    found, told = (json.loads((remade / name).read_text()) for name in ("report.json", "told.json"))
    assert verdicts(found) == PASSED
    assert found["bundle"] == f"hf:org/tiny@{'a1' * 20}"
    assert told["downloaded"] == ["azbuka-1.0.tar.gz", "hanzi-1.0.tar.gz", "omega-1.0.tar.gz"]
    assert told["asked"] == ["tiny_1.0-1.debian.tar.xz", "tiny_1.0-1.dsc", "tiny_1.0.orig.tar.xz"]
    assert found["rebuild"]["first_stage_that_differs"] is None
    assert "sources are fetched from" in told["stderr"]
    fetched = remade / "cache" / f"org--tiny@{'a1' * 20}"
    assert not list((fetched / "model" / "code").rglob("__pycache__"))
    digest = forge.read(bundle / "model" / "manifest.json")["content_digest"]
    assert found["rebuild_report"]["stages"][-1] == {
        "stage": "bundle",
        "verdict": "PASS",
        "detail": f"made again, content digest {digest} equal",
        "recorded": digest,
        "rebuilt": digest,
    }
    assert str(remade) not in json.dumps(found["rebuild_report"]), "places of a machine are nobody's business"


def test_the_rebuild_is_attested_and_verify_shows_it(remade, published, openwright, tmp_path):
    key, cache = Key(tmp_path, "alice"), ["--cache", str(tmp_path / "cache")]
    shutil.copytree(remade / "cache", tmp_path / "cache")
    with published():
        made = openwright(
            "attest", "hf:org/tiny", "--key", str(key.private), "--report", str(remade / "report.json"), *cache
        )
        assert made.returncode == 0, made.stderr
        assert "send it to the publisher" in made.stdout
        done = openwright("verify", "hf:org/tiny", "--attester", str(key.public), "--tokens", "none", "--json", *cache)
    found = {check["name"]: check for check in report(done)["checks"]}
    assert found["attestations"]["verdict"] == "PASS", done.stdout
    assert "the whole bundle rebuilt by 1 of those" in found["attestations"]["detail"]
    (line,) = (check for name, check in found.items() if check["check"] == "attestations" and name.endswith(".json"))
    assert key.fingerprint in line["detail"]
    assert "local data sets given by hand, on the recorded platform" in line["detail"]


def test_a_forged_bundle_is_not_what_its_own_code_makes(remade, bundle, place, openwright, tmp_path):
    """One loss in its last bit, all chained, hashed and listed anew; the stages were trained for `remade`."""
    forged = tmp_path / "forged"
    shutil.copytree(bundle, forged)

    def edit(records):
        record = next(r for r in records if r["kind"] == "step" and r["step"] == 5)
        record["loss"] = forge.next_float(record["loss"])

    forge.edit_ledger(forged, "pretrain", edit)
    forge.reseal(forged)
    shutil.copytree(remade / "work", tmp_path / "work")
    arguments = ["reproduce", str(forged), "--full", "--yes", "--json", "--work", str(tmp_path / "work")]
    nowhere = ("--index-url", "http://127.0.0.1:9/", "--debian-archive", "http://127.0.0.1:9/")
    done = openwright(*arguments, "--data", str(place / "scratch" / "data"), *nowhere)
    assert done.returncode == 1, done.stdout + done.stderr
    found = report(done)
    assert verdicts(found) == [("corpus", "PASS"), ("pretrain", "FAIL"), ("bundle", "UNVERIFIED")]
    pretrain = found["checks"][1]["detail"]
    assert "first difference at step 5, record step: numerics" in pretrain
    assert "tensors of the checkpoint at step 6 come out bit for bit" in pretrain
    assert found["rebuild"]["first_stage_that_differs"] == "pretrain"
    assert [stage["verdict"] for stage in found["rebuild_report"]["stages"]] == ["PASS", "FAIL"]


def test_a_source_out_of_reach_is_unverified_and_named(bundle, place, openwright):
    arguments = ["reproduce", str(bundle), "--full", "--yes", "--json", "--debian-archive", "http://127.0.0.1:9/"]
    with serve_archives(place / "scratch" / "cache", without=("hanzi",)) as (url, _):
        done = openwright(*arguments, "--index-url", url, "--data", str(place / "scratch" / "data"))
    assert done.returncode == 3, done.stdout + done.stderr
    corpus, whole = report(done)["checks"]
    assert (corpus["name"], corpus["verdict"]) == ("corpus", "UNVERIFIED")
    assert "source hanzi 1.0" in corpus["detail"]
    assert (whole["name"], whole["verdict"]) == ("bundle", "UNVERIFIED")
    (stage,) = report(done)["rebuild_report"]["stages"]
    assert (stage["stage"], stage["rebuilt"]) == ("corpus", None)


def test_what_nobody_gives_and_no_config_names_is_unverified_before_anything_runs(bundle, openwright):
    done = openwright("reproduce", str(bundle), "--full", "--yes", "--json")
    assert done.returncode == 3
    rows, tokens, named, second, *_ = report(done)["checks"]
    assert ("source rows" in rows["detail"], "source theirs" in tokens["detail"]) == (True, True)
    assert "made by a test" in rows["detail"]
    assert "evaluation set named is not in this bundle" in named["detail"]
    assert "source tiny comes from a Debian archive" in second["detail"]
    assert "rebuilding" not in done.stderr
    assert report(done)["rebuild_report"] is None
