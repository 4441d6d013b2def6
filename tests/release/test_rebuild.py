"""What `--full` makes of stages that come out otherwise: stand-ins for the bundle's programs, nothing is trained."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest
from conftest import Built

from provenance.canonical import read_json, write_json
from provenance.errors import BundleError, StoppedForRequeue
from release.rebuild import Rebuild, run_rebuild
from release.rebuild_plan import RebuildOptions, plan_rebuild

STAGES = ["corpus", "pretrain", "sft", "eval", "bundle"]


@pytest.fixture
def rebuilding(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rebuild]:
    """Rebuild a bundle with a stand-in that lays out the recorded artifacts, changed where a test says so."""
    recorded = {**{stage: artifact.path for stage, artifact in built.artifacts.items()}, "release": built.artifact.path}

    def rebuild(
        bundle: Path = built.bundle,
        changes: dict[str, Callable[[Path], None]] | None = None,
        answers: dict[str, tuple[int, Any]] | None = None,
        options: RebuildOptions = RebuildOptions(),  # noqa: B008
    ) -> Rebuild:
        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
            stage = Path(command[command.index("run") + 1]).stem
            commands.append(command)
            if stage in (answers or {}):
                code, document = (answers or {})[stage]
                return subprocess.CompletedProcess(command, code, json.dumps(document).encode())
            path = tmp_path / "made" / stage
            shutil.copytree(recorded[stage], path)
            (changes or {}).get(stage, lambda path: None)(path)
            document = {"artifacts": {stage: {"path": str(path)}}}
            return subprocess.CompletedProcess(command, 0, json.dumps(document).encode())

        commands.clear()
        monkeypatch.setattr("release.interpreters.subprocess.run", run)
        return run_rebuild(plan_rebuild(bundle, tmp_path / "work", options))

    commands: list[list[str]] = []
    rebuild.commands = commands  # type: ignore[attr-defined]
    return rebuild


def verdicts(found: Rebuild) -> list[tuple[str, str]]:
    return [(result.name, result.verdict) for result in found.results]


def other_content(*paths: str) -> Callable[[Path], None]:
    """Change the listed digests of result files and with them the content digest, as an honest other result has it."""

    def change(artifact: Path) -> None:
        manifest = read_json(artifact / "manifest.json")
        for entry in manifest["results"]:
            if entry["path"] in paths:
                entry["sha256"] = "0" * 64
        write_json(artifact / "manifest.json", {**manifest, "content_digest": "1" * 64})

    return change


def test_equal_content_all_the_way_is_a_pass(rebuilding: Any, built: Built) -> None:
    found = rebuilding()
    assert verdicts(found) == [(name, "PASS") for name in STAGES]
    digest = read_json(built.bundle / "model" / "manifest.json")["content_digest"]
    assert digest in found.results[-1].detail
    assert found.as_json()["first_stage_that_differs"] is None
    assert {"ledger head", "weights"} == set(found.as_json()["stages"][1]["figures"])


def test_the_first_stage_that_differs_ends_it_and_is_named(rebuilding: Any) -> None:
    found = rebuilding(changes={"corpus": other_content("sources.lock")})
    assert verdicts(found) == [("corpus", "FAIL"), ("bundle", "UNVERIFIED")]
    assert "1 result files differ, the first sources.lock" in found.results[0].detail
    assert found.as_json()["first_stage_that_differs"] == "corpus"
    assert len(rebuilding.commands) == 1


def test_a_corpus_made_with_other_libraries_is_not_judged(rebuilding: Any) -> None:
    def change(artifact: Path) -> None:
        other_content("sources.lock")(artifact)
        path = artifact / "environment.json"
        values = read_json(path)
        values["distributions"]["pyarrow"] = {"version": "99"}
        values["platform"]["cpu_model"] = "another, which decides no byte of a corpus"
        write_json(path, values)

    result = rebuilding(changes={"corpus": change}).results[0]
    assert result.verdict == "UNVERIFIED"
    assert "library pyarrow" in result.detail
    assert "cpu_model" not in result.detail


def test_a_training_stage_that_differs_is_located(rebuilding: Any) -> None:
    def change(artifact: Path) -> None:
        other_content("ledger.jsonl")(artifact)
        lines = (artifact / "ledger.jsonl").read_bytes().splitlines()
        place = next(number for number, line in enumerate(lines) if b'"step":2' in line and b'"loss"' in line)
        record = json.loads(lines[place])
        record["loss"] = forge.next_float(record["loss"])
        lines[place] = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        (artifact / "ledger.jsonl").write_bytes(b"\n".join(lines) + b"\n")

    found = rebuilding(changes={"pretrain": change})
    assert verdicts(found) == [("corpus", "PASS"), ("pretrain", "FAIL"), ("bundle", "UNVERIFIED")]
    assert "first difference at step 2" in found.results[1].detail
    assert "tensors of the checkpoint at step 2 come out bit for bit" in found.results[1].detail


def test_another_bundle_of_equal_stages_fails(rebuilding: Any) -> None:
    def change(artifact: Path) -> None:
        record = read_json(artifact / "release.json")
        (artifact / record["bundle"] / "model" / "code" / "train" / "loop.py").write_text("# another\n")
        write_json(artifact / "release.json", {**record, "content_digest": "1" * 64})

    found = rebuilding(changes={"release": change})
    assert verdicts(found)[-1] == ("bundle", "FAIL")
    assert "the first code/train/loop.py" in found.results[-1].detail


def test_files_that_are_not_those_of_the_digest_fail_before_anything_is_made(
    rebuilding: Any, built: Built, tmp_path: Path
) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(built.bundle, forged)
    path = forged / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = rebuilding(bundle=forged)
    assert found.results[0].verdict == "FAIL"
    assert found.results[-1].verdict == "UNVERIFIED"
    assert rebuilding.commands == []


@pytest.mark.parametrize(
    ("document", "verdict", "words"),
    [
        ({"error": "SourceError", "found": "no such project", "where": "source x 1.0"}, "UNVERIFIED", "source x 1.0"),
        ({"error": "CodeError", "found": "library x is not installed"}, "UNVERIFIED", "cannot be made here"),
        ({"error": "DataError", "found": "no document"}, "FAIL", "the rebuild failed"),
        ({"error": "JobKilled", "found": "a process was killed (SIGKILL)"}, "UNVERIFIED", "was killed (SIGKILL)"),
        ({"error": "TrainingError", "found": "ended with code 139"}, "FAIL", "the rebuild failed"),
        ({}, "FAIL", "exit code 1"),
    ],
)
def test_what_an_error_means(rebuilding: Any, document: Any, verdict: str, words: str) -> None:
    found = rebuilding(answers={"corpus": (1, document)})
    assert verdicts(found) == [("corpus", verdict), ("bundle", "UNVERIFIED")]
    assert words in found.results[0].detail


def test_a_source_that_the_bundle_carries_and_that_is_another_is_the_bundles_fault(
    rebuilding: Any, built: Built
) -> None:
    where = str(built.bundle / "dataset" / "taken-tokenizer" / "tokenizer.json")
    document = {"error": "SourceError", "found": "tokenizer.file: another", "where": where}
    assert verdicts(rebuilding(answers={"corpus": (1, document)}))[0] == ("corpus", "FAIL")


def test_code_that_tells_nothing_fails(rebuilding: Any) -> None:
    assert verdicts(rebuilding(answers={"corpus": (0, {"artifacts": {}})}))[0] == ("corpus", "FAIL")


@pytest.mark.parametrize(("code", "verdict"), [(-9, "UNVERIFIED"), (137, "UNVERIFIED"), (-11, "FAIL"), (134, "FAIL")])
def test_a_killed_rebuild_says_nothing_and_a_crashed_one_fails(rebuilding: Any, code: int, verdict: str) -> None:
    assert verdicts(rebuilding(answers={"sft": (code, {})}))[-2:] == [("sft", verdict), ("bundle", "UNVERIFIED")]


def test_a_stop_is_a_stop(rebuilding: Any) -> None:
    with pytest.raises(StoppedForRequeue, match="stopped in sft"):
        rebuilding(answers={"sft": (75, {})})


def test_the_commands_fetch_anew_and_change_no_result(rebuilding: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    rebuilding(options=RebuildOptions(2, data, "http://127.0.0.1:9/simple/", "http://127.0.0.1:9/debian"))
    command = rebuilding.commands[1]
    given = [command[place + 1] for place, word in enumerate(command) if word == "--set"]
    assert f'corpus.execution.cache_dir="{tmp_path / "work" / "sources"}"' in given
    assert f'corpus.execution.data_dir="{data}"' in given
    assert 'corpus.execution.index_url="http://127.0.0.1:9/simple/"' in given
    assert 'corpus.execution.debian_archive="http://127.0.0.1:9/debian"' in given
    assert "pretrain.execution.num_processes=2" in given
    assert "sft.execution.trackers=[]" in given
    assert "sft.execution.device=cpu" in given
    assert all(".execution." in override for override in given)
    assert command[1:4] == ["-B", "-m", "openwright"]
    assert command[command.index("run") + 1].startswith(str(tmp_path / "work" / "code" / "configs"))


def test_the_recorded_layout_is_taken_where_bits_depend_on_it(bundle_of: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "native"
    shutil.copytree(bundle_of("retained"), bundle)
    folder = bundle / "model" / "code" / "configs" / "some"
    folder.mkdir(parents=True)
    (folder / "release.yaml").write_text("name: some\n")
    (bundle / "model" / "code" / "train" / "settings.py").write_text("    shard_size: int\n")  # it knows no device
    plan = plan_rebuild(bundle, tmp_path / "work", RebuildOptions())
    assert "pretrain.execution.num_processes=1" in plan.overrides
    assert not any("device" in override for override in plan.overrides)
    assert "sft.execution.num_processes=null" in plan.overrides


def test_what_a_bundle_cannot_be_made_from_is_said_before_anything_runs(
    bundle_of: Any, rebuilding: Any, tmp_path: Path
) -> None:
    bundle = tmp_path / "branch"
    shutil.copytree(bundle_of("branch"), bundle)
    with pytest.raises(BundleError, match="0 config directories"):
        plan_rebuild(bundle, tmp_path / "work", RebuildOptions())
    folder = bundle / "model" / "code" / "configs" / "some"
    folder.mkdir(parents=True)
    (folder / "release.yaml").write_text("name: some\n")
    lock = read_json(bundle / "dataset" / "sources.lock")
    lock["sources"][0] |= {"type": "dataset", "obtain": "ask us"}
    write_json(bundle / "dataset" / "sources.lock", lock)
    obstacles = plan_rebuild(bundle, tmp_path / "work", RebuildOptions()).obstacles
    assert [result.verdict for result in obstacles] == ["UNVERIFIED", "UNVERIFIED"]
    assert "step 2 of another run" in obstacles[0].detail
    assert "obtained from: ask us" in obstacles[1].detail
    given = plan_rebuild(bundle, tmp_path / "work", RebuildOptions(data_dir=tmp_path)).obstacles
    assert len(given) == 1
    for kind in ("chat", "warc"):
        lock["sources"][0]["type"] = kind
        write_json(bundle / "dataset" / "sources.lock", lock)
        assert len(plan_rebuild(bundle, tmp_path / "work", RebuildOptions()).obstacles) == 2
    lock["sources"][0]["type"] = "debian"
    write_json(bundle / "dataset" / "sources.lock", lock)
    assert "give --debian-archive URL" in plan_rebuild(bundle, tmp_path / "work", RebuildOptions()).obstacles[1].detail
    given = plan_rebuild(bundle, tmp_path / "work", RebuildOptions(debian_archive="http://127.0.0.1:9/")).obstacles
    assert len(given) == 1
    (folder / "corpus.yaml").write_text("execution: {debian_archive: http://127.0.0.1:9/}\n")
    assert len(plan_rebuild(bundle, tmp_path / "work", RebuildOptions()).obstacles) == 1
