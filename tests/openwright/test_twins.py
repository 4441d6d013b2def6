"""Every config directory, as its twin: planned, trained, interrupted, resumed to equal bits, evaluated and released.

A new directory in `configs/` is covered by being there. Processes are forked from a server that imported the libraries
once; apart from that the stages are the ones that `openwright run --twin` calls.
"""

import multiprocessing
import os
from pathlib import Path

import gloo_processes
import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from eval import stage as eval_stage
from eval.harness import ATTENTION, worker_variables
from openwright import cli, commands, pipeline
from openwright.configs import RELEASE, load_directory
from openwright.pipeline import run_one
from openwright.plan import PlanOptions, make_plan
from openwright.twin import CHECKPOINT_STEP, VOCABULARY, twin_fields, write_twin
from provenance.canonical import read_json, write_json
from provenance.fingerprint import code_identity
from provenance.stage import StageContext
from release.bundle import bundle_path
from release.checks import verify_release
from train import jobs
from train.layout import World, make_layout
from train.loop import TrainingRun, run_job, run_steps
from train.settings import ModelConfig

ROOT = Path(__file__).resolve().parent.parent.parent
DIRECTORIES = sorted(path.parent.name for path in (ROOT / "configs").glob("*/release.yaml"))
PRELOADED = ["train.loop", "torch.distributed.fsdp", "lm_eval.evaluator", "lm_eval.models.huggingface", "eval.worker"]


