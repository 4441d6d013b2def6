"""What follows from measured distances, and how a replay on another platform is judged by them: no training here."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import forge
import pytest
import torch
from fake_replays import Change, Edit, pretend_to_replay
from safetensors.torch import load_file, save_file

from release.bundle import build_release, bundle_path
from release.calibration import calibrate, tolerances_of
from release.checks import verify_release
from release.replay_report import ReplayResult
from release.reproduce import reproduce
from release.tolerance import Tolerance, concluded, problems, read_tolerance

Replaying = Callable[..., ReplayResult]
STEPS = (3, 4)
CHANGED = {"learning_rate": 7.8e-8, "optimizer": 2e-3, "token": 3.2e-5, "window": 7.9e-4}


def tensors(overall: float, largest: float) -> dict[str, Any]:
    return {"overall": overall.hex(), "tensors": {"model.norm.weight": largest.hex(), "model.x": overall.hex()}}


def stretch(first: int, last: int, overall: float) -> dict[str, Any]:
    far = tensors(overall, 2 * overall)
    span = {"first_step": first, "last_step": last, "weights_digest": "a" * 64, "weights": far, "optimizer": far}
    derived: dict[str, Any] = {"thresholds": {}, "least_learning_rates": {}, "seen": {}}
    return {**span, "loss": (0.0).hex(), "gradient_norm": overall.hex(), **derived}


def write_tolerance(bundle: Path, overall: float = 1e-7, changed: dict[str, float] = CHANGED, **values: Any) -> Path:
    """Write what a publisher measured between the recorded platform and one with `ATEN_CPU_CAPABILITY=default`."""
    recorded = platform_of(bundle)
    rate = forge.read(bundle / "model" / "training" / "pretrain" / "recipe.json")["optimizer"]["peak_learning_rate"]
    platforms = [
        {
            "variables": {},
            "platform": recorded,
            "equal_bits": True,
            "stretches": [stretch(1, 2, 0.0), stretch(3, 4, 0.0)],
        },
        {
            "variables": {"ATEN_CPU_CAPABILITY": "default"},
            "platform": other_platform(recorded),
            "equal_bits": False,
            "stretches": [stretch(1, 2, 10 * overall), stretch(3, 4, overall)],
        },
    ]
    changes = [
        {"change": name, "first_step": first, "last_step": last, "learning_rate": rate, "weights": tensors(size, size)}
        for first, last in ((1, 2), (3, 4))
        for name, size in changed.items()
    ]
    tolerance = concluded(
        {
            "format": "openwright-tolerance/1",
            "stage": "pretrain",
            "precision": "fp32",
            "time_utc": "2026-11-25T12:00:00Z",
            "code": "b" * 64,
            "factor": 8,
            "peak_learning_rate": rate,
            "recorded_platform": recorded,
            "changes": changes,
            "platforms": platforms,
            **values,
        }
    )
    path = bundle / "model" / "training" / "pretrain" / "tolerance.json"
    forge.write(path, tolerance.model_dump())
    return path


def platform_of(bundle: Path) -> dict[str, Any]:
    """The recorded platform record with the digest that `docs/formats.md` gives it; written back."""
    path = bundle / "model" / "training" / "pretrain" / "environment.json"
    values = forge.read(path)
    values["platform"] = with_digest(values["platform"])
    forge.write(path, values)
    return dict(values["platform"])


def other_platform(recorded: dict[str, Any]) -> dict[str, Any]:
    return with_digest({**recorded, "torch_cpu_capability": "DEFAULT"})


def with_digest(record: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in record.items() if name != "digest"}
    return {**plain, "digest": forge.digest_of("platform/1", plain)}


def other_losses(lines: list[bytes]) -> list[bytes]:
    """Losses and gradient norms as other kernels give them: a last bit apart; later lines follow in the chain."""
    edited = []
    for line in lines:
        record = json.loads(line)
        if record["kind"] == "step":
            record |= {name: forge.next_float(record[name]) for name in ("loss", "gradient_norm")}
        edited.append(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())
    return edited


def elsewhere(*changes: Change) -> Change:
    """Let a replay have run on the other platform."""

    def change(output: Path) -> None:
        values = forge.read(output / "environment.json")
        forge.write(output / "environment.json", {**values, "platform": other_platform(values["platform"])})
        for each in changes:
            each(output)

    return change


def apart(relative: float) -> Change:
    """Let all tensors of the kept checkpoints end a relative distance from the recorded ones."""

    def change(output: Path) -> None:
        for path in output.glob("checkpoints/*/model.safetensors"):
            held = load_file(path)
            scale = torch.tensor(1.0 + relative, dtype=torch.float64)
            moved = {name: (tensor.double() * scale).to(tensor.dtype) for name, tensor in held.items()}
            save_file(moved, path)

    return change


def other_moments(output: Path) -> None:
    """Let the kept optimizer states end elsewhere."""
    for path in output.glob("checkpoints/*/optimizer.safetensors"):
        save_file({n: t + 1e-3 if t.is_floating_point() else t for n, t in load_file(path).items()}, path)


@pytest.fixture
def replaying(monkeypatch: pytest.MonkeyPatch) -> Replaying:
    """Replay steps of a bundle with a stand-in."""

    def replay(bundle: Path, change: Change, edit: Edit = other_losses, steps: tuple[int, int] = STEPS) -> ReplayResult:
        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
            pretend_to_replay(json.loads(Path(command[-1]).read_text()), edit, change)
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr("release.interpreters.subprocess.run", run)
        (result,) = reproduce(bundle, steps=steps)
        return result

    return replay


def test_a_replay_within_the_measured_noise_passes_as_such(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    write_tolerance(bundle)
    result = replaying(bundle, elsewhere(apart(4e-7)))
    assert result.verdict == "PASS", result.detail
    assert result.detail.startswith("within tolerance, not bitwise; the thresholds are 8 times the noise that the publ")
    assert "weights 8e-07" in result.detail
    assert "would show a dropped optimizer state, one changed token, one swapped window in the last" in result.detail
    assert "not seen: a learning rate times 1.0001" in result.detail
    assert result.segment.comparison == "within tolerance"
    assert result.judgement is not None
    assert 3e-7 < result.judgement.distances["weights"] < 5e-7


@pytest.mark.parametrize(
    ("change", "beyond"),
    [(apart(3.2e-5), "weights, weights_of_a_tensor"), (other_moments, "optimizer_of_a_tensor")],
)
def test_a_state_beyond_the_threshold_fails(copy_of: Any, replaying: Replaying, change: Change, beyond: str) -> None:
    bundle = copy_of("plain")
    write_tolerance(bundle)
    result = replaying(bundle, elsewhere(change))
    assert result.verdict == "FAIL"
    assert result.detail.startswith(f"beyond tolerance in {beyond}")
    assert result.segment.comparison == "bitwise"


def test_honest_weights_do_not_pass_a_ledger_of_other_losses(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    write_tolerance(bundle)

    def other(lines: list[bytes]) -> list[bytes]:
        return [line.replace(b'"loss":"0x1.', b'"loss":"0x1.f') for line in other_losses(lines)]

    result = replaying(bundle, elsewhere(apart(1e-7)), other)
    assert (result.verdict, "beyond tolerance in loss" in result.detail) == ("FAIL", True)


def test_weights_that_are_not_finite_never_pass(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    write_tolerance(bundle)
    result = replaying(bundle, elsewhere(apart(float("nan"))))
    assert (result.verdict, "beyond tolerance in weights" in result.detail) == ("FAIL", True)


def test_other_data_in_a_later_record_is_no_matter_of_tolerance(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    write_tolerance(bundle)

    def other(lines: list[bytes]) -> list[bytes]:
        *before, last = [n for n, line in enumerate(lines) if b'"kind":"step"' in line]
        assert before
        changed = other_losses(lines)
        changed[last] = changed[last].replace(b'"token_digest":"', b'"token_digest":"0')
        return changed

    result = replaying(bundle, elsewhere(apart(1e-7)), other)
    assert result.verdict == "FAIL"
    assert "another platform does not explain that token_digest of the record of step 4 differs" in result.detail


def test_what_was_not_measured_is_not_judged_and_the_distance_is_told(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    result = replaying(bundle, elsewhere(apart(1e-5)))
    assert result.detail.startswith("no tolerance was measured for this release; the weights end 1e-05 from the rec")
    path = write_tolerance(bundle)

    def third(output: Path) -> None:
        values = forge.read(output / "environment.json")
        values["platform"] = with_digest({**values["platform"], "cpu_model": "a third one"})
        forge.write(output / "environment.json", values)

    results = [
        result,
        replaying(bundle, elsewhere(apart(1e-5), third)),
        replaying(bundle, elsewhere(apart(1e-5)), steps=(1, 3)),
    ]
    assert "this pair of platforms was not measured: it is not judged; the weights end 1e-05" in results[1].detail
    assert "so many steps from so early on were not measured: it is not judged" in results[2].detail
    assert [each.verdict for each in results] == ["UNVERIFIED"] * 3
    assert path.is_file()


def test_where_no_checkpoint_is_recorded_nothing_is_judged(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("retained")
    write_tolerance(bundle)
    result = replaying(bundle, elsewhere(apart(1e-7)), steps=(5, 7))
    assert result.verdict == "UNVERIFIED"
    assert "no checkpoint is recorded at step 7" in result.detail


def test_a_checkpoint_that_the_ledger_does_not_record_fails(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    write_tolerance(bundle)
    path = bundle / "model" / "checkpoints" / "pretrain" / "step-00000004" / "model.safetensors"
    held = load_file(path)
    held["model.norm.weight"][0] += 1e-6
    save_file(held, path)
    result = replaying(bundle, elsewhere(apart(0.0)))
    assert result.verdict == "FAIL"
    assert "does not hold the weights that the ledger records" in result.detail


def test_noise_above_a_changed_token_passes_nothing(copy_of: Any, replaying: Replaying) -> None:
    """What bf16 gives between kernels, by the figures of the project's first measurements."""
    bundle = copy_of("plain")
    write_tolerance(bundle, 5.6e-5, {**CHANGED, "token": 3.5e-5}, precision="bf16")
    for relative in (1e-6, 5.6e-5):
        result = replaying(bundle, elsewhere(apart(relative)))
        assert result.verdict == "UNVERIFIED"
        assert "(bf16, steps 3 to 4) one changed token would not be seen: nothing passes" in result.detail


