"""Cluster files, the scripts of the jobs and their submission; Slurm's programs are replaced by small scripts."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_release
import tiny_runs
import yaml

from openwright import launch as launch_module
from openwright.cluster import load_cluster
from openwright.configs import load_directory
from openwright.launch import launch_chain, launch_lines
from openwright.seeds import SeedOptions, Sweep
from openwright.slurm import LaunchPlace, launcher_file, stage_script
from provenance.errors import BundleError, CodeError, ConfigError
from provenance.fingerprint import CodeIdentity, project_root
from train.jobs import launch as launch_job
from train.launcher import Launcher, load_launcher

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "configs" / "clusters" / "example.yaml"
CODE = CodeIdentity("c" * 40, False, "d" * 64)


@pytest.fixture(scope="module")
def config_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("launch")
    return tiny_release.write_configs(root / "второй", root / "scratch")


def write_cluster(directory: Path, training: dict[str, Any] | None = None, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "artifacts": str(directory / "мой склад"),
        "training": {"time": "24:00:00", **(training or {})},
        "other": {"time": "08:00:00"},
        **changes,
    }
    path = directory / "cluster.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True))
    return path


def install(directory: Path, name: str, body: str) -> Path:
    """Put a program into a directory of programs."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def slurm_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of programs that comes first; sbatch numbers jobs and keeps what it was called with."""
    directory = tmp_path / "bin"
    calls = tmp_path / "calls"
    count = f'echo "$(basename "$0") $*" >> {calls}; number=$(grep -c ^sbatch {calls})'
    install(
        directory,
        "sbatch",
        f'{count}; [[ $number -ne "${{REFUSE:-0}}" ]] || {{ echo "bad account" >&2; exit 1; }}\n'
        "echo $((100 + number)).cluster | tr . ';'",
    )
    install(directory, "scancel", f'echo "$(basename "$0") $*" >> {calls}')
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(launch_module, "code_identity", lambda: CODE)
    return tmp_path


def calls(root: Path) -> list[str]:
    path = root / "calls"
    return path.read_text().splitlines() if path.exists() else []


# ---- the cluster file --------------------------------------------------------------------------------------


def test_the_example_is_a_cluster_file_and_names_its_schema() -> None:
    cluster = load_cluster(EXAMPLE)
    assert cluster.job_of("pretrain").gres == "gpu:4"
    assert cluster.job_of("eval").gres == "gpu:1"
    assert cluster.job_of("release").num_processes == 1
    assert EXAMPLE.read_text().splitlines()[0] == "# yaml-language-server: $schema=../schemas/cluster.schema.json"


