"""How a task ended, in plain words, for executors whose processes hand each other nothing but JSON."""

from provenance import errors
from provenance.canonical import Json
from provenance.errors import DataError, OpenwrightError


def words_of(error: Exception) -> dict[str, Json]:
    """Put into words what a task raised; `failed` stands in them where a user cannot mend it."""
    if isinstance(error, OpenwrightError):
        told = {"found": error.found, "expected": error.expected, "where": error.where, "next": error.next_command}
        return {"error": type(error).__name__, **told}
    if isinstance(error, OSError) and error.errno is not None:
        return {"errno": error.errno, "strerror": error.strerror, "filename": str(error.filename or "")}
    return {"failed": f"{type(error).__name__}: {last_line(str(error))}"}


def raise_words(words: dict[str, Json]) -> None:
    """Raise the error that `words_of` put into words, unless it is one that a user cannot mend, or there was none."""
    if "errno" in words:
        raise OSError(words["errno"], words["strerror"], words["filename"])
    if "error" in words:
        kind: type[OpenwrightError] = getattr(errors, words["error"], DataError)
        raise kind(words["found"], expected=words["expected"], where=words["where"], next_command=words["next"])


def last_line(text: str) -> str:
    """Return the last line of a message; empty for an empty one."""
    return (text.strip().splitlines() or [""])[-1]
