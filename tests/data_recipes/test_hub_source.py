"""Sources of type `hub`: data sets of a Hub on loopback, asked by the library's own client."""

import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from loopback_hub import LARGE_BYTES, Repository, git_blob_id, loopback_hub
from pydantic import ValidationError

from data_recipes.hub_settings import HubSource
from data_recipes.hub_source import HubReader
from data_recipes.reading import PartReport, ReadingContext, ReadingLimits, SourcePart
from provenance.digests import sha256_bytes
from provenance.errors import ConfigError, DataError, SourceError

ROOT = Path(__file__).resolve().parent.parent.parent
COMMIT = "c0" * 20
NAME = "datasets/org/rows"
CARD = b"---\nlicense: cc-by-4.0\npretty_name: Rows\n---\n# Rows\n"
ATTRIBUTION = "Creative Commons - Attribution - https://creativecommons.org/licenses/by/4.0/"
ROWS = [{"text": f"row {number}", "metadata": {"license": ATTRIBUTION, "n": number}} for number in range(3)]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows):
    output = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), output)
    return output.getvalue()


LARGE = jsonl([{"text": "large " * 100, "metadata": {"license": "mit"}}] * 60)
FILES = {
    "README.md": CARD,
    "data/a.jsonl.gz": gzip.compress(jsonl(ROWS), mtime=0),
    "data/b.jsonl": LARGE,
    "data/skipped.jsonl": b"never read\n",
    "pq/a.parquet": parquet(ROWS),
    ".gitattributes": b"",
}


@pytest.fixture
def hub(monkeypatch):
    with loopback_hub({NAME: Repository(dict(FILES), COMMIT)}) as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


def source(**changes):
    values = {
        "type": "hub",
        "name": "rows",
        "repo_id": "org/rows",
        "revision": COMMIT,
        "format": "jsonl",
        "files": ["data/*"],
        "skip": ["*/skipped*"],
        "licence_column": "metadata.license",
        "split": "train",
        "as_of": "2026-11-25",
    }
    return HubSource.model_validate({**values, **changes})


def read(pinned, cache_dir, **context):
    reader = HubReader(pinned, ReadingContext(ReadingLimits(), cache_dir, cache_dir, **context))
    documents, reports = [], []
    for part in reader.parts():
        reports.append(PartReport())
        as_sent = SourcePart(**json.loads(json.dumps(part.as_json())))
        documents += [extracted.document for extracted in reader.read(as_sent, reports[-1])]
    return documents, reader.lock(reports)


def test_rows_of_a_pinned_commit_with_their_licences(hub, tmp_path):
    documents, lock = read(source(), tmp_path)
    assert [document.text for document in documents[:3]] == ["row 0", "row 1", "row 2"]
    assert len(documents) == 63
    assert [documents[0].licence.spdx, documents[3].licence.spdx] == ["CC-BY-4.0", "MIT"]
    assert documents[0].licence.declared == ATTRIBUTION
    assert documents[0].path == "data/a.jsonl.gz#0"
    assert documents[0].source_digest == sha256_bytes(FILES["data/a.jsonl.gz"])
    assert lock["files"] == [
        {
            "path": path,
            "sha256": sha256_bytes(FILES[path]),
            "size_bytes": len(FILES[path]),
            "blob_id": git_blob_id(FILES[path]) if len(FILES[path]) < LARGE_BYTES else "",
        }
        for path in ("data/a.jsonl.gz", "data/b.jsonl")
    ]
    assert (lock["repo_id"], lock["revision"]) == ("org/rows", COMMIT)
    assert COMMIT in lock["obtain"]
    assert lock["licence"]["column"] == "metadata.license"
    assert not any("skipped" in path for _, path in hub.requests if "resolve" in path)


def test_parquet_and_a_second_run_without_fetching(hub, tmp_path):
    pinned = source(format="parquet", files=["pq/*.parquet"])
    first = read(pinned, tmp_path)
    assert [document.licence.spdx for document in first[0]] == ["CC-BY-4.0"] * 3
    hub.requests.clear()
    assert read(pinned, tmp_path) == first
    assert not any("resolve" in path for _, path in hub.requests)


