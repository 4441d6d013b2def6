"""`openwright compare` on two runs written by hand: what it says of them follows from what was put into them."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from openwright import cli
from provenance.ledger import ChainWriter, read_chain

WEIGHTS = np.linspace(1.0, 2.0, 12, dtype=np.float32).reshape(3, 4)


def write_run(place, steps, *, rate=0.5, loss=3.0, source="alpha", shift=0.0):
    """A run of some steps, in the form in which artifacts and bundles hold it; returns its directory."""
    place.mkdir(parents=True)
    recipe = {"optimizer": {"weight_decay": rate.hex(), "name": "adamw"}, "phases": [{"num_steps": steps[-1]}]}
    (place / "recipe.json").write_text(json.dumps(recipe))
    writer = ChainWriter(place / "ledger.jsonl")
    writer.append({"kind": "start", "stage": "pretrain"})
    for step in steps:
        read = {"order_digest": f"{source}{step}", "token_digest": f"{source}{step}", "tokens_by_source": {source: 8}}
        writer.append({"kind": "step", "step": step, **read, "loss": (loss - step / 10).hex()})
    writer.append({"kind": "evaluation", "step": steps[-1], "bits_per_byte": (loss / 2).hex()})
    writer.append({"kind": "checkpoint", "step": steps[-1], "weights_digest": str(shift)})
    writer.close()
    folder = place / "checkpoints" / f"step-{steps[-1]:08d}"
    folder.mkdir(parents=True)
    save_file({"matrix": WEIGHTS + np.float32(shift)}, folder / "model.safetensors")
    return place


def compared(capsys, one, other):
    assert cli.invoke(["compare", str(one), str(other), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["comparison"]


def test_equal_runs_are_told_to_be_equal(tmp_path, capsys):
    runs = [write_run(tmp_path / name, range(1, 5)) for name in ("a", "b")]
    found = compared(capsys, *runs)
    steps = {"shared": [1, 4], "num_equal": 4, "num_same_text": 4, "first_difference": None}
    assert found["steps"] | steps == found["steps"]
    assert found["recipe"] == {}
    assert found["weights"] == {"step": 4, "equal": True, "relative_distance": (0.0).hex()}
    assert cli.invoke(["compare", *map(str, runs)]) == 0
    assert "recipe     the same" in capsys.readouterr().out


def test_a_branch_is_compared_over_the_steps_that_it_has(tmp_path, capsys):
    parent = write_run(tmp_path / "parent", range(1, 7))
    branch = write_run(tmp_path / "branch", range(4, 7), rate=0.25, loss=2.5, shift=1.0)
    found = compared(capsys, parent, branch)
    assert found["recipe"] == {"optimizer.weight_decay": [(0.5).hex(), (0.25).hex()]}
    steps = found["steps"]
    assert (steps["shared"], steps["num_equal"], steps["num_same_text"]) == ([4, 6], 0, 3)
    assert steps["first_difference"] == {"step": 4, "fields": ["loss"]}
    assert steps["tokens_by_source"] == {"alpha": [24, 24]}
    assert found["heldout"] == [{"step": 6, "bits_per_byte": [(1.5).hex(), (1.25).hex()]}]
    shifted = WEIGHTS.astype(np.float64) + 1
    expected = math.sqrt(WEIGHTS.size / float((shifted**2).sum()))
    assert float.fromhex(found["weights"]["relative_distance"]) == pytest.approx(expected, rel=1e-6)
    assert cli.invoke(["compare", str(parent), str(branch)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "recipe     optimizer.weight_decay: 0.5 in A, 0.25 in B" in lines
    assert any(line.split() == ["at", "step", "6", "1.5000", "1.2500", "-0.2500"] for line in lines)


def test_another_source_is_another_text(tmp_path, capsys):
    one = write_run(tmp_path / "one", range(1, 4))
    other = write_run(tmp_path / "other", range(1, 4), source="beta")
    steps = compared(capsys, one, other)["steps"]
    assert steps["num_same_text"] == 0
    assert steps["tokens_by_source"] == {"alpha": [24, 0], "beta": [0, 24]}


def test_runs_without_a_step_in_common_and_weights_that_lead_elsewhere(tmp_path, capsys):
    one, other = write_run(tmp_path / "one", range(1, 3)), write_run(tmp_path / "other", range(3, 5))
    assert compared(capsys, one, other)["steps"]["shared"] == []
    late = write_run(tmp_path / "late", range(3, 5))
    weights = late / "checkpoints" / "step-00000004" / "model.safetensors"
    weights.unlink()
    weights.symlink_to(other / "checkpoints" / "step-00000004" / "model.safetensors")
    assert compared(capsys, other, late)["weights"]["relative_distance"] is None


def test_a_broken_chain_and_what_is_no_run_are_refused(tmp_path, capsys):
    one, other = (write_run(tmp_path / name, range(1, 4)) for name in ("one", "other"))
    ledger = other / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"alpha":8', b'"alpha":9', 1))
    assert cli.invoke(["compare", str(one), str(other)]) == 1
    assert "ledger.jsonl" in capsys.readouterr().err
    assert cli.invoke(["compare", str(one), str(tmp_path)]) == 1
    assert "neither a run nor a bundle" in capsys.readouterr().err


def test_each_ledger_is_walked_once_and_to_its_end(tmp_path, capsys, monkeypatch):
    one, longer = write_run(tmp_path / "one", range(1, 3)), write_run(tmp_path / "longer", range(1, 9))
    walked = []

    def counted(path):
        walked.append(path.parent.name)
        return read_chain(path)

    monkeypatch.setattr("release.readable.chained_records", counted)
    found = compared(capsys, one, longer)
    assert sorted(walked) == ["longer", "one"]
    assert [row["step"] for row in found["heldout"]] == [2, 8]
    ledger = longer / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"alpha7"', b'"alphaX"', 1))
    assert cli.invoke(["compare", str(one), str(longer)]) == 1  # though no step that both have is touched


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"kind": "step"}, "ledger.jsonl:2: field 'step'"),
        ({"kind": "step", "step": "1", "loss": "0x1.0p+1", "tokens_by_source": {}}, "ledger.jsonl:2: field 'step'"),
        ({"kind": "step", "step": 1, "loss": 3, "tokens_by_source": {}}, "ledger.jsonl:2: field 'loss'"),
        ({"kind": "step", "step": 1, "loss": "0x1.0p+1", "tokens_by_source": [1]}, "field 'tokens_by_source'"),
        ({"kind": "evaluation", "step": 1, "bits_per_byte": "nan"}, "field 'bits_per_byte'"),
        ({"kind": "checkpoint", "step": 1, "weights_digest": None}, "field 'weights_digest'"),
        ({"kind": "start", "stage": 1}, "field 'stage'"),
    ],
)
def test_a_record_of_another_form_is_refused_by_line_and_field(tmp_path, capsys, record, words):
    one, odd = write_run(tmp_path / "one", range(1, 3)), write_run(tmp_path / "odd", range(1, 3))
    (odd / "ledger.jsonl").unlink()
    writer = ChainWriter(odd / "ledger.jsonl")
    writer.append({"kind": "start", "stage": "pretrain"})
    writer.append(record)
    writer.close()
    assert cli.invoke(["compare", str(one), str(odd)]) == 1
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


def test_kinds_that_nobody_compares_are_passed_over_and_a_run_that_has_just_begun_has_no_steps(tmp_path, capsys):
    one, new = write_run(tmp_path / "one", range(1, 3)), write_run(tmp_path / "new", range(1, 3))
    (new / "ledger.jsonl").write_bytes(b"")
    assert compared(capsys, one, new)["steps"]["shared"] == []
    writer = ChainWriter(new / "ledger.jsonl")
    writer.append({"kind": "start", "stage": "pretrain"})
    writer.append({"kind": "skip", "first": 1, "last": 2})
    writer.append({"other": 1})
    writer.close()
    assert compared(capsys, one, new)["stages"] == ["pretrain", "pretrain"]
