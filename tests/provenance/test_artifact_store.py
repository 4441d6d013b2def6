import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.artifacts import find_artifact, finish, latest_artifact, load_artifact, work_dir
from provenance.canonical import read_json, write_json
from provenance.digests import FileEntry, Parent, content_digest, sha256_bytes, tagged_digest
from provenance.errors import ArtifactError, CodeError
from provenance.fingerprint import CodeIdentity, require_clean
from provenance.stage import StageContext, StageSpec, run_stage

FINGERPRINT = sha256_bytes(b"fingerprint")
CODE = CodeIdentity("c" * 40, False, "d" * 64)


def fill(work):
    (work / "data").mkdir(exist_ok=True)
    (work / "data" / "текст.txt").write_text("Ωμέγα\n", encoding="utf-8")
    (work / "journal.jsonl").write_text("observed\n")


def seal(store, fingerprint=FINGERPRINT, journal="observed\n", parents=()):
    work = work_dir(store, "corpus", fingerprint)
    fill(work)
    (work / "journal.jsonl").write_text(journal)
    return finish(
        work,
        kind="corpus",
        name="tiny",
        fingerprint=fingerprint,
        parents=parents,
        recipe={"seed": 1},
        code=CODE,
        observations=("journal.jsonl",),
    )


def test_a_finished_artifact_is_found_again(tmp_path):
    made = seal(tmp_path)
    found = find_artifact(tmp_path, "corpus", FINGERPRINT)
    assert found == made == latest_artifact(tmp_path, "corpus")
    assert [entry.path for entry in found.results] == ["data/текст.txt"]
    assert [entry.path for entry in found.observations] == ["journal.jsonl"]
    assert not list(tmp_path.rglob(".work-*"))


def test_another_fingerprint_finds_nothing(tmp_path):
    seal(tmp_path)
    assert find_artifact(tmp_path, "corpus", sha256_bytes(b"other")) is None
    assert find_artifact(tmp_path, "pretrain", FINGERPRINT) is None


def test_observations_do_not_enter_the_content_digest(tmp_path):
    first, second = seal(tmp_path / "a"), seal(tmp_path / "b", journal="seen at another time\n")
    assert first.content_digest == second.content_digest
    assert first.observations != second.observations


def test_a_crash_before_the_manifest_leaves_no_artifact(tmp_path):
    fill(work_dir(tmp_path, "corpus", FINGERPRINT))
    assert find_artifact(tmp_path, "corpus", FINGERPRINT) is None
    with pytest.raises(ArtifactError, match="no finished corpus"):
        latest_artifact(tmp_path, "corpus")


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_crash_while_sealing_leaves_no_artifact_and_the_work(tmp_path, monkeypatch, function):
    def crash(*arguments):
        raise OSError("power cut")

    monkeypatch.setattr(os, function, crash)
    with pytest.raises(OSError, match="power cut"):
        seal(tmp_path)
    monkeypatch.undo()
    assert find_artifact(tmp_path, "corpus", FINGERPRINT) is None
    assert seal(tmp_path).content_digest


