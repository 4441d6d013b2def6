"""Schemas, lock files and notebooks' entry: what the project ships besides its packages."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import openwright as public
from openwright import schemas
from openwright.configs import CONFIG_MODELS
from provenance.canonical import write_json
from provenance.digests import sha256_file
from provenance.errors import BundleError
from provenance.ledger import ChainWriter

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", schemas.SCHEMA_NAMES)
def test_schemas_are_up_to_date(name):
    path = schemas.schema_path(name, ROOT)
    assert path.read_text(encoding="utf-8") == schemas.schema_text(name), "run python -m openwright.schemas"
    assert json.loads(schemas.schema_text(name))["additionalProperties"] is False


def test_every_config_names_its_schema_in_its_first_line():
    files = [path for path in (ROOT / "configs").glob("*/*.yaml") if path.stem in CONFIG_MODELS]
    assert files
    wrong = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.read_text(encoding="utf-8").splitlines()[0]
        != f"# yaml-language-server: $schema=../schemas/{path.stem}.schema.json"
    ]
    assert wrong == []


def locked(name):
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return {m[1]: m[2] for m in re.finditer(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", text, re.MULTILINE)}, text


def test_every_locked_version_has_a_hash():
    versions, text = locked("cpu.lock")
    entries = re.split(r"\n(?=[a-z0-9])", text, flags=re.IGNORECASE)[1:]
    assert len(entries) == len(versions)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert "torch" not in versions
    assert "setuptools" in versions
    assert locked("torch-cpu.lock")[0] == {"torch": "2.13.0"}
    assert "NOT RUN BY US" in locked("cuda.lock")[1]


def test_the_locks_cover_what_the_project_declares():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own, *others = extras["dev"]
    installed = re.fullmatch(r"openwright\[([a-z,]+)\]", own)[1].split(",")
    declared = [*project["dependencies"], *others, *(name for extra in installed for name in extras[extra])]
    versions = {**locked("cpu.lock")[0], **locked("torch-cpu.lock")[0]}
    for requirement in declared:
        name, _, pin = requirement.partition("==")
        key = re.split(r"[<>=\[]", name)[0].lower().replace("_", "-")
        assert key in versions, f"{key} is in no lock file"
        assert not pin or versions[key] == pin


def test_the_lock_of_the_extras_goes_with_the_one_of_the_set_up():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    versions, text = locked("extras.lock")
    hashed = re.findall(r"^[A-Za-z0-9._-]+==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(hashed) == len(versions)
    assert {f"{name}=={versions.get(name)}" for name in ("mlcroissant", "ray")} == {
        *extras["croissant"],
        *extras["ray"],
    }
    of_set_up = locked("cpu.lock")[0]
    assert {name: version for name, version in versions.items() if of_set_up.get(name, version) != version} == {}
    assert "extras.lock" in (ROOT / "Makefile").read_text()
    assert "make --no-print-directory test-extras" in (ROOT / ".ci" / "run").read_text()


def test_importing_the_public_package_loads_nothing_heavy():
    probe = "import sys, openwright; print('pydantic' in sys.modules, 'torch' in sys.modules, openwright.open_bundle)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False <function open_bundle")
    assert "open_bundle" in dir(public)
    with pytest.raises(AttributeError, match="nonsense"):
        public.nonsense  # noqa: B018 - the access is the test


@pytest.fixture
def small_bundle(tmp_path):
    model = tmp_path / "tiny-1" / "model"
    training = model / "training" / "pretrain"
    ledger = ChainWriter(training / "ledger.jsonl")
    ledger.append({"kind": "start"})
    ledger.append({"kind": "step", "step": 1, "loss": (1.5).hex()})
    ledger.close()
    write_json(training / "run.json", {"num_parameters": 7})
    write_json(model / "manifest.json", {"name": "tiny", "stages": [{"stage": "corpus"}, {"stage": "pretrain"}]})
    return model.parent


def test_a_bundle_opens_for_reading(small_bundle):
    bundle = public.open_bundle(str(small_bundle))
    assert bundle.manifest["name"] == "tiny"
    assert bundle.training_stages == ["pretrain"]
    assert [record["kind"] for record in bundle.ledger("pretrain")] == ["start", "step"]
    assert bundle.run("pretrain") == {"num_parameters": 7}
    assert bundle.manifest_digest == sha256_file(small_bundle / "model" / "manifest.json")
    with pytest.raises(BundleError, match="one of pretrain"):
        bundle.run("dpo")


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"model/manifest\.json"):
        public.open_bundle(tmp_path)
