"""`openwright plan`: the document, its lines, and what it says when it cannot know."""

import json
from pathlib import Path

import pytest

from openwright import cli
from openwright.configs import load_directory
from openwright.plan import PLAN_FORMAT, PlanOptions, make_plan
from openwright.plan_report import plan_lines, quantity
from provenance.errors import ConfigError
from release.outlook import LATER
from train.devices import ASSUMED_MFU, DEVICES, find_device
from train.memory import MOMENTS

ROOT = Path(__file__).resolve().parent.parent.parent
H100 = PlanOptions(device="H100", price_per_device_hour=2.0)


def plan(name, store, options=H100, overrides=()):
    configs = load_directory(ROOT / "configs" / name, overrides, to_plan=True)
    return make_plan(configs, store, options, command="openwright run x")


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory):
    return plan("olmo3-7b", tmp_path_factory.mktemp("store"))


def test_the_plan_of_a_published_recipe_agrees_with_what_was_published(seven_billion):
    """OLMo 3 7B: 7.3 billion parameters, 5.93 trillion tokens in its first stage; 6 N D is the usual estimate."""
    (stage,) = seven_billion["stages"]
    assert stage["model"]["num_parameters"] == pytest.approx(7.3e9, rel=0.01)
    assert stage["num_tokens"] == pytest.approx(5.93e12 + 1e11, rel=0.001)
    estimate = 6 * stage["model"]["num_parameters"] * stage["num_tokens"]
    assert stage["flops"]["model"] == pytest.approx(estimate, rel=0.15)
    assert stage["flops"]["computed"] > stage["flops"]["model"]
    assert stage["layout"]["num_copies"] == 32
    assert stage["memory"]["fits"] is True
    assert stage["memory"]["peak_bytes"] == max(
        sum(part["bytes"] for part in stage["memory"]["parts"] if moment in part["moments"]) for moment in MOMENTS
    )


def test_time_energy_and_cost_follow_from_the_assumed_rate(seven_billion):
    (stage,) = seven_billion["stages"]
    time, device = stage["time"], DEVICES["h100"]
    rate = device.flops_per_second["bf16"] * ASSUMED_MFU
    assert time["device_hours"] * 3600 * rate == pytest.approx(stage["flops"]["computed"])
    assert time["seconds"] * stage["layout"]["num_processes"] == pytest.approx(time["device_hours"] * 3600)
    totals = seven_billion["totals"]
    assert totals["cost"] == pytest.approx(2 * totals["device_hours"])
    assert totals["energy_kwh"] == pytest.approx(0.7 * totals["device_hours"])
    assert "assumed" in time["basis"]


def test_thresholds_of_laws_are_compared_with_training_flops(seven_billion):
    reached = {row["flops"]: row["reached"] for row in seven_billion["thresholds"]}
    assert reached == {1e23: True, 1e25: False, 1e26: False}
    assert any("not legal advice" in line for line in plan_lines(seven_billion))


def test_the_next_command_is_the_twin_while_sources_are_not_pinned(seven_billion):
    assert seven_billion["next"] == "openwright run x --twin"
    assert "web" in next(line for line in plan_lines(seven_billion) if "not pinned" in line)


def test_a_plan_is_one_json_document(capfd, tmp_path):
    arguments = ["plan", str(ROOT / "configs" / "quickstart"), "--artifacts", str(tmp_path), "--json"]
    assert cli.invoke(arguments) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["format"] == PLAN_FORMAT
    assert document["next"] == f"openwright run {ROOT / 'configs' / 'quickstart'} --artifacts {tmp_path}"
    assert [stage["stage"] for stage in document["stages"]] == ["pretrain", "sft"]
    assert document["corpus"] is None
    assert document["stages"][0]["epochs"] is document["stages"][0]["time"] is document["device"] is None
    assert document["totals"]["device_hours"] is document["totals"]["cost"] is None
    assert not list(tmp_path.iterdir())
    assert LATER not in {rule["result"] for rule in document["openness"]["rules"]}


def test_what_is_not_known_is_said_so(tmp_path):
    lines = "\n".join(plan_lines(plan("quickstart", tmp_path, PlanOptions())))
    assert "unknown until the corpus is built" in lines
    assert "--tokens-per-second" in lines
    assert "certified" not in lines
    measured = plan("quickstart", tmp_path, PlanOptions(tokens_per_second=2048.0))
    assert measured["stages"][0]["time"]["seconds"] == pytest.approx(200)
    assert measured["totals"]["energy_kwh"] is None


