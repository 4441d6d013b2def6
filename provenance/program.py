"""Start a program whose libraries are large: `python -m provenance.program MODULE ARGUMENTS` calls the module's `main`.

torch and transformers make some hundred thousand objects while they are imported, all of which stay. Python's garbage
collector would look through them again and again: a fifth of the time that their import takes (2.3 instead of 2.9
processor seconds for `train.worker`, 2026-11-26), and again in each full collection of the run.
"""

import gc
import importlib
import sys


def main() -> None:
    """Import the module that the first argument names, without collections, and call its `main`."""
    gc.disable()
    module = importlib.import_module(sys.argv[1])
    gc.freeze()
    gc.enable()
    del sys.argv[0]
    module.main()


if __name__ == "__main__":
    main()
