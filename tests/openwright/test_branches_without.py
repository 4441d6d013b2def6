"""`openwright branch --without source:NAME`: the sources that stay go on with the windows they have not read yet."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
from small_jobs import records, run_here, small_job, stop_after
from test_branches import branch, run_branch

from data_recipes.order import Order
from openwright import cli
from provenance.config import load_config
from provenance.errors import ConfigError, DataError, ResumeMismatch
from train.branch import find_branch_point
from train.settings import DrawsBefore, PretrainConfig

LONG = 2 * tiny_runs.WINDOW_TOKENS
PHASES = [
    {"num_steps": 5, "sequences_per_step": 8},
    {"num_steps": 4, "sequences_per_step": 4, "window_tokens": LONG, "mixture": {"alpha": 2, "beta": 3}},
    {"num_steps": 3, "sequences_per_step": 60},
]
CHANGES: dict[str, Any] = {"phases": PHASES, "checkpoints": {"weights_until_step": 1, "full_every_steps": 3}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def parent(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of twelve steps with full checkpoints at every third; windows are longer at steps 6 to 9."""
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("parent") / "run", **CHANGES)


def make_config_dir(parent: Path) -> Path:
    """The parts of a config directory that a branch reads."""
    directory = parent / "config"
    directory.mkdir(parents=True)
    (directory / "release.yaml").write_text("name: tiny\n")
    (directory / "pretrain.yaml").write_text("{}\n")
    return directory


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    return make_config_dir(tmp_path)


def order_of(run_dir: Path) -> Order:
    """The order that a ledger states, after its steps were compared with it."""
    order = Order.from_json(records(run_dir)[0]["order"])
    for record in records(run_dir, "step"):
        assert record["order_digest"] == order.order_digest(record["step"])
        lengths = {order.sources[draw.source].window_tokens for draw in order.step_draws(record["step"])}
        assert len(lengths) == 1
    return order


