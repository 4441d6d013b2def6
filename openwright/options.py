"""Options that commands of several groups take. Nothing heavy is imported here, so that `--help` is instant."""

from pathlib import Path
from typing import Annotated

from typer import Option

ARTIFACTS = Path("artifacts")

AsJson = Annotated[bool, Option("--json", help="Print one JSON document on standard output.")]
Dev = Annotated[bool, Option("--dev", help="Allow uncommitted changes; what this makes is never released.")]
Store = Annotated[Path, Option("--artifacts", metavar="DIR", help="Directory of all artifacts.")]
