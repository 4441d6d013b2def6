"""The ledger of a run whose checkpoints are written while steps go on.

A checkpoint's record holds digests that are known only when it is written. Records that follow it wait, so that the
ledger's lines stand in the order of the run; a crash loses lines that the resumed run writes again.
"""

from pathlib import Path
from typing import Any

from provenance.ledger import ChainPlace, ChainWriter


class LedgerQueue:
    """A chain whose next record may have to wait.

    Args:
        path: the ledger.
        place: where to go on; what follows there is cut off.

    Raises:
        ArtifactError: when the chain is not the one of the place.
    """

    def __init__(self, path: Path, place: ChainPlace | None = None) -> None:
        self._chain = ChainWriter(path, place or ChainPlace())
        self._waiting: list[dict[str, Any]] | None = None

    @property
    def place(self) -> ChainPlace:
        """How far the ledger has come; no record may be waiting. The disk may not have all of it yet."""
        assert self._waiting is None
        return ChainPlace(self._chain.num_records, self._chain.size_bytes, self._chain.head)

    def append(self, record: dict[str, Any]) -> None:
        """Write a record, or keep it until the record before it is known."""
        if self._waiting is None:
            self._chain.append(record)
        else:
            self._waiting.append(record)

    def hold(self) -> None:
        """The next record is not known yet: those after it wait."""
        assert self._waiting is None
        self._waiting = []

    def release(self, record: dict[str, Any]) -> None:
        """Write the record that was not known, and those that waited for it."""
        assert self._waiting is not None
        waiting, self._waiting = self._waiting, None
        for each in (record, *waiting):
            self._chain.append(each)

    def close(self) -> None:
        """Sync and close the file."""
        assert self._waiting is None
        self._chain.close()
