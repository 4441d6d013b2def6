"""What `reproduce` is about to execute, told before it does: whose code, from where, by which Python."""

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provenance.canonical import Json, read_json
from provenance.fingerprint import CODE_RECORD, PACKAGES, project_root, sources_digest
from release.interpreters import Interpreter


@dataclass(frozen=True)
class Execution:
    """Code of a bundle that is going to run on this machine.

    Attributes:
        code: the source tree.
        commit: the commit that it names.
        digest: digest `sources/1` of its packages, computed now.
        other_stages: stages that recorded another digest than this.
        is_ours: whether these are the sources of the program that runs now: code that cheats could hand back what the
            bundle records.
        python: the executable that runs it, and how its libraries came to be there.
        network: what the network is used for.
        work: what is run, one line each.
    """

    code: str
    commit: str
    digest: str
    other_stages: tuple[str, ...]
    is_ours: bool
    python: str
    network: str
    work: tuple[str, ...]

    def lines(self) -> list[str]:
        """What a person reads before agreeing."""
        same = "the one that its stages recorded"
        if self.other_stages:
            same = f"NOT the one that {', '.join(self.other_stages)} recorded"
        ours = ["the same sources as this openwright"]
        if not self.is_ours:
            difference = ["diff", "-ru", "--exclude=__pycache__", self.code, str(project_root())]
            told = (
                "not the sources of this openwright; code that cheats can repeat what is recorded: read the difference,"
            )
            ours = [told, f"  {shlex.join(difference)}"]
        first, *others = self.work
        return [
            "about to execute code from a bundle; it can do on this machine whatever you can:",
            f"  code     {self.code}",
            f"           commit {self.commit}",
            f"           sources {self.digest}, {same}",
            *(f"           {line}" for line in ours),
            f"  python   {self.python}",
            f"  network  {self.network}",
            f"  work     {first}",
            *(f"           {line}" for line in others),
        ]

    def as_json(self) -> dict[str, Json]:
        """The form that `--json` prints."""
        return {
            "code": self.code,
            "commit": self.commit,
            "sources_digest": self.digest,
            "stages_with_other_sources": list(self.other_stages),
            "same_sources_as_this_program": self.is_ours,
            "python": self.python,
            "network": self.network,
            "work": list(self.work),
        }


def execution_of(bundle: Path, interpreter: Interpreter, work: Sequence[str], network: str) -> Execution:
    """Describe a run of a bundle's code.

    Args:
        work: what is run, one line each.
        network: what the work itself uses the network for; empty for nothing.
    """
    code = bundle / "model" / "code"
    digest = sources_digest(PACKAGES, code)
    record = read_json(code / CODE_RECORD)
    stages = read_json(bundle / "model" / "manifest.json")["stages"]
    version = platform.python_version()
    if interpreter.is_isolated:
        python = f"{interpreter.python} ({version}), a fresh virtual environment from the bundle's lock"
        network = "; ".join(filter(None, ["pip fetches the libraries of the lock", network]))
    else:
        python = f"{interpreter.python} ({version}), with the libraries installed there"
    return Execution(
        code=str(code),
        commit=str(record.get("commit")) if isinstance(record, dict) else "none",
        digest=digest,
        is_ours=digest == sources_digest(PACKAGES),
        other_stages=tuple(str(s["stage"]) for s in stages if s["code"]["packages_digest"] != digest),
        python=python,
        network=network or "not needed, but nothing keeps the code from using it",
        work=tuple(work),
    )
