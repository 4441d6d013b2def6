"""Averages of checkpoints in configs, plans, twins and clusters: nothing is trained here."""

from pathlib import Path

import pytest
import yaml

from openwright.cluster import ClusterConfig
from openwright.configs import load_directory
from openwright.plan import PlanOptions, make_plan
from openwright.plan_report import plan_lines
from openwright.twin import write_twin
from provenance.errors import ConfigError

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


def test_a_plan_tells_what_an_average_reads_and_writes(tmp_path):
    configs = load_directory(AVERAGED, [FOUR, "average.kind=weights", "average.weights=[1, 2, 3, 4]"])
    plan = make_plan(configs, tmp_path, PlanOptions(), command="next")
    (stage,) = plan["stages"]
    size = stage["checkpoints"]["weights_bytes"]
    named = [{"stage": "pretrain", "step": step} for step in (8, 16, 190, 200)]
    expected = {"kind": "weights", "ingredients": named, "read_bytes": 4 * size, "weights_bytes": size}
    assert plan["average"] == expected
    lines = plan_lines(plan)
    assert "checkpoints   pretrain 8, pretrain 16, pretrain 190, pretrain 200; kind weights" in lines
    assert plan_lines({**plan, "average": None}).count("== average") == 0 < lines.count("== average")


def test_a_twin_averages_the_last_checkpoints_that_its_runs_keep(tmp_path):
    five = "average.ingredients=[{stage: pretrain, steps: [0, 8, 16, 190, 200]}]"
    weighted = [five, "average.kind=weights", "average.weights=[1, 2, 3, 4, 5]"]
    twin = yaml.safe_load((write_twin(load_directory(AVERAGED, weighted), tmp_path) / "average.yaml").read_text())
    assert twin["ingredients"] == [{"stage": "pretrain", "steps": [0, 1, 2, 3]}]
    assert twin["weights"] == [1, 2, 3, 4]


def test_on_a_cluster_an_average_is_a_job_of_one_process():
    job = {"time": "01:00:00", "nodes": 1, "cpus_per_task": 2}
    cluster = ClusterConfig(artifacts="/shared", training={**job, "nodes": 2, "processes_per_node": 2}, other=job)
    assert cluster.job_of("average") == cluster.other
    with pytest.raises(ValueError, match="stage average runs as one process"):
        ClusterConfig(artifacts="/shared", training=job, other=job, stages={"average": {**job, "nodes": 2}})
