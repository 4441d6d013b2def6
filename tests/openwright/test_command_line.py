import errno
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from openwright import cli, commands
from openwright.outcome import command
from openwright.report import check_lines, exit_code_of, printable, table_lines
from provenance.errors import ConfigError, ReleaseError, StoppedForRequeue
from provenance.fingerprint import CodeIdentity

DIGEST = "a" * 64


def check(verdict, name="files"):
    return SimpleNamespace(check="bytes", name=name, verdict=verdict, detail="建 details", where="model/config.json")


@pytest.fixture
def verdicts(monkeypatch, tmp_path):
    """Stand in for the checks of the release package, to test what the command makes of their results."""
    (tmp_path / "some" / "bundle").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def use(*results):
        calls = []

        def verify_release(bundle, *, expect, tokens, key, attesters):
            print("a library that prints")
            calls.append((bundle, expect, tokens, key, list(attesters)))
            return list(results)

        monkeypatch.setitem(sys.modules, "release.checks", SimpleNamespace(verify_release=verify_release))
        return calls

    return use


def test_help_is_instant_and_loads_nothing_heavy(openwright):
    started = time.monotonic()
    done = openwright("--help")
    seconds = time.monotonic() - started
    assert done.returncode == 0
    for verb in ("run", "train", "eval", "status", "verify", "reproduce", "release"):
        assert verb in done.stdout
    assert seconds < 4  # 0.4 s on a quiet machine; tests share theirs
    heavy = "('torch', 'numpy', 'pydantic', 'yaml')"
    probe = f"import sys; from openwright import cli; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_version_names_the_commit_that_runs(monkeypatch, capsys):
    for dirty, told in ((False, ""), (True, " with uncommitted changes")):
        code = CodeIdentity("ab" * 20, dirty, "")
        monkeypatch.setattr("openwright.version.code_identity", lambda code=code: code)
        assert cli.invoke(["--version"]) == 0
        assert re.fullmatch(rf"openwright \d+\.\d+\.\d+, commit {'ab' * 20}{told}\n", capsys.readouterr().out)


def test_starting_stages_and_replays_does_not_load_torch():
    """Their processes do; loading it in those that wait for them cost seconds at every stage."""
    starters = "openwright.pipeline, openwright.branching, train.replay, eval.stage, release.bundle, release.checks"
    mistaken = "from openwright.cli import invoke; invoke(['plan', 'no-such-directory'])"  # told before it is loaded
    probe = f"import sys, {starters}; {mistaken}; print('torch' in sys.modules or 'transformers' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage"),
        (["nonsense"], "nonsense"),
        (["run"], "CONFIG"),
        (["run", "no-such-directory"], "no such config directory"),
        (["run", "--set"], "--set"),
        (["verify"], "BUNDLE"),
        (["verify", "x", "--expect", "abc"], "64 hexadecimal digits"),
        (["verify", "x", "--tokens", "many"], "sample"),
        (["reproduce", "x", "--step", "4"], "A:B"),
        (["reproduce", "x", "--step", "4:3"], "A:B"),
        (["reproduce", "x", "--step", "0:3"], "A:B"),
        (["reproduce", "x", "--step", "٣:٤"], "A:B"),
        (["reproduce", "x", "--segments", "0"], "segments"),
        (["reproduce", "x", "--stage", "dpo"], "pretrain"),
        (["train", "corpus.yaml"], "pretrain.yaml"),
        (["eval", "rescore"], "RESULTS"),
        (["eval", "rescore", "configs"], "configs: no evaluation here"),
        (["eval", "eval.yaml", "surplus"], "too many"),
        (
            ["run", "configs/quickstart", "--set", "pretrain.optimizer.wait_decay=1"],
            "--set pretrain.optimizer.wait_decay:",
        ),
        (["plan"], "CONFIG_DIR"),
        (["plan", "no-such-directory"], "no such config directory"),
        (["plan", "configs/quickstart", "--device", "abacus"], "h100"),
        (["plan", "configs/quickstart", "--num-devices", "3"], "power of two"),
        (["plan", "configs/quickstart", "--num-devices", "4", "--shard-size", "8"], "must divide"),
        (["run", "configs/deepseek-671b-plan"], "for planning only"),
        (["release"], "Usage"),
        (["release", "statement", "OSAID-1"], "--bundle"),
        (
            [
                "release",
                "statement",
                "OSAID-D12",
                "--bundle",
                "docs",
                "--name",
                "A",
                "--role",
                "B",
                "--config-dir",
                "no",
            ],
            "no: no release.yaml",
        ),
        (["release", "sign", "x"], "--key"),
        (["release", "sign", "configs", "--key", "no-such-key.pem"], "cannot read the key"),
        (["release", "sign", "x", "--key", "no-such-key.pem"], "no such directory"),
        (["verify", "configs", "--key", "no-such-key.pem"], "cannot read the key"),
        (["verify", "x"], "no such directory"),
        (["verify", "README.md"], "README.md: a file"),
        (["inspect", "step", "1", "--in", "x"], "no such directory"),
        (["reproduce", "x"], "no such directory"),
        (["attest", "x", "--key", "k.pem"], "--report"),
    ],
)
def test_bad_usage_exits_with_2_and_says_why(arguments, words, capsys):
    assert cli.invoke(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "following"),
    [
        (["reproduce", "x", "--step", "4"], "openwright reproduce --help"),
        (["data", "pin", "no such file"], "openwright data pin --help"),
        (["plan", "configs/quickstart", "--set", "pretrain.phases=[]"], "the same command with another --set"),
        (["run", "configs/quickstart", "--set", "release.stages=[corpus, sft, pretrain, eval]"], "mend the file there"),
    ],
)
def test_a_mistake_without_advice_of_its_own_gets_some(arguments, following, capsys):
    assert cli.invoke(arguments) == 2
    assert f"next: {following}" in capsys.readouterr().err


