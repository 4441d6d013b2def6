"""The accelerate file of a layout within windows: read by accelerate itself, as far as it can be without GPUs."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate import ParallelismConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from train.jobs import accelerate_file
from train.settings import ExecutionConfig


def as_accelerate_reads_it(
    path: Path, execution: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> ParallelismConfig:
    """What a worker on GPUs would be given: the file through accelerate's launcher and its environment."""
    assert execution.num_processes is not None
    path.write_text(yaml.safe_dump(accelerate_file(execution.num_processes, use_cpu=False, execution=execution)))
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "--module", "train.worker"])
    arguments, _, _ = _validate_launch_command(arguments)
    environment = prepare_multi_gpu_env(arguments)
    assert environment["ACCELERATE_USE_PARALLELISM_CONFIG"] == "true"
    for name, value in environment.items():
        if name.startswith("PARALLELISM_CONFIG_"):
            monkeypatch.setenv(name, value)
    found = ParallelismConfig()
    found._validate_accelerator(
        SimpleNamespace(
            num_processes=execution.num_processes,
            multi_device=arguments.multi_gpu,
            is_fsdp2=arguments.use_fsdp and arguments.fsdp_version == 2,
            is_main_process=True,
            distributed_type="as named in the file",
        )
    )
    return found


@pytest.mark.parametrize(
    ("execution", "sizes"),
    [
        ({"num_processes": 2, "tensor_size": 2}, (1, 1, 1, 2)),
        ({"num_processes": 8, "tensor_size": 2, "shard_size": 2}, (2, 2, 1, 2)),
        ({"num_processes": 4, "shard_size": 4, "context_size": 4}, (1, 1, 4, 1)),
        ({"num_processes": 8, "tensor_size": 2, "shard_size": 4, "context_size": 2}, (1, 2, 2, 2)),
    ],
)
def test_accelerate_takes_the_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execution: dict[str, int], sizes: tuple[int, ...]
) -> None:
    found = as_accelerate_reads_it(tmp_path / "a.yaml", ExecutionConfig.model_validate(execution), monkeypatch)
    assert (found.dp_replicate_size, found.dp_shard_size, found.cp_size, found.tp_size) == sizes


def test_accelerate_refuses_what_the_settings_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsharded_copies = ExecutionConfig(num_processes=4, tensor_size=2)
    with pytest.raises(ValueError, match="cannot be used with pure data parallelism"):
        as_accelerate_reads_it(tmp_path / "a.yaml", unsharded_copies, monkeypatch)


def test_the_fields_are_left_out_where_accelerate_has_no_use_for_them() -> None:
    cut = ExecutionConfig(num_processes=2, tensor_size=2)
    assert "parallelism_config" not in accelerate_file(2, use_cpu=True, execution=cut)
    assert "parallelism_config" not in accelerate_file(2, use_cpu=False, execution=ExecutionConfig())
