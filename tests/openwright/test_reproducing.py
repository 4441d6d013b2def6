"""`openwright reproduce` says what it is about to run, asks, and reports; nothing of a bundle runs here."""

import io
import json
from types import SimpleNamespace

import pytest

from openwright import cli, consent
from provenance.errors import ConfigError
from release.execution import Execution

LINES = ["about to execute code", "  code \x1b[2J of a stranger"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_code_runs_after_a_yes(monkeypatch, capsys, answer):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    consent.ask(LINES, yes=False)
    shown = capsys.readouterr().err
    assert "about to execute code" in shown
    assert shown.endswith("run it? [y/N] ")
    assert "\x1b" not in shown


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yes please\n"])
def test_code_does_not_run_after_anything_else(monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    with pytest.raises(ConfigError, match="nothing was run"):
        consent.ask(LINES, yes=False)


def test_without_a_terminal_nobody_is_asked(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(ConfigError, match="no terminal") as caught:
        consent.ask(LINES, yes=False)
    assert "--yes" in caught.value.next_command
    consent.ask(LINES, yes=True)
    assert capsys.readouterr().err.count("about to execute code") == 2


def test_what_is_told_before_it_runs():
    told = Execution("b/code", "c" * 40, "d" * 64, ("sft",), False, "python3", "not needed", ("replay of 1", "of 2"))
    lines = told.lines()
    assert f"           sources {'d' * 64}, NOT the one that sft recorded" in lines
    at = next(number for number, line in enumerate(lines) if "not the sources of this openwright" in line)
    assert lines[at + 1].split()[:4] == ["diff", "-ru", "--exclude=__pycache__", "b/code"]
    assert lines[-2:] == ["  work     replay of 1", "           of 2"]
    assert told.as_json()["stages_with_other_sources"] == ["sft"]


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """A plan of two segments in place of a bundle's; running it notes that it ran."""
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    ran = []
    choice = SimpleNamespace(seed="7", how="seed given", num_segments=2, num_segments_in_all=4)
    plan = SimpleNamespace(choice=choice, lines=lambda: ["pretrain steps 1 to 3, from step-00000000"])
    checked = {"check": "replay", "name": "pretrain steps 1-3", "verdict": "PASS", "detail": "bitwise", "where": ""}
    result = SimpleNamespace(**checked, divergence=None, judgement=None)

    def run_replays(plan, interpreter):
        ran.append(interpreter)
        return [result]

    told = Execution("b/code", "c" * 40, "d" * 64, (), True, "python3", "not needed", ("replay",))
    monkeypatch.setattr("release.reproduce.plan_replays", lambda bundle, **options: plan)
    monkeypatch.setattr("release.reproduce.run_replays", run_replays)
    monkeypatch.setattr("release.replay_report.replay_report", lambda bundle, results: {"format": "some"})
    monkeypatch.setattr("release.execution.execution_of", lambda *arguments, **options: told)
    return ran


def test_a_refusal_exits_with_2_and_runs_nothing(planned, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli.invoke(["reproduce", "b"]) == 2
    assert planned == []
    shown = capsys.readouterr().err
    assert "about to execute code" in shown
    assert "--yes" in shown


def test_the_report_tells_code_seed_and_chance(planned, capfd):
    assert cli.invoke(["reproduce", "b", "--segments", "2", "--seed", "7", "--yes", "--json"]) == 0
    captured = capfd.readouterr()
    assert "about to execute code" in captured.err
    document = json.loads(captured.out)
    assert document["execution"]["sources_digest"] == "d" * 64
    assert document["replay"] == {"format": "some"}
    assert document["sampling"]["seed"] == "7"
    one, *_, half = document["sampling"]["missed"]
    assert one == {"forged": "1 segment", "num_forged_segments": 1, "chance_missed": 0.5}
    assert half["num_forged_segments"] == 2
    assert half["chance_missed"] == pytest.approx(1 / 6)
    assert cli.invoke(["reproduce", "b", "--yes"]) == 0
    printed = capfd.readouterr().out
    assert "seed 7 (seed given)" in printed
    assert "50% (2 of 4) forged: 16.7%" in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--step", "1:2", "--segments", "2"], "--step beside --segments"),
        (["--step", "1:2", "--seed", "1"], "--step beside --segments or --seed"),
        (["--full", "--step", "1:2"], "--step beside --full"),
        (["--full", "--segments", "2"], "--segments beside --full"),
        (["--full", "--stage", "sft"], "--stage beside --full"),
        (["--data", "somewhere"], "--data without --full"),
        (["--index-url", "http://127.0.0.1/"], "--index-url without --full"),
        (["--work", "somewhere"], "--work without --full or --isolated"),
    ],
)
def test_options_that_do_not_go_together_are_named(planned, capsys, options, words):
    assert cli.invoke(["reproduce", "b", "--yes", *options]) == 2
    assert words in capsys.readouterr().err
    assert planned == []


def test_an_isolated_replay_runs_in_what_was_made_for_it(planned, monkeypatch, capfd):
    python = SimpleNamespace(python="venv/bin/python")
    verdict = SimpleNamespace(check="environment", name="isolated", verdict="UNVERIFIED", detail="other", where="")
    environment = SimpleNamespace(interpreter=python)
    monkeypatch.setattr("release.isolated.plan_environment", lambda code, directory: environment)
    monkeypatch.setattr("release.isolated.make_environment", lambda environment: environment.interpreter)
    monkeypatch.setattr("release.isolated.check_environment", lambda bundle, interpreter: verdict)
    assert cli.invoke(["reproduce", "b", "--isolated", "--yes", "--json"]) == 3
    assert [check["check"] for check in json.loads(capfd.readouterr().out)["checks"]] == ["environment", "replay"]
    assert planned == [python]


def test_an_average_is_made_again_after_the_replays(planned, monkeypatch, capfd):
    fetched = []
    verdict = SimpleNamespace(check="replay", name="average recomputed", verdict="FAIL", detail="other", where="")
    monkeypatch.setattr("release.average_check.has_average", lambda bundle: bool(planned))
    monkeypatch.setattr("release.average_check.check_average", lambda bundle, check: verdict)
    monkeypatch.setattr("openwright.needs.fetch_for_average", fetched.append)
    assert cli.invoke(["reproduce", "b", "--yes", "--json"]) == 1
    found = json.loads(capfd.readouterr().out)["checks"]
    assert sorted((check["name"], check["verdict"]) for check in found) == [
        *(("average recomputed", "FAIL"), ("pretrain steps 1-3", "PASS"))
    ]
    assert len(fetched) == 1


@pytest.mark.parametrize("obstacles", [(), ("a branch",)])
def test_a_rebuild_asks_unless_something_is_in_its_way(planned, monkeypatch, capfd, tmp_path, obstacles):
    ran = []
    verdict = SimpleNamespace(check="rebuild", name="bundle", verdict="UNVERIFIED", detail="made", where="")
    stage = SimpleNamespace(lines=lambda: ["pretrain, step 2: numerics"])
    found = SimpleNamespace(results=[verdict], stages=[stage], begun=[], as_json=lambda: {"stages": []})
    plan = SimpleNamespace(obstacles=obstacles, lines=lambda: ["rebuild of corpus"])

    def run_rebuild(plan, interpreter):
        ran.append(interpreter)
        return found

    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("release.rebuild_plan.plan_rebuild", lambda bundle, work, options: plan)
    monkeypatch.setattr("release.rebuild.run_rebuild", run_rebuild)
    code = cli.invoke(["reproduce", "b", "--full", "--work", str(tmp_path / "work")])
    captured = capfd.readouterr()
    assert (code, len(ran)) == ((3, 1) if obstacles else (2, 0))
    assert ("about to execute code" in captured.err) == (not obstacles)
    assert ("pretrain, step 2: numerics" in captured.out) == bool(obstacles)
