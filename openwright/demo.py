"""`make demo`: run a config directory, verify its bundle, replay one random segment, look something up, and sum up.

Each step is a command that a stranger would type, in a process of its own; its progress is shown as it comes.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openwright.report import EXIT_PASS
from openwright.summary import summary_lines


def main() -> None:
    """Run the demonstration; exits with the exit code of the first command that did not pass."""
    config_dir = Path(sys.argv[1])
    # Ctrl-C reaches the running command as well, which stops in good order; this process only waits for it.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    started = time.monotonic()
    ran, made = _openwright("run", str(config_dir))
    if ran != EXIT_PASS:
        sys.exit(ran)
    summary = made["summary"]
    bundle = summary["bundle"]
    verified, verification = _openwright("verify", bundle, "--expect", summary["manifest_digest"])
    replayed, replay = _openwright("reproduce", bundle, "--segments", "1", "--yes")
    print()
    for line in summary_lines(summary):
        print(line)
    print(f"verify     {_counts(verification)}")
    for line in _not_passed(verification):
        print(line)
    print(f"replay     {_counts(replay)}")
    for record in replay.get("checks", ()):
        print(f"           {record['verdict']}  {record['name']}: {record['detail']}")
    for line in _looked_up(bundle):
        print(line)
    print(f"{time.monotonic() - started:.0f} s in all")
    print(f"next: open {summary['page']} in a browser")
    sys.exit(verified or replayed)


def _openwright(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a command with `--json`; returns its exit code and document, an empty one if it printed none."""
    print(f"$ openwright {shlex.join(arguments)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "openwright", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}


def _looked_up(bundle: str) -> list[str]:
    """What the first step read, which steps read its first document, and where its longest word stands."""
    _, step = _openwright("inspect", "step", "1", "--in", bundle)
    window = step["windows"][0]
    ids = {row["document_id"] for read in step["windows"] for row in read["documents"]}
    first = window["documents"][0]["document_id"]
    _, found = _openwright("inspect", "document", first, "--in", bundle)
    word = max(window["text"].split(), key=len)
    _, search = _openwright("inspect", "text", word, "--in", bundle)
    document, places = found["document"], search["search"]
    steps = document["steps"]
    listed = ", ".join(map(str, steps[:8])) + (f" and {len(steps) - 8} more" if len(steps) > 8 else "")
    return [
        f"look-up    step 1 read {len(ids)} documents",
        f"           steps that read {document['path']} of {document['source']}: {listed}",
        f"           {word!r} stands {places['num_places']:,} times in the text of pretraining",
    ]


def _counts(report: dict[str, Any]) -> str:
    counts = report.get("counts", {})
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing was checked"


def _not_passed(report: dict[str, Any]) -> list[str]:
    return [
        f"           {record['verdict']}  {record['check']}: {record['name']}: {record['detail']}"
        for record in report.get("checks", ())
        if record["verdict"] != "PASS"
    ]


if __name__ == "__main__":
    main()