def test_an_error_of_ours_is_one_document_with_json(capsys):
    assert cli.invoke(["run", "no-such-directory", "--json"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["error"] == "ConfigError"
    assert document["where"] == "no-such-directory"
    assert document["next_command"]


@pytest.mark.parametrize(
    ("results", "code"),
    [
        (["PASS", "PASS"], 0),
        (["PASS", "FAIL", "UNVERIFIED"], 1),
        (["PASS", "UNVERIFIED"], 3),
        ([], 3),
    ],
)
def test_verdicts_decide_the_exit_code(verdicts, capsys, results, code):
    calls = verdicts(*map(check, results))
    Path("some/bundle/dataset").mkdir()
    keys = ["--key", "pub.pem", "--attester", "a.pem", "--attester", "b.pem"]
    assert cli.invoke(["verify", "some/bundle", "--expect", DIGEST, "--tokens", "all", *keys]) == code
    assert calls == [(Path("some/bundle"), DIGEST, "all", Path("pub.pem"), [Path("a.pem"), Path("b.pem")])]
    printed = capsys.readouterr().out
    assert all(word in printed for word in results)
    following = "get the bundle again" if code == 1 else "openwright reproduce some/bundle"
    assert printed.splitlines()[-1].startswith(f"next: {following}")


def test_after_a_model_by_itself_comes_its_dataset(verdicts, capsys):
    verdicts(check("PASS"), check("UNVERIFIED"))
    assert cli.invoke(["verify", "some/bundle"]) == 3
    assert "next: put the dataset beside model/ as dataset/" in capsys.readouterr().out


def test_the_model_directory_of_a_bundle_stands_for_the_bundle(verdicts, tmp_path, monkeypatch):
    """It is what `from_pretrained` takes; verified by itself, it was told to be WRONG."""
    model = tmp_path / "some" / "bundle" / "model"
    model.mkdir()
    (model / "manifest.json").write_text("{}")
    calls = verdicts(check("PASS"))
    assert cli.invoke(["verify", "some/bundle/model"]) == 0
    (tmp_path / "some" / "bundle" / "dataset").mkdir()
    assert cli.invoke(["verify", "some/bundle/model"]) == 0
    (tmp_path / "some" / "bundle" / "dataset" / "manifest.json").write_text("{}")
    assert cli.invoke(["verify", "some/bundle/model"]) == 0
    monkeypatch.chdir(model)
    assert cli.invoke(["verify", "."]) == 0
    lone, whole = Path("some/bundle/model"), Path("some/bundle")
    assert [call[0] for call in calls] == [lone, lone, whole, tmp_path / whole]


def test_json_stands_alone_on_standard_output(verdicts, capfd):
    verdicts(check("PASS"), check("UNVERIFIED", "signature"))
    assert cli.invoke(["verify", "some/bundle", "--json"]) == 3
    captured = capfd.readouterr()
    document = json.loads(captured.out)
    assert document["counts"] == {"PASS": 1, "FAIL": 0, "UNVERIFIED": 1}
    assert document["exit_code"] == 3
    assert document["checks"][0]["detail"] == "建 details"
    assert "a library that prints" in captured.err


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (ReleaseError("found this", expected="that", where="here", next_command="do"), 1, "here: found this"),
        (StoppedForRequeue("stopped with a checkpoint"), 75, "stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "artifacts/x"), 1, "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "artifacts/x"), 1, "the disk is read-only"),
        (OSError(errno.EACCES, "Permission denied", "artifacts/x"), 1, "artifacts/x: permission denied"),
        (OSError(errno.ENOTDIR, "Not a directory", "README.md/x"), 1, "no directory"),
        (OSError(errno.EEXIST, "File exists", "README.md"), 1, "a file of this name is there"),
        (OSError(errno.ENOENT, "No such file or directory", "of ours"), 1, "this is a bug"),
        (KeyError("oops"), 1, "this is a bug"),
        (OSError(errno.EACCES, "denied"), 1, "this is a bug"),
    ],
)
def test_errors_decide_the_exit_code(monkeypatch, capsys, raised, code, words):
    def fail(*arguments, **keywords):
        raise raised

    monkeypatch.setattr(commands, "show_status", fail)
    assert cli.invoke(["status"]) == code
    error = capsys.readouterr().err
    assert words in error
    assert ("Traceback" in error) == ("bug" in words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_during_a_run_means_stopped_for_requeue(monkeypatch, capsys, number):
    before = signal.getsignal(number)

    def interrupted(*arguments):
        signal.raise_signal(number)

    monkeypatch.setattr("openwright.pipeline.run_directory", interrupted)
    assert cli.invoke(["run", "somewhere"]) == 75
    assert "again" in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_the_next_command_can_be_pasted_and_makes_the_same(verdicts, tmp_path, capsys):
    place = "a bundle; with 'more' ж"
    (tmp_path / place / "dataset").mkdir(parents=True)
    verdicts(check("PASS"))
    assert cli.invoke(["verify", place]) == 0
    following = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(following) == ["openwright", "reproduce", place]
    assert command("run", "configs/x") == "openwright run configs/x"
    overrides = ["pretrain.seed=7", "release.description=two words"]
    told = command("run", "configs/x", overrides=overrides, store=Path("my store"))
    given = ["--set", overrides[0], "--set", overrides[1], "--artifacts", "my store"]
    assert shlex.split(told) == ["openwright", "run", "configs/x", *given]


def test_steps_are_read_strictly():
    assert commands.parse_steps("20:40") == (20, 40)
    assert commands.parse_steps("7:7") == (7, 7)
    for text in ("", ":", "1", "1:2:3", "-1:3", "2:1", "a:b"):
        with pytest.raises(ConfigError):
            commands.parse_steps(text)


def test_nothing_checked_is_not_a_pass():
    assert exit_code_of([]) == 3
    assert exit_code_of(["PASS"]) == 0


def test_a_note_is_shown_and_neither_counted_nor_in_the_exit_code(verdicts, capfd):
    note = SimpleNamespace(check="note", name="aa.json", verdict="UNVERIFIED", detail="by a stranger", where="")
    verdicts(check("PASS"), note)
    assert cli.invoke(["verify", "some/bundle", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["counts"] == {"PASS": 1, "FAIL": 0, "UNVERIFIED": 0}
    assert document["checks"][1]["check"] == "note"
    assert cli.invoke(["verify", "some/bundle"]) == 0
    assert "note        aa.json       by a stranger" in capfd.readouterr().out
    verdicts(note)
    assert cli.invoke(["verify", "some/bundle"]) == 3, "nothing was checked"


def test_tables_line_up():
    lines = table_lines(("task", "value", "word"), [("ж", "1.0", "below"), ("longer", "10.0", "a")])
    assert lines == ["task    value  word", "ж         1.0  below", "longer   10.0  a"]
    record = {"check": "bytes", "name": "files", "verdict": "FAIL", "detail": "changed", "where": "a/b"}
    assert check_lines([record]) == ["FAIL        bytes: files  changed (a/b)"]


def test_a_strangers_text_cannot_steer_the_terminal():
    assert printable("ж 語 \x1b[31mred\r\u202e") == "ж 語 \ufffd[31mred\ufffd\ufffd"