def test_the_example_explains_every_key() -> None:
    shown = yaml.safe_load(EXAMPLE.read_text())
    cluster = load_cluster(EXAMPLE)
    assert set(shown) == set(type(cluster).model_fields)
    assert set(shown["training"]) == set(type(cluster.training).model_fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artefacts": "x"}, "artifacts"),
        ({"training": {"partitoin": "gpu"}}, "partition"),
        ({"training": {"time": "24h"}}, "HH:MM:SS"),
        ({"training": {"partition": "gpu --wrap=x"}}, "one word"),
        ({"training": {"sbatch_lines": ["constraint=a100"]}}, "beginning with -"),
        ({"training": {"sbatch_lines": ["--constraint=a\n#SBATCH --x"]}}, "one option"),
        ({"training": {"sbatch_lines": ["--no-requeue"]}}, "itself"),
        ({"training": {"sbatch_lines": ["-Nx"]}}, "itself"),
        ({"training": {"sbatch_lines": ["--array=1-9"]}}, "itself"),
        ({"training": {"sbatch_lines": ["-a1-9"]}}, "itself"),
        ({"max_running": 0}, "max_running"),
        ({"artifacts": "relative/artifacts"}, "absolute"),
        ({"other": {"time": "08:00:00", "nodes": 2}}, "one process on one machine"),
        ({"stages": {"pretarin": {"time": "08:00:00"}}}, "no stage"),
        ({"modules": ["gcc; rm -rf /"]}, "module's name"),
        ({"setup": ["a\nb"]}, "one line"),
        ({"training": {"nodes": 2}, "container": ["apptainer", "exec"]}, "container"),
        ({"training": {"time": "00:10:00"}}, "no room"),
    ],
)
def test_wrong_cluster_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    load_cluster(write_cluster(tmp_path))
    with pytest.raises(ConfigError, match=message):
        load_cluster(write_cluster(tmp_path, **changes))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"nodes": 3}, "power of two up to num_logical_replicas 4"),
        ({"nodes": 2, "processes_per_node": 4, "cpus_per_task": 4}, "2 x 4 = 8 processes"),
        ({"processes_per_node": 2, "cpus_per_task": 1}, "at least 2"),
    ],
)
def test_processes_that_do_not_fit_are_refused(
    slurm_programs: Path, config_dir: Path, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        launch_chain(config_dir, write_cluster(slurm_programs, training), (), dry_run=True)
    fitting = write_cluster(slurm_programs, {"processes_per_node": 4, "cpus_per_task": 4})
    launch_chain(config_dir, fitting, (), dry_run=True)


def test_rows_of_shards_must_be_filled(slurm_programs: Path, config_dir: Path) -> None:
    sharded = ("pretrain.execution.shard_size=2", "pretrain.execution.num_processes=2")
    with pytest.raises(ConfigError, match="multiple of execution"):
        launch_chain(config_dir, write_cluster(slurm_programs), sharded, dry_run=True)
    cut = ("pretrain.reduction=native", "pretrain.execution.tensor_size=2", "pretrain.execution.num_processes=2")
    with pytest.raises(ConfigError, match=r"multiple of execution\.shard_size 1 times tensor_size 2"):
        launch_chain(config_dir, write_cluster(slurm_programs), cut, dry_run=True)


# ---- submission --------------------------------------------------------------------------------------------


def test_a_release_becomes_one_chain(slurm_programs: Path, config_dir: Path) -> None:
    store, chain = launch_chain(config_dir, write_cluster(slurm_programs), ("pretrain.seed=9",), dry_run=False)
    assert [(job.stage, job.job_id, job.after) for job in chain] == [
        ("corpus", "101", ""),
        ("pretrain", "102", "101"),
        ("sft", "103", "102"),
        ("eval", "104", "103"),
        ("release", "105", "104"),
    ]
    made = calls(slurm_programs)
    assert made[0] == f"sbatch --parsable {store}/slurm/corpus.sh"
    assert made[4] == f"sbatch --parsable --dependency=afterok:104 {store}/slurm/release.sh"
    assert (store / "slurm" / "pretrain.sh").read_text() == chain[1].script
    assert "--set pretrain.seed=9 --set pretrain.execution.num_processes=1" in chain[1].script
    assert "execution" not in chain[0].script
    assert "job 103, after job 102" in launch_lines(chain, dry_run=False)[2]


def test_a_chain_that_is_not_taken_whole_is_taken_back(
    slurm_programs: Path, config_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSE", "3")
    with pytest.raises(ConfigError, match="stage sft: bad account"):
        launch_chain(config_dir, write_cluster(slurm_programs), (), dry_run=False)
    assert calls(slurm_programs)[-1] == "scancel 101 102"


def test_a_dry_run_prints_everything_and_does_nothing(slurm_programs: Path, config_dir: Path) -> None:
    cluster = write_cluster(slurm_programs, {"nodes": 2})
    store, chain = launch_chain(config_dir, cluster, (), dry_run=True)
    assert calls(slurm_programs) == []
    assert not store.exists()
    lines = launch_lines(chain, dry_run=True)
    assert all(line in lines for job in chain for line in job.script.splitlines())
    assert any("--dependency=afterok:<job of corpus>" in line for line in lines)
    assert "never run on more than one" in lines[-1]
    single = launch_chain(config_dir, write_cluster(slurm_programs), (), dry_run=True)[1]
    assert "never run" not in "\n".join(launch_lines(single, dry_run=True))


def test_a_sweep_becomes_arrays_of_tasks_numbered_by_their_seeds(slurm_programs: Path, config_dir: Path) -> None:
    install(slurm_programs / "bin", "scontrol", "echo 'MaxArraySize            = 9'")
    cluster = write_cluster(slurm_programs, max_running=2)
    options = SeedOptions("5:8")
    store, chain = launch_chain(
        config_dir, cluster, ("pretrain.optimizer.peak_learning_rate=0.02",), dry_run=False, seeds=options
    )
    waiting = [re.findall(r"--dependency=(\S+)", call) for call in calls(slurm_programs)]
    assert waiting == [[], ["afterok:101"], ["aftercorr:102"], ["aftercorr:103"], ["aftercorr:104"]]
    assert [job.seeds for job in chain] == [(), *[(5, 6, 7, 8)] * 4]
    corpus, pretrain, *_ = (job.script for job in chain)
    assert "--array" not in corpus
    assert "--seeds" not in corpus
    assert "#SBATCH --array=5-8%2\n" in pretrain
    assert "/slurm/pretrain-%A-seed-%a.log'\n" in pretrain
    assert '--seed-of pretrain --seed-of sft --seeds "$SLURM_ARRAY_TASK_ID" &\n' in pretrain
    assert "job 103 of 4 tasks, after job 102, seed by seed" in launch_lines(chain, dry_run=False)[2]
    record = json.loads((store / "slurm" / "sweeps.jsonl").read_text())
    assert (record["format"], record["seeds"], record["overrides"]) == (
        "openwright-sweep/1",
        [5, 6, 7, 8],
        ["pretrain.optimizer.peak_learning_rate=0.02"],
    )
    assert record["jobs"]["corpus"] == {"job_id": "101", "is_array": False}
    assert record["jobs"]["eval"] == {"job_id": "104", "is_array": True}


def test_a_sweep_of_the_fine_tuning_shares_the_pretraining_and_ends_where_it_is_told(
    slurm_programs: Path, config_dir: Path
) -> None:
    options = SeedOptions("1,3", ("sft",))
    store, chain = launch_chain(config_dir, write_cluster(slurm_programs), (), True, "eval", options)
    assert [(job.stage, job.seeds, job.dependency) for job in chain] == [
        ("corpus", (), "afterok"),
        ("pretrain", (), "afterok"),
        ("sft", (1, 3), "afterok"),
        ("eval", (1, 3), "aftercorr"),
    ]
    assert "#SBATCH --array=1,3\n" in chain[2].script
    assert "--seed-of sft --seeds" in chain[3].script
    for job in chain:
        assert subprocess.run(["bash", "-n"], input=job.script, text=True, check=False).returncode == 0
    assert calls(slurm_programs) == []
    assert not store.exists()


@pytest.mark.parametrize("scontrol", ["echo 'MaxArraySize            = 8'", "echo 'no controller' >&2; exit 1"])
def test_seeds_beyond_the_arrays_of_a_cluster_are_refused(
    slurm_programs: Path, config_dir: Path, scontrol: str
) -> None:
    install(slurm_programs / "bin", "scontrol", scontrol)
    with pytest.raises(ConfigError, match="MaxArraySize"):
        launch_chain(config_dir, write_cluster(slurm_programs), (), dry_run=False, seeds=SeedOptions("1,8"))
    assert calls(slurm_programs) == []


def test_without_sbatch_or_with_a_dirty_tree_nothing_is_submitted(
    slurm_programs: Path, config_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = write_cluster(slurm_programs)
    monkeypatch.setattr(launch_module, "code_identity", lambda: CodeIdentity("c" * 40, True, "d" * 64))
    with pytest.raises(CodeError, match="uncommitted"):
        launch_chain(config_dir, cluster, (), dry_run=False)
    monkeypatch.setattr(launch_module, "code_identity", lambda: CODE)
    (slurm_programs / "bin" / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(slurm_programs / "bin"))
    with pytest.raises(ConfigError, match="no sbatch"):
        launch_chain(config_dir, cluster, (), dry_run=False)
    assert calls(slurm_programs) == []


def test_the_command_prints_one_document(openwright: Any, config_dir: Path, tmp_path: Path) -> None:
    done = openwright("launch", str(config_dir), "--cluster", str(write_cluster(tmp_path)), "--dry-run", "--json")
    document = json.loads(done.stdout)
    assert document["submitted"] is False
    assert [job["stage"] for job in document["jobs"]] == [*load_directory(config_dir).order, "release"]
    assert document["jobs"][0]["script"].startswith("#!/bin/bash\n")


# ---- what a script does ------------------------------------------------------------------------------------


def make_script(
    root: Path, stage_program: str, stage: str = "pretrain", sweep: Sweep | None = None, **changes: Any
) -> Path:
    """The script of a stage's job, with `stage_program` in the place of python."""
    python = install(root / "bin", "python-of-the-clone", stage_program)
    install(root / "bin", "scontrol", f'echo "$*" >> {root / "requeues"}')
    cluster = load_cluster(write_cluster(root, **changes))
    head = subprocess.run(
        ["git", "-C", str(project_root()), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    place = LaunchPlace(root, root / "конфиг", sweep=sweep, python=str(python))
    code = CodeIdentity(head.stdout.strip(), False, "d" * 64)
    script = stage_script(
        stage, cluster, "tiny", root / "log" / "%j.log", place, code, is_array=place.sweep is not None
    )
    path = root / "script.sh"
    path.write_text(script)
    return path


def start(root: Path, script: Path, restarts: int = 0) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_JOB_ID": "7",  # as in the last task of an array
        "SLURM_ARRAY_TASK_ID": "42",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(["bash", str(script)], env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def requeues(root: Path) -> list[str]:
    path = root / "requeues"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("code", "restarts", "expected", "requeued"),
    [
        (0, 0, 0, False),
        (1, 0, 1, False),
        (3, 0, 3, False),
        (75, 0, 75, True),
        (75, 200, 1, False),
        (138, 0, 138, False),
    ],
)
def test_only_a_stop_for_requeue_puts_the_job_back(
    tmp_path: Path, code: int, restarts: int, expected: int, requeued: bool
) -> None:
    script = make_script(tmp_path, f"exit {code}")
    process = start(tmp_path, script, restarts)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == expected, output
    assert requeues(tmp_path) == (["requeue 7"] if requeued else [])


def test_a_stage_that_starts_over_is_not_requeued_for_ever(tmp_path: Path) -> None:
    script = make_script(tmp_path, "exit 75", stage="eval")
    for restarts, expected in ((1, 75), (2, 1)):
        process = start(tmp_path, script, restarts)
        process.communicate(timeout=30)
        assert process.returncode == expected
    assert requeues(tmp_path) == ["requeue 7"]


def test_a_task_of_a_sweep_runs_its_seed_and_puts_only_itself_back(tmp_path: Path) -> None:
    script = make_script(tmp_path, 'echo "$*"; exit 75', sweep=Sweep((41, 42), ("pretrain",)))
    process = start(tmp_path, script)
    assert "--seed-of pretrain --seeds 42\n" in process.communicate(timeout=30)[0]
    assert (process.returncode, requeues(tmp_path)) == (75, ["requeue 7_42"])


TRAPPING = """
trap 'echo asked; sleep 0.3; exit 75' USR1
touch started
while true; do sleep 0.05; done
"""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_signal_before_the_time_limit_reaches_the_stage_and_its_code_decides(tmp_path: Path) -> None:
    process = start(tmp_path, make_script(tmp_path, TRAPPING))
    wait_for(tmp_path / "started")
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 75, output
    assert "asked" in output
    assert requeues(tmp_path) == ["requeue 7"]


def test_a_stage_that_the_signal_ends_before_it_can_handle_it_is_requeued(tmp_path: Path) -> None:
    process = start(tmp_path, make_script(tmp_path, "touch started\nexec sleep 30"))
    wait_for(tmp_path / "started")
    time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert (process.returncode, requeues(tmp_path)) == (138, ["requeue 7"])


def test_a_cancelled_job_waits_for_its_stage_and_is_not_requeued(tmp_path: Path) -> None:
    process = start(tmp_path, make_script(tmp_path, "trap 'exit 143' TERM\ntouch started\nsleep 0.5; exit 1"))
    wait_for(tmp_path / "started")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (process.returncode, requeues(tmp_path)) == (1, [])


def test_the_environment_of_the_cluster_file_reaches_the_stage(tmp_path: Path) -> None:
    program = 'echo "stage sees $HF_HUB_OFFLINE $SITE $TMPDIR"; [[ -d "$TMPDIR" ]]; echo "arguments $*"'
    scratch = tmp_path / "на диске"
    script = make_script(
        tmp_path, program, offline=True, scratch=str(scratch), setup=['export SITE="x$UNSET_BY_ANYONE"']
    )
    process = start(tmp_path, script)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 0, output
    assert f"stage sees 1 x {scratch}/openwright-7" in output
    assert f"arguments -m openwright run {tmp_path}/конфиг/pretrain.yaml" in output
    assert not (scratch / "openwright-7").exists()


def test_a_container_stands_before_the_command(tmp_path: Path) -> None:
    process = start(tmp_path, make_script(tmp_path, "exit 0", container=["echo", "in", "my image"]))
    assert process.communicate(timeout=30)[0].startswith(
        f"in my image {tmp_path}/bin/python-of-the-clone -m openwright"
    )


def test_a_clone_that_moved_on_fails_the_job(tmp_path: Path) -> None:
    script = make_script(tmp_path, "exit 0")
    text = script.read_text()
    commit = next(line for line in text.splitlines() if "rev-parse HEAD" in line).split()[-3]
    script.write_text(text.replace(commit, "0" * 40))
    process = start(tmp_path, script)
    assert "launch again" in process.communicate(timeout=30)[0]
    assert process.returncode == 1


def test_scripts_name_what_slurm_must_know(config_dir: Path, slurm_programs: Path) -> None:
    job = {"partition": "gpu", "account": "a", "qos": "q", "gres": "gpu:4", "memory": "64G", "cpus_per_task": 8}
    lines = {"sbatch_lines": ["--constraint=avx512"]}
    chain = launch_chain(config_dir, write_cluster(slurm_programs, {**job, **lines}), (), dry_run=True)[1]
    directives = [line.removeprefix("#SBATCH ") for line in chain[1].script.splitlines() if line.startswith("#SBATCH")]
    for expected in (
        *("--signal=B:USR1@300", "--requeue", "--open-mode=append", "--kill-on-invalid-dep=yes", "--time=24:00:00"),
        *("--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=8", "--partition=gpu", "--account=a", "--qos=q"),
        *("--gres=gpu:4", "--mem=64G", "--constraint=avx512", "--job-name=tiny-second-pretrain"),
    ):
        assert expected in directives
    for job_script in chain:
        assert subprocess.run(["bash", "-n"], input=job_script.script, text=True, check=False).returncode == 0
        assert "set -euo pipefail" in job_script.script


# ---- several machines --------------------------------------------------------------------------------------


def test_several_machines_on_one_host_write_the_ledger_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher's prefix with an srun that starts the tasks of all machines here."""
    install(
        tmp_path / "bin",
        "srun",
        'while [[ "$1" == --* ]]; do shift; done\n'
        'for node in 0 1; do SLURM_NODEID=$node "$@" & done\n'
        "code=0; for task in $(jobs -p); do wait $task || code=$?; done; exit $code",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MAIN_HOST", "127.0.0.1")
    monkeypatch.setenv("MAIN_PORT", Launcher().command(Path("x"), [])[-1])
    cluster = load_cluster(write_cluster(tmp_path, {"nodes": 2}))
    path = tmp_path / "launcher.json"
    path.write_text(launcher_file(cluster.training))
    launcher = load_launcher(path)
    assert launcher.num_machines == 2
    corpus = tiny_runs.make_corpus(tmp_path / "corpus").path
    config = tiny_runs.pretrain_config(phases=[{"num_steps": 4, "sequences_per_step": 8}], schedule={"warmup_steps": 1})
    ledgers = []
    for name, processes, how in (("one", 1, Launcher()), ("two", 2, launcher)):
        job = tiny_runs.make_job("pretrain", config, corpus, tmp_path / name / "run")
        launch_job(job, processes, 1, launcher=how)
        ledgers.append((tmp_path / name / "run" / "ledger.jsonl").read_bytes())
    assert ledgers[0] == ledgers[1]
    assert "num_machines: 2" in (tmp_path / "two" / "run" / "accelerate.yaml").read_text()
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["run"], "the job's description is removed"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"num_machines": 2}',
        '{"format": "openwright-launcher/2", "num_machines": 2, "prefix": ["srun"]}',
        '{"format": "openwright-launcher/1", "num_machines": 0, "prefix": ["srun"]}',
        '{"format": "openwright-launcher/1", "num_machines": 2, "prefix": [1]}',
    ],
)
def test_other_files_are_no_launchers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "launcher.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not a launcher file"):
        load_launcher(path)
    path.write_text("{")
    with pytest.raises(BundleError, match="JSON"):
        load_launcher(path)


def test_a_launcher_file_reaches_the_training_stage_by_an_option(
    openwright: Any, config_dir: Path, tmp_path: Path
) -> None:
    path, store = tmp_path / "launcher.json", tmp_path / "artifacts"
    path.write_text("{}")
    config = config_dir / "pretrain.yaml"
    done = openwright("run", str(config), "--artifacts", str(store), "--launcher", str(path))
    assert (done.returncode, "not a launcher file" in done.stderr) == (2, True)
    assert (store / "tiny-second" / "corpus" / "latest").is_file(), "a stage that does not train needs no launcher"
