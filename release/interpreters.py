"""How a bundle's own programs are started: by which Python and with which environment, always in fresh processes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Interpreter:
    """A Python that runs the code of a bundle.

    Attributes:
        python: its executable.
        is_isolated: whether it belongs to a virtual environment made from the bundle's lock; nothing that this
            machine's variables say to Python reaches it.
    """

    python: str
    is_isolated: bool = False

    def run(
        self,
        code: Path,
        arguments: Sequence[str],
        cwd: Path,
        *,
        keep_output: bool = False,
        on_cpus: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `python -m ARGUMENTS` with the packages below `code`.

        Args:
            keep_output: return what it prints on standard output instead of showing it.
            on_cpus: hide this machine's GPUs from it.
        """
        return subprocess.run(
            # -B: no compiled files may appear beside the bundle's sources.
            [self.python, "-B", "-m", *arguments],
            cwd=cwd,
            env={**self._environment(code), **({"CUDA_VISIBLE_DEVICES": ""} if on_cpus else {})},
            stdout=subprocess.PIPE if keep_output else None,
            check=False,
        )

    def _environment(self, code: Path) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not (self.is_isolated and (name.startswith("PYTHON") or name == "VIRTUAL_ENV"))
        }
        return {**kept, "PYTHONPATH": str(code.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}


THIS_PYTHON = Interpreter(sys.executable)
"""The Python that runs now, with the libraries installed for it."""
