"""Checkpoints compared tensor by tensor: figures against plain arithmetic, types, shapes, memory in chunks."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from provenance.errors import BundleError
from release import tensor_diff
from release.tensor_diff import compare_checkpoints


def checkpoint(directory: Path, **stems: dict[str, torch.Tensor]) -> Path:
    directory.mkdir(parents=True)
    for stem, tensors in stems.items():
        save_file(tensors, directory / f"{stem}.safetensors")
    return directory


def weights() -> dict[str, torch.Tensor]:
    layers = {f"layers.{n}.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) + n for n in (2, 10)}
    return {"embed.weight": torch.ones(5, 2), "step": torch.tensor(7), **layers}


def test_equal_checkpoints_have_no_difference(tmp_path: Path) -> None:
    report = compare_checkpoints(checkpoint(tmp_path / "a", model=weights()), tmp_path / "a", 4)
    assert (report.num_tensors, report.num_differing, report.first, report.farthest) == (4, 0, None, None)
    assert "come out bit for bit" in report.lines()[0]


@pytest.mark.parametrize("chunk", [5, 2**22])
def test_the_first_differing_tensor_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(tensor_diff, "_CHUNK_ELEMENTS", chunk)
    changed = weights()
    changed["layers.2.weight"][1, 2] += 0.5
    changed["layers.2.weight"][2, 3] -= 2.0
    changed["layers.10.weight"] *= -1
    told = weights()["layers.2.weight"]
    report = compare_checkpoints(
        checkpoint(tmp_path / "a", model=weights()), checkpoint(tmp_path / "b", model=changed), 4
    )
    first = report.first
    assert first is not None
    assert (first.name, first.dtype, first.shape) == ("layers.2.weight", "F32", (3, 4))  # 2 before 10
    assert (first.num_differing, first.first_index) == (2, (1, 2))
    assert (first.recorded_value, first.replayed_value) == ("8.0", "8.5")
    assert first.largest_difference == 2.0
    assert first.relative_distance == pytest.approx(math.sqrt(0.25 + 4) / float(told.norm()))
    assert report.num_differing == 2
    assert report.farthest is not None
    assert report.farthest.name == "layers.10.weight"
    assert report.farthest.relative_distance == pytest.approx(2.0)
    json.dumps(report.as_json(), allow_nan=False)
    assert "2 of 12 elements differ" in "\n".join(report.lines())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8])
def test_one_element_of_any_type_is_found(tmp_path: Path, dtype: torch.dtype) -> None:
    told, found = torch.ones(3, 2).to(dtype), torch.ones(3, 2).to(dtype)
    found[2, 0] = 3
    report = compare_checkpoints(
        checkpoint(tmp_path / "a", model={"w": told}), checkpoint(tmp_path / "b", model={"w": found}), 1
    )
    assert report.first is not None
    assert report.first.first_index == (2, 0)
    assert report.first.largest_difference == 2.0


def test_bits_count_not_values_and_what_is_not_finite_stays_out_of_distances(tmp_path: Path) -> None:
    told = torch.tensor([0.0, float("nan"), float("inf"), 1.0])
    found = torch.tensor([-0.0, float("nan"), 2.0, 1.0])
    report = compare_checkpoints(
        checkpoint(tmp_path / "a", model={"w": told}), checkpoint(tmp_path / "b", model={"w": found}), 1
    )
    assert report.first is not None
    assert (report.first.num_differing, report.first.num_not_finite) == (2, 2)
    assert report.first.largest_difference == 0.0
    assert report.first.first_index == (0,)
    json.dumps(report.as_json(), allow_nan=False)


def test_shapes_types_and_missing_tensors_are_named(tmp_path: Path) -> None:
    a = checkpoint(tmp_path / "a", model={"x": torch.ones(2), "y": torch.ones(2), "z": torch.ones(1)})
    b = checkpoint(tmp_path / "b", model={"x": torch.ones(1, 2), "y": torch.ones(2).double()})
    report = compare_checkpoints(a, b, 1)
    assert report.num_differing == 3
    assert report.first is not None
    assert "F32 of shape [1, 2] in the replay" in str(report.first)


def test_weights_come_before_optimizer_state_which_only_full_checkpoints_have(tmp_path: Path) -> None:
    moment, other = {"a.exp_avg": torch.zeros(2)}, {"a.exp_avg": torch.ones(2)}
    full = checkpoint(tmp_path / "a", model={"w": torch.ones(2)}, optimizer=moment)
    changed = checkpoint(tmp_path / "b", model={"w": torch.zeros(2)}, optimizer=other)
    report = compare_checkpoints(full, changed, 1)
    assert report.first is not None
    assert (report.first.name, report.num_differing) == ("w", 2)
    assert compare_checkpoints(checkpoint(tmp_path / "c", model={"w": torch.ones(2)}), full, 1).num_tensors == 1


def test_a_broken_file_is_an_error_of_the_bundle(tmp_path: Path) -> None:
    good = checkpoint(tmp_path / "a", model=weights())
    bad = checkpoint(tmp_path / "b", model=weights())
    data = (bad / "model.safetensors").read_bytes()
    (bad / "model.safetensors").write_bytes(data[:-4])
    with pytest.raises(BundleError, match="do not cover"):
        compare_checkpoints(good, bad, 1)
