"""What the commands do once their arguments are parsed; each prints its result and the one next command."""

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from getpass import getpass
from pathlib import Path
from typing import Any

import typer

from openwright.configs import RELEASE, TRAINING_STAGES, require_release
from openwright.located import BundleArgument, Located, own_directory
from openwright.outcome import REPORT_FORMAT, command, finish, stoppable
from openwright.report import (
    check_lines,
    check_records,
    exit_code_of,
    printable,
    stdout_kept_clean,
    verdicts_of,
)
from openwright.seeds import SeedOptions
from provenance.artifacts import Artifact
from provenance.config import read_mapping
from provenance.errors import ConfigError


def run_stages(
    config_dir: Path,
    overrides: Sequence[str],
    store: Path,
    dev: bool,
    as_json: bool,
    until: str = "",
    launcher: Path | None = None,
    fresh: bool = False,
    seeds: SeedOptions | None = None,
) -> None:
    """`run`, `train` and `eval`: run the stages and print the summary of the release or of the last stage.

    Args:
        seeds: run a sweep, one seed after the other, and print its table.
    """
    from openwright.pipeline import run_directory

    if seeds is not None:
        from openwright.sweeps import run_sweep

        with stdout_kept_clean(as_json), stoppable():
            run_sweep(config_dir, overrides, store, until, seeds, dev=dev, launcher=launcher, fresh=fresh)
        show_sweep(config_dir, overrides, store, until, seeds, as_json)
        return
    with stdout_kept_clean(as_json), stoppable():
        artifacts = run_directory(config_dir, overrides, store, dev, until, launcher, fresh)
    _print_artifacts(config_dir, artifacts, as_json, overrides, store)


def make_twin(config_dir: Path, overrides: Sequence[str], store: Path) -> Path:
    """`--twin`: write the small twin of a config directory; returns the twin's directory."""
    from openwright.configs import load_directory
    from openwright.twin import write_twin

    return write_twin(load_directory(config_dir, overrides, to_plan=True), store)


def show_plan(
    config_dir: Path, overrides: Sequence[str], store: Path, machines: tuple[Any, ...], as_json: bool, twin: bool
) -> None:
    """`plan`: the arithmetic of a config directory and its outlook on openness.

    Args:
        machines: device, number of devices, shard size, MFU, price of a device-hour, tokens per second; None for what
            was not given.
        twin: plan the twin of the directory.
    """
    from openwright.configs import load_directory

    following = command("run", config_dir, *(["--twin"] if twin else []), overrides=overrides, store=store)
    with stdout_kept_clean(as_json):
        if twin:
            config_dir, overrides = make_twin(config_dir, overrides, store), ()
        configs = load_directory(config_dir, overrides, to_plan=True)  # what is wrong is said before torch is loaded
        from openwright.plan import PlanOptions, make_plan
        from openwright.plan_report import plan_lines

        options = PlanOptions(*machines)
        layout = options.overrides([stage for stage in TRAINING_STAGES if stage in configs.order])
        configs = load_directory(config_dir, [*overrides, *layout], to_plan=True)
        document = make_plan(configs, store, options, command=following)
    finish(document, plan_lines(document), document["next"], as_json)


def branch_run(
    run: BundleArgument,
    step: int,
    config_dir: Path,
    target: Path,
    changes: tuple[Sequence[str], Sequence[str], Sequence[str]],
    stage: str,
    store: Path,
    as_json: bool,
) -> None:
    """`branch`: write the config directory of a run that goes on from a checkpoint.

    Args:
        changes: texts of `--set`, `--skip` and `--without`.
    """
    from openwright.branching import write_branch
    from openwright.needs import fetch_for_branch

    overrides, skips, without = changes
    stretches = [parse_steps(text, "--skip") for text in skips]
    sources = [_parse_source(text) for text in without]
    with stdout_kept_clean(as_json), stoppable():
        source = run.locate()
        fetch_for_branch(source, stage, step)
    path = write_branch(source.path, step, config_dir, target, store, overrides, stretches, stage, sources)
    release = read_mapping(target / f"{RELEASE}.yaml")
    name, version = (str(release.get(key)) for key in ("name", "version"))
    document = {"format": REPORT_FORMAT, "branch": path.as_posix(), "step": step, "name": name, "version": version}
    lines = [f"branch at step {step}: {path}", f"its release: {name} {version}, as release.yaml there says"]
    lines.append(f"once it has run: openwright compare {source.argument} {name}-{version}")
    finish(document, lines, command("run", target, store=store), as_json)


