"""Start a program whose libraries are large: `python -m provenance.program MODULE ARGUMENTS` calls the module's `main`.

torch and transformers make some hundred thousand objects while they are imported, all of which stay. Python's garbage
collector would look through them again and again: a fifth of the time that their import takes (2.3 instead of 2.9
processor seconds for `train.worker`, 2026-11-26), and again in each full collection of the run.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """No collections within; what was made is looked at by no later one, nor when the process ends."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def main() -> None:
    """Import the module that the first argument names and call its `main`."""
    with importing():
        module = importlib.import_module(sys.argv[1])
    del sys.argv[0]
    module.main()


if __name__ == "__main__":
    main()
