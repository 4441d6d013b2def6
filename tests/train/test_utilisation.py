"""FLOPs and MFU of steps in the journal."""

from types import SimpleNamespace
from typing import Any

import pytest
import small_jobs
import tiny_runs
import torch

from train.accounting import meta_model, model_shape, training_flops
from train.devices import DEVICES, known_peak
from train.utilisation import Utilisation

CPU = torch.device("cpu")


def tiny_model() -> Any:
    return meta_model(tiny_runs.pretrain_config().model, tiny_runs.VOCAB_SIZE, tiny_runs.WINDOW_TOKENS)


def test_the_journal_has_the_flops_that_the_plan_counts_and_no_mfu_on_a_cpu(tmp_path):
    corpus = tiny_runs.make_corpus(tmp_path / "corpus").path
    run_dir = small_jobs.run_small(corpus, tmp_path / "run")
    steps = small_jobs.records(run_dir, "step", "journal.jsonl")
    config = small_jobs.small_config()
    shape = model_shape(meta_model(config.model, tiny_runs.VOCAB_SIZE, tiny_runs.WINDOW_TOKENS))
    planned = training_flops(shape, config, "sdpa").model
    assert sum(step["flops"] for step in steps) == planned
    assert not any("mfu" in step for step in steps)
    (start,) = small_jobs.records(run_dir, "start", "journal.jsonl")
    assert (start["device"], start["peak_flops_per_second"]) == ("cpu", None)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_mfu_is_the_share_of_the_peak_of_all_devices(monkeypatch, precision):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    utilisation = Utilisation(tiny_model(), precision, torch.device("cuda", 0), 4)
    peak = 4 * DEVICES["h100"].flops_per_second[precision]
    assert utilisation.of_devices() == {"device": "NVIDIA H100 80GB HBM3", "peak_flops_per_second": peak.hex()}
    fast, slow = (utilisation.of_step(8, 24, seconds) for seconds in (0.5, 1.0))
    assert float.fromhex(fast["mfu"]) == fast["flops"] / 0.5 / peak
    assert float.fromhex(fast["mfu"]) == 2 * float.fromhex(slow["mfu"])


def test_a_similar_device_has_no_known_peak():
    assert known_peak("NVIDIA H100 PCIe", "bf16") is None
    assert known_peak("cpu", "fp32") is None
    assert len({device.torch_name for device in DEVICES.values()}) == len(DEVICES)


def test_a_model_that_cannot_be_counted_has_no_flops():
    model = SimpleNamespace(get_decoder=lambda: None, config=SimpleNamespace(model_type="odd"))
    utilisation = Utilisation(model, "fp32", CPU, 1)
    assert utilisation.of_step(8, 24, 1.0) == {}
    assert utilisation.of_devices()["device"] == "cpu"
