"""Forcing files onto the disk."""

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Force a file or directory onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