def test_at_the_end_of_a_decay_one_token_hides_in_the_noise(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    write_tolerance(bundle, peak_learning_rate=(1.0).hex())
    assert replaying(bundle, elsewhere(apart(4e-7))).verdict == "PASS"
    write_tolerance(bundle, 2e-6, {**CHANGED, "token": 1e-5}, peak_learning_rate=(1.0).hex())
    result = replaying(bundle, elsewhere(apart(4e-7)))
    assert result.verdict == "UNVERIFIED"
    assert "within the thresholds, but at the learning rate of the last step, 0.001, one changed token" in result.detail


FORGERIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "thresholds do not follow": lambda v: v["platforms"][1]["stretches"][1]["thresholds"].update(weights=(1e-3).hex()),
    "seen do not follow": lambda v: v["platforms"][1]["stretches"][1]["seen"].update(learning_rate=True),
    "least_learning_rates do not follow": lambda v: v["platforms"][1]["stretches"][1]["least_learning_rates"].update(
        token=(1e-9).hex()
    ),
    "noise and changes were measured on different steps": lambda v: v["platforms"][1]["stretches"].pop(),
    "equal_bits contradicts": lambda v: v["platforms"][1].update(equal_bits=True),
    "the digest is not that of the record": lambda v: v["platforms"][1]["platform"].update(cpu_model="mine"),
    "changes: not each of": lambda v: v["changes"].pop(),
    "a relative distance above 2": lambda v: v["changes"][2]["weights"].update(overall=(3.0).hex()),
}


