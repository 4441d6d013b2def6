"""`openwright data pin`: entries that a recipe takes once a person has said the licence."""

import hashlib
import json

import pytest
import yaml
from debian_fixtures import package
from huggingface_hub import constants
from loopback_hub import Repository, loopback_hub
from pydantic import TypeAdapter

from data_recipes.settings import Source
from openwright import cli

COMMIT = "c0" * 20
STATED = {"licence": {"spdx": "MIT", "evidence": "written for this test"}}


def pinned(capfd, *arguments):
    assert cli.invoke(["data", "pin", *map(str, arguments)]) == 0
    text = capfd.readouterr().out
    (entry,) = yaml.safe_load(text)
    return entry, [line for line in text.splitlines() if line.startswith("#")]


def as_source(entry):
    return TypeAdapter(Source).validate_python(entry, strict=False)


def test_local_files(tmp_path, capfd):
    (tmp_path / "web").mkdir()
    paths = [tmp_path / "web" / f"rows-{number}.jsonl.gz" for number in range(2)]
    for path in paths:
        path.write_bytes(path.name.encode())
    entry, notes = pinned(capfd, *paths, "--data-dir", tmp_path)
    assert entry["files"][1] == {
        "path": "web/rows-1.jsonl.gz",
        "sha256": hashlib.sha256(b"rows-1.jsonl.gz").hexdigest(),
    }
    assert (entry["format"], entry["name"]) == ("jsonl", "rows-0")
    assert any("licence" in note for note in notes)
    assert as_source({**entry, **STATED}).pins == [file["sha256"] for file in entry["files"]]


def test_web_archives(tmp_path, capfd):
    for name in ("a.warc.gz", "b.warc"):
        (tmp_path / name).write_bytes(name.encode())
    entry, notes = pinned(capfd, tmp_path / "a.warc.gz", tmp_path / "b.warc", "--data-dir", tmp_path)
    assert (entry["type"], entry["name"], len(entry["files"])) == ("warc", "a", 2)
    assert as_source(entry).pins == [file["sha256"] for file in entry["files"]]
    assert "licence" in notes[0]
    assert cli.invoke(["data", "pin", str(tmp_path / "a.warc.gz"), str(tmp_path / "missing.warc")]) == 2


def test_a_data_set_of_the_hub(monkeypatch, capfd):
    files = {"README.md": b"#", "data/a.parquet": b"12345", "data/b.parquet": b"1", "notes.txt": b"x"}
    with loopback_hub({"datasets/org/rows": Repository(files, COMMIT)}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        entry, notes = pinned(capfd, "hf:org/rows")
        assert (entry["revision"], entry["format"], entry["files"]) == (COMMIT, "parquet", ["*.parquet"])
        assert "# 2 files, 6 bytes" in notes
        assert as_source({**entry, "card_licence": True}).pins == [COMMIT]
        assert pinned(capfd, "hf:org/rows@main", "--files", "data/b*")[1][0] == "# 1 files, 1 bytes"
        assert not any("resolve" in path for _, path in hub.requests)
        for globs in (["nothing*"], ["data/*", "notes.txt"]):
            options = [option for glob in globs for option in ("--files", glob)]
            assert cli.invoke(["data", "pin", "hf:org/rows", *options]) == 2


def test_a_debian_package(tmp_path, capfd):
    files = package({"README.md": b"# Tiny\n"})
    path = tmp_path / "tiny_1.0-1.dsc"
    path.write_bytes(files[path.name])
    entry, _ = pinned(capfd, path)
    assert (entry["version"], entry["directory"]) == ("1.0-1", "pool/main/t/tiny")
    assert as_source(entry).pins == [hashlib.sha256(files[path.name]).hexdigest()]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["missing.jsonl"], "there is no file"),
        (["program.exe"], "unknown"),
        (["a.jsonl", "b.parquet"], "jsonl, parquet"),
        (["../outside.jsonl"], "lies outside"),
        (["broken.dsc"], "cannot be read"),
    ],
)
def test_what_cannot_be_pinned(names, words, tmp_path, capfd):
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in ("program.exe", "a.jsonl", "b.parquet", "../outside.jsonl", "broken.dsc"):
        (inside / name).write_text(json.dumps({}))
    arguments = [str(inside / name) for name in names]
    assert cli.invoke(["data", "pin", *arguments, "--data-dir", str(inside)]) != 0
    assert words in capfd.readouterr().err
