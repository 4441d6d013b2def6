"""The standalone verifier on an honest bundle and on forgeries, each caught by the check that must catch it."""

import json
import random
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest

from release.code_identity import judge_code
from release.verify import CheckResult, verify_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def forged(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "forged")
    return tmp_path / "forged"


def failures(bundle: Path, **options: Any) -> list[CheckResult]:
    return [result for result in verify_bundle(bundle, tokens="all", **options) if result.verdict == "FAIL"]


def failed_names(bundle: Path) -> set[str]:
    return {result.name for result in failures(bundle)}


def test_an_honest_bundle_passes_with_its_digest(bundle: Path, made: Any) -> None:
    results = verify_bundle(bundle, expect=made["summary"]["manifest_digest"], tokens="all")
    assert {result.verdict for result in results} == {"PASS"}
    assert {result.check for result in results} == {"bytes", "records"}


def test_without_a_digest_the_identity_stays_unverified(bundle: Path) -> None:
    results = verify_bundle(bundle, tokens="none")
    assert failures(bundle) == []
    assert next(result.name for result in results if result.verdict == "UNVERIFIED") == "identity"


def test_the_program_in_the_bundle_runs_without_site_packages(bundle: Path, made: Any, tmp_path: Path) -> None:
    program = bundle / "model" / "verify.py"
    digest = made["summary"]["manifest_digest"]
    command = [sys.executable, "-S", "-B", str(program)]
    good = subprocess.run([*command, "--expect", digest, "--json"], capture_output=True, text=True, cwd=tmp_path)
    assert good.returncode == 0, good.stdout
    assert {check["verdict"] for check in json.loads(good.stdout)["checks"]} == {"PASS"}
    assert subprocess.run([*command, "--expect", "0" * 64], capture_output=True).returncode == 1
    assert subprocess.run(command, capture_output=True).returncode == 3
    assert subprocess.run([*command, "--nonsense"], capture_output=True).returncode == 2


def test_an_older_python_is_told_so_and_no_bundle_is_called_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "hexversion", 0x03090000)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "release" / "verify.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "needs Python 3.10 or later" in capsys.readouterr().err


def test_a_lone_model_repository_leaves_its_data_unverified(forged: Path) -> None:
    shutil.rmtree(forged / "dataset")
    results = verify_bundle(forged)
    assert "FAIL" not in {result.verdict for result in results}
    assert any(result.verdict == "UNVERIFIED" and "dataset" in result.name for result in results)


def test_packages_that_changed_after_a_stage_ran_are_judged_with_libraries(forged: Path) -> None:
    """As after a commit to `openwright/`: the corpus stays, which was made by a tree that is not the one in code/."""
    path = forged / "dataset" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["corpus"]["code"]["packages_digest"] = "0" * 64
    path.write_text(json.dumps(manifest))
    left_open = CheckResult("records", "code", "UNVERIFIED", "corpus ran from other packages; who judges", "model/code")
    assert judge_code(forged, left_open).verdict == "PASS"
    (forged / "model/code/data_recipes/more.py").write_text("# a package that the corpus may import\n")
    judged = judge_code(forged, left_open)
    assert (judged.verdict, judged.detail.split(";")[0]) == ("UNVERIFIED", "corpus ran from other packages")
    assert "more.py" in judged.detail
    (forged / "model/code/data_recipes/more.py").unlink()
    manifest["corpus"]["fingerprint"] = "1" * 64
    path.write_text(json.dumps(manifest))
    assert "ran another source tree" in judge_code(forged, left_open).detail


def test_a_flipped_byte_at_200_random_places_is_caught_and_its_file_named(forged: Path) -> None:
    draw = random.Random(200)
    files = sorted(path for path in forged.rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(200):
        path = draw.choice(files)
        data = bytearray(path.read_bytes())
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        honest = path.read_bytes()
        path.write_bytes(data)
        found = [r for r in verify_bundle(forged, tokens="none") if r.verdict == "FAIL" and r.check == "bytes"]
        path.write_bytes(honest)
        name = path.relative_to(forged).as_posix()
        if name == "model/manifest.json":
            continue  # named by --expect, or by whatever it then contradicts
        assert any(name in f"{r.where} {r.detail}" or path.name in f"{r.where} {r.detail}" for r in found), name


def test_any_change_of_the_root_manifest_is_caught_with_the_digest(forged: Path, made: Any) -> None:
    path = forged / "model" / "manifest.json"
    honest = path.read_bytes()
    draw = random.Random(3)
    for _ in range(20):
        data = bytearray(honest)
        data[draw.randrange(len(data))] ^= 1
        path.write_bytes(data)
        assert "identity" in {r.name for r in failures(forged, expect=made["summary"]["manifest_digest"])}


def remove_a_file(bundle: Path) -> None:
    (bundle / "model" / "LICENSE").unlink()


def add_a_file(bundle: Path) -> None:
    (bundle / "dataset" / "more.txt").write_text("x")


def add_a_link(bundle: Path) -> None:
    (bundle / "model" / "link").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("change", "name"),
    [(remove_a_file, "model files"), (add_a_file, "dataset files"), (add_a_link, "tree")],
)
def test_files_that_are_missing_added_or_links_are_caught(
    forged: Path, change: Callable[[Path], None], name: str
) -> None:
    change(forged)
    assert name in failed_names(forged)


