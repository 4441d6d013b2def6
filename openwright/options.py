"""Options that commands of several groups take. Nothing heavy is imported here, so that `--help` is instant."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

ARTIFACTS = Path("artifacts")

AsJson = Annotated[bool, Option("--json", help="Print one JSON document on standard output.")]
Dev = Annotated[bool, Option("--dev", help="Allow uncommitted changes; what this makes is never released.")]
Store = Annotated[Path, Option("--artifacts", metavar="DIR", help="Directory of all artifacts.")]
ConfigDir = Annotated[Path, Argument(metavar="CONFIG_DIR", help="Config directory with release.yaml.")]
Overrides = Annotated[
    list[str] | None, Option("--set", metavar="STAGE.KEY=VALUE", help="Override a value of a config; repeatable.")
]
PrivateKeyFile = Annotated[
    Path, Option("--key", metavar="KEY.pem", help="Private key in PEM; its password is asked for.")
]
DatasetName = Annotated[
    str, Option("--dataset", metavar="hf:ORG/NAME|none", help="For hf: the dataset, if not that of the model's card.")
]
Cache = Annotated[Path, Option("--cache", metavar="DIR", help="For hf: where what is fetched is kept.")]