def test_a_model_that_does_not_fit_and_never_runs_is_planned_all_the_same(tmp_path):
    largest = plan("deepseek-671b-plan", tmp_path, PlanOptions(device="h200"))
    (stage,) = largest["stages"]
    assert stage["memory"]["fits"] is False
    assert stage["model"]["num_active_parameters"] < stage["model"]["num_parameters"] / 10
    lines = "\n".join(plan_lines(largest))
    assert "DOES NOT FIT" in lines
    assert "run refuses it" in lines
    assert "licensed" in next(line for line in lines.splitlines() if "does not state reason" in line)
    with pytest.raises(ConfigError, match="planning only"):
        load_directory(ROOT / "configs" / "deepseek-671b-plan")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('phases=[{"num_steps": 600, "sequences_per_step": 64}, '
         '{"num_steps": 1, "sequences_per_step": 64, "mixture": {"Django": 1, "scrapy": 1}}]',
         r"phases\.1\.mixture names 'scrapy'"),
        ('phases=[{"sequences_per_step": 64, "epochs": {"scrapy": 1}}]', r"phases\.0\.epochs names 'scrapy'"),
        ('data.max_epochs={"beets": 2.0}', r"data\.max_epochs names 'beets'"),
    ],
)  # fmt: skip
def test_a_late_phase_over_a_source_that_is_not_trained_on_is_refused_before_anything_is_fetched(override, message):
    with pytest.raises(ConfigError, match=message) as refused:
        load_directory(ROOT / "configs" / "quickstart", [f"pretrain.{override}"])
    assert "Django" in refused.value.expected
    assert refused.value.where.endswith("pretrain.yaml")


def test_a_phase_by_epochs_is_planned_where_its_steps_are_stated_or_the_corpus_is_there(tmp_path):
    def planned(phase):
        overrides = [f"pretrain.phases=[{phase}]", "pretrain.schedule={warmup_steps: 1}"]
        return plan("quickstart", tmp_path, PlanOptions(), overrides)

    with pytest.raises(
        ConfigError, match=r"phases\.0 is given by epochs: its steps are known once the corpus is built"
    ):
        planned("{sequences_per_step: 8, epochs: {Django: 0.5}}")
    stated = planned("{num_steps: 3, sequences_per_step: 8, epochs: {Django: 0.5}}")
    assert (stated["stages"][0]["num_steps"], stated["stages"][0]["mixtures"]) == (3, [None])
    assert any("unknown until the corpus is built" in line for line in plan_lines(stated))


def test_memory_and_tokens_of_phases_with_longer_windows(tmp_path):
    """Memory is that of the phase that needs most; tokens and FLOPs are counted phase by phase."""
    short = "{num_steps: 100, sequences_per_step: 32, mixture: proportional}"
    long = "{num_steps: 10, sequences_per_step: 16, window_tokens: 512, mixture: proportional}"
    others = ["schedule.warmup_steps=1", "schedule.decay_steps=0", "model.fields.max_position_embeddings=512"]

    def planned(*phases):
        overrides = [f"pretrain.{text}" for text in (f"phases=[{', '.join(phases)}]", *others)]
        return plan("quickstart", tmp_path, PlanOptions(), overrides)["stages"][0]

    alone, longer, both = planned(short), planned(long), planned(short, long)
    assert both["tokens_per_step"] == [16 * 512] == longer["tokens_per_step"] == alone["tokens_per_step"]
    assert both["num_tokens"] == alone["num_tokens"] + longer["num_tokens"] == 110 * 16 * 512
    for key in ("model", "computed"):
        assert both["flops"][key] == alone["flops"][key] + longer["flops"][key]
    assert longer["memory"]["peak_bytes"] > alone["memory"]["peak_bytes"]
    assert both["memory"] == longer["memory"]


def test_a_layout_of_the_command_line_is_checked_as_a_config_is(tmp_path):
    options = PlanOptions(num_devices=4, shard_size=2)
    overrides = options.overrides(["pretrain", "sft"])
    assert overrides[0] == "pretrain.execution.num_processes=4"
    layout = plan("quickstart", tmp_path, options, overrides)["stages"][0]["layout"]
    assert (layout["num_processes"], layout["shard_size"], layout["num_copies"]) == (4, 2, 2)
    with pytest.raises(ConfigError):
        plan("quickstart", tmp_path, options, PlanOptions(num_devices=16).overrides(["pretrain"]))


def test_memory_of_a_layout_within_windows_is_said_to_be_unknown(tmp_path):
    sizes = {"num_processes": 8, "shard_size": 4, "tensor_size": 2, "context_size": 2}
    overrides = ["pretrain.reduction=native", *(f"pretrain.execution.{name}={size}" for name, size in sizes.items())]
    planned = plan("quickstart", tmp_path, PlanOptions(), overrides)
    stage = planned["stages"][0]
    assert stage["memory"] is None
    assert sizes.items() <= stage["layout"].items()
    assert stage["layout"]["num_copies"] == 1
    text = "\n".join(plan_lines(planned))
    assert "each model sharded over 4 (copies: 1), its matrices cut over 2, windows shared by 2" in text
    assert "not known: the table has no layouts with tensor_size or context_size" in text
    with pytest.raises(ConfigError, match="need reduction: native"):
        plan("quickstart", tmp_path, PlanOptions(), overrides[1:])


def test_an_unknown_device_is_never_guessed():
    with pytest.raises(ConfigError, match="h100"):
        find_device("h1000")
    assert all(device.source and device.watts > 0 for device in DEVICES.values())


def test_quantities_are_written_for_people():
    assert [quantity(value) for value in (12, 4_264_192, 7.3e9, 1.48e13)] == [
        "12", "4.26 million", "7.30 billion", "14.80 trillion",
    ]  # fmt: skip
