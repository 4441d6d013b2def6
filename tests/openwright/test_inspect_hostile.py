"""Whatever bytes a bundle holds, `inspect` shows something or refuses it by file: never a traceback."""

import random
import shutil

import conftest as release_fixtures
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_verify_fuzz import mutated

from openwright import cli

built = release_fixtures.built

RUN = "model/training/pretrain"
READ = (
    *("model/manifest.json", f"{RUN}/ledger.jsonl", f"{RUN}/recipe.json", "dataset/tokens/tokens.json"),
    *("model/tokenizer.json", "dataset/corpus.json", "dataset/documents/codes.json"),
    *("dataset/documents/index-00000.bin", "dataset/documents/documents-00000.parquet"),
    "dataset/conversations/train-00000.parquet",
)

few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A project of few files: nothing of it is read here."""
    target = release_fixtures.make_project(tmp_path_factory.mktemp("few-files") / "code")
    for path in target.glob("*/**/*"):
        if path.is_file() and path.name not in ("__init__.py", "verify.py", "cpu.lock"):
            path.unlink()
    return target


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built.bundle, tmp_path / "bundle")


def shards(bundle):
    return sorted(path.relative_to(bundle).as_posix() for path in bundle.glob("dataset/tokens/train/**/*.bin"))


def inspect(bundle, capsys):
    """Exit codes and messages of looking at a step and at the document that an honest bundle shows first."""
    codes = []
    for arguments in (["step", "1"], ["step", "1", "--stage", "sft"], ["document", first_document(bundle)]):
        codes.append(cli.invoke(["inspect", *arguments, "--in", str(bundle), "--json"]))
    return codes, capsys.readouterr().err


def test_a_passage_in_mutated_tokens_is_searched_or_refused(copy, tmp_path, capsys):
    draw = random.Random(5)
    names = ["model/tokenizer.json", "dataset/tokens/tokens.json", *shards(copy)[:2]]
    for number, name in enumerate(names * 3):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(mutated(before, draw))
        index = tmp_path / str(number)
        code = cli.invoke(["inspect", "text", "the", "--in", str(copy), "--index", str(index), "--json"])
        (copy / name).write_bytes(before)
        assert code in (0, 1, 2), (name, capsys.readouterr().err)
        assert "this is a bug" not in capsys.readouterr().err, name


def test_mutated_records_are_compared_or_refused(built, copy, capsys):
    draw = random.Random(6)
    assert cli.invoke(["compare", str(built.bundle), str(copy), "--json"]) == 0
    weights = [
        path.relative_to(copy).as_posix() for path in copy.glob("model/checkpoints/pretrain/*/model.safetensors")
    ]
    for name in [f"{RUN}/ledger.jsonl", f"{RUN}/recipe.json", "model/evaluation/results.json", sorted(weights)[-1]] * 3:
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(mutated(before, draw))
        code = cli.invoke(["compare", str(built.bundle), str(copy), "--json"])
        (copy / name).write_bytes(before)
        assert code in (0, 1, 2)
        assert "this is a bug" not in capsys.readouterr().err, name


def first_document(bundle):
    return (bundle / "dataset/documents/index-00000.bin").read_bytes()[:32].hex() or "0" * 64


def test_an_honest_bundle_is_shown(copy, capsys):
    assert inspect(copy, capsys) == ([0, 0, 0], "")


def test_a_model_repository_by_itself_is_told_from_a_bundle(copy, capsys):
    lone = shutil.copytree(copy / "model", copy.parent / "downloaded", ignore=shutil.ignore_patterns("code"))
    for arguments in (["inspect", "step", "1", "--in"], ["reproduce", "--yes"], ["compare", str(copy)]):
        assert cli.invoke([*arguments, str(lone)]) == 1
        assert "a model repository by itself" in capsys.readouterr().err


@few
@given(st.randoms(use_true_random=False), st.sampled_from((*READ, "shard")))
def test_a_mutated_file_is_shown_or_refused(copy, capsys, draw, name):
    name = draw.choice(shards(copy)) if name == "shard" else name
    before = (copy / name).read_bytes()
    (copy / name).write_bytes(mutated(before, draw))
    try:
        codes, told = inspect(copy, capsys)
    finally:
        (copy / name).write_bytes(before)
    assert "this is a bug" not in told, (name, told)
    assert set(codes) <= {0, 1, 2}


@pytest.mark.parametrize("name", ["dataset/documents/documents-00000.parquet", "model/tokenizer.json"])
def test_links_are_not_followed(copy, capsys, name):
    target = shutil.move(copy / name, copy.parent / "elsewhere")
    (copy / name).symlink_to(target)
    codes, told = inspect(copy, capsys)
    assert 1 in codes
    assert name in told
