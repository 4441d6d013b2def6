"""A divergence is located: the step, then the cause, then the first differing tensor; every cause seen to be named."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest
import torch
from fake_replays import Change, Edit, honest, other_loss, other_tokens, pretend_to_replay, unchanged
from safetensors.torch import load_file, save_file

from release.environment_diff import difference_lines, environment_differences
from release.replay_report import ReplayResult
from release.reproduce import reproduce

Replaying = Callable[..., ReplayResult]


@pytest.fixture
def replaying(monkeypatch: pytest.MonkeyPatch) -> Replaying:
    """Replay steps 1 to 4 of a bundle with a stand-in."""

    def replay(bundle: Path, edit: Edit, change: Change = unchanged, steps: tuple[int, int] = (1, 4)) -> ReplayResult:
        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
            pretend_to_replay(json.loads(Path(command[-1]).read_text()), edit, change)
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr("release.interpreters.subprocess.run", run)
        (result,) = reproduce(bundle, steps=steps)
        return result

    return replay


def other_environment(**fields: str) -> Change:
    def change(output: Path) -> None:
        values = json.loads((output / "environment.json").read_text())
        values["platform"] |= fields
        (output / "environment.json").write_text(json.dumps(values))

    return change


def other_weights(output: Path) -> None:
    """Change one element of one tensor in every checkpoint that the replay kept."""
    for path in output.glob("checkpoints/*/model.safetensors"):
        tensors = load_file(path)
        tensors["model.norm.weight"][3] += torch.tensor(2.0**-10)
        save_file(tensors, path)


def test_the_tensor_is_named_with_sizes(bundle_of: Any, replaying: Replaying) -> None:
    result = replaying(bundle_of("plain"), other_loss, other_weights)
    assert result.verdict == "FAIL"
    found = result.divergence
    assert found is not None
    assert (found.step, found.record, found.cause) == (1, "step", "numerics")
    assert found.tensors is not None
    assert found.tensors.step == 1
    assert found.tensors.num_differing == 1
    assert found.tensors.first is not None
    assert (found.tensors.first.name, found.tensors.first.shape) == ("model.norm.weight", (16,))
    assert "model.norm.weight (F32, 16): 1 of 16 elements differ" in result.detail
    assert found.tensors.first.first_index == (3,)
    json.dumps(found.as_json(), allow_nan=False)


def test_an_edited_record_over_an_honest_state_is_told_apart(bundle_of: Any, replaying: Replaying) -> None:
    result = replaying(bundle_of("plain"), other_loss)
    assert result.verdict == "FAIL"
    assert "tensors of the checkpoint at step 1 come out bit for bit" in result.detail


def test_without_a_checkpoint_only_the_step_is_named(bundle_of: Any, replaying: Replaying) -> None:
    result = replaying(bundle_of("retained"), other_loss, other_weights, steps=(5, 7))
    assert "the recorded run keeps no checkpoint of the steps 5 to 7: only the step can be named" in result.detail
    assert result.divergence is not None
    assert result.divergence.tensors is None


def test_a_replay_that_kept_nothing_names_the_step(bundle_of: Any, replaying: Replaying) -> None:
    def kept_nothing(output: Path) -> None:
        (output / "checkpoints").rename(output / "elsewhere")

    assert "only the step can be named" in replaying(bundle_of("plain"), other_loss, kept_nothing).detail


def test_another_environment_is_a_table_and_no_fail(bundle_of: Any, replaying: Replaying) -> None:
    result = replaying(bundle_of("plain"), other_loss, other_environment(cpu_model="another", devices="['X']"))
    assert result.verdict == "UNVERIFIED"
    found = result.divergence
    assert found is not None
    assert found.cause == "environment"
    assert [difference.field for difference in found.environment] == ["platform.cpu_model", "platform.devices"]
    assert "platform.cpu_model  A <plain> processor  another" in "\n".join(found.lines())


def test_another_recipe_is_config_whatever_field_shows_it(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    path = bundle / "model" / "training" / "pretrain" / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["optimizer"]["weight_decay"] = "0x1.0000000000000p-4"
    path.write_text(json.dumps(recipe))
    result = replaying(bundle, other_loss)
    assert result.verdict == "FAIL"
    assert "config; loss" in result.detail
    assert "optimizer.weight_decay" in result.detail


def test_another_source_tree_is_code_even_on_another_platform(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    with (bundle / "model" / "code" / "train" / "loop.py").open("a") as file:
        file.write("# changed\n")
    result = replaying(bundle, other_loss, other_environment(cpu_model="another"))
    assert result.verdict == "FAIL"
    assert "code; loss" in result.detail
    assert "the stage recorded" in result.detail
    tokens = replaying(bundle, other_tokens)
    assert tokens.divergence is not None
    assert tokens.divergence.cause == "code"  # the shards are the recorded ones


def test_the_changed_file_is_named_where_the_run_listed_its_files(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    code, training = bundle / "model" / "code", bundle / "model" / "training" / "pretrain"
    files = [path for package in ("provenance", "data_recipes", "train") for path in (code / package).rglob("*.*")]
    sources = {
        path.relative_to(code).as_posix(): forge.entry(code, path.relative_to(code).as_posix()) for path in files
    }
    listed = {name: entry["sha256"] for name, entry in sources.items()}
    (training / "identity.json").write_text(json.dumps({"sources": listed}))
    with (code / "release" / "cards.py").open("a") as file:
        file.write("# a package that training may not import\n")
    result = replaying(bundle, other_loss)
    assert result.divergence is not None
    assert result.divergence.cause == "numerics"
    with (code / "train" / "loop.py").open("a") as file:
        file.write("# changed\n")
    result = replaying(bundle, other_loss)
    assert "code/train/loop.py is not the file with which the stage ran" in result.detail


def test_changed_shards_are_data(copy_of: Any, replaying: Replaying) -> None:
    bundle = copy_of("plain")
    path = next(path for path in sorted((bundle / "dataset/tokens/train").rglob("*")) if path.is_file())
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    result = replaying(bundle, other_tokens)
    assert result.verdict == "FAIL"
    assert "data; " in result.detail
    assert f"{path.relative_to(bundle)} is not the file that tokens.json lists" in result.detail


def test_no_difference_no_divergence(bundle_of: Any, replaying: Replaying) -> None:
    assert replaying(bundle_of("plain"), honest, other_environment(cpu_model="another")).divergence is None


def test_libraries_that_compute_are_decisive_and_our_own_is_not_compared() -> None:
    versions = {"torch": "2.13.0", "typer": "1.0", "openwright": "0.1.0", "only-recorded": "1"}
    recorded = {name: {"version": version, "record_sha256": "0" * 64} for name, version in versions.items()}
    here = {**recorded, "torch": {"version": "2.14.0"}, "typer": {"version": "2.0"}, "openwright": {"version": "9"}}
    del here["only-recorded"]
    found = environment_differences(
        {"platform": {"digest": "a"}, "distributions": recorded, "python": "3.11.7"},
        {"platform": {"digest": "b", "variables": {"MKL_CBWR": "AVX2"}}, "distributions": here, "python": "3.12.0"},
    )
    assert [(d.field, d.recorded, d.here, d.is_decisive) for d in found] == [
        ("platform.variables.MKL_CBWR", "not there", "AVX2", True),
        ("library torch", "2.13.0", "2.14.0", True),
        ("library typer", "1.0", "2.0", False),
        ("python", "3.11.7", "3.12.0", False),
    ]
    assert len(difference_lines(found)) == 5
    assert difference_lines([]) == []