def build_bundle(
    config_dir: Path,
    overrides: Sequence[str],
    store: Path,
    dev: bool,
    as_json: bool,
    calibrate_steps: int | None = None,
) -> None:
    """`release build`: bundle the newest finished artifacts, after a calibration where steps are given for one."""
    from openwright.pipeline import build_from_latest

    with stdout_kept_clean(as_json), stoppable():
        artifacts = build_from_latest(config_dir, overrides, store, dev, calibrate_steps)
    _print_artifacts(config_dir, artifacts, as_json, overrides, store)


def _print_artifacts(
    config_dir: Path, artifacts: dict[str, Artifact], as_json: bool, overrides: Sequence[str], store: Path
) -> None:
    document: dict[str, Any] = {
        "format": REPORT_FORMAT,
        "artifacts": {
            stage: {"path": a.path.as_posix(), "fingerprint": a.fingerprint, "content_digest": a.content_digest}
            for stage, a in artifacts.items()
        },
    }
    if RELEASE in artifacts:
        from openwright.summary import summarise, summary_lines
        from release.bundle import bundle_path

        summary = summarise(bundle_path(artifacts[RELEASE]))
        document["summary"] = summary
        lines = summary_lines(summary)
        following = command("verify", summary["bundle"], "--expect", summary["manifest_digest"])
    else:
        stage, last = list(artifacts.items())[-1]
        lines = [f"{stage}: {last.path}", f"content digest {last.content_digest}"]
        following = command("run", config_dir, overrides=overrides, store=store)
    finish(document, lines, following, as_json)


def rescore_results(results: Path, as_json: bool) -> None:
    """`eval rescore`: rebuild the table from the stored samples."""
    from eval.rescore import rescore

    in_bundle = results / "model" / "evaluation"
    results = in_bundle if in_bundle.is_dir() else results
    if not (results / "record.json").is_file():
        expected = "the directory of a finished evaluation, or a bundle"
        following = "openwright eval rescore BUNDLE"
        raise ConfigError("no evaluation here", expected=expected, where=str(results), next_command=following)
    with stdout_kept_clean(as_json):
        rescore(results)
    document = {"format": REPORT_FORMAT, "results": results.as_posix(), "same": True}
    line = f"PASS  the table of {results} is what its stored samples give, byte for byte"
    finish(document, [line], "openwright verify BUNDLE", as_json)


def make_statement(
    rule: str,
    bundle: Path,
    name: str,
    role: str,
    config_dir: Path,
    text: str | None,
    date: str | None,
    as_json: bool,
) -> None:
    """`release statement`: keep what a person says about one rule; the words are theirs, none are suggested."""
    from release.statements import write_statement

    own_directory(bundle)
    require_release(config_dir)
    if text is None:
        if sys.stdin.isatty():
            print(f"Your statement for {rule}, in your own words; end with Ctrl-D:", file=sys.stderr)
        text = sys.stdin.read()
    day = date or datetime.now(UTC).date().isoformat()
    path = write_statement(rule, bundle, name, role, text, day, config_dir)
    document = {"format": REPORT_FORMAT, "rule": rule, "statement": path.as_posix()}
    finish(document, [f"statement for {rule}: {path}"], command("release", "build", config_dir), as_json)


def launch_release(
    config_dir: Path,
    cluster_file: Path,
    overrides: Sequence[str],
    dry_run: bool,
    as_json: bool,
    until: str = "",
    seeds: SeedOptions | None = None,
) -> None:
    """`launch`: the stages as a chain of Slurm jobs, submitted or only shown."""
    from openwright.launch import launch_chain, launch_lines

    store, chain = launch_chain(config_dir, cluster_file, overrides, dry_run, until, seeds)
    jobs = [
        {
            "stage": job.stage,
            "job_id": job.job_id or None,
            "after": job.after or None,
            "dependency": job.dependency if job.after else None,
            "seeds": list(job.seeds),
            "num_nodes": job.job.nodes,
            "num_processes": job.job.num_processes,
            "script_path": job.script_path.as_posix(),
            "script": job.script,
            "log": job.log_path.as_posix(),
        }
        for job in chain
    ]
    document = {"format": REPORT_FORMAT, "submitted": not dry_run, "jobs": jobs}
    target = _target(config_dir, until)
    if dry_run:
        options = ["--cluster", cluster_file, *(seeds.words() if seeds else ())]
        following = command("launch", target, *options, overrides=overrides)
    elif seeds:
        following = _sweep_status(store.parent, target, seeds, overrides)
    else:
        following = command("status", store)
    finish(document, launch_lines(chain, dry_run), following, as_json)


