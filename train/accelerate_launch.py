"""`accelerate launch`, ended as the training processes ended: `python -m train.accelerate_launch ARGUMENTS`.

accelerate's own program ends with code 1 and a traceback whatever became of its processes. Here the code tells it: that
of the process which failed first, or 128 + N where signal N ended that one, as shells have it. What went wrong in a
process is said by that process, above.
"""

import signal
import subprocess
import sys
from collections.abc import Iterable

from provenance.program import importing


def main() -> int:
    """Run what `accelerate launch` would run and return the exit code."""
    with importing():
        from accelerate.commands.launch import launch_command, launch_command_parser
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    try:
        launch_command(launch_command_parser().parse_args())
    except subprocess.CalledProcessError as error:  # one process
        return shell_code(error.returncode)
    except ChildFailedError as error:  # several, or one of several machines
        return shell_code(first_failure((f.timestamp, f.exitcode) for f in error.failures.values()))
    return 0


def shell_code(code: int) -> int:
    """An exit code as `subprocess` has it in the way of shells."""
    return code if code >= 0 else 128 - code


def first_failure(failures: Iterable[tuple[int, int]]) -> int:
    """The exit code of the process that failed first.

    Within one second it is the one that was killed: where a process is gone, its peers fail at once with an error of
    their connection. What torch ends after a failure dies by SIGTERM, or half a minute later by SIGKILL, and never
    counts.

    Args:
        failures: second and exit code of each process that failed.
    """
    found = list(failures)
    begin = min(second for second, _ in found)
    codes = [code for second, code in found if second == begin]
    return min(codes, key=lambda code: (code != -signal.SIGKILL, code == -signal.SIGTERM))


if __name__ == "__main__":
    sys.exit(main())
