"""`reproduce --isolated`: a fresh virtual environment from the lock files that a bundle carries.

Distributions are installed as `make setup` installs them: every one but torch by version and hash, then torch by
version, since its builds for CPUs and GPUs share a version and not their bytes. What was installed is compared with
what the recorded run had.
"""

import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from provenance.canonical import read_json
from provenance.console import fact, heading
from provenance.digests import sha256_file
from provenance.errors import BundleError, OpenwrightError
from release.environment_diff import library_versions_of
from release.interpreters import Interpreter
from release.replay_segments import training_stages
from release.verify import CheckResult

LOCKS = ("requirements/cpu.lock", "requirements/torch-cpu.lock")
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)((?:\s+--hash=sha256:[0-9a-f]{64})*)")
_STAMP = "locks.sha256"
_MAX_SHOWN = 8


@dataclass(frozen=True)
class IsolatedEnvironment:
    """A virtual environment to be made.

    Attributes:
        locks: the bundle's lock files: with hashes, and torch by version.
        directory: where it is made.
    """

    locks: tuple[Path, Path]
    directory: Path

    @property
    def interpreter(self) -> Interpreter:
        """Its Python."""
        return Interpreter(str(self.directory / "bin" / "python"), is_isolated=True)

    def commands(self) -> list[list[str]]:
        """What makes it, in order; nothing of the bundle's code runs in them."""
        install = [self.interpreter.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        hashed, torch = map(str, self.locks)
        return [
            [sys.executable, "-m", "venv", "--clear", str(self.directory)],
            [*install, "--require-hashes", "--no-deps", "-r", hashed],
            [*install, "-r", torch],
        ]


def plan_environment(code: Path, directory: Path) -> IsolatedEnvironment:
    """Read the lock files of a bundle's source tree.

    Raises:
        BundleError: for a missing lock, or one that holds anything but pinned versions and their hashes.
    """
    for name, needs_hashes in zip(LOCKS, (True, False), strict=True):
        pins = _pins(code / name)
        bare = [pin for pin, hashes in pins.items() if needs_hashes and not hashes]
        if bare:
            raise BundleError(f"{bare[0]} has no hash", expected="hashes for every pin", where=str(code / name))
    first, second = (code / name for name in LOCKS)
    return IsolatedEnvironment((first, second), directory.resolve())


def _pins(path: Path) -> dict[str, str]:
    """Pins of a lock file with their hashes: other lines could make pip fetch from elsewhere or run something."""
    if not path.is_file():
        raise BundleError("no such lock file", expected=" and ".join(LOCKS), where=str(path))
    text = path.read_text(encoding="utf-8", errors="replace")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    pins = {}
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        found = _PIN.fullmatch(line.strip())
        if not found:
            raise BundleError(f"the line {line.strip()[:60]!r}", expected="name==version and hashes", where=str(path))
        pins[f"{found[1]}=={found[2]}"] = found[3]
    return pins


def make_environment(environment: IsolatedEnvironment) -> Interpreter:
    """Make the environment, or take the one that the same lock files made there before.

    Raises:
        OpenwrightError: when pip cannot install what the locks name.
    """
    stamp = environment.directory / _STAMP
    digests = " ".join(sha256_file(path) for path in environment.locks)
    if stamp.is_file() and stamp.read_text() == digests:
        fact(f"the environment in {environment.directory} was made from these locks already")
        return environment.interpreter
    heading("making a virtual environment from the bundle's locks")
    for command in environment.commands():
        done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise _not_made(command, done.stderr)
    stamp.write_text(digests)
    return environment.interpreter


def _not_made(command: list[str], output: str) -> OpenwrightError:
    lines = [line for line in output.splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no message")
    return OpenwrightError(
        f"the environment cannot be made: {told.removeprefix('ERROR: ')[:300]}",
        expected="a package index within reach that has what the bundle's locks name",
        where=" ".join(command[1:4]),
        next_command="try again with a network, or leave --isolated out in an environment that you made yourself",
    )


def check_environment(bundle: Path, interpreter: Interpreter) -> CheckResult:
    """Compare the installed versions with those that the bundle's first training stage recorded."""
    listing = [interpreter.python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    done = subprocess.run(listing, stdout=subprocess.PIPE, check=True)
    installed = {str(canonicalize_name(entry["name"])): str(entry["version"]) for entry in json.loads(done.stdout)}
    stage = training_stages(bundle)[0]
    return compare_versions(
        read_json(bundle / "model" / "training" / stage / "environment.json"), installed, platform.python_version()
    )


def compare_versions(recorded: dict[str, object], installed: dict[str, str], python: str) -> CheckResult:
    """Judge an environment: PASS where Python and everything installed has the recorded version.

    Args:
        recorded: an environment record.
        installed: versions by canonical name.
        python: version of Python.
    """
    told = library_versions_of(recorded)
    differing = [
        f"{name} {version}, recorded {told[name]}"
        for name, version in sorted(installed.items())
        if name in told and told[name] != version
    ]
    if recorded.get("python") != python:
        differing.insert(0, f"Python {python}, recorded {recorded.get('python')}")
    same = sum(told.get(name) == version for name, version in installed.items())
    if not differing:
        detail = f"Python {python} and {same} distributions have the recorded versions"
        return CheckResult("environment", "isolated", "PASS", detail, "")
    more = f" and {len(differing) - _MAX_SHOWN} more" if len(differing) > _MAX_SHOWN else ""
    detail = f"{same} distributions have the recorded versions; others: {'; '.join(differing[:_MAX_SHOWN])}{more}"
    return CheckResult("environment", "isolated", "UNVERIFIED", detail, "")