def show_sweep(
    config_dir: Path, overrides: Sequence[str], store: Path, until: str, seeds: SeedOptions, as_json: bool
) -> None:
    """`status --sweep`: a line per seed, and what the finished ones reached."""
    from openwright.sweep_table import FAILED, FINISHED, sweep_lines
    from openwright.sweeps import read_sweep

    sweep = read_sweep(config_dir, overrides, store, until, seeds)
    failed = [task for task in sweep["tasks"] if task["state"] == FAILED]
    if failed:
        following = shlex.join(["less", failed[0]["log"]])
    elif all(task["state"] == FINISHED for task in sweep["tasks"]):
        following = command("status", store / sweep["name"])
    else:
        following = _sweep_status(store, _target(config_dir, until), seeds, overrides)
    finish({"format": REPORT_FORMAT, "sweep": sweep}, sweep_lines(sweep), following, as_json)


def _target(config_dir: Path, until: str) -> Path:
    """What a command was given that stops after a stage: that stage's config, or the directory for all of them."""
    return config_dir / f"{until}.yaml" if until else config_dir


def _sweep_status(store: Path, target: Path, seeds: SeedOptions, overrides: Sequence[str]) -> str:
    return command("status", store, "--sweep", target, *seeds.words(), overrides=overrides)


def show_status(root: Path, as_json: bool) -> None:
    """`status`: one line per run."""
    from openwright.status import statuses

    found = list(statuses(root))
    following = command("status", found[-1].path)
    document = {"format": REPORT_FORMAT, "runs": [status.as_json() for status in found]}
    finish(document, [status.line() for status in found], following, as_json)


def follow_status(root: Path, every_seconds: float, as_json: bool) -> None:
    """`status --follow`: the lines again and again on a terminal, elsewhere each line that changed."""
    from openwright.status import RunStatus, follow

    shown: dict[str, Any] = {}
    num_lines = 0

    def show(found: list[RunStatus]) -> None:
        nonlocal num_lines
        if not as_json and sys.stdout.isatty():
            print(f"\x1b[{num_lines}F\x1b[J" if num_lines else "", end="")
            num_lines = len(found)
        for status in found:
            facts = {name: value for name, value in status.as_json().items() if name != "age_seconds"}
            if as_json and shown.get(status.path) != facts:
                print(json.dumps({"format": REPORT_FORMAT, "run": facts}, sort_keys=True, allow_nan=False), flush=True)
            elif not as_json and (num_lines or shown.get(status.path) != facts):
                print(printable(status.line()), flush=True)
            shown[status.path] = facts

    with suppress(KeyboardInterrupt):
        follow(root, show, every_seconds)


def verify_bundle(
    bundle: BundleArgument, expect: str | None, key: Path | None, attesters: Sequence[Path], tokens: str, as_json: bool
) -> None:
    """`verify`: all offline checks; exits 0, 1 or 3."""
    if expect is not None and not re.fullmatch(r"[0-9a-f]{64}", expect):
        raise ConfigError(
            f"--expect {expect}",
            expected="64 hexadecimal digits",
            where="command line",
            next_command=command("verify", bundle.place, "--expect", "DIGEST") + ", with the whole digest",
        )
    from openwright.needs import fetch_everything
    from openwright.verdict_words import in_words
    from release.checks import verify_release

    with stdout_kept_clean(as_json), stoppable():
        found = bundle.locate()
        fetch_everything(found, is_lone_allowed=True)
        results = verify_release(found.path, expect=expect, tokens=tokens, key=key, attesters=attesters)
    results = [*found.checks(), *results]
    following = f"openwright reproduce {found.argument}"
    if not (found.path / "dataset").is_dir():
        following = "put the dataset beside model/ as dataset/ and verify again; replays need it too"
    if any(result.verdict == "FAIL" for result in results):
        following = "get the bundle again; if it fails again, send its publisher the lines with FAIL"
    _print_checks(found, results, following, as_json, lines=in_words(results))