def test_a_changed_file_is_named(tmp_path):
    artifact = seal(tmp_path)
    (artifact.path / "data" / "текст.txt").write_text("Ωμεγα\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"текст\.txt"):
        find_artifact(tmp_path, "corpus", FINGERPRINT)


def test_a_changed_observation_is_named(tmp_path):
    artifact = seal(tmp_path)
    (artifact.path / "journal.jsonl").write_text("other\n")
    with pytest.raises(ArtifactError, match=r"journal\.jsonl"):
        load_artifact(artifact.path)


def test_a_missing_file_is_named(tmp_path):
    artifact = seal(tmp_path)
    (artifact.path / "data" / "текст.txt").unlink()
    with pytest.raises(ArtifactError, match=r"(?s)missing|текст"):
        load_artifact(artifact.path)


def test_an_extra_file_is_named(tmp_path):
    artifact = seal(tmp_path)
    (artifact.path / "data" / "extra.txt").write_text("extra")
    with pytest.raises(ArtifactError, match=r"extra\.txt"):
        load_artifact(artifact.path)


def test_a_manifest_whose_digest_was_edited_is_refused(tmp_path):
    artifact = seal(tmp_path)
    values = read_json(artifact.path / "manifest.json")
    write_json(artifact.path / "manifest.json", {**values, "content_digest": "0" * 64})
    with pytest.raises(ArtifactError, match="content digest"):
        load_artifact(artifact.path)


def test_an_unknown_format_is_refused(tmp_path):
    artifact = seal(tmp_path)
    values = read_json(artifact.path / "manifest.json")
    write_json(artifact.path / "manifest.json", {**values, "format": "openwright-artifact/99"})
    with pytest.raises(ArtifactError, match="openwright-artifact/1"):
        load_artifact(artifact.path)


names = st.text("abcдж", min_size=1, max_size=5)
entries = st.lists(
    st.builds(FileEntry, names, st.integers(0, 99), st.sampled_from(["a" * 64, "b" * 64])),
    min_size=1,
    max_size=4,
    unique_by=lambda entry: entry.path,
)
parents = st.lists(st.builds(Parent, names, names, st.sampled_from(["e" * 64, "f" * 64])), min_size=1, max_size=2)


@given(names, entries, parents)
def test_the_content_digest_changes_with_every_input(kind, results, ancestors):
    base = content_digest(kind, results, ancestors)
    assert base == content_digest(kind, results[::-1], ancestors[::-1])
    entry, parent = results[0], ancestors[0]
    changed = [
        (kind + "x", results, ancestors),
        (kind, [FileEntry(entry.path + "x", entry.size_bytes, entry.sha256), *results[1:]], ancestors),
        (kind, [FileEntry(entry.path, entry.size_bytes + 1, entry.sha256), *results[1:]], ancestors),
        (kind, [FileEntry(entry.path, entry.size_bytes, "c" * 64), *results[1:]], ancestors),
        (kind, results[1:], ancestors),
        (kind, results, [Parent(parent.role + "x", parent.name, parent.content_digest), *ancestors[1:]]),
        (kind, results, [Parent(parent.role, parent.name + "x", parent.content_digest), *ancestors[1:]]),
        (kind, results, [Parent(parent.role, parent.name, "0" * 64), *ancestors[1:]]),
        (kind, results, ancestors[1:]),
    ]
    assert base not in {content_digest(*inputs) for inputs in changed}


def test_the_name_of_a_construction_is_part_of_its_digest():
    assert tagged_digest("content/1", {}) != tagged_digest("content/2", {})
    assert tagged_digest("content/1", {}) == sha256_bytes(b"openwright:content/1\n{}")


SPEC = StageSpec("corpus", ("provenance",), ("numpy",))


def test_a_stage_runs_once(tmp_path):
    context, calls = StageContext("tiny", tmp_path, CODE), []

    def body(work):
        calls.append(work)
        fill(work)

    first = run_stage(context, SPEC, {"seed": 1}, [], body)
    assert run_stage(context, SPEC, {"seed": 1}, [], body) == first
    assert len(calls) == 1
    run_stage(context, SPEC, {"seed": 2}, [], body)
    assert len(calls) == 2


def test_an_interrupted_stage_goes_on_in_its_directory(tmp_path):
    context = StageContext("tiny", tmp_path, CODE)

    def dies(work):
        (work / "half").write_text("done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(context, SPEC, {}, [], dies)
    seen = []

    def goes_on(work):
        seen.extend(path.name for path in work.iterdir())

    run_stage(context, SPEC, {}, [], goes_on)
    assert seen == ["half"]


def test_what_a_dev_run_made_is_not_used_by_a_clean_one(tmp_path):
    calls = []
    for dev in (True, False):
        run_stage(
            StageContext("tiny", tmp_path, CODE, dev), SPEC, {}, [], lambda work: calls.append(work) or fill(work)
        )
    assert len(calls) == 2
    assert not latest_artifact(tmp_path, "corpus").dev


def test_a_dirty_tree_is_refused_unless_dev():
    dirty = CodeIdentity("c" * 40, True, "d" * 64)
    with pytest.raises(CodeError, match="--dev"):
        require_clean(dirty, dev=False)
    require_clean(dirty, dev=True)
    require_clean(CODE, dev=False)
