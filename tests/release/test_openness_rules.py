"""The rules: each program-decided one fails, and says why, when its evidence is taken away or altered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Built, replace_file

from provenance.artifacts import Artifact
from provenance.canonical import read_json
from provenance.errors import ConfigError, ReleaseError
from release.bundle import bundle_path
from release.facts import BundleFacts
from release.layout import layout_allows
from release.rule_checks import UNKNOWN
from release.rule_table import evidence_paths, load_rules
from release.rules import CHECKS, evaluate_rule, evaluate_rules
from release.statements import read_statement, write_statement

TABLE = load_rules()
CONSTANT = {"BND-02", "BND-09", "OSAID-C8", "OSAID-C9"}
"""Rules that cannot pass yet: nothing in a bundle could show it. They say unknown, and count for no verdict."""

Alteration = Callable[[Path], None]


def test_every_rule_names_paths_of_the_layout_and_a_check(built: Built) -> None:
    paths = BundleFacts(built.bundle).paths
    for rule in TABLE.rules:
        assert rule.check in CHECKS, rule.id
        assert rule.decides in ("program", "human", "both")
        assert rule.severity in ("must", "should", "info")
        assert rule.profile in TABLE.profiles
        for pattern in rule.evidence:
            assert layout_allows(pattern), f"{rule.id}: {pattern}"
        if rule.id not in ("BND-02", "BND-10"):
            assert evidence_paths(paths, rule), rule.id
    assert len({rule.id for rule in TABLE.rules}) == len(TABLE.rules)
    assert {rule.check for rule in TABLE.rules} == set(CHECKS)


def test_a_path_outside_the_layout_would_be_noticed() -> None:
    assert not layout_allows("model/weights/final.bin")
    assert not layout_allows("RELEASE.yaml")
    assert not layout_allows("model/weights/*.safetensors")
    assert not layout_allows("dataset/sources.yaml")


def test_all_clauses_of_the_definition_are_there() -> None:
    ids = {rule.id for rule in TABLE.rules}
    expected = [("F", 4), ("T", 6), ("D", 14), ("C", 9), ("P", 4)]
    assert {f"OSAID-{letter}{n}" for letter, count in expected for n in range(1, count + 1)} <= ids


def test_the_verdict_of_a_whole_bundle(built: Built) -> None:
    verdict = read_json(built.bundle / "model/openness/verdict.json")
    profiles = {profile["profile"]: profile for profile in verdict["profiles"]}
    assert profiles["osaid-1.0"]["verdict"] == "needs statement"
    assert profiles["osaid-1.0"]["statements_needed"] == ["OSAID-D12"]
    assert profiles["bundle"]["verdict"] == "evidence complete"
    assert "not legal advice" in verdict["notice"]
    assert "certified" not in json.dumps(verdict).lower()
    results = {row["id"]: row for row in verdict["results"]}
    assert results["BND-02"]["result"] == "unknown"
    assert results["BND-02"]["severity"] == "should"
    assert "not signed" in results["BND-02"]["reason"]
    assert results["OSAID-D12"]["command"].startswith("openwright release statement OSAID-D12 --bundle BUNDLE")
    assert all(row["reason"] and "\n" not in row["reason"] for row in verdict["results"])


def test_evaluating_again_gives_the_same_bytes(built: Built) -> None:
    from release.documents import json_bytes

    again = json_bytes(evaluate_rules(built.bundle).as_json())
    assert again == (built.bundle / "model/openness/verdict.json").read_bytes()


# -------------------------------------------------------------------------------- negative controls


def _edit(path: str, change: Callable[[Any], None]) -> Alteration:
    def alter(bundle: Path) -> None:
        value = json.loads((bundle / path).read_text(encoding="utf-8"))
        change(value)
        replace_file(bundle / path, json.dumps(value, ensure_ascii=False))

    return alter


def _remove(path: str) -> Alteration:
    return lambda bundle: (bundle / path).unlink()


def _write(path: str, data: bytes | str) -> Alteration:
    return lambda bundle: replace_file(bundle / path, data)


def _component(name: str, licence: str) -> Alteration:
    def change(value: Any) -> None:
        next(c for c in value["components"] if c["name"] == name)["licence"] = licence

    return _edit("model/openness/components.json", change)


def _declare(**values: Any) -> Alteration:
    return _edit("model/openness/components.json", lambda value: value.update(values))


def _lock(**values: Any) -> Alteration:
    return _edit("dataset/sources.lock", lambda value: value["sources"][0].update(values))


def _rows(change: Callable[[dict[str, Any]], None]) -> Alteration:
    def alter(bundle: Path) -> None:
        path = bundle / "dataset/documents/documents-00000.parquet"
        table = pq.read_table(path)
        rows = table.to_pylist()
        change(next(row for row in rows if row["decision"] == "kept"))
        path.unlink()
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)

    return alter


def _drop_a_text(bundle: Path) -> None:
    path = bundle / "dataset/text/train-00000.parquet"
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table.slice(1), path)


def _swap_weights(bundle: Path) -> None:
    other = bundle / "model/checkpoints/pretrain/step-00000002/model.safetensors"
    replace_file(bundle / "model/model.safetensors", other.read_bytes())


def _cut_weights(bundle: Path) -> None:
    path = bundle / "model/model.safetensors"
    replace_file(path, path.read_bytes()[:-4])


def _ledger(stage: str, old: str, new: str) -> Alteration:
    def alter(bundle: Path) -> None:
        path = bundle / f"model/training/{stage}/ledger.jsonl"
        replace_file(path, path.read_text().replace(old, new, 1))

    return alter


ZEROS = "0" * 64
UNHASHED = "torch==1\ntransformers==1\ntokenizers==1\n"
CONTROLS: list[tuple[str, Alteration, str]] = [
    ("BND-01", _write("model/training/sft/run.json", "{}"), "run.json is not the file"),
    ("BND-01", _write("model/training/sft/extra/notes.txt", "x"), "layout"),
    ("BND-01", _write("dataset/tokens/train/alpha/tokens-009.bin", b"x"), "listed by no stage"),
    ("BND-01", _remove("model/checkpoints/sft/step-00000000/config.json"), "missing"),
    ("BND-03", _declare(name="other"), "is named 'tiny'"),
    ("BND-04", _write("model/code/train/loop.py", "# other\n"), "code/train/loop.py"),
    ("BND-04", _write("model/code/train/more.py", "# more\n"), "not listed in CODE.json"),
    ("BND-04", _edit("model/code/CODE.json", lambda v: v.update(commit="main")), "no commit"),
    (
        "BND-05",
        _edit("model/training/sft/manifest.json", lambda v: v["parents"][0].update(content_digest=ZEROS)),
        "not in the bundle",
    ),
    (
        "BND-05",
        _edit("model/evaluation/manifest.json", lambda v: v.update(parents=v["parents"][:2])),
        "did not read the released run",
    ),
    ("BND-06", _write("model/checkpoints/sft/step-00000000/optimizer.pt", b"x"), "can hold code"),
    ("BND-06", _cut_weights, "do not cover the file"),
    ("BND-07", _write("model/training/sft/accelerate.yaml", "key: hf_" + "a1B2" * 9), "Hugging Face token"),
    ("BND-08", _swap_weights, "not the file of the final checkpoint"),
    (
        "BND-08",
        _edit("model/training/sft/run.json", lambda v: v["final"].update(weights_digest="0" * 64)),
        "different weights",
    ),
    ("BND-10", _write("model/openness/statements/OSAID-D12.yaml", "rule: OSAID-D12\n"), "fields"),
    ("OSAID-F1", _component("weights", "LicenseRef-scancode-llama-2-license-2023"), "weights is under"),
    ("OSAID-F2", _write("dataset/text/train-00001.parquet.gpg", b"x"), "layout"),
    ("OSAID-F2", _write("model/code/train/loop.pyc", b"x"), "no documented open format"),
    ("OSAID-F3", _component("code", "CC-BY-ND-4.0"), "code is under"),
    ("OSAID-F4", _component("data_information", "CC-BY-NC-4.0"), "data_information is under"),
    ("OSAID-T1", _declare(acceptable_use="Only for good."), "binding"),
    ("OSAID-T1", _write("model/code/USE_POLICY.md", "x"), "acceptable-use"),
    ("OSAID-T2", _declare(distribution=[{"location": "hub", "gated": True}]), "gated at hub"),
    ("OSAID-T2", _write("dataset/README.md", "---\nextra_gated_prompt: x\n---\n"), "extra_gated_"),
    ("OSAID-T3", _declare(scope="api"), "scope"),
    ("OSAID-T3", _remove("model/model.safetensors"), "missing"),
    ("OSAID-T4", _remove("model/openness/LICENSES/MIT.txt"), "the text of MIT is missing"),
    ("OSAID-T4", _write("model/openness/LICENSES/MIT.txt", "do as you like"), "not the text"),
    ("OSAID-T5", _component("weights", "Apache 2"), "no expression"),
    ("OSAID-T6", _rows(lambda row: row.update(licence_chosen="CC-BY-NC-4.0")), "CC-BY-NC-4.0"),
    ("OSAID-T6", _declare(upstreams=[{"name": "base", "licence": "LicenseRef-x"}]), "upstream base"),
    ("OSAID-D1", _ledger("pretrain", '"tokens_digest":"', '"tokens_digest":"0'), "chained"),
    (
        "OSAID-D1",
        _edit("dataset/tokens/tokens.json", lambda v: v["splits"]["train"].update(digest="0" * 64)),
        "other token shards",
    ),
    ("OSAID-D1", _edit("dataset/sources.lock", lambda v: v["sources"].pop(0)), "no declared source"),
    ("OSAID-D2", _lock(sha256=""), "not pinned"),
    ("OSAID-D2", _lock(obtain=""), "no origin"),
    ("OSAID-D3", _rows(lambda row: row.update(num_tokens=1)), "num_tokens"),
    ("OSAID-D3", _edit("dataset/corpus.json", lambda v: v["num_documents"].update(kept=99)), "states 99 kept"),
    ("OSAID-D4", _declare(data={"selection": "", "labelling": "There are no labels at all."}), "selection"),
    ("OSAID-D4", _write("dataset/README.md", "# empty"), "does not give"),
    ("OSAID-D5", _declare(data={"selection": "x" * 50, "labelling": "TODO: fill in the labelling"}), "placeholder"),
    ("OSAID-D6", _edit("dataset/corpus.json", lambda v: v["steps"][1].update(rows_in=3)), "begins with 3"),
    ("OSAID-D6", _edit("dataset/corpus.json", lambda v: v.update(steps=[])), "no processing steps"),
    ("OSAID-D7", _lock(obtain=""), "where to obtain"),
    ("OSAID-D8", _lock(osaid_class="obtainable"), "vendor"),
    ("OSAID-D9", _lock(osaid_class="mine"), "'mine'"),
    ("OSAID-D9", _rows(lambda row: row.update(licence_chosen="LicenseRef-x")), "LicenseRef-x"),
    ("OSAID-D10", _drop_a_text, "not all kept text"),
    ("OSAID-D11", _lock(osaid_class="unshareable"), "does not state reason"),
    ("OSAID-D13", _component("data_information", "LicenseRef-x"), "LicenseRef-x"),
    ("OSAID-C1", _remove("model/code/configs/tiny/corpus.yaml"), "corpus.yaml"),
    ("OSAID-C2", _remove("model/training/pretrain/accelerate.yaml"), "accelerate.yaml"),
    ("OSAID-C2", _edit("model/training/pretrain/recipe.json", lambda v: v.update(seed=99)), "not the recipe"),
    ("OSAID-C3", _edit("model/evaluation/results.json", lambda v: v.update(rows=[])), "no rows"),
    ("OSAID-C3", _remove("model/evaluation/record.json"), "record.json"),
    ("OSAID-C4", _write("model/tokenizer.json", "{}"), "not the one that made the tokens"),
    (
        "OSAID-C4",
        _write("model/code/requirements/cpu.lock", "torch==1\ntransformers==1\ntokenizers==1\n"),
        "without a hash",
    ),
    ("OSAID-C4", _remove("model/code/requirements/cpu.lock"), "does not lock"),
    ("OSAID-C5", _declare(hyperparameter_search={"used": True, "code_path": "search"}), "search"),
    ("OSAID-C6", _edit("model/config.json", lambda v: v.update(auto_map={"AutoModel": "x.Y"})), "remote code"),
    ("OSAID-C6", _remove("model/config.json"), "config.json"),
    ("OSAID-C7", _remove("model/code/LICENSE"), "code/LICENSE"),
    ("OSAID-C7", _component("code", "CC0-1.0"), "OSI-approved"),
    ("OSAID-P1", _remove("model/generation_config.json"), "generation_config.json"),
    ("OSAID-P1", _edit("model/training/sft/run.json", lambda v: v.update(num_parameters=7)), "states 7"),
    ("OSAID-P2", _remove("model/checkpoints/sft/step-00000002/optimizer.safetensors"), "optimizer"),
    ("OSAID-P3", _component("weights", "OpenRAIL"), "OpenRAIL"),
    ("OSAID-P4", _write("model/NOTICE", "All rights reserved."), "freely available"),
    ("OSAID-P4", _write("model/LICENSE", ""), "LICENSE"),
]


@pytest.mark.parametrize(("rule_id", "alter", "reason"), CONTROLS, ids=[f"{c[0]}-{n}" for n, c in enumerate(CONTROLS)])
def test_a_rule_fails_without_its_evidence(copy: Path, rule_id: str, alter: Alteration, reason: str) -> None:
    rule = TABLE.rule(rule_id)
    sealed = read_json(copy / "model/openness/verdict.json")["results"]
    before = next(row["result"] for row in sealed if row["id"] == rule_id)
    assert before in ("pass", "not_applicable")
    alter(copy)
    if rule_id == "BND-10":
        result = next(r for r in evaluate_rules(copy).results if r.rule.id == rule_id)
    else:
        result = evaluate_rule(rule, BundleFacts(copy))
    assert result.result == "fail"
    assert reason in result.reason
    assert str(copy) not in result.reason


def test_every_program_decided_rule_has_a_control() -> None:
    covered = {rule_id for rule_id, _, _ in CONTROLS} | CONSTANT | {"OSAID-D14"}
    assert {rule.id for rule in TABLE.rules if rule.decides != "human"} == covered - {"OSAID-D12"}


def test_text_that_is_not_preserved_is_unknown(copy: Path) -> None:
    _drop_a_text(copy)
    result = evaluate_rule(TABLE.rule("OSAID-D14"), BundleFacts(copy))
    assert (result.result, "not in the bundle" in result.reason) == ("unknown", True)


def test_rules_that_cannot_pass_say_unknown_and_weigh_nothing(built: Built) -> None:
    facts = BundleFacts(built.bundle)
    for rule_id in sorted(CONSTANT):
        assert TABLE.rule(rule_id).severity == "should"
        assert evaluate_rule(TABLE.rule(rule_id), facts).result == UNKNOWN


@pytest.mark.parametrize(("licence", "rule_id"), [("CC0-1.0", "OSAID-P3"), ("OpenMDW-1.0", "OSAID-F1")])
def test_open_terms_on_no_osi_list_need_a_person(copy: Path, licence: str, rule_id: str) -> None:
    _component("weights", licence)(copy)
    result = evaluate_rule(TABLE.rule(rule_id), BundleFacts(copy))
    assert result.result == "needs_statement"
    assert result.as_json()["command"]


def test_copyleft_text_needs_a_person(copy: Path) -> None:
    _rows(lambda row: row.update(licence_chosen="MPL-2.0"))(copy)
    assert evaluate_rule(TABLE.rule("OSAID-T6"), BundleFacts(copy)).result == "needs_statement"


def test_missing_evidence_makes_the_profile_say_so(copy: Path) -> None:
    _remove("model/openness/LICENSES/MIT.txt")(copy)
    profile = evaluate_rules(copy).profile("osaid-1.0")
    assert (profile["verdict"], profile["missing"]) == ("evidence missing", ["OSAID-T4"])


def test_malformed_evidence_fails_and_does_not_raise(copy: Path) -> None:
    for path in ("dataset/corpus.json", "dataset/sources.lock", "model/training/sft/run.json", "model/config.json"):
        replace_file(copy / path, "[]")
    failed = {result.rule.id for result in evaluate_rules(copy).results if result.result == "fail"}
    assert {"BND-01", "BND-08", "OSAID-D3", "OSAID-D2", "OSAID-P1", "OSAID-C6"} <= failed


def test_conversations_from_files_are_counted_by_split_and_under_their_licences(copy: Path) -> None:
    def found(rule: str) -> tuple[str, str]:
        result = evaluate_rule(TABLE.rule(rule), BundleFacts(copy))
        return result.result, result.reason

    entry = {"name": "talks", "type": "chat", "kind": "messages", "split": "train"}
    _edit("dataset/sources.lock", lambda v: v["sources"].append(entry))(copy)
    assert found("OSAID-D3") == ("fail", "corpus.json has no totals of the split 'chat', which talks is part of")
    split = {"sources": [{"name": "talks", "num_documents": 2, "num_tokens": 34, "shards": []}]}
    _edit("dataset/corpus.json", lambda v: v.update(chats={"splits": {"chat": {"num_rows": 2, "num_tokens": 34}}}))(
        copy
    )
    _edit("dataset/tokens/tokens.json", lambda v: v["splits"].update(chat=split))(copy)
    assert found("OSAID-D3")[0] == "pass"
    _edit("dataset/corpus.json", lambda v: v["chats"]["splits"]["chat"].update(num_rows=3))(copy)
    assert found("OSAID-D3")[1].endswith("as 3, the shards have 2")
    assert found("OSAID-T6")[0] == "pass"
    (copy / "dataset/chats").mkdir()
    rows = pa.table({"source": ["talks"], "licence": ["CC-BY-NC-4.0"]})
    pq.write_table(rows, copy / "dataset/chats/train-00000.parquet")
    assert "CC-BY-NC-4.0" in found("OSAID-T6")[1]


# -------------------------------------------------------------------------------- statements


def _state(built: Built, config_dir: Path, rule: str = "OSAID-D12") -> Path:
    text = "I rebuilt the corpus from this information; it suffices. Ελέγχθηκε."
    return write_statement(rule, built.bundle, "Ζωή Tester", "data lead", text, "2026-11-24", config_dir)


def test_a_statement_completes_the_evidence(built: Built, rebuild: Callable[..., Artifact], tmp_path: Path) -> None:
    config_dir = tmp_path / "tiny"
    config_dir.mkdir()
    (config_dir / "corpus.yaml").write_bytes((built.config_dir / "corpus.yaml").read_bytes())
    path = _state(built, config_dir)
    assert path == config_dir / "statements" / "OSAID-D12.yaml"
    assert read_statement(path).name == "Ζωή Tester"
    bundle = bundle_path(rebuild(config_dir=config_dir))
    verdict = read_json(bundle / "model/openness/verdict.json")
    assert {profile["profile"]: profile["verdict"] for profile in verdict["profiles"]} == {
        "osaid-1.0": "evidence complete",
        "bundle": "evidence complete",
    }
    stated = next(row for row in verdict["results"] if row["id"] == "OSAID-D12")
    assert stated["statement"] == {"name": "Ζωή Tester", "role": "data lead", "date": "2026-11-24"}


def test_a_statement_about_other_evidence_is_a_conflict(built: Built, copy: Path, tmp_path: Path) -> None:
    path = _state(built, tmp_path)
    replace_file(copy / "model/openness/statements/OSAID-D12.yaml", path.read_bytes())
    assert evaluate_rules(copy).profile("osaid-1.0")["verdict"] == "evidence complete"
    replace_file(copy / "dataset/README.md", (copy / "dataset/README.md").read_text(encoding="utf-8") + "\nedited\n")
    verdict = evaluate_rules(copy)
    assert verdict.profile("osaid-1.0")["verdict"] == "conflict"
    results = {result.rule.id: result for result in verdict.results}
    assert "other evidence" in results["OSAID-D12"].reason
    assert results["BND-10"].result == "fail"


def test_a_statement_does_not_outweigh_the_program(built: Built, copy: Path, tmp_path: Path) -> None:
    path = _state(built, tmp_path, "OSAID-P3")
    _component("weights", "LicenseRef-x")(copy)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["evidence_digest"] = evaluate_rule(TABLE.rule("OSAID-P3"), BundleFacts(copy)).evidence_digest
    replace_file(copy / "model/openness/statements/OSAID-P3.yaml", yaml.safe_dump(values))
    result = next(r for r in evaluate_rules(copy).results if r.rule.id == "OSAID-P3")
    assert (result.result, result.conflict) == ("fail", True)


def test_a_statement_on_a_rule_of_the_program_is_refused(built: Built, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="decided by the program"):
        _state(built, tmp_path, "OSAID-D1")
    path = _state(built, tmp_path)
    values = {**yaml.safe_load(path.read_text(encoding="utf-8")), "rule": "OSAID-D1"}
    replace_file(copy / "model/openness/statements/OSAID-D1.yaml", yaml.safe_dump(values))
    assert next(r for r in evaluate_rules(copy).results if r.rule.id == "BND-10").result == "fail"


@pytest.mark.parametrize(("field", "value"), [("name", " "), ("role", ""), ("text", ""), ("date", "yesterday")])
def test_an_empty_statement_is_refused(built: Built, tmp_path: Path, field: str, value: str) -> None:
    values = {"name": "A", "role": "B", "text": "C", "date": "2026-11-24", field: value}
    with pytest.raises(ConfigError, match=field):
        write_statement("OSAID-D12", built.bundle, config_dir=tmp_path, **values)


def test_an_unknown_rule_is_refused(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="OSAID-X1"):
        _state(built, tmp_path, "OSAID-X1")


def test_no_statement_ships_with_the_project() -> None:
    root = Path(__file__).resolve().parents[2]
    assert not list((root / "configs").rglob("statements/*"))