def test_datasets_load_dataset_gives_the_same_rows(hub, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    options = {"data_files": ["pq/a.parquet"], "split": "train", "streaming": True}
    rows = datasets.load_dataset("org/rows", revision=COMMIT, **options)
    documents, _ = read(source(format="parquet", files=["pq/*.parquet"]), tmp_path)
    assert [document.text for document in documents] == [row["text"] for row in rows]


def test_the_card_is_weak_evidence_for_rows_without_a_licence(hub, tmp_path):
    hub.repositories[NAME].files["data/a.jsonl.gz"] = gzip.compress(
        jsonl(
            [
                {"text": "own", "metadata": {"license": "mit"}},
                {"text": "none"},
                {"text": "odd", "metadata": {"license": "?"}},
            ]
        )
    )
    documents, lock = read(source(files=["data/a*"], card_licence=True), tmp_path)
    kinds = [(document.licence.spdx, document.licence.evidence_kind) for document in documents]
    assert kinds == [("MIT", "dataset-field"), ("CC-BY-4.0", "hf-card"), ("NOASSERTION", "none")]
    of_card = documents[1].licence
    assert (of_card.evidence_locator, of_card.evidence_sha256) == ("README.md:license", sha256_bytes(CARD))
    assert lock["licence"]["card"] == {"declared": "cc-by-4.0", "sha256": sha256_bytes(CARD)}


YAML_BOMB = b"l0: &l0 [mit]\n" + b"".join(b"l%d: &l%d [*l%d, *l%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 41))


@pytest.mark.parametrize(
    ("card", "spdx"),
    [
        (b"---\nlicense: [mit, isc]\n---\n", "MIT AND ISC"),
        (b"---\nlicense: other\n---\n", "NOASSERTION"),
        (b"---\nlicense: {a: b}\n---\n", "NOASSERTION"),
        (b"---\n" + YAML_BOMB + b"license: *l40\n---\n", "NOASSERTION"),
    ],
)
def test_what_cards_say(card, spdx, hub, tmp_path):
    hub.repositories[NAME].files["README.md"] = card
    documents, _ = read(source(files=["data/a*"], card_licence=True, licence_column=None), tmp_path)
    assert {document.licence.spdx for document in documents} == {spdx}


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "no card"),
        (b"# Rows\n", "names no licence"),
        (b"---\nlicense: [[[\n---\n", "cannot be read|names no licence"),
        (b"---\n" + b"- " * 5000 + b"\n---\n", "cannot be read|names no licence"),
        (b"---\nlicense: mit\xff\n---\n", "cannot be read"),
    ],
)
def test_a_card_without_a_licence_is_an_error_where_it_is_asked(card, message, hub, tmp_path):
    files = hub.repositories[NAME].files
    files.pop("README.md") if card is None else files.update({"README.md": card})
    with pytest.raises(SourceError, match=message):
        read(source(files=["data/a*"], card_licence=True, licence_column=None), tmp_path)


def test_a_stated_licence_holds_for_all_rows(hub, tmp_path):
    stated = {"spdx": "ODC-By-1.0", "evidence": "README: released under ODC-By"}
    documents, _ = read(source(licence_column=None, licence=stated), tmp_path)
    assert {document.licence.spdx for document in documents} == {"ODC-By-1.0"}


@pytest.mark.parametrize("path", ["data/a.jsonl.gz", "data/b.jsonl"])
def test_other_bytes_than_the_commit_holds_are_refused_and_not_kept(path, hub, tmp_path):
    repository = hub.repositories[NAME]
    listed = repository.entries()
    repository.entries = lambda: listed
    data = repository.files[path]
    repository.files[path] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(SourceError, match=r"sha256|git blob id") as caught:
        read(source(files=[path]), tmp_path)
    assert path in caught.value.where
    assert not [found for found in (tmp_path / "hub").rglob("*") if found.is_file() and found.stat().st_size]
    repository.files[path] = data
    assert read(source(files=[path]), tmp_path)[0]


def test_a_changed_file_in_the_cache_is_fetched_again(hub, tmp_path):
    whole = read(source(files=["data/b*"]), tmp_path)
    (path,) = tmp_path.rglob("b.jsonl")
    path.write_bytes(LARGE.replace(b"large", b"small"))
    assert read(source(files=["data/b*"]), tmp_path) == whole


