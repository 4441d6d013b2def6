"""Training against its peers: `python benchmarks/training.py [--json] [--pairs N] [FIGURE ...]`.

Contenders run in turn within one process (or within the same processes), with the same model, data, precision, batch
and threads; every ratio is a median over pairs of neighbouring blocks. Nothing is fetched.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from figures import Figure, print_figures
from training_checkpoints import checkpoint_figures, resume_figures
from training_gpu import gpu_checkpoint_figures, gpu_figures, gpu_memory_figures
from training_memory import memory_figures
from training_speed import BLOCK_STEPS, SpeedOptions, process_figures, speed_figures
from training_workload import write_corpus

AREAS = ("speed", "processes", "checkpoints", "resume", "memory")
ON_GPU = "gpu"


def main() -> None:
    """Measure the areas named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Training against its peers.")
    parser.add_argument(
        "areas",
        nargs="*",
        metavar="AREA",
        help=f"of {', '.join(AREAS)}, all by default; or {ON_GPU}, where there is one",
    )
    parser.add_argument("--json", action="store_true", help="one JSON record per figure")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs of every timed figure (default 5)")
    parser.add_argument("--block-steps", type=int, default=BLOCK_STEPS, help="steps of a block of the speed figures")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="speed and resume by the seconds that a process computed, for a machine that is not quiet",
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.areas) - {*AREAS, ON_GPU})
    if unknown or arguments.pairs < 1 or arguments.block_steps < 1:
        parser.error(f"areas are {', '.join(AREAS)}; pairs and block steps are positive")
    options = SpeedOptions(arguments.pairs, arguments.block_steps, arguments.processor_time)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="openwright-benchmark-") as scratch:
        corpus, directory = Path(scratch) / "corpus", Path(scratch) / "runs"
        areas = arguments.areas or AREAS
        if {*areas} != {ON_GPU}:  # which has a larger one of its own
            write_corpus(corpus)
        for area in areas:
            print(f"measuring {area} ...", file=sys.stderr)
            if area == "speed":
                figures += speed_figures(corpus, directory, options)
            elif area == "processes":
                figures += process_figures(corpus, directory, options)
            elif area == "checkpoints":
                figures += checkpoint_figures(corpus, directory, 3 * arguments.pairs)
            elif area == "resume":
                figures += resume_figures(corpus, directory, arguments.pairs, processor_time=arguments.processor_time)
            elif area == "memory":
                figures += memory_figures(corpus, directory)
            else:
                figures += gpu_figures(directory, arguments.pairs, arguments.block_steps)
                figures += gpu_checkpoint_figures(directory, arguments.pairs)
                figures += gpu_memory_figures(directory)
    print_figures(figures, arguments.json)


if __name__ == "__main__":
    main()
