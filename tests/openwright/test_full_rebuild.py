"""`reproduce --full` on the tiny release: sources from an index on loopback, all else from the bundle alone."""

import json

from loopback_index import serve_archives


def report(done):
    return json.loads(done.stdout)


def test_a_bundle_is_made_again_from_itself(bundle, place, tmp_path, openwright):
    arguments = ["reproduce", str(bundle), "--full", "--yes", "--json", "--data", str(place / "scratch" / "data")]
    with serve_archives(place / "scratch" / "cache") as (url, downloaded):
        done = openwright(*arguments, "--index-url", url, "--work", str(tmp_path / "work"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = report(done)
    assert [(check["name"], check["verdict"]) for check in found["checks"]] == [
        ("corpus", "PASS"),
        ("pretrain", "PASS"),
        ("sft", "PASS"),
        ("eval", "PASS"),
        ("bundle", "PASS"),
    ]
    assert sorted(downloaded) == ["azbuka-1.0.tar.gz", "hanzi-1.0.tar.gz", "omega-1.0.tar.gz"]
    assert found["rebuild"]["first_stage_that_differs"] is None
    assert "sources are fetched from" in done.stderr
    assert not list((bundle / "model" / "code").rglob("__pycache__"))


def test_a_source_out_of_reach_is_unverified_and_named(bundle, place, tmp_path, openwright):
    arguments = ["reproduce", str(bundle), "--full", "--yes", "--json"]
    with serve_archives(place / "scratch" / "cache", without=("hanzi",)) as (url, _):
        done = openwright(*arguments, "--index-url", url, "--data", str(place / "scratch" / "data"))
    assert done.returncode == 3, done.stdout + done.stderr
    corpus, whole = report(done)["checks"]
    assert (corpus["name"], corpus["verdict"]) == ("corpus", "UNVERIFIED")
    assert "source hanzi 1.0" in corpus["detail"]
    assert (whole["name"], whole["verdict"]) == ("bundle", "UNVERIFIED")


def test_local_data_that_nobody_gives_is_unverified_before_anything_runs(bundle, openwright):
    done = openwright("reproduce", str(bundle), "--full", "--yes", "--json")
    assert done.returncode == 3
    first, *_ = report(done)["checks"]
    assert "source rows" in first["detail"]
    assert "made by a test" in first["detail"]
    assert "rebuilding" not in done.stderr
