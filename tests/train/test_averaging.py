"""Averages of weights: the same bits at any size of blocks and in plain Python, and what the stage refuses."""

import hashlib
import random
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import save_file

from provenance.artifacts import finish, work_dir
from provenance.canonical import read_json, write_json
from provenance.errors import ArtifactError, BundleError, TrainingError
from provenance.fingerprint import CodeIdentity
from provenance.made_model import made_model
from provenance.stage import StageContext
from release.average_check import check_average
from release.verify import Tree, weighted_sum
from train import averaging
from train.average import average
from train.average_settings import DENOMINATOR, AverageConfig
from train.averaging import average_rows, average_weights, numerators_of
from train.weight_files import stored_tensors, weight_files

FROZEN = "0a3fb8d0f4a0a2d4"
"""First digits of the sha256 of the averages of `patterns` with the weights 3, 1 and 7: equal on every platform."""


def patterns(count=4096, most=255):
    """Rows of F32 elements of every size, zeros of both signs and subnormal ones among them."""
    draw = random.Random(20261126).getrandbits
    rows = []
    for _ in range(3):
        bits = [draw(1) << 31 | draw(23) | (draw(8) % most) << 23 for _ in range(count)]
        bits[:4] = [0, 1 << 31, 1, (1 << 31) + 1]
        rows.append(np.array(bits, "<u4").view("<f4"))
    return rows


def config(**values):
    ingredients = [{"stage": "pretrain", "steps": [1, 2]}, {"stage": "sft", "steps": [3]}]
    return AverageConfig.model_validate({"kind": "uniform", "ingredients": ingredients, **values}, strict=False)


def rounded(value, to):
    """A fraction rounded to the nearest number of a type, ties to even, by the type's own neighbours."""
    if to == "d":
        return value.numerator / value.denominator  # Python divides integers with one correct rounding
    low = struct.unpack("<f", struct.pack("<f", value.numerator / value.denominator))[0]
    near = [low, float(np.nextafter(np.float32(low), np.float32(-np.inf)))]
    near.append(float(np.nextafter(np.float32(low), np.float32(np.inf))))
    even = {x: struct.unpack("<I", struct.pack("<f", x))[0] % 2 for x in near}
    return min(near, key=lambda x: (abs(Fraction(x) - value), even[x]))


def test_every_operation_is_rounded_once_as_the_formula_says():
    rows, numerators = patterns(300), [3, 1, 7]
    found = average_rows(rows, numerators)
    for place, values in enumerate(zip(*rows, strict=True)):
        exact = [Fraction(float(x)) * n for x, n in zip(values, numerators, strict=True)]
        total = rounded(exact[0], "d")
        for product in exact[1:]:
            total = rounded(Fraction(total) + product, "d")
        quotient = rounded(Fraction(total) / 11, "d")
        assert found[place] == rounded(Fraction(quotient), "f"), (place, values)


def test_numpy_and_plain_python_give_the_bits_that_are_frozen():
    rows = patterns()
    found = average_rows(rows, [3, 1, 7])
    assert found.tobytes() == weighted_sum([row.tolist() for row in rows], [3, 1, 7])
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == FROZEN


@pytest.mark.parametrize("numerators", [[1, 1, 1], [5, 2**28, 9], numerators_of("ema", 3, (), 0.9)])
def test_what_is_equal_in_all_checkpoints_keeps_its_bits(numerators):
    row = patterns()[0]
    assert average_rows([row] * 3, numerators).tobytes() == row.tobytes()


