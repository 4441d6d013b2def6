"""What an entry of `sources.lock` says: what pins a source and where a stranger obtains it."""

from typing import Any


def pin_of(entry: dict[str, Any]) -> str:
    """What fixes the bytes of a source: the sha256 of each file that was read."""
    return ", ".join(file["sha256"] for file in entry.get("files", ())) or str(entry.get("sha256", ""))


def location_of(entry: dict[str, Any]) -> str:
    """Where a stranger obtains a source."""
    return str(entry.get("obtained_from") or entry.get("url") or "")
