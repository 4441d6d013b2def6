"""Make the golden bundles of today's formats: `python tests/golden/make_golden.py DIRECTORY`.

Run it once when a version of a format is new, with a directory that does not exist, named after the version of the
project (`tests/golden/0.1.0`); commit what it writes and never change it: `test_golden.py` reads it for ever. The
bundles are those of the release tests (`tests/release/conftest.py`), with little code, so that they stay small.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "release"), str(TESTS.parent)]

import pytest  # noqa: E402
from conftest import LOCK, RUNS, release_config  # noqa: E402
from fake_artifacts import NAME, make_artifacts  # noqa: E402
from fake_runs import FakeRun, Tensors, initial_weights  # noqa: E402

from provenance.digests import sha256_file  # noqa: E402
from provenance.fingerprint import PACKAGES, CodeIdentity, sources_digest  # noqa: E402
from release.bundle import build_release, bundle_path  # noqa: E402
from release.checks import verify_release  # noqa: E402
from release.keys import load_private_key  # noqa: E402
from release.signing import sign_bundle  # noqa: E402
from release.verify import verify_bundle  # noqa: E402

GOLDEN = ("plain", "without", "experts")
"""`order/1` with fine-tuning; `order/2` on a branch that leaves a source out; shards, routers and another optimizer."""


def main() -> None:
    """Build, sign, pack and describe each bundle."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        project = make_project(Path(scratch) / "code")
        key = make_keys(Path(scratch), target)
        describe({name: _make_bundle(Path(scratch) / name, project, name) for name in GOLDEN}, key, target)


def make_keys(scratch: Path, target: Path) -> Path:
    """Make a key pair; the public one stays in `target`, the private one is returned and thrown away."""
    key = scratch / "golden.key"
    for command in (
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)],
        ["openssl", "ec", "-in", str(key), "-pubout", "-out", str(target / "publisher.pub")],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return key


def describe(bundles: dict[str, Path], key: Path, target: Path) -> None:
    """Sign and pack bundles, and write down their digests and what both verifiers say of them today."""
    told = {}
    for name, bundle in bundles.items():
        sign_bundle(bundle, load_private_key(key, lambda: ""))
        of_libraries = verify_release(bundle, expect=None, tokens="none", key=target / "publisher.pub")
        told[name] = {
            "manifest_digest": sha256_file(bundle / "model" / "manifest.json"),
            "content_digest": json.loads((bundle / "model" / "manifest.json").read_bytes())["content_digest"],
            "verdicts": {r.name: r.verdict for r in verify_bundle(bundle, tokens="all") if r.name != "identity"},
            "verdicts_with_libraries": {r.name: r.verdict for r in of_libraries},
        }
        _pack(bundle, target / f"{name}.tar.xz")
    (target / "bundles.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def make_project(project: Path) -> Path:
    for package in PACKAGES:
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").write_text(f'"""Stands for the package {package}."""\n')
    for name in ("pyproject.toml", "LICENSE", "release/verify.py"):
        shutil.copyfile(TESTS.parent / name, project / name)
    (project / "requirements").mkdir()
    (project / "requirements" / "cpu.lock").write_text(LOCK + "\n")
    return project


def _make_bundle(base: Path, project: Path, name: str) -> Path:
    (base / "configs" / NAME).mkdir(parents=True)
    code = CodeIdentity("ab" * 20, False, sources_digest(PACKAGES, project))
    shape = FakeRun("pretrain", "train", seed=1, **RUNS[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fake_artifacts.initial_weights", _coarse_weights)
        patch.setattr("release.bundle.project_root", lambda: project)
        context, artifacts = make_artifacts(base / "artifacts" / NAME, code, pretraining=shape)
        return bundle_path(build_release(release_config(), context, artifacts, base / "configs" / NAME))


def _coarse_weights(vocab_size: int) -> Tensors:
    """Weights of few different values, which pack well."""
    return {name: (tensor * 8).round() / 8 for name, tensor in initial_weights(vocab_size).items()}


def _pack(bundle: Path, archive: Path) -> None:
    """An archive without times, owners and modes of this machine."""
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
            data = path.read_bytes()
            member = tarfile.TarInfo(path.relative_to(bundle).as_posix())
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main()
