"""Bundles of every version that was released verify for ever, with this version of both verifiers and with their own.

A format may get a new version; what an old one says must never come to mean something else.
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from release.checks import verify_release
from release.verify import verify_bundle

HERE = Path(__file__).resolve().parent
NEEDS_LIBRARIES = ("signature", "document rows", "texts", "order by numpy", "evaluation rescored")
MADE_AGAIN = {"openness verdict", "generated documents"}
"""Checks that compare what this version would write: another version's bytes prove nothing."""
TOLD: dict[str, dict[str, Any]] = {
    f"{path.parent.name}-{name}": {**told, "archive": path.parent / f"{name}.tar.xz"}
    for path in sorted(HERE.glob("*/bundles.json"))
    for name, told in json.loads(path.read_bytes()).items()
}


@pytest.fixture(params=TOLD)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A golden bundle, unpacked, and what was told of it when it was made."""
    told = TOLD[request.param]
    with tarfile.open(told["archive"]) as packed:
        packed.extractall(tmp_path / "bundle", filter="data")
    return tmp_path / "bundle", told


def test_there_are_golden_bundles() -> None:
    assert len(TOLD) >= 4
    assert sum(path.stat().st_size for path in HERE.rglob("*.tar.xz")) < 2**19 * len(list(HERE.glob("*/bundles.json")))


def test_a_golden_bundle_verifies(golden: tuple[Path, dict[str, Any]]) -> None:
    """Every check of then has its verdict of then, and the digests are those of then; new checks do not fail."""
    bundle, told = golden
    results = {r.name: r for r in verify_bundle(bundle, expect=told["manifest_digest"], tokens="all")}
    assert results["identity"].verdict == "PASS"
    assert {name: results[name].verdict for name in told["verdicts"]} == told["verdicts"]
    assert told["content_digest"] in results["content digest"].detail
    assert "FAIL" not in {result.verdict for result in results.values()}


def test_a_golden_bundle_verifies_with_libraries_and_with_its_publishers_key(
    golden: tuple[Path, dict[str, Any]],
) -> None:
    """Every check of then has its verdict of then; documents that this version would write otherwise do not FAIL."""
    bundle, told = golden
    key = told["archive"].parent / "publisher.pub"
    results = {r.name: r for r in verify_release(bundle, expect=None, tokens="none", key=key)}
    assert "FAIL" not in {result.verdict for result in results.values()}
    then = told.get("verdicts_with_libraries", dict.fromkeys(NEEDS_LIBRARIES, "PASS"))
    for check in then.keys() - MADE_AGAIN:
        assert results[check].verdict == then[check], results[check]


def test_a_golden_bundle_verifies_with_the_program_that_it_holds(golden: tuple[Path, dict[str, Any]]) -> None:
    bundle, told = golden
    command = [sys.executable, "-S", "-B", str(bundle / "model" / "verify.py"), "--expect", told["manifest_digest"]]
    done = subprocess.run([*command, "--tokens", "all", "--json"], capture_output=True, text=True)
    found = {check["name"]: check["verdict"] for check in json.loads(done.stdout)["checks"]}
    assert {name: found[name] for name in told["verdicts"]} == told["verdicts"]
    assert found["identity"] == "PASS"


def test_a_golden_bundle_with_one_changed_byte_fails(golden: tuple[Path, dict[str, Any]]) -> None:
    bundle, told = golden
    path = bundle / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    failed = {r.name for r in verify_bundle(bundle, expect=told["manifest_digest"]) if r.verdict == "FAIL"}
    assert {"model files", "final weights"} <= failed
