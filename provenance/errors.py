"""The error tree of Openwright.

    OpenwrightError            exit 1   anything a user can meet and mend
    |- ConfigError             exit 2   a config file, an override or a command line is wrong
    |- CodeError               exit 1   the source tree is dirty or unknown where that is not allowed
    |- ArtifactError           exit 1   an artifact is missing, incomplete, or its bytes changed
    |- SourceError             exit 1   a source cannot be fetched or is not the pinned one
    |  `- ArchiveError         exit 1   an archive is hostile or broken
    |- DataError               exit 1   documents, shards or conversations are not what a recipe needs
    |- TrainingError           exit 1   a training job cannot start or go on
    |  |- ResumeMismatch       exit 1   a checkpoint belongs to another recipe, data, code or order
    |  `- JobKilled            exit 1   a process of a training job was killed from outside
    |- EvaluationError         exit 1   an evaluation cannot run or disagrees with its records
    |- ReleaseError            exit 1   a release cannot be built from these artifacts
    |- BundleError             exit 1   a bundle is malformed or hostile
    `- StoppedForRequeue       exit 75  a signal asked us to stop; run the same command again to go on

Every message says what was found, what was expected, where, and the next command.
"""

import errno

DISK_ERRORS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full (quota)",
    errno.EFBIG: "full (file size limit)",
    errno.EROFS: "read-only",
}
"""What the number of an OSError says of a disk that takes no more."""


class OpenwrightError(Exception):
    """Base of all errors shown to a user.

    Args:
        found: what was found, as one sentence without a full stop.
        expected: what was expected instead.
        where: the file, line, field or step.
        next_command: the one command or action that comes next.
    """

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", where: str = "", next_command: str = "") -> None:
        self.found = found
        self.expected = expected
        self.where = where
        self.next_command = next_command
        parts = [f"{where}: {found}" if where else found]
        if expected:
            parts.append(f"  expected: {expected}")
        if next_command:
            parts.append(f"  next: {next_command}")
        super().__init__("\n".join(parts))


class ConfigError(OpenwrightError):
    """A config file, an override or a command line is wrong."""

    exit_code = 2


class CodeError(OpenwrightError):
    """The source tree is dirty or unknown where that is not allowed."""


class ArtifactError(OpenwrightError):
    """An artifact is missing, incomplete, or its bytes changed."""


class SourceError(OpenwrightError):
    """A source cannot be fetched or is not the pinned one."""


class ArchiveError(SourceError):
    """An archive is hostile or broken."""


class DataError(OpenwrightError):
    """Documents, shards or conversations are not what a recipe needs."""


class TrainingError(OpenwrightError):
    """A training job cannot start or go on."""


class ResumeMismatch(TrainingError):
    """A checkpoint belongs to another recipe, data, code or order."""


class JobKilled(TrainingError):
    """A process of a training job was killed from outside: by a person, a limit, a scheduler, or for want of memory.

    Args:
        signal_number: what killed it; the rest as `OpenwrightError` has it.
    """

    def __init__(self, found: str, *, signal_number: int, expected: str, where: str, next_command: str) -> None:
        super().__init__(found, expected=expected, where=where, next_command=next_command)
        self.signal_number = signal_number


class EvaluationError(OpenwrightError):
    """An evaluation cannot run or disagrees with its records."""


class ReleaseError(OpenwrightError):
    """A release cannot be built from these artifacts."""


class BundleError(OpenwrightError):
    """A bundle is malformed or hostile."""


class StoppedForRequeue(OpenwrightError):
    """A signal asked the job to stop; running the same command again goes on from the last checkpoint."""

    exit_code = 75