class Interrupted(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="module", autouse=True)
def processes():
    """A server that forks processes; what it has imported, they need not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def in_processes(context, function, *arguments, num_processes=1):
    started = [context.Process(target=function, args=(rank, *arguments), daemon=True) for rank in range(num_processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in started] == [0] * num_processes


def train(rank, job, num_processes, rendezvous):
    """One process of a job at the layout that its config asks for."""
    gloo_processes.begin()
    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_processes)
    run_job(job, make_layout(World(rank, num_processes), job.config.execution.shard_size))
    dist.destroy_process_group()


def train_interrupted(job):
    """Train in this process alone; crash after the full checkpoint, and go on from it."""

    def crash(step, numbers):
        if step == CHECKPOINT_STEP:
            run.finish_checkpoint()
            raise Interrupted

    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        run = TrainingRun(job, make_layout(World(), 1))
        with pytest.raises(Interrupted):
            run_steps(run, [crash])
        resumed = TrainingRun(job, make_layout(World(), 1))
        assert resumed.start() == CHECKPOINT_STEP
        assert run_job(job, make_layout(World(), 1))
    finally:
        dist.destroy_process_group()
        torch.use_deterministic_algorithms(False)


def evaluate(_, job_path, output_path, tasks_dir, variables):
    gloo_processes.begin()
    os.environ.update(variables)
    os.chdir(tasks_dir)
    from eval import worker

    worker.evaluate(job_path, output_path)


@pytest.fixture
def forked(processes, tmp_path, monkeypatch):
    """Stages whose programs are forked instead of started; returns the training jobs that ran."""
    ran = []

    def launch(job, num_processes, threads_per_process, **_):
        train_interrupted(job)
        ran.append((job, num_processes))

    def run_harness(models, settings, tasks_dir, num_processes):
        outputs = {}
        for model in models:
            scratch = tmp_path / f"eval-{model.name}"
            scratch.mkdir()
            tasks = [{"name": task.name, "chat": task.chat} for task in model.tasks]
            values = {"checkpoint": str(model.checkpoint.resolve()), "tasks": tasks, "attention": ATTENTION}
            write_json(scratch / "job.json", {**values, **vars(settings)})
            paths = (scratch / "job.json", scratch / "output.json", tasks_dir.resolve())
            in_processes(processes, evaluate, *paths, worker_variables(scratch, settings.num_threads))
            outputs[model.name] = read_json(scratch / "output.json") | {"seconds": 0.0}
        return outputs

    monkeypatch.setattr(jobs, "launch", launch)
    monkeypatch.setattr(eval_stage, "run_harness", run_harness)
    return ran


def results(run_dir):
    return {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_twin_is_planned_trained_interrupted_resumed_and_released(name, tmp_path, processes, forked):
    directory = write_twin(load_directory(ROOT / "configs" / name, to_plan=True), tmp_path)
    configs = load_directory(directory)
    context = StageContext(configs.name, tmp_path / configs.name, code_identity(), dev=True)
    artifacts = {"corpus": run_one("corpus", configs, context, {})}
    plan = make_plan(configs, tmp_path, PlanOptions(), command="next")
    assert [stage["stage"] for stage in plan["stages"]] == [s for s in configs.order if s in ("pretrain", "sft")]
    assert all(0 < sum(stage["epochs"].values()) < 100 for stage in plan["stages"])
    for stage in (*configs.order[1:], RELEASE):
        artifacts[stage] = run_one(stage, configs, context, artifacts)

    for job, num_processes in forked:
        run_dir = tmp_path / f"straight-{job.stage}"
        run_dir.mkdir()
        straight = type(job)(**{**vars(job), "run_dir": str(run_dir)})
        in_processes(
            processes, train, straight, num_processes, tmp_path / f"meet-{job.stage}", num_processes=num_processes
        )
        expected = {
            entry.path: (artifacts[job.stage].path / entry.path).read_bytes() for entry in artifacts[job.stage].results
        }
        assert {path: data for path, data in results(run_dir).items() if path in expected} == expected
        made = read_json(run_dir / "run.json")
        planned = next(stage for stage in plan["stages"] if stage["stage"] == job.stage)
        assert made["num_steps"] == planned["num_steps"] >= 3
        assert made["num_tokens"] == planned["num_tokens"]
        assert made["num_parameters"] == planned["model"]["num_parameters"]
    check_release(bundle_path(artifacts[RELEASE]), plan)


def check_release(bundle, plan):
    """The bundle verifies, is marked as no release, and its verdict is no better than the plan's outlook."""
    failed = {
        check.name: check.detail
        for check in verify_release(bundle, expect=None, tokens="all")
        if check.verdict == "FAIL"
    }
    assert failed == {}
    assert read_json(bundle / "model" / "manifest.json")["dev"] is True
    verdict = read_json(bundle / "model" / "openness" / "verdict.json")
    found = {rule["id"]: rule["result"] for rule in verdict["results"]}
    for rule in plan["openness"]["rules"]:
        if rule["result"] in ("fail", "needs_statement"):
            assert found[rule["id"]] == rule["result"], rule
    assert verdict["is_release"] is False


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_twin_keeps_every_option_and_the_shape_of_the_corpus(name, tmp_path):
    real = load_directory(ROOT / "configs" / name, to_plan=True)
    twin = load_directory(write_twin(real, tmp_path))
    assert twin.order == real.order
    assert twin.name == f"{real.name}-twin"
    for stage in (stage for stage in real.order if stage in ("pretrain", "sft")):
        big, small = real.models[stage], twin.models[stage]
        assert options_of(small) == options_of(big)
        assert small.num_steps == max(3, len(big.phases))
        assert small.num_logical_replicas <= 4
    sources = [(s.name, s.split, getattr(s, "data_class", None)) for s in real.models["corpus"].sources]
    assert [(s.name, s.split, getattr(s, "data_class", None)) for s in twin.models["corpus"].sources] == sources
    stated = [getattr(s, "licence", None) for s in real.models["corpus"].sources]
    assert [getattr(s, "licence", None) for s in twin.models["corpus"].sources] == stated
    assert twin.models["corpus"].policy == real.models["corpus"].policy
    tokenizer = twin.models["corpus"].tokenizer
    assert (tokenizer.vocab_size, tokenizer.file) == (VOCABULARY, None), "whatever size the real one has"


