"""What `openwright verify` adds with libraries: each check passes on a whole bundle and catches its own forgery."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Built, replace_file

from provenance.artifacts import Artifact
from provenance.canonical import canonical_json
from provenance.digests import sha256_bytes
from release import facts
from release.bundle import bundle_path
from release.checks import verify_release
from release.verify import CheckResult

ADDED = (
    "document rows",
    "texts",
    "order by numpy",
    "evaluation rescored",
    "openness verdict",
    "generated documents",
)


@pytest.fixture(autouse=True)
def _only_the_added_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of `verify.py` have tests of their own, and the code in the bundle is a copy of the running one."""
    monkeypatch.setattr("release.checks.verify_bundle", lambda bundle, expect, tokens: [])
    monkeypatch.setattr("release.checks.sources_digest", lambda packages, root=None: "the same")


def _results(bundle: Path) -> dict[str, CheckResult]:
    return {result.name: result for result in verify_release(bundle, expect=None, tokens="none")}


def test_a_whole_bundle_passes(built: Built) -> None:
    results = _results(built.bundle)
    assert tuple(results) == ADDED
    assert {result.verdict for result in results.values()} == {"PASS"}
    assert all(result.check == "records" and result.detail for result in results.values())


def test_a_ledger_is_read_once_for_all_of_these_checks(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million steps take seconds to read."""
    asked: list[str] = []
    read = facts.read_ledger
    monkeypatch.setattr("release.facts.read_ledger", lambda path: asked.append(path.parent.name) or read(path))
    assert {result.verdict for result in _results(built.bundle).values()} == {"PASS"}
    assert sorted(asked) == ["pretrain", "sft"]


def _table(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    path.unlink()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def _change_licence(bundle: Path) -> None:
    path = bundle / "dataset/documents/documents-00000.parquet"
    _table(path, lambda rows: rows[3].update(licence_spdx="CC0-1.0"))


def _drop_row(bundle: Path) -> None:
    _table(bundle / "dataset/documents/documents-00000.parquet", lambda rows: rows.pop())


def _change_index(bundle: Path) -> None:
    path = bundle / "dataset/documents/index-00000.bin"
    data = bytearray(path.read_bytes())
    data[64] ^= 1
    replace_file(path, bytes(data))


def _cut_index(bundle: Path) -> None:
    path = bundle / "dataset/documents/index-00000.bin"
    replace_file(path, path.read_bytes()[:-7])


def _change_text(bundle: Path) -> None:
    _table(bundle / "dataset/text/train-00000.parquet", lambda rows: rows[2].update(text="another text, ένα άλλο"))


def _drop_text(bundle: Path) -> None:
    _table(bundle / "dataset/text/heldout-00000.parquet", lambda rows: rows.pop())


def _repeat_text(bundle: Path) -> None:
    _table(bundle / "dataset/text/train-00000.parquet", lambda rows: rows.append(rows[0]))


def _change_order(bundle: Path) -> None:
    """Another order for step 2, with the whole chain made again, as a forger would."""
    path = bundle / "model/training/pretrain/ledger.jsonl"
    lines, previous = [], "0" * 64
    for line in path.read_bytes().splitlines():
        record = {**json.loads(line), "previous": previous}
        if record.get("step") == 2 and record["kind"] == "step":
            record["order_digest"] = "0" * 64
        lines.append(canonical_json(record))
        previous = sha256_bytes(lines[-1])
    replace_file(path, b"\n".join(lines) + b"\n")


def _cut_ledger(bundle: Path) -> None:
    path = bundle / "model/training/sft/ledger.jsonl"
    replace_file(path, b"\n".join(path.read_bytes().splitlines()[:4]) + b"\n")


def _replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def alter(bundle: Path) -> None:
        text = (bundle / path).read_text(encoding="utf-8")
        assert old in text
        replace_file(bundle / path, text.replace(old, new, 1))

    return alter


FORGERIES: list[tuple[str, Callable[[Path], None], str]] = [
    ("document rows", _change_licence, "row 3"),
    ("document rows", _drop_row, "rows"),
    ("document rows", _change_index, "row 0"),
    ("document rows", _cut_index, "malformed"),
    ("texts", _change_text, "not the one its row names"),
    ("texts", _drop_text, "missing"),
    ("texts", _repeat_text, "belongs to no kept document"),
    ("order by numpy", _change_order, "step 2 of pretrain"),
    ("order by numpy", _cut_ledger, "records"),
    ("evaluation rescored", _replace("model/evaluation/results.json", "better than", "worse than"), "row"),
    (
        "openness verdict",
        _replace("model/openness/verdict.json", "needs statement", "evidence complete"),
        "records give",
    ),
    ("generated documents", _replace("model/README.md", "| Steps | 4 |", "| Steps | 9 |"), "records give"),
    ("generated documents", _replace("model/index.html", "check your copy", "verified"), "records give"),
    ("generated documents", _replace("model/NOTICE", "Άλφα", "Omega"), "records give"),
    ("generated documents", _replace("dataset/README.md", "Sentences", "Books"), "records give"),
    ("generated documents", _replace("dataset/croissant.json", "cr:RecordSet", "cr:Set"), "records give"),
    ("generated documents", lambda bundle: (bundle / "model/LICENSE").unlink(), "missing"),
]


@pytest.mark.parametrize(("name", "forge", "detail"), FORGERIES, ids=[f"{f[0]}-{n}" for n, f in enumerate(FORGERIES)])
def test_a_forgery_is_caught_by_its_check(copy: Path, name: str, forge: Callable[[Path], None], detail: str) -> None:
    forge(copy)
    result = _results(copy)[name]
    assert result.verdict == "FAIL"
    assert detail in result.detail
    assert str(copy) not in f"{result.detail} {result.where}"


def test_the_order_of_a_ledger_with_stretches_left_out_is_recomputed(copy_of: Callable[[str], Path]) -> None:
    for name in ("skips", "branch"):
        bundle = copy_of(name)
        result = _results(bundle)["order by numpy"]
        assert (result.verdict, result.detail[:7]) == ("PASS", "6 steps" if name == "skips" else "5 steps"), name
        path = bundle / "model/training/pretrain/ledger.jsonl"
        path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if b'"skip"' not in line))
        assert _results(bundle)["order by numpy"].verdict == "FAIL"


def test_documents_of_another_version_are_unverified(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("release.checks.sources_digest", lambda packages, root=None: str(root))
    _replace("model/README.md", "| Steps | 4 |", "| Steps | 9 |")(copy)
    assert _results(copy)["generated documents"].verdict == "UNVERIFIED"


def test_a_model_without_its_dataset_is_partly_unverified(copy: Path) -> None:
    import shutil

    shutil.rmtree(copy / "dataset")
    verdicts = {name: result.verdict for name, result in _results(copy).items()}
    assert verdicts["evaluation rescored"] == verdicts["order by numpy"] == "PASS"
    assert {verdicts[name] for name in ("document rows", "texts", "openness verdict")} == {"UNVERIFIED"}


def test_a_model_repository_by_itself_is_checked_like_one_in_a_bundle(copy: Path, tmp_path: Path) -> None:
    lone = (copy / "model").rename(tmp_path / "downloaded")
    verdicts = {name: result.verdict for name, result in _results(lone).items()}
    assert [verdicts[name] for name in ADDED] == [
        "UNVERIFIED",
        "UNVERIFIED",
        "PASS",
        "PASS",
        "UNVERIFIED",
        "UNVERIFIED",
    ]
    samples = sorted((lone / "evaluation" / "samples").rglob("*.jsonl"))[0]
    replace_file(samples, json.dumps({**json.loads(samples.read_text().splitlines()[0]), "digest": "0" * 64}) + "\n")
    assert _results(lone)["evaluation rescored"].verdict == "FAIL"


def test_texts_that_are_not_shipped_are_unverified(rebuild: Callable[..., Artifact]) -> None:
    results = _results(bundle_path(rebuild(shipping={"gamma": "tokens"})))
    assert results["texts"].verdict == "UNVERIFIED"
    assert "6 are not shipped" in results["texts"].detail
    assert results["generated documents"].verdict == results["openness verdict"].verdict == "PASS"


@pytest.mark.parametrize("path", ["dataset/documents/codes.json", "dataset/documents/documents-00000.parquet"])
def test_hostile_records_end_in_a_fail(copy: Path, path: str) -> None:
    replace_file(copy / path, b"\x00not what it says")
    assert _results(copy)["document rows"].verdict == "FAIL"