@pytest.mark.parametrize("told", FORGERIES)
def test_a_file_that_contradicts_itself_is_found_and_passes_nothing(
    copy_of: Any, replaying: Replaying, told: str
) -> None:
    bundle = copy_of("plain")
    path = write_tolerance(bundle)
    values = forge.read(path)
    FORGERIES[told](values)
    forge.write(path, values)
    assert any(told in problem for problem in problems(read_tolerance(path)))
    result = replaying(bundle, elsewhere(apart(4e-7)))
    assert (result.verdict, "contradicts itself" in result.detail) == ("UNVERIFIED", True)


def test_noise_made_large_with_all_that_follows_from_it_still_passes_no_changed_token(copy_of: Any) -> None:
    """The forger derives all anew: then one token is no longer seen. Or claims that a token moves more than it does."""
    bundle = copy_of("plain")
    large = read_tolerance(write_tolerance(bundle, 1e-5))
    assert list(problems(large)) == []
    assert large.platforms[1].stretches[1].seen == {
        "learning_rate": False,
        "optimizer": True,
        "token": False,
        "window": True,
    }
    bold = read_tolerance(write_tolerance(bundle, 2e-5, dict.fromkeys(CHANGED, 1.9)))
    assert list(problems(bold)) == []
    assert not any(bold.platforms[1].stretches[1].seen.values())
    assert bold.platforms[1].stretches[1].least_learning_rates == {}


