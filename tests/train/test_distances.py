"""Distances between states: what they are for values that can be worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from provenance.errors import ArtifactError
from train.distances import StoredArrays, distance_between


def test_a_distance_is_relative_to_the_larger_norm_overall_and_by_tensor() -> None:
    one = {"a": np.array([3.0, 4.0], dtype=np.float32), "b": np.zeros((2, 2), dtype=np.float32)}
    other = {"a": np.array([3.0, 0.0], dtype=np.float32), "b": np.zeros((2, 2), dtype=np.float32)}
    found = distance_between(one, other)
    assert found.tensors == {"a": 4 / 5, "b": 0.0}
    assert (found.overall, found.largest) == (4 / 5, 4 / 5)
    assert distance_between(other, one) == found
    assert distance_between(one, one).overall == 0.0
    assert found.as_json()["overall"] == (4 / 5).hex()


def test_values_that_are_not_finite_are_at_no_distance() -> None:
    for value in (math.nan, math.inf, 1e300):
        found = distance_between({"a": np.array([value])}, {"a": np.array([1.0])})
        assert math.isnan(found.overall)
        assert math.isnan(found.largest)


def test_other_names_and_shapes_are_refused() -> None:
    with pytest.raises(ArtifactError, match="only one of two states"):
        distance_between({"a": np.zeros(1)}, {"b": np.zeros(1)})
    with pytest.raises(ArtifactError, match="a of shape"):
        distance_between({"a": np.zeros(1)}, {"a": np.zeros(2)})


def test_stored_states_are_read_from_all_files_of_a_stem(tmp_path: Path) -> None:
    save_file({"a": np.ones(2, dtype=np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": np.ones(3, dtype=np.float32)}, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"a.exp_avg": np.ones(2, dtype=np.float32)}, tmp_path / "optimizer.safetensors")
    assert sorted(StoredArrays(tmp_path, "model")) == ["a", "b"]
    assert distance_between(StoredArrays(tmp_path, "model"), {"a": np.ones(2), "b": np.ones(3)}).overall == 0.0
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"not one")
    with pytest.raises(ArtifactError, match="a safetensors file"):
        StoredArrays(tmp_path, "model")
