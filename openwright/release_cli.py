"""The commands `openwright release ...`. Heavy imports are inside the commands, so that `--help` is instant."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from openwright.options import ARTIFACTS, AsJson, ConfigDir, Dev, Overrides, PrivateKeyFile, Store

release_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

OwnBundle = Annotated[Path, Argument(metavar="BUNDLE", help="Directory of your bundle: model/ and dataset/.")]


@release_app.command("build")
def release_build(
    config_dir: ConfigDir,
    overrides: Overrides = None,
    dev: Dev = False,
    calibrate: Annotated[
        bool, Option("--calibrate", help="Measure the noise between platforms here, by replays; some minutes.")
    ] = False,
    calibrate_steps: Annotated[
        int, Option("--calibrate-steps", min=1, help="Most steps of a measured replay; longer ones are not judged.")
    ] = 25,
    artifacts: Store = ARTIFACTS,
    as_json: AsJson = False,
) -> None:
    """Build the bundle from the newest artifacts.

    Nothing is fetched, trained or evaluated. With --calibrate, short stretches are replayed with other kernels, so that
    `reproduce` can judge replays on platforms that give other bits.
    """
    from openwright import commands

    steps = calibrate_steps if calibrate else None
    commands.build_bundle(config_dir, overrides or (), artifacts, dev, as_json, steps)


@release_app.command("statement")
def release_statement(
    rule: Annotated[str, Argument(metavar="RULE", help="Rule that needs a statement, as the verdict names it.")],
    bundle: Annotated[Path, Option("--bundle", metavar="BUNDLE", help="Bundle with the evidence it speaks about.")],
    name: Annotated[str, Option("--name", help="Who makes the statement.")],
    role: Annotated[str, Option("--role", help="Their function in the project.")],
    config_dir: Annotated[Path, Option("--config-dir", metavar="CONFIG_DIR", help="Where the statement is kept.")],
    text: Annotated[str | None, Option("--text", help="The statement; read from standard input if left out.")] = None,
    date: Annotated[str | None, Option("--date", help="ISO date of the statement; today if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the statement of a person for one rule."""
    from openwright import commands

    commands.make_statement(rule, bundle, name, role, config_dir, text, date, as_json)


@release_app.command("sign")
def release_sign(bundle: OwnBundle, key: PrivateKeyFile, as_json: AsJson = False) -> None:
    """Sign a bundle that verifies, with OpenSSF model signing.

    Keys come from openssl: docs/verification.md has the two commands.
    """
    from openwright import commands

    commands.sign_release(bundle, key, as_json)