def reproduce_bundle(bundle: BundleArgument, step: str | None, as_json: bool, **options: Any) -> None:
    """`reproduce`: run the bundle's code, if it may, and compare; exits 0, 1 or 3.

    Args:
        options: the other fields of `ReproduceOptions`.
    """
    from openwright.reproducing import ReproduceOptions, reproduce_bundle

    asked = ReproduceOptions(steps=parse_steps(step) if step is not None else None, **options)
    with stdout_kept_clean(as_json), stoppable():
        found = bundle.locate()
        report = reproduce_bundle(found, asked)
    following = f"openwright verify {found.argument} --expect DIGEST"
    _print_checks(found, report.results, following, as_json, report.fields, report.lines)


def sign_release(bundle: Path, key_path: Path, as_json: bool) -> None:
    """`release sign`: sign a bundle that verifies."""
    from release.keys import load_private_key
    from release.signing import sign_bundle

    own_directory(bundle)
    with stdout_kept_clean(as_json):
        key = load_private_key(key_path, _ask_password)
        path = sign_bundle(bundle, key)
    fingerprint = key.public.fingerprint
    document = {"format": REPORT_FORMAT, "signature": path.as_posix(), "key": fingerprint}
    lines = [f"signed with the key {fingerprint}: {path}", "publish the public key where people can trust it"]
    finish(document, lines, command("verify", bundle, "--key", "PUB.pem"), as_json)


def attest_replay(bundle: BundleArgument, key_path: Path, report: Path, as_json: bool) -> None:
    """`attest`: sign the report of a replay."""
    from openwright.needs import fetch_everything
    from release.attestations import attest
    from release.keys import load_private_key

    with stdout_kept_clean(as_json), stoppable():
        key = load_private_key(key_path, _ask_password)
        found = bundle.locate()
        fetch_everything(found)
        path = attest(found.path, key, report)
    fingerprint = key.public.fingerprint
    document = {"format": REPORT_FORMAT, "attestation": path.as_posix(), "key": fingerprint}
    lines = [f"signed with the key {fingerprint}: {path}"]
    if bundle.is_remote:
        lines.append("it lies in your copy: send it to the publisher, who can put it into model/attestations/")
    finish(document, lines, f"openwright verify {found.argument} --attester PUB.pem", as_json)


def _ask_password() -> str:
    """Password of an encrypted key: asked for at a terminal, else the first line of standard input."""
    if sys.stdin.isatty():
        return getpass("Password of the key: ")
    return sys.stdin.readline().rstrip("\n")


def parse_steps(text: str, option: str = "--step") -> tuple[int, int]:
    """Read `A:B` as the first and the last step of a stretch; steps are numbered from 1.

    Raises:
        ConfigError: for other text, for step 0, or when B comes before A.
    """
    found = re.fullmatch(r"([0-9]+):([0-9]+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        expected = f"{option} A:B, the first and the last step, counted from 1"
        raise ConfigError(f"{option} {text}", expected=expected, where="command line")
    return int(found[1]), int(found[2])


def _parse_source(text: str) -> str:
    kind, _, name = text.partition(":")
    if kind != "source" or not name:
        raise ConfigError(f"--without {text}", expected="--without source:NAME", where="command line")
    return name


def _print_checks(
    bundle: Located,
    results: Sequence[Any],
    following: str,
    as_json: bool,
    fields: Mapping[str, Any] | None = None,
    lines: Sequence[str] = (),
) -> None:
    """Print check results and exit with their code; `fields` and `lines` are what a command has to say besides."""
    records = check_records(results)
    verdicts = verdicts_of(records)
    code = exit_code_of(verdicts)
    counts = {name: verdicts.count(name) for name in ("PASS", "FAIL", "UNVERIFIED")}
    document = {
        "format": REPORT_FORMAT,
        "bundle": bundle.name,
        "checks": records,
        "counts": counts,
        "exit_code": code,
        **(fields or {}),
    }
    total = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing was checked"
    finish(document, [*check_lines(records), *lines, total], following, as_json)
    raise typer.Exit(code)
