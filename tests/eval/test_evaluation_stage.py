import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from eval.rescore import rescore
from eval.samples import sample_line
from eval.settings import ClozeConfig, DocstringChoiceConfig, EvalConfig, ExecutionConfig
from eval.stage import SPEC, evaluate
from eval.tasks import DOCSTRING_CHOICE, write_tasks
from provenance.artifacts import Artifact, load_artifact
from provenance.canonical import Json, parse_hex_float, read_json, write_json
from provenance.digests import sha256_file
from provenance.errors import EvaluationError
from provenance.fingerprint import CodeIdentity
from provenance.stage import StageContext

Evaluate = Callable[..., Artifact]


@pytest.fixture(scope="module")
def evaluation(
    eval_config: EvalConfig, eval_context: StageContext, corpus: Artifact, run_models: dict[str, Artifact]
) -> Artifact:
    return evaluate(eval_config, eval_context, corpus, run_models)


@pytest.fixture
def own_evaluation(evaluation: Artifact, tmp_path: Path) -> Path:
    shutil.copytree(evaluation.path, tmp_path / "evaluation")
    return tmp_path / "evaluation"


def other_context(tmp_path: Path) -> StageContext:
    return StageContext("tiny", tmp_path / "other", CodeIdentity("0" * 40, False, "0" * 64))


def test_the_artifact_holds_what_the_formats_page_says(evaluation: Artifact) -> None:
    results = read_json(evaluation.path / "results.json")
    names = [(row["model"], row["task"], row["metric"]) for row in results["rows"]]
    choice = {"pretrain": "openwright_docstring_choice", "sft": "openwright_docstring_choice_chat"}
    assert names == [
        (model, task, metric)
        for model in ("pretrain", "sft")
        for task, metrics in (
            ("openwright_bits_per_byte", ("bits_per_byte",)),
            (choice[model], ("acc", "acc_norm")),
            ("openwright_cloze", ("acc", "acc_norm")),
        )
        for metric in metrics
    ]
    for row in results["rows"]:
        low, value, high = (parse_hex_float(row[key]) for key in ("low", "value", "high"))
        assert low <= value <= high
        assert row["verdict"]
    record = read_json(evaluation.path / "record.json")
    assert record["harness"]["version"] == "0.4.13"
    assert record["models"][1]["chat_template_sha256"]
    assert record["tasks"][choice["sft"]]["chat"] is True
    assert {name for name in record["files"] if name.startswith("samples/")} == {
        f"samples/{model}/{task}.jsonl" for model, task, _ in names
    }
    observations = {entry.path for entry in evaluation.observations}
    assert observations == {"journal.jsonl", "environment.json"}


def test_no_machine_path_is_among_the_results(evaluation: Artifact) -> None:
    for entry in evaluation.results:
        data = (evaluation.path / entry.path).read_bytes()
        assert str(evaluation.path.parents[2]).encode() not in data
        assert tempfile.gettempdir().encode() + b"/" not in data