def test_an_ema_counts_as_its_recurrence_does():
    assert numerators_of("ema", 3, (), 0.5) == [DENOMINATOR // 4, DENOMINATOR // 4, DENOMINATOR // 2]
    for decay, count in ((0.9, 7), (0.999, 40), (0.001, 3)):
        found, exact = numerators_of("ema", count, (), decay), [Fraction(1)]
        for _ in range(count - 1):
            exact = [*(Fraction(decay) * share for share in exact), 1 - Fraction(decay)]
        assert sum(found) == DENOMINATOR
        assert all(abs(n - share * DENOMINATOR) < 1 for n, share in zip(found, exact, strict=True))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ingredients": [{"stage": "pretrain", "steps": [1]}]}, "2 to 1000"),
        ({"ingredients": [{"stage": "pretrain", "steps": [2, 1]}]}, "do not ascend"),
        ({"ingredients": [{"stage": "sft", "steps": [1]}] * 2}, "named twice"),
        ({"ingredients": [{"stage": "eval", "steps": [1, 2]}]}, "pretrain"),
        ({"kind": "ema"}, "decay belongs to kind ema"),
        ({"decay": 0.5}, "decay belongs to kind ema"),
        ({"kind": "ema", "decay": 1.0}, "less than 1"),
        ({"kind": "weights", "weights": [1, 2]}, "one for each checkpoint"),
        ({"weights": [1, 2, 3]}, "weights belong to kind weights"),
        ({"kind": "weights", "weights": [1, 0, 3]}, "greater than 0"),
        ({"kind": "weights", "weights": [1, 2, 0.5]}, "integer"),
        ({"kind": "weights", "weights": [1, 2, DENOMINATOR]}, "products are exact"),
    ],
)
def test_configs_that_say_no_average_are_refused(values, words):
    with pytest.raises(ValidationError, match=words):
        config(**values)


# ---- checkpoints on disk --------------------------------------------------------------------------------------------


def tensors(seed, **other):
    draw = np.random.default_rng(seed).standard_normal
    return {
        "a.bias": draw(7).astype("f4"),
        "b.experts": draw((3, 4, 5)).astype("f4"),
        "c.weight": draw((6, 11)).astype("f4"),
        **other,
    }


def save(folder, parts, *, step=0, digest=""):
    """A checkpoint of one file, or of two with an index."""
    folder.mkdir(parents=True)
    names = sorted(parts)
    if step % 2:
        save_file(parts, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        homes = {name: f"model-{1 + (name != names[0]):05d}-of-00002.safetensors" for name in names}
        for file in sorted(set(homes.values())):
            save_file({name: parts[name] for name in names if homes[name] == file}, folder / file)
        write_json(folder / "model.safetensors.index.json", {"weight_map": homes})
    (folder / "config.json").write_text("{}")
    (folder / "optimizer.safetensors").write_bytes(b"")
    place = {"num_records": 1, "size_bytes": 1, "head": "0" * 64}
    record = {"format": "openwright-checkpoint/1", "kind": "full", "step": step, "state_digest": "0" * 64}
    write_json(folder / "checkpoint.json", {**record, "weights_digest": digest, "ledger": place})
    return folder


def test_blocks_and_files_change_no_bit(tmp_path, monkeypatch):
    folders = [save(tmp_path / str(step), tensors(step), step=step) for step in (1, 2, 3)]
    found = []
    for number, elements in enumerate((2**22, 1, 120)):
        monkeypatch.setattr(averaging, "BLOCK_ELEMENTS", elements)
        target = tmp_path / f"made-{number}"
        target.mkdir()
        digests = average_weights(folders, [1, 2, 3], target)
        found.append((digests, [path.read_bytes() for path in sorted(target.iterdir())]))
        assert average_weights(folders, [1, 2, 3]) == digests
    assert found[0] == found[1] == found[2]
    assert len(set(found[0][0].ingredients)) == 3


def test_a_process_that_flushes_the_smallest_numbers_makes_no_average(tmp_path):
    folders = [save(tmp_path / str(step), tensors(step), step=step) for step in (1, 3)]
    assert torch.set_flush_denormal(True)
    try:
        with pytest.raises(TrainingError, match="takes subnormal numbers for 0"):
            average_weights(folders, [1, 1])
        found = check_average(tmp_path)
    finally:
        torch.set_flush_denormal(False)
    assert (found.verdict, found.name) == ("UNVERIFIED", "average recomputed")
    assert average_weights(folders, [1, 1]).average


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        ({"c.weight": np.zeros((6, 12), "f4")}, TrainingError, r"'c.weight' is \(6, 12\)"),
        ({"d.more": np.zeros(2, "f4")}, TrainingError, "'d.more'"),
        ({"c.weight": np.zeros((6, 11), "f2")}, TrainingError, "of F16"),
        ({"c.weight": np.full((6, 11), np.inf, "f4")}, TrainingError, "not finite"),
        ({"c.weight": np.full((6, 11), np.nan, "f4")}, TrainingError, "not finite"),
    ],
)
def test_checkpoints_that_cannot_be_averaged_are_refused(tmp_path, other, error, words):
    folders = [save(tmp_path / "1", tensors(1, **other), step=1), save(tmp_path / "2", tensors(2), step=2)]
    with pytest.raises(error, match=words):
        average_weights(folders, [1, 1])


