"""Noise measured for real: a run, other kernels of the same libraries, and a replay among them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest
import torch
from safetensors.torch import save_file

from provenance.canonical import read_json, write_json
from provenance.errors import BundleError, ReleaseError
from release.calibration import RecordedRun, check_measurable, choose_stretches, measure, variants
from release.replay_report import ReplayResult
from release.reproduce import reproduce
from release.tolerance import Tolerance
from release.tolerance_check import check_tolerance
from train.checkpoint import restore_checkpoint
from train.job import TrainingJob
from train.layout import Layout, World
from train.loop import TrainingRun
from train.state import state_digest
from train.trials import State, run_changed

OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default"}


@pytest.fixture(scope="module")
def recorded(made: Any) -> RecordedRun:
    """The pretraining of the tiny release: six steps, full checkpoints at every third."""
    paths = {stage: Path(made["artifacts"][stage]["path"]).resolve() for stage in ("pretrain", "corpus")}
    return RecordedRun("pretrain", paths["pretrain"], paths["corpus"], "")


@pytest.fixture(scope="module")
def tolerance(recorded: RecordedRun) -> Tolerance:
    """What is measured of it between this machine as it is and the plainest kernels."""
    return measure(recorded, 3, [OTHER_KERNELS])


@pytest.fixture(scope="module")
def calibrated(bundle: Path, tolerance: Tolerance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with the measurement."""
    copy = tmp_path_factory.mktemp("calibrated") / "bundle"
    shutil.copytree(bundle, copy)
    write_json(copy / "model" / "training" / "pretrain" / "tolerance.json", tolerance.model_dump())
    return copy


