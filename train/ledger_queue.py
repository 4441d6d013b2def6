"""The ledger of a run whose checkpoints are written while steps go on.

A checkpoint's record holds digests that are known only when it is written. Records that follow it wait, so that the
ledger's lines stand in the order of the run; a crash loses lines that the resumed run writes again.
"""

from pathlib import Path
from typing import Any

from provenance.ledger import CHAIN_START, ChainWriter
from train.checkpoint import LedgerPlace


class LedgerQueue:
    """A chain whose next record may have to wait.

    Args:
        path: the ledger.
        num_records: as for `ChainWriter`.
        head: as for `ChainWriter`.
    """

    def __init__(self, path: Path, num_records: int | None = None, head: str = CHAIN_START) -> None:
        self._chain = ChainWriter(path, num_records, head)
        self._waiting: list[dict[str, Any]] | None = None

    @property
    def place(self) -> LedgerPlace:
        """How far the ledger has come, forced onto the disk; no record may be waiting."""
        assert self._waiting is None
        self._chain.sync()
        return LedgerPlace(self._chain.num_records, self._chain.head)

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