def test_a_header_that_does_not_fit_its_bytes_is_refused(tmp_path):
    folders = [save(tmp_path / str(step), tensors(step), step=step) for step in (1, 3)]
    path = folders[0] / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"[6,11]", b"[6,10]"))
    with pytest.raises(BundleError, match="shape"):
        average_weights(folders, [1, 1])


def test_both_readers_find_a_tensor_at_the_same_place(tmp_path):
    for step in (1, 2):  # one file, and two with an index
        folder = save(tmp_path / str(step), tensors(step), step=step)
        found = Tree(tmp_path, "model").tensors(f"{step}/", "model")
        ours = dict(stored_tensors(weight_files(folder)))
        assert found.keys() == ours.keys() == tensors(step).keys()
        for name, place in found.items():
            tensor = ours[name]
            assert (tmp_path / place.path, place.begin, place.dtype) == (tensor.path, tensor.offset, tensor.dtype)
            data = (tmp_path / place.path).read_bytes()[place.begin : place.begin + place.num_bytes]
            assert data == tensors(step)[name].tobytes()
            assert tensor.read_rows(0, tensor.num_rows).tolist() == tensors(step)[name].ravel().tolist()


@pytest.fixture
def runs(tmp_path):
    """Finished runs that keep the steps 1, 2 and 3."""
    context = StageContext("tiny", tmp_path / "store", CodeIdentity("ab" * 20, False, "c" * 64))
    made = {}
    for stage in ("pretrain", "sft"):
        work = work_dir(context.store, stage, "f" * 64)
        for step in (1, 2, 3):
            folder = save(work / "checkpoints" / f"step-{step:08d}", tensors(step), step=step)
            (digest,) = average_weights([folder], [1]).ingredients
            record = read_json(folder / "checkpoint.json")
            write_json(folder / "checkpoint.json", {**record, "weights_digest": digest})
        final = {"step": 3, "path": "checkpoints/step-00000003", "weights_digest": digest}
        write_json(work / "run.json", {"model_type": "llama", "num_parameters": 133, "final": final})
        about = {"kind": stage, "name": "tiny", "fingerprint": "f" * 64, "recipe": {}, "code": context.code}
        made[stage] = finish(work, parents=[], **about)
    return context, made


def test_the_stage_leaves_a_model_with_its_record(runs):
    context, made = runs
    artifact = average(config(kind="weights", weights=[1, 2, 5]), context, made)
    record, model = read_json(artifact.path / "average.json"), made_model(artifact.path)
    assert [(part["stage"], part["step"], part["numerator"]) for part in record["ingredients"]] == [
        *(("pretrain", 1, 1), ("pretrain", 2, 2), ("sft", 3, 5)),
    ]
    assert (record["denominator"], model.model_type, model.num_parameters, model.step) == (8, "llama", 133, None)
    names = sorted(path.name for path in (artifact.path / model.path).iterdir())
    assert names == ["config.json", "model.safetensors"]
    assert [entry.path for entry in artifact.observations] == ["environment.json", "journal.jsonl"]
    assert sorted(parent.role for parent in artifact.parents) == ["pretrain", "sft"]
    # A work directory that an interrupted call left behind changes nothing.
    work = work_dir(context.store, "average", artifact.fingerprint)
    (work / "left-over").mkdir()
    artifact.path.rename(artifact.path.with_name("before"))
    assert average(config(kind="weights", weights=[1, 2, 5]), context, made).content_digest == artifact.content_digest


def test_the_stage_refuses_what_is_not_on_record(runs):
    context, made = runs
    missing = config(ingredients=[{"stage": "pretrain", "steps": [2, 8]}])
    with pytest.raises(TrainingError, match="pretrain keeps no checkpoint of step 8") as caught:
        average(missing, context, made)
    assert caught.value.expected == "steps of 1, 2, 3"
    everything = [{"stage": stage, "steps": [1, 2, 3]} for stage in ("pretrain", "sft")]
    with pytest.raises(TrainingError, match="less than one part in 536870912"):
        average(config(kind="ema", decay=0.001, ingredients=everything), context, made)
    path = made["pretrain"].path / "checkpoints/step-00000001/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(TrainingError, match="as checkpoint"):
        average(config(), context, made)
    with pytest.raises(ArtifactError, match="neither run"):
        made_model(context.store)