# ---- forgeries with everything hashed anew --------------------------------------------------------------------------


def test_resealing_an_unchanged_bundle_changes_nothing(forged: Path, bundle: Path) -> None:
    """The forger's own tool is sound: what it catches below is the forgery, not the tool."""
    before = forge.read(forged / "model" / "manifest.json")
    forge.reseal(forged)
    assert forge.read(forged / "model" / "manifest.json") == before
    assert failures(forged) == []


def change_a_token(bundle: Path) -> None:
    path = next((bundle / "dataset" / "tokens" / "train").rglob("tokens-*.bin"))
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    digests = forge.rehash_tokens(bundle)
    for stage in ("pretrain", "sft"):

        def edit(records: list[dict[str, Any]]) -> None:
            order = records[0]["order"]
            order["tokens_digest"] = digests[order["tokens_digest"]]

        forge.edit_ledger(bundle, stage, edit)


def swap_checkpoints(bundle: Path) -> None:
    three, six = (bundle / "model/checkpoints/pretrain" / f"step-0000000{step}" for step in (3, 6))
    for name in ("model.safetensors", "optimizer.safetensors"):
        held = (three / name).read_bytes()
        (three / name).write_bytes((six / name).read_bytes())
        (six / name).write_bytes(held)


def cut_the_tail(bundle: Path) -> None:
    forge.edit_ledger(bundle, "pretrain", lambda records: records.__delitem__(slice(-4, None)))


def claim_another_seed(bundle: Path) -> None:
    forge.edit_ledger(bundle, "pretrain", lambda records: records[0]["order"].update(seed=1))


def swap_two_steps(bundle: Path) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        steps = [record for record in records if record["kind"] == "step"]
        steps[1]["order_digest"], steps[2]["order_digest"] = steps[2]["order_digest"], steps[1]["order_digest"]

    forge.edit_ledger(bundle, "pretrain", edit)


def edit_an_index_row(bundle: Path) -> None:
    path = bundle / "dataset" / "documents" / "index-00000.bin"
    data = bytearray(path.read_bytes())
    data[64] ^= 1  # number of tokens of the first document
    path.write_bytes(data)


def release_other_weights(bundle: Path) -> None:
    shutil.copyfile(
        bundle / "model/checkpoints/sft/step-00000000/model.safetensors", bundle / "model/model.safetensors"
    )


def edit_the_code(bundle: Path) -> None:
    path = bundle / "model" / "code" / "train" / "schedule.py"
    path.write_text(path.read_text() + "\n# edited later\n")


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (change_a_token, "pretrain tokens"),
        (swap_checkpoints, "pretrain checkpoints"),
        (cut_the_tail, "pretrain ledger"),
        (claim_another_seed, "pretrain order"),
        (swap_two_steps, "pretrain order"),
        (edit_an_index_row, "documents"),
        (release_other_weights, "final weights"),
        (edit_the_code, "code"),
    ],
)
def test_a_resealed_forgery_is_caught_by_its_check(forged: Path, change: Callable[[Path], None], check: str) -> None:
    change(forged)
    forge.reseal(forged)
    assert not [result for result in failures(forged) if result.check == "bytes"], "resealed: bytes agree"
    assert check in failed_names(forged)


def test_numbers_that_only_training_gives_pass_here(forged: Path) -> None:
    """The limit of `records`, stated in docs/verification.md: a replay catches this one."""

    def edit(records: list[dict[str, Any]]) -> None:
        record = next(r for r in records if r["kind"] == "step" and r["step"] == 5)
        record["loss"] = forge.next_float(record["loss"])

    forge.edit_ledger(forged, "pretrain", edit)
    forge.reseal(forged)
    assert failures(forged) == []


def test_an_unknown_version_is_unverified_and_not_a_failure(forged: Path) -> None:
    root = forge.read(forged / "model" / "manifest.json")
    root["format"] = "openwright-bundle/9"
    forge.write(forged / "model" / "manifest.json", root)
    results = verify_bundle(forged)
    assert "FAIL" not in {result.verdict for result in results}
    assert any("openwright-bundle/9" in result.detail for result in results if result.verdict == "UNVERIFIED")


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"[" * 100_000, b'{"a":1,"a":2}', b'{"format":NaN}', b"\xff\xfe", b'{"format":["x"]}', b"5", b"null"],
)
def test_hostile_json_is_a_failure_and_never_a_traceback(forged: Path, content: bytes) -> None:
    for name in ("model/manifest.json", "dataset/manifest.json", "dataset/tokens/tokens.json"):
        path = forged / name
        honest = path.read_bytes()
        path.write_bytes(content)
        assert "PASS" not in {r.verdict for r in verify_bundle(forged, tokens="none") if r.where == name}
        assert any(r.verdict != "PASS" for r in verify_bundle(forged, tokens="none"))
        path.write_bytes(honest)


@pytest.mark.parametrize("header", [b"\xff" * 8, (2**40).to_bytes(8, "little"), b"\x08" + b"\0" * 7 + b"{}      "])
def test_hostile_safetensors_are_a_failure(forged: Path, header: bytes) -> None:
    path = forged / "model" / "checkpoints" / "pretrain" / "step-00000003" / "model.safetensors"
    path.write_bytes(header + b"\0" * 64)
    forge.reseal(forged)
    assert "pretrain checkpoints" in failed_names(forged)
