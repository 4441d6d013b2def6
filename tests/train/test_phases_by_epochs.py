"""Phases that are given by how often they read each source: what follows from the corpus, and what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs

from data_recipes.order import Order
from openwright.configs import StageConfigs, _check_average
from openwright.pipeline import _check_phases
from provenance.artifacts import Artifact
from provenance.errors import ConfigError, StoppedForRequeue
from release import verify
from train import jobs
from train.average_settings import AverageConfig
from train.branch import cut_phases, phase_weights
from train.job import TrainingJob
from train.run_order import build_order, open_windows, settle_phases
from train.settings import PretrainConfig

WIDTH, EPOCHS = 4, {"beta": 1.5, "alpha": 0.07}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def held(corpus: Artifact) -> dict[str, int]:
    return {pool.name: pool.num_windows for pool in open_windows(small_jobs.small_config(), corpus.path).pools}


def by_epochs(epochs: dict[str, float], **changes: Any) -> dict[str, Any]:
    return {"sequences_per_step": WIDTH, "epochs": epochs, **changes}


def config_of(*phases: dict[str, Any], **changes: Any) -> PretrainConfig:
    return small_jobs.small_config(phases=list(phases), **changes)


def order_of(config: PretrainConfig, corpus: Artifact) -> Order:
    return build_order(config, open_windows(config, corpus.path))


def windows_read(order: Order) -> dict[str, Counter[int]]:
    """How often every window of every source is read, step by step."""
    read: dict[str, Counter[int]] = {}
    for step in range(1, order.num_steps + 1):
        for draw in order.step_draws(step):
            read.setdefault(order.sources[draw.source].name, Counter())[draw.window] += 1
    return read


@pytest.mark.parametrize("epochs", [{"alpha": 2.0, "beta": 1.0}, {"beta": 0.7}, {"alpha": 0.1, "beta": 2.3}])
def test_each_source_is_read_its_epochs_times_its_windows(
    corpus: Artifact, held: dict[str, int], epochs: dict[str, float]
) -> None:
    """One window in a step leaves nothing over, so that every count is the one that was asked for."""
    config = settle_phases(config_of(by_epochs(epochs, sequences_per_step=1), num_logical_replicas=1), corpus.path)
    read = windows_read(order_of(config, corpus))
    assert read.keys() == epochs.keys()
    for name, counts in read.items():
        tenths = round(10 * epochs[name]) * held[name]
        assert counts.total() == tenths // 10
        whole = tenths // 10 // held[name]
        assert set(counts.values()) <= {whole, whole + 1}, "an epoch ends before the next one begins"


def test_a_last_batch_that_does_not_fill_is_not_read(corpus: Artifact, held: dict[str, int]) -> None:
    whole, width = {"alpha": 1.0, "beta": 1.0}, next(w for w in range(5, 20) if sum(held.values()) % w > 1)
    phase = by_epochs(whole, sequences_per_step=width)
    read = windows_read(order_of(settle_phases(config_of(phase, num_logical_replicas=1), corpus.path), corpus))
    left = sum(held.values()) % width
    assert sum(counts.total() for counts in read.values()) == sum(held.values()) - left
    assert all(set(counts.values()) == {1} for counts in read.values())
    assert all(held[name] - counts.total() <= left for name, counts in read.items())


def test_a_run_records_plain_steps_and_weights(
    corpus: Artifact, held: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe of a run has no epochs left, so that whoever checks or branches needs to know nothing of them."""
    begun: list[TrainingJob] = []

    def launch(job: TrainingJob, *_: Any, **__: Any) -> None:
        begun.append(job)
        raise StoppedForRequeue("seen")

    monkeypatch.setattr(jobs, "launch", launch)
    stated = config_of(by_epochs(EPOCHS), {"num_steps": 2, "sequences_per_step": WIDTH, "mixture": {"beta": 1}})
    with pytest.raises(StoppedForRequeue):
        jobs.pretrain(stated, tiny_runs.context(tmp_path), corpus)
    due = {"beta": held["beta"] * 3 // 2, "alpha": held["alpha"] * 7 // 100}
    num_steps = sum(due.values()) // WIDTH
    recipe, config = begun[0].recipe, begun[0].config
    phase = recipe["phases"][0]
    assert (phase["num_steps"], phase["mixture"], phase["epochs"]) == (num_steps, due, None)
    assert begun[0].last_step == config.num_steps == num_steps + 2
    order = order_of(config, corpus).as_json() | {"split": "train", "window_tokens": tiny_runs.WINDOW_TOKENS}
    checked = verify.Order(order, "ledger.jsonl")
    assert [verify.Verifier._phase(phase, checked, "recipe.json") for phase in recipe["phases"]] == checked.phases
    assert settle_phases(config, corpus.path) is config


def test_windows_of_another_length_have_epochs_of_their_own(corpus: Artifact) -> None:
    length = 2 * tiny_runs.WINDOW_TOKENS
    config = config_of({"num_steps": 2, "sequences_per_step": WIDTH}, by_epochs({"beta": 1.0}, window_tokens=length))
    windows = open_windows(config, corpus.path)
    pool = next(pool for pool in windows.pools if (pool.name, pool.window_tokens) == ("beta", length))
    phase = settle_phases(config, corpus.path).phases[1]
    assert (phase.mixture, phase.num_steps) == ({"beta": pool.num_windows}, pool.num_windows // WIDTH)


def test_a_stated_number_of_steps_has_to_be_the_one_that_follows(corpus: Artifact, held: dict[str, int]) -> None:
    num_steps = held["beta"] // WIDTH
    config = settle_phases(config_of(by_epochs({"beta": 1.0}, num_steps=num_steps)), corpus.path)
    assert config.num_steps == num_steps
    for wrong in (num_steps - 1, num_steps + 1):
        with pytest.raises(ConfigError, match=rf"phases\.0\.num_steps {wrong}") as caught:
            settle_phases(config_of(by_epochs({"beta": 1.0}, num_steps=wrong)), corpus.path)
        assert caught.value.expected.startswith(f"{num_steps}, as its epochs give")


@pytest.mark.parametrize(
    ("phase", "changes", "message"),
    [
        (by_epochs({"gamma": 1.0}), {}, r"phases\.0\.epochs names 'gamma'"),
        (by_epochs({"alpha": 1.0, "beta": 1e-6}), {}, "1e-06 of source 'beta' are no window"),
        (by_epochs({"beta": 0.1}, sequences_per_step=64), {}, r"phases\.0 makes no step"),
        (by_epochs({"beta": 0.1}), {"schedule": {"warmup_steps": 900}}, "warm-up and decay are longer"),
        (by_epochs({"beta": 1.0}), {"skip_steps": [[900, 901]]}, "end before the last step"),
    ],
)
def test_what_does_not_follow_from_the_corpus_is_refused(
    corpus: Artifact, phase: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settle_phases(config_of(phase, **changes), corpus.path)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"sequences_per_step": WIDTH}, "a phase needs num_steps of 1 or more, or epochs"),
        (by_epochs({"beta": 1.0}, mixture={"beta": 1}), "a mixture or epochs, not both"),
        (by_epochs({}), "at least 1 item"),
        (by_epochs({"beta": 0.0}), "greater than 0"),
        (by_epochs({"beta": float("inf")}), "finite"),
    ],
)
def test_a_phase_that_says_too_little_or_too_much_is_refused(phase: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(phase)


def test_limits_on_reading_a_source_over_hold_for_all_phases_together(corpus: Artifact, held: dict[str, int]) -> None:
    def limited(limit: float | dict[str, float], *phases: dict[str, Any]) -> PretrainConfig:
        data = {**small_jobs.SMALL["data"], "max_epochs": limit}
        return config_of(*phases, data=data, num_logical_replicas=1)

    beta = by_epochs({"beta": 0.7}, sequences_per_step=1)
    order = order_of(settle_phases(limited(1.4, beta, beta), corpus.path), corpus)
    assert order.num_steps == 2 * (held["beta"] * 7 // 10)
    for limit in (1.3, {"beta": 1.3}):
        with pytest.raises(ValueError, match=r"1\.4 epochs of 'beta', data\.max_epochs allows 1\.3"):
            limited(limit, beta, beta)
    exact = {"num_steps": held["beta"], "sequences_per_step": 1, "mixture": {"beta": 1}}
    order_of(limited(1.0, exact), corpus)
    settled = settle_phases(limited(1.0, beta, exact), corpus.path)
    with pytest.raises(ConfigError, match=r"'beta' would be read 1\.[67]. times over"):
        order_of(settled, corpus)


def test_later_stages_are_looked_at_as_soon_as_the_corpus_is_there(corpus: Artifact) -> None:
    good, bad = config_of(by_epochs({"beta": 1.0})), config_of(by_epochs({"beta": 1.0}, num_steps=9))

    def configs(*models: PretrainConfig) -> StageConfigs:
        named = dict(zip(("pretrain", "sft"), models, strict=True))
        return StageConfigs(Path(), "tiny", tuple(named), named)

    _check_phases(configs(good, good), corpus)
    with pytest.raises(ConfigError, match=r"phases\.0\.num_steps 9"):
        _check_phases(configs(good, bad), corpus)


def test_an_average_of_checkpoints_is_looked_at_where_the_steps_are_known() -> None:
    settings = AverageConfig.model_validate(
        {"kind": "uniform", "ingredients": [{"stage": "pretrain", "steps": [2, 5]}]}
    )
    known = {"pretrain": config_of({"num_steps": 4, "sequences_per_step": WIDTH}), "average": settings}
    _check_average({**known, "pretrain": config_of(by_epochs({"beta": 1.0}))}, Path())
    with pytest.raises(ConfigError, match="pretrain keeps no checkpoint of step 5"):
        _check_average(known, Path())


def test_before_the_corpus_is_built_the_steps_are_not_known() -> None:
    config = config_of({"num_steps": 3, "sequences_per_step": WIDTH}, by_epochs({"beta": 1.0}))
    with pytest.raises(ConfigError, match=r"phases\.1 is given by epochs") as caught:
        _ = config.num_steps
    assert "openwright run CONFIG_DIR/corpus.yaml" in caught.value.next_command
    assert cut_phases(config.phases, 3) == (config.phases[:1], config.phases[1:])
    with pytest.raises(ConfigError, match=r"phases\.1 is given by epochs and begins before step 4"):
        cut_phases(config.phases, 4)
    order = Order("0" * 64, 1, (), ())
    assert phase_weights(config, order, config.phases[1]) == {"beta": 1}
