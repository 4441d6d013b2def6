"""Equal bits on GPUs. Written, not run: no GPU was at hand; where one is found these tests run by themselves."""

from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from provenance.ledger import read_chain
from train.jobs import launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]


def ledger(corpus: Path, run_dir: Path, num_processes: int, shard_size: int = 1, **changes: Any) -> bytes:
    execution = {"device": "cuda", "num_processes": num_processes, "shard_size": shard_size}
    config = tiny_runs.pretrain_config(**changes, execution=execution)
    launch(tiny_runs.make_job("pretrain", config, corpus, run_dir), num_processes, 1)
    assert len(list(read_chain(run_dir / "ledger.jsonl"))) > 10
    return (run_dir / "ledger.jsonl").read_bytes()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_run_twice_on_one_gpu(corpus: Path, tmp_path: Path, precision: str) -> None:
    first = ledger(corpus, tmp_path / "first", 1, precision=precision)
    assert ledger(corpus, tmp_path / "second", 1, precision=precision) == first


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds fewer than two GPUs")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shard_size", [1, 2])
def test_two_gpus_give_the_ledger_of_one(corpus: Path, tmp_path: Path, precision: str, shard_size: int) -> None:
    one = ledger(corpus, tmp_path / "one", 1, precision=precision)
    assert ledger(corpus, tmp_path / "two", 2, shard_size, precision=precision) == one


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds fewer than two GPUs")
@pytest.mark.parametrize("layout", [{"tensor_size": 2}, {"shard_size": 2, "context_size": 2}])
def test_two_gpus_compute_windows_together(corpus: Path, tmp_path: Path, layout: dict[str, int]) -> None:
    changes = {"model": tiny_runs.LLAMA | {"fields": tiny_runs.LLAMA["fields"] | {"num_key_value_heads": 2}}}  # type: ignore[operator]
    numbers = []
    for name, sizes in (("one", {"num_processes": 1}), ("two", {"num_processes": 2, **layout})):
        config = tiny_runs.pretrain_config(**changes, reduction="native", execution={"device": "cuda", **sizes})
        launch(tiny_runs.make_job("pretrain", config, corpus, tmp_path / name), sizes["num_processes"], 1)
        first = next(record for record in read_chain(tmp_path / name / "ledger.jsonl") if record["kind"] == "step")
        numbers.append([float.fromhex(first[field]) for field in ("loss", "gradient_norm")])
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-5)
