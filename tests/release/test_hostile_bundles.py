"""Bundles that a stranger made to be read and not to be true: each is refused in words, by both verifiers.

None may end in a traceback, hang, run anything or read outside of the bundle. `verify_release` runs the checks of
`verify.py` first, so that one call shows both.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest

from release.bundle_limits import obstacle
from release.checks import verify_release
from release.secret_scan import MAX_FINDINGS, find_secrets
from release.verify import CheckResult, verify_bundle

Change = Callable[[Path], object]
RUN = "model/training/pretrain"
WITH_LIBRARIES = (
    *("document rows", "texts", "order by numpy"),
    *("evaluation rescored", "openness verdict", "generated documents"),
)


def results_of(bundle: Path) -> dict[str, CheckResult]:
    return {result.name: result for result in verify_release(bundle, expect=None, tokens="none")}


def by_verify_py(bundle: Path) -> dict[str, CheckResult]:
    return {result.name: result for result in verify_bundle(bundle, tokens="none")}


def in_json(path: str, edit: Callable[[Any], object]) -> Change:
    def change(bundle: Path) -> None:
        value = forge.read(bundle / path)
        edit(value)
        forge.write(bundle / path, value)

    return change


def in_place_of(path: str, make: Callable[[Path], object]) -> Change:
    def change(bundle: Path) -> None:
        (bundle / path).unlink(missing_ok=True)
        make(bundle / path)

    return change


def replace_folder_by_link(path: str, target: str) -> Change:
    def change(bundle: Path) -> None:
        shutil.move(bundle / path, bundle.parent / "moved")
        (bundle / path).symlink_to(target)

    return change


def sparse(size_bytes: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size_bytes)

    return make


def add(name: bytes) -> Change:
    """A file with a name of any bytes below `model/`."""
    return lambda bundle: Path(os.fsdecode(os.fsencode(bundle / "model") + b"/" + name)).write_bytes(b"x")


def add_deep_folders(bundle: Path) -> None:
    (bundle / "model" / "/".join("d" * 40)).mkdir(parents=True)
    (bundle / "model" / "/".join("d" * 40) / "file").write_bytes(b"x")


# ---- files that are no plain files, and names ------------------------------------------------------------------------

TREES: list[tuple[str, Change, str]] = [
    ("link", in_place_of(f"{RUN}/run.json", lambda path: path.symlink_to("/etc/hostname")), "is a link"),
    ("link to a device", in_place_of("model/evaluation/record.json", lambda p: p.symlink_to("/dev/zero")), "is a link"),
    ("dangling link", in_place_of("model/LICENSE", lambda path: path.symlink_to("nowhere")), "is a link"),
    ("link to itself", in_place_of("model/NOTICE", lambda path: path.symlink_to(path.name)), "is a link"),
    ("linked folder", replace_folder_by_link("model/evaluation", "../../moved"), "is a link"),
    ("link upwards", lambda b: (b / "dataset" / "loop").symlink_to("..", target_is_directory=True), "is a link"),
    ("linked dataset", replace_folder_by_link("dataset", "../moved"), "is a link"),
    ("pipe", in_place_of(f"{RUN}/ledger.jsonl", lambda path: os.mkfifo(path)), "is not a plain file"),
    ("pipe as manifest", in_place_of("model/manifest.json", lambda path: os.mkfifo(path)), "is not a plain file"),
    ("case", add(b"Config.json"), "only in case"),
    ("unicode form", lambda b: [add(name.encode())(b) for name in ("\u00e9", "e\u0301")], "only in case or Unicode"),
    ("no UTF-8", add(b"\xff\xfe"), "harmless"),
    ("terminal codes", add(b"\x1b[2Jx"), "harmless"),
    ("newline", add(b"a\nPASS"), "harmless"),
    ("backslash", add(b"..\\x"), "harmless"),
    ("depth", add_deep_folders, "harmless"),
    ("neighbour", lambda bundle: (bundle / "conftest.py").write_text("raise SystemExit"), "does not belong"),
    ("module", add(b"json.py"), "a program or a pickle"),
    ("pickle", lambda b: (b / "model/checkpoints/pretrain/step-00000002/state.pkl").write_bytes(b"x"), "pickle"),
    ("torch file", lambda bundle: (bundle / "dataset/tokens/cache.PT").write_bytes(b"x"), "pickle"),
]


@pytest.mark.parametrize(("change", "detail"), [t[1:] for t in TREES], ids=[t[0] for t in TREES])
def test_an_odd_file_is_named_and_libraries_stay_away(
    copy_of: Callable[[str], Path], change: Change, detail: str
) -> None:
    bundle = copy_of("plain")
    change(bundle)
    found = verify_bundle(bundle, tokens="none")
    tree = found[0]
    assert (tree.name, tree.verdict) == ("tree", "FAIL")
    assert detail in tree.detail
    assert all(character.isprintable() for result in found for character in result.detail + result.where)
    assert obstacle(bundle, found) == (f"not checked: {tree.detail}", tree.where)


def test_no_check_with_libraries_runs_on_a_tree_with_links(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("plain")
    in_place_of("model/evaluation/record.json", lambda path: path.symlink_to("/dev/zero"))(bundle)
    results = results_of(bundle)
    assert {results[name].verdict for name in WITH_LIBRARIES} == {"UNVERIFIED"}
    assert "is a link" in results["texts"].detail


def test_a_bundle_that_is_a_link_inside_is_not_followed(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("plain")
    shutil.move(bundle / "model", bundle.parent / "elsewhere")
    (bundle / "model").symlink_to("../elsewhere")
    assert [(r.name, r.verdict) for r in verify_bundle(bundle)] == [("tree", "FAIL")]


# ---- paths and configs that point elsewhere --------------------------------------------------------------------------


def first_path(*keys: str, path: str = "../../etc/hostname") -> Callable[[Any], object]:
    """Another path in the first entry of a list of files."""

    def edit(value: Any) -> None:
        for key in keys:
            value = value[key]
        value[0]["path"] = path

    return edit


def shard_path(path: str) -> Callable[[Any], object]:
    def edit(value: Any) -> None:
        value["splits"]["train"]["sources"][0]["shards"][0]["files"]["tokens"]["path"] = path

    return edit


def named_twice(value: Any) -> None:
    sources = value["splits"]["train"]["sources"]
    sources[1]["shards"][0]["files"]["tokens"] = sources[0]["shards"][0]["files"]["tokens"]
    hashed = [
        {
            "name": source["name"],
            "shards": [
                {"num_tokens": shard["num_tokens"], "files": {r: f["sha256"] for r, f in shard["files"].items()}}
                for shard in source["shards"]
            ],
        }
        for source in sources
    ]
    split = value["splits"]["train"]
    fields = {key: split[key] for key in ("layout", "dtype", "width")}
    split["digest"] = forge.digest_of("tokens/1", {**fields, "sources": hashed})


def many_stages(root: Any) -> None:
    row = root["stages"][-1]
    root["stages"] += [{**row, "stage": f"{row['stage']}{number}"} for number in range(100)]


POINTING: list[tuple[str, Change, str, str]] = [
    ("root manifest", in_json("model/manifest.json", first_path("files")), "manifest", "not path"),
    ("absolute", in_json("model/manifest.json", first_path("files", path="/etc/hostname")), "manifest", "not path"),
    ("dataset manifest", in_json("dataset/manifest.json", first_path("files")), "dataset files", "not path"),
    ("stage", in_json(f"{RUN}/manifest.json", first_path("results")), "stage pretrain", "not path"),
    ("code", in_json("model/code/CODE.json", first_path("files", path="a/../../b")), "code", "not path"),
    ("shard", in_json("dataset/tokens/tokens.json", shard_path("/dev/zero")), "token shards", "not path"),
    ("shard twice", in_json("dataset/tokens/tokens.json", named_twice), "token shards", "names a file twice"),
    ("stages", in_json("model/manifest.json", many_stages), "manifest", "more than 64"),
    (
        "stage name",
        in_json("model/manifest.json", lambda root: root["stages"][1].update(stage="../x")),
        "stage ../x",
        "stage name",
    ),
    (
        "code to load",
        in_json("model/config.json", lambda config: config.update(auto_map={"AutoModel": "evil.Model"})),
        "configs",
        "auto_map",
    ),
    (
        "trust",
        in_json("model/tokenizer_config.json", lambda config: config.update(trust_remote_code=True)),
        "configs",
        "trust_remote_code",
    ),
    (
        "address",
        in_json("model/config.json", lambda config: config.update(_name_or_path="https://example.org/model")),
        "configs",
        "_name_or_path",
    ),
    (
        "place",
        in_json("model/tokenizer_config.json", lambda config: config.update(tokenizer_file="/etc/passwd")),
        "configs",
        "tokenizer_file",
    ),
    (
        "escaped key",
        lambda b: (b / "model/generation_config.json").write_bytes(b'{"auto\\u005fmap": {"x": "y"}}'),
        "configs",
        "auto_map",
    ),
    (
        "another model",
        in_json("model/config.json", lambda config: config.update(sliding_window=7)),
        "final weights",
        "is not the final one",
    ),
    (
        "page with a script",
        lambda b: (b / "model/index.html").write_bytes(b"<script src=//x></script>"),
        "generated documents",
        "",
    ),
]


@pytest.mark.parametrize(("change", "check", "detail"), [p[1:] for p in POINTING], ids=[p[0] for p in POINTING])
def test_what_points_elsewhere_is_refused(
    copy_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, change: Change, check: str, detail: str
) -> None:
    monkeypatch.setattr("release.checks.sources_digest", lambda packages, root=None: "the same")
    bundle = copy_of("plain")
    change(bundle)
    find = results_of if check == "generated documents" else by_verify_py
    result = find(bundle)[check]
    assert result.verdict == "FAIL"
    assert detail in result.detail


# ---- programs beside the verifier ------------------------------------------------------------------------------------


def test_the_verifier_in_a_bundle_imports_nothing_from_it(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = copy_of("plain")
    trap = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n"
    names = [name for name in sys.stdlib_module_names if not name.startswith("_")]
    for name in (*names, "sitecustomize", "usercustomize", "conftest", "__init__", "encodings/__init__"):
        path = bundle / "model" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(trap)
    program = bundle / "model" / "verify.py"
    program.write_bytes((Path(__file__).parents[2] / "release" / "verify.py").read_bytes())
    for options, place in (["-S"], tmp_path), ([], bundle / "model"), (["-I"], bundle):
        command = [sys.executable, *options, "-B", str(program), str(bundle)]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        assert "a program or a pickle outside of code/" in done.stdout
        assert done.stderr == ""
    assert not (tmp_path / "ran").exists()


def test_names_that_a_terminal_cannot_show_are_written_otherwise(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("plain")
    (bundle / "model" / "имя").write_bytes(b"x")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-S", "-B", str(Path(__file__).parents[2] / "release" / "verify.py"), str(bundle)]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 1
    assert b"\\u0438" in done.stdout


# ---- JSON and tables -------------------------------------------------------------------------------------------------

RECORDS = {
    "dataset/corpus.json": "documents",
    "dataset/documents/codes.json": "document rows",
    "dataset/tokens/tokens.json": "token shards",
    f"{RUN}/run.json": "pretrain run",
    f"{RUN}/recipe.json": "pretrain recipe",
    f"{RUN}/ledger.jsonl": "pretrain ledger",
    f"{RUN}/journal.jsonl": "journals",
    "model/checkpoints/pretrain/step-00000002/checkpoint.json": "pretrain checkpoints",
    "model/evaluation/record.json": "evaluation",
    "model/openness/components.json": "openness verdict",
    "model/code/CODE.json": "code",
}
CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\x80\x04}q\x00.",
    "depth": b"[" * 200_000,
    "closed depth": b"[" * 100 + b"]" * 100,
    "duplicates": b'{"format":"x","format":"x"}',
    "not a number": b'{"format":NaN}',
    "infinity": b'{"format":-Infinity}',
    "large number": b'{"format":1' + b"0" * 10_000 + b"}",
    "unsafe integer": b'{"format":9007199254740993}',
    "float": b'{"format":1e400}',
    "list": b"[]",
    "null": b"null",
    "wrong types": b'{"format":{},"splits":[],"files":0,"sources":"","num_documents":[],"models":{},"shipping":[]}',
    "lone surrogate": b'{"format":"\\ud800"}',
    "items": b"[" + b"{}," * 20_000 + b"{}]",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_records_that_are_none_are_refused_by_what_reads_them(
    copy_of: Callable[[str], Path], content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release.verify.MAX_JSON_ITEMS", 10_000)
    bundle = copy_of("plain")
    for path in RECORDS:
        (bundle / path).write_bytes(content + b"\n" * path.endswith(".jsonl"))
    results = results_of(bundle)
    wrong = {check: results[check].verdict for check in RECORDS.values()}
    assert "PASS" not in wrong.values()
    assert wrong["token shards"] == wrong["pretrain ledger"] == wrong["code"] == "FAIL"


def test_gigantic_files_are_not_read_whole(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("plain")
    for path in ("model/training/pretrain/run.json", "dataset/tokens/tokens.json"):
        in_place_of(path, sparse(65 * 2**20))(bundle)
    in_place_of("model/openness/components.json", sparse(257 * 2**20))(bundle)
    results = results_of(bundle)
    assert "too large" in results["pretrain run"].detail
    assert "too large" in results["token shards"].detail
    assert {results[name].verdict for name in WITH_LIBRARIES} == {"UNVERIFIED"}
    assert "components.json" in results["openness verdict"].where


def test_a_table_that_unpacks_without_end_is_not_unpacked(copy_of: Callable[[str], Path]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bundle = copy_of("plain")
    path = bundle / "dataset/documents/documents-00000.parquet"
    pq.write_table(pa.table({"document_id": pa.array(["0" * 64]).take(pa.array([0] * 300_000))}), path)
    assert path.stat().st_size < 100_000
    result = results_of(bundle)["document rows"]
    assert result.verdict == "UNVERIFIED"
    assert "300,000 rows" in result.detail


# ---- ledgers that promise more work than anyone can do ---------------------------------------------------------------


def in_start(edit: Callable[[Any], object]) -> Change:
    def edit_records(records: list[dict[str, Any]]) -> None:
        edit(records[0]["order"])

    return lambda bundle: forge.edit_ledger(bundle, "pretrain", edit_records)


def endless(order: Any) -> None:
    order["phases"] = [{"num_steps": 2**52, "sequences_per_step": 1, "counts": [2**52, 0]}]


def wide(order: Any) -> None:
    order["phases"] = [{"num_steps": 1, "sequences_per_step": 2**52, "counts": [2**52, 0]}]


def many_sources(order: Any) -> None:
    order["sources"] = [{"name": f"s{number}", "num_windows": 1} for number in range(9000)]
    order["phases"] = [{"num_steps": 1, "sequences_per_step": 1, "counts": [1] + [0] * 8999}]


def leave_nearly_all_out(bundle: Path) -> None:
    """A whole ledger of 2^52 steps, all but the last of them left out."""

    def edit(records: list[dict[str, Any]]) -> None:
        endless(records[0]["order"])
        last = [{**record, "step": 2**52} for record in records[-2:]]
        step = next(record for record in records if record["kind"] == "step")
        first = next(record for record in records if record["kind"] == "checkpoint" and record["step"] == 0)
        skip = {"kind": "skip", "first": 1, "last": 2**52 - 1}
        records[:] = [records[0], first, skip, {**step, "step": 2**52}, *last]

    forge.edit_ledger(bundle, "pretrain", edit)


@pytest.mark.parametrize("edit", [endless, wide, many_sources], ids=lambda edit: edit.__name__)
def test_an_order_without_end_is_not_computed(copy_of: Callable[[str], Path], edit: Callable[[Any], object]) -> None:
    bundle = copy_of("plain")
    in_start(edit)(bundle)
    results = results_of(bundle)
    assert results["pretrain ledger"].verdict == ("FAIL" if edit is endless else "UNVERIFIED")
    assert results["order by numpy"].verdict == "UNVERIFIED"


def test_a_ledger_that_leaves_out_an_age_is_read_at_once(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("plain")
    leave_nearly_all_out(bundle)
    results = results_of(bundle)
    assert results["pretrain ledger"].verdict == "PASS", results["pretrain ledger"].detail
    for check in ("pretrain recipe", "pretrain schedule", "order by numpy"):
        assert results[check].verdict == "FAIL", check


def test_a_line_without_end_is_refused(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("plain")
    with (bundle / RUN / "ledger.jsonl").open("r+b") as file:
        file.truncate(5 * 2**20)
    result = by_verify_py(bundle)["pretrain ledger"]
    assert (result.verdict, "torn or too long" in result.detail) == ("FAIL", True)


def test_texts_full_of_what_looks_like_secrets_are_searched_at_once(tmp_path: Path) -> None:
    """One is a pattern that begins everywhere and never ends, the other one finding after another."""
    (tmp_path / "endless.md").write_text("-eyJ" * 250_000)
    (tmp_path / "many.md").write_text(f"AKIA{'A' * 16}\n" * 50_000)
    began = time.process_time()
    found = find_secrets(tmp_path)
    assert time.process_time() - began < 5, "a quadratic search takes minutes"
    assert len(found) == MAX_FINDINGS
    assert {line.split(":")[0] for line in found} == {"many.md"}


def test_the_file_of_results_is_what_a_program_reads(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Exit code and JSON of the standalone verifier on a hostile bundle."""
    bundle = copy_of("plain")
    add(b"\xff\xfe")(bundle)
    command = [sys.executable, "-S", "-B", str(Path(__file__).parents[2] / "release" / "verify.py"), str(bundle)]
    done = subprocess.run([*command, "--json"], capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")
    assert json.loads(done.stdout)["verdict"] == "FAIL"
