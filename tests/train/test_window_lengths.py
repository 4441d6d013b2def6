"""Phases with windows of another length: what they read, what stays as it was, and the same bits at every layout."""

from pathlib import Path
from typing import Any

import pytest
import small_jobs
import test_layouts
import tiny_runs
from small_jobs import records, run_here, small_config, small_job, stop_after

from data_recipes.order import Order
from data_recipes.windows import TokenWindows
from provenance.errors import ConfigError, DataError
from train.run_order import build_order, open_windows
from train.settings import PretrainConfig

SHORT, LONG = tiny_runs.WINDOW_TOKENS, 2 * tiny_runs.WINDOW_TOKENS
TWO: dict[str, Any] = {
    "phases": [
        {"num_steps": 3, "sequences_per_step": 8},
        {"num_steps": 2, "sequences_per_step": 4, "window_tokens": LONG, "mixture": {"alpha": 1, "beta": 1}},
        {"num_steps": 1, "sequences_per_step": 8},
    ],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def straight(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("straight") / "run", **TWO)


def order_of(corpus: Path, config: PretrainConfig) -> Order:
    return build_order(config, open_windows(config, corpus))


def test_each_phase_reads_windows_of_its_own_length(corpus: Path, straight: Path) -> None:
    start, steps = records(straight)[0]["order"], records(straight, "step")
    assert (start["version"], start["window_tokens"], start["first_step"]) == ("order/2", SHORT, 1)
    assert [(pool["name"], pool["window_tokens"]) for pool in start["sources"]] == [
        *(("alpha", SHORT), ("beta", SHORT), ("alpha", LONG), ("beta", LONG))
    ]
    for pool in start["sources"]:
        windows = TokenWindows(corpus, "train", pool["window_tokens"])
        assert pool["num_windows"] == {s.name: s.num_windows for s in windows.sources}[pool["name"]]
    assert [sum(step["tokens_by_source"].values()) for step in steps] == [
        *(8 * SHORT, 8 * SHORT, 8 * SHORT, 4 * LONG, 4 * LONG, 8 * SHORT)
    ]
    assert [step["num_trained_tokens"] for step in steps] == [sum(s["tokens_by_source"].values()) for s in steps]
    assert steps[3]["tokens_by_source"] == {"alpha": 2 * LONG, "beta": 2 * LONG}


def test_the_usual_length_reads_what_a_run_without_the_other_one_reads(corpus: Path, straight: Path) -> None:
    """So that a branch may lengthen the windows of later phases and still read on in the epochs that have begun."""
    plain = order_of(corpus, small_config(phases=[TWO["phases"][0], TWO["phases"][2]]))
    order = Order.from_json(records(straight)[0]["order"])
    assert plain.version == "order/1"
    assert [order.step_draws(step) for step in (1, 2, 3, 6)] == [plain.step_draws(step) for step in (1, 2, 3, 4)]
    flat = [draw for step in (1, 2, 3, 6) for draw in order.step_draws(step)]
    for source in (0, 1):
        windows = [(draw.epoch, draw.window) for draw in flat if draw.source == source]
        assert len(windows) == len(set(windows))


def test_naming_the_usual_length_changes_nothing(corpus: Path) -> None:
    phases = [{"num_steps": 6, "sequences_per_step": 4}]
    named = [{**phases[0], "window_tokens": SHORT}]
    plain, same = (order_of(corpus, small_config(phases=p)) for p in (phases, named))
    assert same == plain
    assert same.as_json()["version"] == "order/1"
    assert "window_tokens" not in same.as_json()


def test_one_length_that_is_not_the_held_out_one_is_order_2(corpus: Path) -> None:
    order = order_of(corpus, small_config(phases=[{"num_steps": 6, "sequences_per_step": 4, "window_tokens": LONG}]))
    assert (order.version, {pool.window_tokens for pool in order.sources}) == ("order/2", {LONG})


def test_a_run_stopped_in_either_phase_ends_in_the_bytes_of_the_straight_one(
    corpus: Path, straight: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    job = small_job(corpus, run_dir, small_config(**TWO))
    for step in (2, 4):
        assert not run_here(job, stop_after(run_dir, step))
    assert run_here(job)
    assert small_jobs.differing(run_dir, straight) == []


def test_every_layout_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    changes = {**test_layouts.SHORT, **test_layouts.RECIPES["chunks-masked"], "phases": TWO["phases"][:2]}
    changes["phases"] = [changes["phases"][0], {**changes["phases"][1], "sequences_per_step": 8}]
    one = test_layouts.run(corpus, tmp_path / "one", 1, 1, changes)
    assert len(one) > 10
    for size, shard_size in ((2, 1), (2, 2)):
        run_dir = tmp_path / f"{size}-{shard_size}"
        assert test_layouts.run(corpus, run_dir, size, shard_size, changes) == one


def test_a_context_that_is_too_short_and_rows_of_another_width_are_refused(corpus: Path, tmp_path: Path) -> None:
    phases = [*TWO["phases"], {"num_steps": 1, "sequences_per_step": 8, "window_tokens": 65}]
    with pytest.raises(ConfigError, match="max_position_embeddings 64") as refused:
        run_here(small_job(corpus, tmp_path / "run", small_config(phases=phases)))
    assert "at least 65" in refused.value.expected
    sft = tiny_runs.sft_config(phases=TWO["phases"], num_logical_replicas=4)
    with pytest.raises(DataError, match="as the rows of split 'sft' hold"):
        open_windows(sft, corpus)


def limited(limits: Any, **changes: Any) -> PretrainConfig:
    config = small_config(**changes)
    return config.model_copy(update={"data": config.data.model_copy(update={"max_epochs": limits})})


def test_a_source_is_read_no_more_often_than_its_limit_at_all_lengths_together(corpus: Path) -> None:
    order = order_of(corpus, small_config(**TWO))
    totals = dict(zip(range(len(order.sources)), order.draws_until(order.num_steps), strict=True))
    epochs = {
        name: sum(totals[n] / pool.num_windows for n, pool in enumerate(order.sources) if pool.name == name)
        for name in ("alpha", "beta")
    }
    assert epochs["beta"] > epochs["alpha"] > 0
    for limits in (epochs["beta"] + 1e-9, {"alpha": 9.0}, {"beta": epochs["beta"] + 1e-9}, None):
        assert order_of(corpus, limited(limits, **TWO)) == order
    for limits in (epochs["beta"] - 1e-9, {"alpha": 9.0, "beta": epochs["beta"] - 1e-9}):
        with pytest.raises(ConfigError, match=f"'beta' would be read {epochs['beta']:.2f} times over") as refused:
            order_of(corpus, limited(limits, **TWO))
        assert "data.max_epochs" in refused.value.expected
    with pytest.raises(ConfigError, match=r"data\.max_epochs names 'gamma'"):
        order_of(corpus, limited({"gamma": 2.0}, **TWO))


def test_a_mixture_of_another_corpus_is_refused_by_its_place(corpus: Path) -> None:
    phases = [TWO["phases"][0], {**TWO["phases"][1], "mixture": {"gamma": 1}}]
    with pytest.raises(ConfigError, match=r"phases\.1\.mixture names 'gamma'"):
        order_of(corpus, small_config(phases=phases))
