"""On how many GPUs a job runs, decided before anything is started; GPUs are pretended."""

from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from provenance.environment import platform_record
from provenance.errors import ConfigError
from train.jobs import default_processes, launch, num_gpus


class Started(Exception):
    """The launcher was to be started."""


def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_processes: int, **execution: Any) -> str:
    """The accelerate file of a job whose launcher is not started."""

    def start(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr("train.jobs.subprocess.Popen", start)
    config = tiny_runs.pretrain_config(execution=execution)
    with pytest.raises(Started):
        launch(tiny_runs.make_job("pretrain", config, tmp_path, tmp_path / "run"), num_processes, 1)
    return (tmp_path / "run" / "accelerate.yaml").read_text()


def test_gpus_are_counted_as_torch_counts_them() -> None:
    assert num_gpus() == torch.cuda.device_count()


@pytest.mark.parametrize(("num_processes", "told"), [(2, "set execution.num_processes to 1"), (4, "4 processes")])
def test_more_processes_than_gpus_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_processes: int, told: str
) -> None:
    monkeypatch.setattr("train.jobs.num_gpus", lambda: 1)
    job = tiny_runs.make_job("pretrain", tiny_runs.pretrain_config(), tmp_path, tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        launch(job, num_processes, 1)
    assert told in str(caught.value)
    assert "execution.device to cpu" in caught.value.next_command
    assert not (tmp_path / "run" / "accelerate.yaml").exists()


def test_as_many_processes_as_gpus_use_them_and_cpus_can_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.jobs.num_gpus", lambda: 2)
    assert "use_cpu: false" in launched(tmp_path, monkeypatch, 2)
    assert "use_cpu: true" in launched(tmp_path, monkeypatch, 4, device="cpu")
    assert default_processes(8) == 2
    monkeypatch.setattr("train.jobs.num_gpus", lambda: 0)
    assert "use_cpu: true" in launched(tmp_path, monkeypatch, 4)


def test_a_platform_is_the_kinds_of_gpus_and_not_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "B" if index % 2 else "A")
    digests = {}
    for count in (1, 2, 4):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=count: count)
        record = platform_record()
        digests[count] = record["digest"]
        assert record["devices"] == ["A", "B"][:count]
    assert digests[2] == digests[4] != digests[1]