def test_a_twin_keeps_longer_and_shorter_windows_apart_and_begins_where_a_branch_goes_on(tmp_path):
    draws = "{step: 5, pools: [{source: x, window_tokens: 256, num_draws: 40}]}"
    overrides = [
        *("model.fields.max_position_embeddings=512", "schedule.warmup_steps=1", "schedule.decay_steps=0"),
        "phases=[{num_steps: 5, sequences_per_step: 8}, {num_steps: 5, sequences_per_step: 8, window_tokens: 512},"
        " {num_steps: 5, sequences_per_step: 8, window_tokens: 64}, {sequences_per_step: 8, epochs: {Django: 0.5}}]",
        f"branch={{ledger_head: {'a' * 64}, step: 5, state_digest: {'b' * 64}, draws_before: {draws}}}",
    ]
    real = load_directory(ROOT / "configs" / "quickstart", [f"pretrain.{text}" for text in overrides], to_plan=True)
    twin = load_directory(write_twin(real, tmp_path)).models["pretrain"]
    assert [twin.window_tokens_of(phase) for phase in twin.phases] == [48, 96, 24, 48]
    assert [(phase.num_steps, phase.mixture) for phase in twin.phases][2:] == [(1, "proportional"), (1, {"Django": 1})]
    assert twin.branch is None


def options_of(config):
    """What a twin may not lose."""
    execution, checkpoints, model = config.execution, config.checkpoints, getattr(config, "model", None)
    return {
        "optimizer": config.optimizer,
        "chunks": config.loss.chunk_tokens is None,
        "z_loss": config.loss.z_loss,
        "masking": config.data.document_masking,
        "precision": config.precision,
        "reduction": config.reduction,
        "schedule": (config.schedule.name, config.schedule.warmup_steps > 0, config.schedule.decay_steps > 0),
        "phases": [phase.mixture for phase in config.phases],
        "grows": len({phase.sequences_per_step for phase in config.phases}),
        "sharded": execution.shard_size > 1,
        "recomputed": execution.activation_checkpointing,
        "retention": (checkpoints.keep_last_full is None, bool(checkpoints.published_full_steps)),
        "log-spaced": checkpoints.weights_until_step > 0,
        "model": model and (model.model_type, model.attention, model.router_bias_update_rate),
        "tied": model and model.fields.get("tie_word_embeddings"),
    }


def test_the_same_config_gives_the_same_twin(tmp_path):
    real = load_directory(ROOT / "configs" / "quickstart")
    first, second = (write_twin(real, tmp_path / name).parent for name in ("a", "b"))
    assert results(first / "sources") == results(second / "sources")
    assert (first / "config" / "pretrain.yaml").read_bytes() == (second / "config" / "pretrain.yaml").read_bytes()


def test_a_twin_keeps_the_kinds_of_layers_heads_and_experts():
    grouped = twin_fields(ModelConfig(model_type="qwen3", fields={"num_attention_heads": 32, "num_key_value_heads": 8}))
    assert (grouped["num_attention_heads"], grouped["num_key_value_heads"], grouped["head_dim"]) == (4, 1, 22)
    sliding = twin_fields(ModelConfig(model_type="olmo3", fields={}))
    assert sliding["layer_types"] == ["sliding_attention", "full_attention"]
    assert sliding["hidden_size"] == 66
    experts = twin_fields(ModelConfig(model_type="deepseek_v3", fields={}))
    assert (experts["num_hidden_layers"], experts["first_k_dense_replace"], experts["n_routed_experts"]) == (2, 1, 8)
    assert experts["q_lora_rank"] == 24
    assert twin_fields(ModelConfig(model_type="deepseek_v3", fields={"q_lora_rank": None}))["q_lora_rank"] is None


def test_the_command_line_runs_a_twin_as_a_dev_run_of_its_own_directory(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(pipeline, "run_directory", lambda *arguments: called.append(arguments) or {})
    monkeypatch.setattr(commands, "_print_artifacts", lambda *_: None)
    arguments = ["run", str(ROOT / "configs" / "deepseek-671b-plan"), "--twin", "--artifacts", str(tmp_path)]
    assert cli.invoke([*arguments, "--set", "pretrain.seed=5"]) == 0
    directory, overrides, _store, dev, *_ = called[0]
    assert (directory, dev) == (tmp_path / "deepseek-671b-plan-twin" / "config", True)
    assert not overrides
    assert load_directory(directory).models["pretrain"].seed == 5
