"""Averages of checkpoints in configs, plans, twins and clusters: nothing is trained here."""

from pathlib import Path

import pytest

from openwright import plan, plan_report
from openwright.cluster import ClusterConfig
from openwright.configs import load_directory
from openwright.twin import twin_average
from provenance.config import load_config
from provenance.errors import ConfigError
from train.settings import PretrainConfig

ROOT = Path(__file__).resolve().parent.parent.parent
AVERAGED = ROOT / "configs" / "averaged"
FOUR = "average.ingredients=[{stage: pretrain, steps: [8, 16, 190]}, {stage: pretrain, steps: [200]}]"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["average.ingredients=[{stage: pretrain, steps: [150, 155]}]"], "keeps no checkpoint of step 155"),
        (["pretrain.checkpoints.weights_every_steps=0"], "keeps no checkpoint of step 160"),
        (["pretrain.phases=[{num_steps: 180, sequences_per_step: 8}]"], "keeps no checkpoint of step 190"),
        (["average.ingredients=[{stage: sft, steps: [1, 2]}]"], "sft is no stage of this release"),
        (["release.stages=[corpus, average, pretrain, eval]"], "average stands right before eval"),
        (["release.stages=[corpus, average, eval]"], "'average' comes without 'pretrain'"),
        (["average.kind=ema"], "decay belongs to kind ema"),
        (["average.weights=[1, 2]"], "weights belong to kind weights"),
    ],
)
def test_an_average_that_no_run_would_have_the_checkpoints_of_is_refused_at_once(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_directory(AVERAGED, overrides)


def test_steps_that_follow_from_a_corpus_are_not_refused_before_it_is_there():
    epochs = ["pretrain.phases=[{sequences_per_step: 8, epochs: {xarray: 2.0}}]", "pretrain.schedule.warmup_steps=0"]
    assert load_directory(AVERAGED, epochs).models["average"].checkpoints[-1] == ("pretrain", 200)


def test_a_plan_tells_what_an_average_reads_and_writes():
    configs = load_directory(AVERAGED, [FOUR, "average.kind=weights", "average.weights=[1, 2, 3, 4]"])
    section = plan._average(configs, [{"stage": "pretrain", "checkpoints": {"weights_bytes": 11_000_000}}])
    named = [{"stage": "pretrain", "step": step} for step in (8, 16, 190, 200)]
    sizes = {"read_bytes": 44_000_000, "weights_bytes": 11_000_000}
    assert section == {"kind": "weights", "ingredients": named, **sizes}
    assert list(plan_report._average_lines(section)) == [
        "checkpoints   pretrain 8, pretrain 16, pretrain 190, pretrain 200; kind weights",
        "size          44.0 MB read, 11.0 MB written",
    ]
    assert plan._average(load_directory(ROOT / "configs" / "quickstart"), []) is None


def test_a_twin_averages_the_last_checkpoints_that_its_runs_keep():
    five = "average.ingredients=[{stage: pretrain, steps: [0, 8, 16, 190, 200]}]"
    real = load_directory(AVERAGED, [five, "average.kind=weights", "average.weights=[1, 2, 3, 4, 5]"])
    small = ["phases=[{num_steps: 3, sequences_per_step: 8}]", "schedule.warmup_steps=1"]
    small += ["checkpoints={weights_until_step: 1, full_every_steps: 2}"]
    run = load_config(AVERAGED / "pretrain.yaml", PretrainConfig, small)
    twin = twin_average(real.models["average"], {"pretrain": run})
    assert twin["ingredients"] == [{"stage": "pretrain", "steps": [0, 1, 2, 3]}]
    assert (twin["weights"], twin["kind"]) == ([1, 2, 3, 4], "weights")


def test_on_a_cluster_an_average_is_a_job_of_one_process():
    job = {"time": "01:00:00", "nodes": 1, "cpus_per_task": 2}
    cluster = ClusterConfig(artifacts="/shared", training={**job, "nodes": 2, "processes_per_node": 2}, other=job)
    assert cluster.job_of("average") == cluster.other
    with pytest.raises(ValueError, match="stage average runs as one process"):
        ClusterConfig(artifacts="/shared", training=job, other=job, stages={"average": {**job, "nodes": 2}})