def read(runs: Sequence[tuple[Path, int, int]]) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """(epoch, window) by source and window length of stretches of steps of some runs, in the order of reading."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for run_dir, first, last in runs:
        order = order_of(run_dir)
        for step in range(first, last + 1):
            for draw in order.step_draws(step):
                source = order.sources[draw.source]
                place = (source.name, source.window_tokens or tiny_runs.WINDOW_TOKENS)
                found.setdefault(place, []).append((draw.epoch, draw.window))
    return found


def assert_epochs_are_whole(run_dir: Path, found: dict[tuple[str, int], list[tuple[int, int]]]) -> None:
    """Every pool is read epoch after epoch, each window once in each, none left out before the next epoch begins."""
    order = order_of(run_dir)
    usual = tiny_runs.WINDOW_TOKENS
    sizes = {(source.name, source.window_tokens or usual): source.num_windows for source in order.sources}
    for place, draws in found.items():
        for begin in range(0, len(draws), sizes[place]):
            epoch = draws[begin : begin + sizes[place]]
            assert {number for number, _ in epoch} == {begin // sizes[place]}, place
            assert len({window for _, window in epoch}) == len(epoch), place


@pytest.mark.parametrize("step", [3, 6, 9])
def test_sources_that_stay_go_on_with_what_they_have_not_read(
    corpus: Path,
    parent: Path,
    config_dir: Path,
    step: int,
) -> None:
    """From inside the first phase, inside the one with longer windows, and from the end of that."""
    run_dir = run_branch(corpus, branch(parent, step, config_dir, without=["alpha"]))
    found = read([(parent, 1, step), (run_dir, step + 1, 12)])
    assert_epochs_are_whole(run_dir, found)
    assert {name for name, _ in read([(run_dir, step + 1, 12)])} == {"beta"}
    assert all(set(r["tokens_by_source"]) == {"beta"} for r in records(run_dir, "step"))
    tokens = [sum(record["tokens_by_source"].values()) for record in records(run_dir, "step")]
    assert tokens == [sum(record["tokens_by_source"].values()) for record in records(parent, "step")[step:]]
    assert max(epoch for epoch, _ in found["beta", tiny_runs.WINDOW_TOKENS]) > 0, "too short a run to begin an epoch"


def test_a_parent_of_one_length_goes_on_in_its_epochs_too(corpus: Path, tmp_path: Path, config_dir: Path) -> None:
    """Its order is an `order/1`, that of the branch an `order/2`."""
    phases = [{"num_steps": 12, "sequences_per_step": 12}]
    plain = small_jobs.run_small(corpus, tmp_path / "plain", **{**CHANGES, "phases": phases})
    path = branch(plain, 6, config_dir, without=["alpha"])
    run_dir = run_branch(corpus, path)
    assert [order_of(run).version for run in (plain, run_dir)] == ["order/1", "order/2"]
    assert_epochs_are_whole(run_dir, read([(plain, 1, 6), (run_dir, 7, 12)]))
    with pytest.raises(DataError, match="step 6"):
        order_of(run_dir).step_draws(6)


def test_the_phase_is_cut_and_weights_are_written(parent: Path, config_dir: Path) -> None:
    path = branch(parent, 3, config_dir, without=["beta"])
    config = load_config(path, PretrainConfig)
    sizes = {(s.name, s.window_tokens): s.num_windows for s in order_of(parent).sources}
    assert [(p.num_steps, p.sequences_per_step, p.mixture, p.window_tokens) for p in config.phases] == [
        (3, 8, "proportional", None),
        (2, 8, {"alpha": sizes["alpha", tiny_runs.WINDOW_TOKENS]}, None),
        (4, 4, {"alpha": 2}, LONG),
        (3, 60, {"alpha": sizes["alpha", tiny_runs.WINDOW_TOKENS]}, None),
    ]
    assert config.branch is not None
    assert config.branch.draws_before is not None
    assert config.branch.draws_before.step == 3
    assert sum(pool.num_draws for pool in config.branch.draws_before.pools) == 3 * 8
    assert {pool.source for pool in config.branch.draws_before.pools} == {"alpha", "beta"}
    assert "without source beta" in path.read_text().splitlines()[1]


def test_a_branch_of_such_a_branch_keeps_its_order_or_leaves_out_more(
    corpus: Path, parent: Path, tmp_path: Path
) -> None:
    """First without beta; then unchanged from there; then one in which beta comes back where it was left."""
    directories = [make_config_dir(tmp_path / name) for name in ("first", "second", "third", "fourth")]
    first = run_branch(corpus, branch(parent, 3, directories[0], without=["beta"]))
    path = branch(first, 6, directories[1])
    config = load_config(path, PretrainConfig)
    second = run_branch(corpus, path)
    assert order_of(second) == order_of(first)
    expected = [record["loss"] for record in records(first, "step") if record["step"] > 6]
    assert [record["loss"] for record in records(second, "step")] == expected
    phases = [phase.model_dump(mode="json") for phase in config.phases]
    phases[-1]["mixture"] = {"alpha": 1, "beta": 1}
    third = run_branch(corpus, branch(first, 6, directories[2], f"phases={json.dumps(phases)}"))
    found = read([(parent, 1, 3), (first, 4, 6), (third, 7, 12)])
    assert_epochs_are_whole(third, found)
    assert len(found["beta", tiny_runs.WINDOW_TOKENS]) > len(read([(parent, 1, 3)])["beta", tiny_runs.WINDOW_TOKENS])
    with pytest.raises(ConfigError, match="no phase after step 6 reads it"):
        branch(first, 6, directories[3], without=["beta"])


def test_such_a_branch_interrupted_ends_in_the_bytes_of_the_straight_one(
    corpus: Path,
    parent: Path,
    config_dir: Path,
    tmp_path: Path,
) -> None:
    path = branch(parent, 3, config_dir, without=["beta"])
    straight = run_branch(corpus, path)
    config = load_config(path, PretrainConfig)
    assert config.branch is not None
    point = find_branch_point(config_dir.parent / "store" / "tiny", config.branch)
    job = small_job(corpus, tmp_path / "stopped", config, branch_from=str(point))
    for step in (4, 8):
        assert not run_here(job, stop_after(tmp_path / "stopped", step))
    assert run_here(job)
    assert small_jobs.differing(tmp_path / "stopped", straight) == []


def test_longer_windows_in_later_phases_of_a_plain_branch_read_on_in_the_epochs_that_have_begun(
    corpus: Path,
    tmp_path: Path,
    config_dir: Path,
) -> None:
    phases = [{"num_steps": 4, "sequences_per_step": 8}, {"num_steps": 8, "sequences_per_step": 16}]
    plain = small_jobs.run_small(corpus, tmp_path / "plain", **{**CHANGES, "phases": phases})
    later = [phases[0], PHASES[1], {**phases[1], "num_steps": 4}]
    run_dir = run_branch(corpus, branch(plain, 3, config_dir, f"phases={json.dumps(later)}"))
    assert order_of(run_dir).first_step == 1
    assert_epochs_are_whole(run_dir, read([(plain, 1, 3), (run_dir, 4, 12)]))


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "overrides", "words"),
    [
        (["gamma"], [], "the split has no such source"),
        (["beta", "gamma"], [], "the split has no such source"),
        (["alpha", "beta"], [], r"phases\.1 of the branch would read nothing"),
        (["beta"], ["phases.1.mixture=proportional"], r"phases\.1 reads it again"),
        (["beta"], ["phases.2.mixture={alpha: 1, beta: 1}"], r"phases\.2 reads it again"),
        (["beta"], ["phases.3.window_tokens=12", "phases.3.mixture=proportional"], r"phases\.3 reads it again"),
        (["beta"], ["phases=[{num_steps: 12, sequences_per_step: 8}]"], "values that do not go together"),
    ],
)
def test_what_cannot_be_left_out_is_refused(
    parent: Path,
    config_dir: Path,
    without: list[str],
    overrides: list[str],
    words: str,
) -> None:
    with pytest.raises(ConfigError, match=words):
        branch(parent, 3, config_dir, *overrides, without=without)
    assert not (config_dir.parent / "new").exists()


def test_a_source_that_no_later_phase_reads_is_refused(corpus: Path, tmp_path: Path, config_dir: Path) -> None:
    phases = [PHASES[0], {**PHASES[2], "num_steps": 7, "mixture": {"alpha": 1, "beta": 0}}]
    run = small_jobs.run_small(corpus, tmp_path / "run", **{**CHANGES, "phases": phases})
    with pytest.raises(ConfigError, match="no phase after step 6 reads it") as refused:
        branch(run, 6, config_dir, without=["beta"])
    assert "--without source:beta" in refused.value.where


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["phases.0.mixture={alpha: 1}"], "phases 0 to 0 would be"),
        (
            ["branch.draws_before.pools=[{source: alpha, window_tokens: 24, num_draws: 24}]"],
            "branch.draws_before would",
        ),
        (["branch.draws_before=null"], "branch.draws_before would be None"),
    ],
)
def test_another_past_is_refused(parent: Path, config_dir: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ResumeMismatch, match=words):
        branch(parent, 3, config_dir, *overrides, without=["beta"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_draws": 1}, "windows in all by length: {24: 24}"),
        ({"source": "gamma"}, "each source of the split once"),
        ({"window_tokens": 12}, "each source of the split once"),
    ],
)
def test_a_run_refuses_draws_that_do_not_fit_its_phases(
    corpus: Path,
    parent: Path,
    config_dir: Path,
    tmp_path: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    config = load_config(branch(parent, 3, config_dir, without=["beta"]), PretrainConfig)
    assert config.branch is not None
    assert config.branch.draws_before is not None
    first, *others = config.branch.draws_before.pools
    forged = DrawsBefore(step=3, pools=(first.model_copy(update=change), *others))
    config = config.model_copy(update={"branch": config.branch.model_copy(update={"draws_before": forged})})
    with pytest.raises(ConfigError) as refused:
        run_here(small_job(corpus, tmp_path / "run", config))
    assert words in refused.value.expected


def test_the_command_takes_sources_by_name(
    parent: Path,
    config_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        "branch",
        str(parent),
        "--at",
        "3",
        "--config",
        str(config_dir),
        "--artifacts",
        str(tmp_path / "store"),
    ]
    assert cli.invoke([*arguments, "--to", str(tmp_path / "new"), "--without", "source:beta", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["branch"] == (tmp_path / "new" / "pretrain.yaml").as_posix()
    assert load_config(tmp_path / "new" / "pretrain.yaml", PretrainConfig).draws_before is not None
    for text in ("beta", "source:", "document:beta"):
        assert cli.invoke([*arguments, "--to", str(tmp_path / "newer"), "--without", text]) == 2
    assert cli.invoke([*arguments, "--to", str(tmp_path / "newer"), "--without", "source:gamma"]) == 2