def test_a_cut_connection_is_gone_on_with(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.repositories[NAME].cut_after["data/b.jsonl"] = 5000
    documents, _ = read(source(files=["data/b*"]), tmp_path)
    assert len(documents) == 60
    assert hub.ranges == [("data/b.jsonl", 5000)]


FETCH = """
import sys
from pathlib import Path
from huggingface_hub import constants
from data_recipes.hub_fetch import HubRepository, fetch_file, list_files
constants.DOWNLOAD_CHUNK_SIZE = 1000
repository = HubRepository("org/rows", sys.argv[1])
fetch_file(repository, list_files(repository)["data/b.jsonl"], Path(sys.argv[2]))
"""


def test_a_download_that_was_killed_goes_on_in_another_process(hub, tmp_path):
    repository = hub.repositories[NAME]
    repository.hold_after["data/b.jsonl"] = 30_000
    partial = tmp_path / "hub" / sha256_bytes(LARGE) / ".partial"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([sys.executable, "-c", FETCH, COMMIT, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 60
    while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    repository.released.set()
    here = partial.stat().st_size
    assert LARGE.startswith(partial.read_bytes())
    assert 0 < here < 30_000
    documents, _ = read(source(files=["data/b*"]), tmp_path)
    assert len(documents) == 60
    assert hub.ranges == [("data/b.jsonl", here)]
    assert not partial.exists()


@pytest.mark.parametrize("left", [LARGE + b"more", b"other bytes"])
def test_a_partial_file_of_other_bytes_is_not_taken(left, hub, tmp_path):
    place = tmp_path / "hub" / sha256_bytes(LARGE)
    place.mkdir(parents=True)
    (place / ".partial").write_bytes(left)
    if len(left) > len(LARGE):
        assert len(read(source(files=["data/b*"]), tmp_path)[0]) == 60
        return
    with pytest.raises(SourceError, match="sha256"):
        read(source(files=["data/b*"]), tmp_path)
    assert len(read(source(files=["data/b*"]), tmp_path)[0]) == 60


def test_a_set_that_does_not_fit_is_read_file_by_file(hub, tmp_path):
    kept = read(source(), tmp_path / "kept")
    assert read(source(), tmp_path / "passed", keep_fetched=False) == kept
    assert {path.name for path in (tmp_path / "passed").rglob("*") if path.is_file()} == {".lock"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hub: hub.repositories.clear(), "no such repository"),
        (lambda hub: setattr(hub.repositories[NAME], "commit", "d0" * 20), "no such revision|answers with commit"),
        (lambda hub: setattr(hub.repositories[NAME], "refuse", (403, "GatedRepo")), "gated"),
        (lambda hub: hub.repositories[NAME].files.pop("data/b.jsonl"), "none of"),
        (lambda hub: hub.repositories[NAME].listed.update({"../b.jsonl": (1, "0" * 64)}), "with the name"),
        (lambda hub: hub.repositories[NAME].listed.update({"data/b.jsonl": (1, "latest")}), "without a digest"),
    ],
)
def test_what_a_hub_may_answer(change, message, hub, tmp_path):
    change(hub)
    with pytest.raises(SourceError, match=message) as caught:
        read(source(files=["data/b*"]), tmp_path)
    assert "org/rows" in caught.value.where


def test_a_listing_without_an_end_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("data_recipes.hub_fetch._MAX_FILES", 3)
    with pytest.raises(SourceError, match="more than 3 files"):
        read(source(), tmp_path)


def test_an_unreadable_file_of_the_right_digest_is_named(hub, tmp_path):
    hub.repositories[NAME].files["data/a.jsonl.gz"] = b"not compressed"
    with pytest.raises(DataError, match="cannot be read"):
        read(source(files=["data/a*"]), tmp_path)


def test_without_a_commit_nothing_is_asked(hub, tmp_path):
    with pytest.raises(ConfigError, match="names no commit of org/rows") as caught:
        read(source(revision=None), tmp_path)
    assert "openwright data pin hf:org/rows" in caught.value.next_command
    assert hub.requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": "main"},
        {"revision": COMMIT[:12]},
        {"repo_id": "rows"},
        {"repo_id": "../org/rows"},
        {"files": []},
        {"licence_column": None},
        {"licence": {"spdx": "MIT", "evidence": "x"}},
    ],
)
def test_recipes_that_pin_too_little_are_refused(changes):
    with pytest.raises(ValidationError):
        source(**changes)


def test_a_full_disk_is_no_error_of_the_hub(hub, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("data_recipes.hub_fetch.sync_path", full)
    with pytest.raises(OSError, match="No space"):
        read(source(files=["data/b*"]), tmp_path)