def test_steps_that_were_not_measured_can_pass_and_never_fail(copy_of: Any, replaying: Replaying) -> None:
    """Noise differs from step to step: being beyond that of other steps proves nothing."""
    bundle = copy_of("plain")
    path = write_tolerance(bundle)
    values = forge.read(path)
    values["changes"] = [changed for changed in values["changes"] if changed["last_step"] == 2]
    for platform in values["platforms"]:
        del platform["stretches"][1]
    forge.write(path, values)
    results = [replaying(bundle, elsewhere(apart(relative))) for relative in (1e-6, 3.2e-5)]
    assert [result.verdict for result in results] == ["PASS", "UNVERIFIED"]
    assert "for steps 1 to 2, the nearest that were measured" in results[1].detail


def test_a_measurement_in_a_bundle_changes_no_content_digest(
    built: Any, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of_it = Path(shutil.copytree(built.bundle, tmp_path / "copy"))
    values = forge.read(write_tolerance(copy_of_it))
    ledger = (copy_of_it / "model" / "training" / "pretrain" / "ledger.jsonl").read_text().splitlines()
    records = {(r["kind"], r.get("step")): r for r in map(json.loads, ledger)}
    for each in values["platforms"][0]["stretches"]:
        each["weights_digest"] = records["checkpoint", each["last_step"]]["weights_digest"]
    measured = []

    def measure(run: Any, max_steps: int) -> Tolerance:
        measured.append((run.stage, Path(run.base_checkpoint).name, max_steps))
        return Tolerance.model_validate({**values, "stage": run.stage})

    monkeypatch.setattr("release.calibration.measure", measure)
    monkeypatch.setattr("release.bundle.project_root", lambda: project)
    context = replace(built.context, store=tmp_path / "store")
    artifact = calibrate(built.config.stages, built.artifacts, context, 2)
    assert calibrate(built.config.stages, built.artifacts, context, 2) == artifact
    assert measured == [("pretrain", "", 2), ("sft", "step-00000004", 2)]

    tolerances = {"pretrain": tolerances_of(artifact)["pretrain"]}
    release = build_release(built.config, context, built.artifacts, built.config_dir, tolerances=tolerances)
    bundle, roots = (
        bundle_path(release),
        [forge.read(b / "model" / "manifest.json") for b in (built.bundle, bundle_path(release))],
    )
    assert roots[0]["content_digest"] == roots[1]["content_digest"]
    roles = [{entry["path"]: entry["role"] for entry in root["files"]} for root in roots]
    assert roles[1].items() - roles[0].items() == {("training/pretrain/tolerance.json", "observation")}
    for document in ("README.md", "index.html"):
        text = (bundle / "model" / document).read_text()
        assert "measured by the publisher on 2026-11-25, on 1 other platform that give" in text
        assert "measured by the publisher" not in (built.bundle / "model" / document).read_text()
    verdict = forge.read(bundle / "model" / "openness" / "verdict.json")
    assert {r["result"] for r in verdict["results"] if r["id"] == "BND-01"} == {"pass"}
    results = {result.name: result for result in verify_release(bundle, expect=None, tokens="none")}
    assert "FAIL" not in {result.verdict for result in results.values()}
    assert results["tolerance"].verdict == "PASS"
    assert "tolerance" not in {result.name for result in verify_release(built.bundle, expect=None, tokens="none")}


def test_another_factor_or_an_unknown_field_is_not_this_format(copy_of: Any) -> None:
    values = forge.read(write_tolerance(copy_of("plain")))
    for change in ({"factor": 1000}, {"format": "openwright-tolerance/2"}, {"note": "trust me"}):
        with pytest.raises(ValueError, match=next(iter(change))):
            Tolerance.model_validate({**copy.deepcopy(values), **change})