@pytest.fixture(scope="module")
def elsewhere(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReplayResult, Path]:
    """A replay of the last three steps with the plainest kernels, and all that it wrote."""
    kept = tmp_path_factory.mktemp("replayed") / "run"
    run = subprocess.run

    def keep(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        done = run(command, **options)
        shutil.copytree(json.loads(Path(command[-1]).read_text())["output"], kept)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATEN_CPU_CAPABILITY", "default")
        patch.setattr("release.interpreters.subprocess.run", keep)
        (result,) = reproduce(calibrated, steps=(4, 6), num_processes=1)
    return result, kept


@pytest.fixture
def replaying_again(
    elsewhere: tuple[ReplayResult, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], ReplayResult]:
    """Judge another bundle by the same replay, which depends on nothing that the test has changed."""

    def again(bundle: Path) -> ReplayResult:
        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
            shutil.copytree(elsewhere[1], json.loads(Path(command[-1]).read_text())["output"])
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr("release.interpreters.subprocess.run", run)
        (result,) = reproduce(bundle, steps=(4, 6), num_processes=1)
        return result

    return again


def test_this_machine_gives_equal_bits_and_other_kernels_give_noise(tolerance: Tolerance) -> None:
    native, other = tolerance.platforms
    assert native.equal_bits
    assert not other.equal_bits
    assert other.platform["torch_cpu_capability"] == "DEFAULT"
    assert [(s.first_step, s.last_step) for s in other.stretches] == [(1, 3), (4, 6)]
    for stretch in other.stretches:
        assert 0 < stretch.noise()["weights"] < 1e-5
        assert stretch.seen["token"]


def test_an_honest_replay_with_other_kernels_is_within_tolerance_and_says_so(
    elsewhere: tuple[ReplayResult, Path], calibrated: Path
) -> None:
    result, _ = elsewhere
    assert result.verdict == "PASS", result.detail
    assert result.detail.startswith("within tolerance, not bitwise; ")
    assert "that the publisher measured between these two platforms" in result.detail
    assert result.segment.comparison == "within tolerance"
    assert check_tolerance(calibrated).verdict == "PASS"


def test_one_token_changed_in_training_fails_under_other_kernels(
    recorded: RecordedRun, calibrated: Path, tmp_path: Path, replaying_again: Callable[[Path], ReplayResult]
) -> None:
    """The forger trained on another token, and writes checkpoint and ledger as if nothing had been."""
    bundle = tmp_path / "forged"
    shutil.copytree(calibrated, bundle)
    end = bundle / "model" / "checkpoints" / "pretrain" / "step-00000006"
    state = trained_on_another_token(recorded, tmp_path)
    save_file(state.weights, end / "model.safetensors", {"format": "pt"})
    save_file(state.optimizer, end / "optimizer.safetensors", {"format": "pt"})
    digests = {
        "weights_digest": state_digest(state.weights),
        "state_digest": state_digest({**state.weights, **state.optimizer}),
    }
    write_json(end / "checkpoint.json", {**read_json(end / "checkpoint.json"), **digests})

    def edit(records: list[dict[str, Any]]) -> None:
        next(r for r in records if r["kind"] == "checkpoint" and r["step"] == 6).update(digests)

    forge.edit_ledger(bundle, "pretrain", edit)
    result = replaying_again(bundle)
    assert result.verdict == "FAIL"
    assert result.detail.startswith("beyond tolerance in weights")
    (bundle / "model" / "training" / "pretrain" / "tolerance.json").unlink()
    result = replaying_again(bundle)
    assert (result.verdict, "no tolerance was measured" in result.detail) == ("UNVERIFIED", True)


def trained_on_another_token(recorded: RecordedRun, scratch: Path) -> State:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    start = recorded.path / "checkpoints" / "step-00000003"
    job = TrainingJob(
        "pretrain", recorded.recipe, {}, str(recorded.corpus), str(scratch), "", (), "", str(start), last_step=6
    )
    run = TrainingRun(job, Layout(World()))
    _, run.num_updates = restore_checkpoint(start, run.weights, run.optimizer, run.layout)
    for step in (4, 5):
        run.train_step(step)
    return run_changed(run, State.of(run), 6, "token")


def changed(calibrated: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(calibrated, target)
    path = target / "model" / "training" / "pretrain" / "tolerance.json"
    values = forge.read(path)
    change(values)
    forge.write(path, values)
    return target


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v["platforms"][1]["stretches"][1]["thresholds"].update(weights=(1e-2).hex()), "thresholds do not"),
        (lambda v: v.update(peak_learning_rate=(9.0).hex()), "peak learning rate are not those of the recipe"),
        (lambda v: v.update(stage="sft"), "stage, precision or peak learning rate are not those of the recipe"),
        (lambda v: [c.update(learning_rate=(1e-9).hex()) for c in v["changes"]], "do not follow"),
        (lambda v: v["platforms"][0]["stretches"][0].update(weights_digest="0" * 64), "whether bits are equal"),
    ],
)
def test_a_measurement_that_does_not_fit_is_caught(
    calibrated: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    bundle = changed(calibrated, tmp_path / "forged", change)
    result = check_tolerance(bundle)
    assert (result.verdict, told in result.detail) == ("FAIL", True), result.detail


def test_a_file_of_another_format_is_caught(calibrated: Path, tmp_path: Path) -> None:
    bundle = changed(calibrated, tmp_path / "forged", lambda values: values.update(factor=80))
    with pytest.raises(BundleError, match="factor"):
        check_tolerance(bundle)


def test_what_cannot_be_measured_is_refused(recorded: RecordedRun, tmp_path: Path) -> None:
    shutil.copytree(recorded.path, tmp_path / "run")
    run = RecordedRun("pretrain", tmp_path / "run", recorded.corpus, "")
    check_measurable(run)
    with pytest.raises(ReleaseError, match="at most 0 steps apart"):
        choose_stretches(run, 0)
    recipe = run.recipe
    write_json(run.path / "recipe.json", {**recipe, "reduction": "native"})
    with pytest.raises(ReleaseError, match="reduction native"):
        check_measurable(run)
    write_json(run.path / "recipe.json", recipe)
    environment = read_json(run.path / "environment.json")
    environment["platform"]["devices"] = ["a GPU"]
    write_json(run.path / "environment.json", environment)
    with pytest.raises(ReleaseError, match="GPUs"):
        check_measurable(run)


def test_only_kernels_that_this_machine_has_are_tried() -> None:
    widest = variants({"torch_cpu_capability": "AVX512", "machine": "x86_64"}, "fp32")
    assert {"ATEN_CPU_CAPABILITY": "avx2"} in widest
    assert variants({"torch_cpu_capability": "DEFAULT", "machine": "aarch64"}, "fp32") == []