def test_a_second_run_with_another_number_of_processes_gives_the_same_bytes(
    evaluation: Artifact,
    eval_config: EvalConfig,
    corpus: Artifact,
    run_models: dict[str, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One process at a time, elsewhere; ways to the network are watched, the scratch directory is looked at."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with watched_proxy() as (address, connections):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT"):
            monkeypatch.setenv(name, address)
        config = eval_config.model_copy(update={"execution": ExecutionConfig(num_processes=1)})
        second = evaluate(config, other_context(tmp_path), corpus, run_models)
    assert second.results == evaluation.results
    assert second.content_digest == evaluation.content_digest
    assert second.fingerprint == evaluation.fingerprint
    assert connections == []
    assert list((tmp_path / "scratch").iterdir()) == []


class watched_proxy:  # noqa: N801
    """A loopback port that notes every connection."""

    def __enter__(self) -> tuple[str, list[Any]]:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.connections: list[Any] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return f"http://127.0.0.1:{self.server.getsockname()[1]}", self.connections

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self.server.accept()
            except OSError:
                return
            self.connections.append(peer)
            connection.close()

    def __exit__(self, *_: object) -> None:
        self.server.close()


def test_the_watched_proxy_notes_a_connection() -> None:
    with watched_proxy() as (address, connections):
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
            client.recv(1)
        assert len(connections) == 1


def test_rescore_agrees_without_torch(evaluation: Artifact) -> None:
    rescore(evaluation.path)
    program = (
        "import sys; from pathlib import Path; from eval.rescore import rescore; rescore(Path(sys.argv[1]));"
        "print(sorted({'torch', 'numpy', 'lm_eval', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(evaluation.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def edit_sample(path: Path, number: int, change: Callable[[dict[str, Json]], None], redigest: bool) -> str:
    lines = path.read_bytes().splitlines()
    values = json.loads(lines[number])
    change(values)
    if redigest:
        values.pop("digest")
        lines[number] = sample_line(values)
    else:
        lines[number] = json.dumps(values).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(values["item_id"])


def forge_record(evaluation: Path, *names: str) -> None:
    record = read_json(evaluation / "record.json")
    for name in names:
        record["files"][name] = sha256_file(evaluation / name)
    write_json(evaluation / "record.json", record)


CLOZE_SAMPLES = "samples/sft/openwright_cloze.jsonl"
TEXT_SAMPLES = "samples/pretrain/openwright_bits_per_byte.jsonl"


def test_rescore_names_an_edited_sample(own_evaluation: Path) -> None:
    item = edit_sample(own_evaluation / CLOZE_SAMPLES, 4, lambda v: v.update(is_greedy=[True] * 4), redigest=False)
    with pytest.raises(EvaluationError, match=f"sample {item} was changed") as caught:
        rescore(own_evaluation)
    assert caught.value.where.endswith("openwright_cloze.jsonl:5")


def test_rescore_names_the_row_of_a_forged_sample(own_evaluation: Path) -> None:
    edit_sample(own_evaluation / TEXT_SAMPLES, 2, lambda v: v.update(loglikelihood=(-1.0).hex()), redigest=True)
    forge_record(own_evaluation, TEXT_SAMPLES)
    with pytest.raises(EvaluationError, match="row pretrain / openwright_bits_per_byte / bits_per_byte is"):
        rescore(own_evaluation)


def test_rescore_names_a_changed_row(own_evaluation: Path) -> None:
    results = read_json(own_evaluation / "results.json")
    results["rows"][3]["verdict"] = "above chance, surely"
    write_json(own_evaluation / "results.json", results)
    row = results["rows"][3]
    with pytest.raises(EvaluationError, match=f"row {row['model']} / {row['task']} / {row['metric']} is .*surely"):
        rescore(own_evaluation)


def test_rescore_names_a_file_that_the_record_does_not_know(own_evaluation: Path) -> None:
    """A sample whose change leaves the table as it is."""
    edit_sample(own_evaluation / CLOZE_SAMPLES, 0, lambda v: v.update(is_greedy=[True] * 4), redigest=True)
    with pytest.raises(EvaluationError, match="not the one that the record names") as caught:
        rescore(own_evaluation)
    assert caught.value.where.endswith(CLOZE_SAMPLES)


def test_rescore_compares_samples_with_the_items(own_evaluation: Path) -> None:
    """Answers moved in tasks and record, not in the samples."""
    items = own_evaluation / "tasks/openwright_cloze.jsonl"
    rows = [json.loads(line) for line in items.read_bytes().splitlines()]
    rows[6]["answer"] = (rows[6]["answer"] + 1) % 4
    items.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    forge_record(own_evaluation, "tasks/openwright_cloze.jsonl")
    with pytest.raises(EvaluationError, match=f"sample {rows[6]['item_id']} is not about item"):
        rescore(own_evaluation)


@pytest.mark.parametrize("name", ["../pretrain", "a/b", "", "/etc"])
def test_rescore_refuses_names_that_leave_the_directory(own_evaluation: Path, name: str) -> None:
    record = read_json(own_evaluation / "record.json")
    record["models"][0]["name"] = name
    write_json(own_evaluation / "record.json", record)
    with pytest.raises(EvaluationError, match="plain file name"):
        rescore(own_evaluation)


def test_rescore_of_a_malformed_record(own_evaluation: Path) -> None:
    write_json(own_evaluation / "record.json", {"models": [3]})
    with pytest.raises(EvaluationError, match="malformed"):
        rescore(own_evaluation)


def test_a_missing_model_is_named(
    eval_config: EvalConfig, eval_context: StageContext, corpus: Artifact, run_models: dict[str, Artifact]
) -> None:
    with pytest.raises(EvaluationError, match="no model sft"):
        evaluate(eval_config, eval_context, corpus, {"pretrain": run_models["pretrain"]})


@pytest.fixture
def broken_models(run_models: dict[str, Artifact], tmp_path: Path) -> dict[str, Artifact]:
    shutil.copytree(run_models["sft"].path, tmp_path / "sft")
    return {"sft": load_artifact(tmp_path / "sft")}


def test_a_failure_of_the_harness_shows_its_log(
    eval_config: EvalConfig, corpus: Artifact, broken_models: dict[str, Artifact], tmp_path: Path
) -> None:
    (broken_models["sft"].path / "checkpoints/step-00000007/model.safetensors").write_bytes(b"not weights")
    config = eval_config.model_copy(update={"models": ["sft"]})
    with pytest.raises(EvaluationError, match=r"(?s)model sft.*exit code 1.*(SafetensorError|HeaderTooLarge)"):
        evaluate(config, other_context(tmp_path), corpus, broken_models)


def test_a_chat_task_needs_a_chat_template(
    eval_config: EvalConfig, corpus: Artifact, broken_models: dict[str, Artifact], tmp_path: Path
) -> None:
    (broken_models["sft"].path / "checkpoints/step-00000007/chat_template.jinja").unlink()
    config = eval_config.model_copy(update={"models": ["sft"]})
    with pytest.raises(EvaluationError, match="no chat template"):
        evaluate(config, other_context(tmp_path), corpus, broken_models)


def test_few_shot_examples_reach_the_prompt(
    eval_config: EvalConfig, corpus: Artifact, run_models: dict[str, Artifact], tmp_path: Path, evaluation: Artifact
) -> None:
    config = eval_config.model_copy(
        update={
            "models": ["sft"],
            "context_tokens": 90,
            "docstring_choice": DocstringChoiceConfig(max_items=8, num_fewshot=1),
            "cloze": ClozeConfig(max_items=8, num_fewshot=1, context_characters=40),
        }
    )
    artifact = evaluate(config, other_context(tmp_path), corpus, run_models)
    record = read_json(artifact.path / "record.json")
    assert [task["num_fewshot"] for task in record["tasks"].values()] == [0, 1, 1]
    with_shot = (artifact.path / CLOZE_SAMPLES).read_bytes().splitlines()
    without = (evaluation.path / CLOZE_SAMPLES).read_bytes().splitlines()
    known = {json.loads(line)["item_id"]: json.loads(line)["inputs_digest"] for line in without}
    shared = [json.loads(line) for line in with_shot if json.loads(line)["item_id"] in known]
    assert shared
    assert all(known[values["item_id"]] != values["inputs_digest"] for values in shared)
    rescore(artifact.path)


def test_tasks_that_a_corpus_has_no_items_for_can_be_left_out(
    eval_config: EvalConfig,
    corpus: Artifact,
    run_models: dict[str, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(jobs: Any, _: Any, tasks_dir: Path, __: int) -> None:
        files = sorted(path.name.removeprefix("openwright_") for path in tasks_dir.iterdir())
        raise EvaluationError(f"{[task.name for job in jobs for task in job.tasks]} {files}")

    monkeypatch.setattr("eval.stage.run_harness", asked)
    without = eval_config.model_copy(update={"models": ["sft"], "docstring_choice": None})
    cloze = "'openwright_bits_per_byte', 'openwright_cloze'"
    with pytest.raises(EvaluationError, match=rf"\[{cloze}\] .*cloze.jsonl', 'cloze.yaml'\]"):
        evaluate(without, other_context(tmp_path / "a"), corpus, run_models)
    texts = without.model_copy(update={"cloze": None})
    with pytest.raises(EvaluationError, match=r"byte'\] \['bits_per_byte.jsonl', 'bits_per_byte.yaml'\]"):
        evaluate(texts, other_context(tmp_path / "b"), corpus, run_models)
    with pytest.raises(EvaluationError, match="has 0 items") as refused:
        write_tasks(tmp_path / "c", {DOCSTRING_CHOICE: []}, {}, 20)
    assert "docstring_choice: null" in str(refused.value.next_command)


def test_the_stage_names_what_it_depends_on(tokenizer: Tokenizer) -> None:
    assert SPEC.packages == ("provenance", "data_recipes", "eval")
    assert {"lm-eval", "transformers", "tokenizers", "torch"} <= set(SPEC.libraries)
