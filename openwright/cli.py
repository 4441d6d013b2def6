"""The command line `openwright`: the commands that make runs, and all others from their own modules.

Everything heavy is imported inside the commands, so that `--help` is instant.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from openwright.bundle_cli import attest, compare, reproduce, verify
from openwright.data_cli import data_app
from openwright.inspect_cli import inspect_app
from openwright.located import CACHE, BundleArgument
from openwright.options import ARTIFACTS, AsJson, Cache, ConfigDir, Dev, Overrides, Store
from openwright.release_cli import release_app
from openwright.seeds import SeedOptions
from openwright.shown_errors import run_shown
from provenance.errors import ConfigError

app = typer.Typer(
    name="openwright",
    epilog="Exit codes: 0 pass, 1 fail, 2 bad usage, 3 unverified, 75 stopped: the same command goes on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(inspect_app, name="inspect", help="Look inside a bundle: a step, a document, a text.")
app.add_typer(data_app, name="data", help="Look at a corpus, take documents down.")
app.add_typer(release_app, name="release", help="Build or sign a bundle; write a human statement.")

Target = Annotated[Path, Argument(metavar="CONFIG_DIR|CONFIG", help="Config directory, or the YAML of one stage.")]
ConfigFile = Annotated[Path, Argument(metavar="CONFIG", help="YAML of one stage, in its config directory.")]
Seeds = Annotated[
    str | None,
    Option("--seeds", metavar="A:B|1,2,5", help="A sweep: the seeds of the training stages, both ends included."),
]
SeedOf = Annotated[
    list[str] | None,
    Option("--seed-of", metavar="STAGE", help="Training stage that takes the seeds; repeatable; all if left out."),
]
Fresh = Annotated[bool, Option("--fresh", help="Begin a training run anew, beside an unfinished one.")]
Twin = Annotated[bool, Option("--twin", help="Take the small twin of the config instead; it is never released.")]


def _print_version(asked: bool) -> None:
    if asked:
        from openwright.version import version_text

        print(version_text())
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fully open language models: make a release that strangers can verify and replay bit for bit."""


@app.command()
def run(
    target: Target,
    overrides: Overrides = None,
    dev: Dev = False,
    fresh: Fresh = False,
    artifacts: Store = ARTIFACTS,
    as_json: AsJson = False,
    launcher: Annotated[
        Path | None, Option("--launcher", hidden=True, help="How the job of a cluster starts training processes.")
    ] = None,
    twin: Twin = False,
    seeds: Seeds = None,
    seed_of: SeedOf = None,
) -> None:
    """Run a config directory, from sources to bundle.

    With --seeds, one seed after the other: --set pretrain.seed=N --set sft.seed=N for each, and a table at the end.
    """
    from openwright import commands

    sweep = _seed_options(seeds, seed_of)
    config_dir, stage = _directory_and_stage(target)
    if twin:
        config_dir, overrides, dev = commands.make_twin(config_dir, overrides or (), artifacts), None, True
    commands.run_stages(config_dir, overrides or (), artifacts, dev, as_json, stage, launcher, fresh, sweep)


def _directory_and_stage(target: Path) -> tuple[Path, str]:
    """The config directory that is meant, and the last stage where the YAML of one was named."""
    from openwright import configs

    stage = configs.stage_of(target, configs.CONFIG_MODELS) if target.is_file() else ""
    return (target.parent if stage else target), stage


def _seed_options(seeds: str | None, seed_of: list[str] | None) -> SeedOptions | None:
    if seeds is None and seed_of:
        raise ConfigError(
            "--seed-of without --seeds",
            expected="--seeds A:B or 1,2,5",
            where="command line",
            next_command="the same command with --seeds",
        )
    return None if seeds is None else SeedOptions(seeds, tuple(seed_of or ()))


@app.command()
def plan(
    config_dir: ConfigDir,
    overrides: Overrides = None,
    device: Annotated[str, Option("--device", metavar="NAME", help="Accelerator, such as h100; none for CPUs.")] = "",
    num_devices: Annotated[int | None, Option("--num-devices", min=1, help="Processes in all.")] = None,
    shard_size: Annotated[int | None, Option("--shard-size", min=1, help="Processes that share a model.")] = None,
    mfu: Annotated[
        float | None, Option("--mfu", min=0.01, max=1.0, help="Share of the peak rate that is reached.")
    ] = None,
    price: Annotated[
        float | None, Option("--price-per-device-hour", min=0.0, help="Price of one device for an hour.")
    ] = None,
    tokens_per_second: Annotated[
        float | None, Option("--tokens-per-second", min=0.001, help="Measured rate of all devices together.")
    ] = None,
    artifacts: Store = ARTIFACTS,
    as_json: AsJson = False,
    twin: Twin = False,
) -> None:
    """Say what a config costs and how open its release can be.

    Nothing is fetched or trained.
    """
    from openwright import commands

    machines = (device, num_devices, shard_size, mfu, price, tokens_per_second)
    commands.show_plan(config_dir, overrides or (), artifacts, machines, as_json, twin)


@app.command()
def launch(
    target: Target,
    cluster: Annotated[
        Path, Option("--cluster", metavar="FILE", help="Cluster file, as configs/clusters/example.yaml explains it.")
    ],
    overrides: Overrides = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the scripts and submit nothing.")] = False,
    as_json: AsJson = False,
    seeds: Seeds = None,
    seed_of: SeedOf = None,
) -> None:
    """Run a config directory as a chain of Slurm jobs.

    The YAML of one stage stands for the stages up to it. With --seeds, the stages from the first that takes the seeds
    are job arrays, one task per seed.
    """
    from openwright import commands

    sweep = _seed_options(seeds, seed_of)
    config_dir, stage = _directory_and_stage(target)
    commands.launch_release(config_dir, cluster, overrides or (), dry_run, as_json, stage, sweep)


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    dev: Dev = False,
    fresh: Fresh = False,
    artifacts: Store = ARTIFACTS,
    as_json: AsJson = False,
) -> None:
    """Train one stage: pretrain.yaml or sft.yaml.

    Stages before it are made only where they are missing.
    """
    from openwright import commands, configs

    stage = configs.stage_of(config, configs.TRAINING_STAGES)
    commands.run_stages(config.parent, overrides or (), artifacts, dev, as_json, until=stage, fresh=fresh)


@app.command()
def branch(
    run: Annotated[Path, Argument(metavar="RUN|BUNDLE", help="A run, finished or not; a bundle; hf:ORG/NAME.")],
    step: Annotated[int, Option("--at", metavar="STEP", min=1, help="Step of a full checkpoint.")],
    config_dir: Annotated[
        Path,
        Option(
            "--config",
            metavar="CONFIG_DIR",
            help="Where the other stages come from; a bundle has some in model/code/configs/.",
        ),
    ],
    target: Annotated[Path, Option("--to", metavar="NEW_DIR", help="Config directory to write.")],
    overrides: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="Change a value of the stage; repeatable.")
    ] = None,
    skip: Annotated[
        list[str] | None, Option("--skip", metavar="A:B", help="Leave these steps out; repeatable.")
    ] = None,
    without: Annotated[
        list[str] | None,
        Option("--without", metavar="source:NAME", help="Read this source no more; the others go on; repeatable."),
    ] = None,
    stage: Annotated[str, Option("--stage", help="Training stage of a bundle.")] = "pretrain",
    artifacts: Store = ARTIFACTS,
    cache: Cache = CACHE,
    as_json: AsJson = False,
) -> None:
    """Go on from a checkpoint with something changed.

    Writes a config directory; the new run names the checkpoint that it begins with.
    """
    from openwright import commands

    changes = (overrides or (), skip or (), without or ())
    commands.branch_run(BundleArgument(run, cache=cache), step, config_dir, target, changes, stage, artifacts, as_json)


@app.command("eval")
def evaluate(
    config: Annotated[str, Argument(metavar="CONFIG|rescore", help="eval.yaml in its config directory, or `rescore`.")],
    results: Annotated[
        Path | None,
        Argument(metavar="[RESULTS]", help="For `rescore`: directory of a finished evaluation, or a bundle."),
    ] = None,
    overrides: Overrides = None,
    dev: Dev = False,
    artifacts: Store = ARTIFACTS,
    as_json: AsJson = False,
) -> None:
    """Evaluate the models, or rescore stored results.

    `openwright eval CONFIG` evaluates; `openwright eval rescore RESULTS` rebuilds the table from the stored samples.
    """
    from openwright import commands, configs

    if config == "rescore":
        if results is None:
            raise ConfigError("no RESULTS", expected="openwright eval rescore RESULTS", where="command line")
        commands.rescore_results(results, as_json)
        return
    if results is not None:
        raise ConfigError(f"too many arguments: {results}", expected="openwright eval CONFIG", where="command line")
    stage = configs.stage_of(Path(config), ("eval",))
    commands.run_stages(Path(config).parent, overrides or (), artifacts, dev, as_json, until=stage)


@app.command()
def status(
    run_dir: Annotated[Path, Argument(metavar="[RUN]", help="A run, or a directory of artifacts.")] = ARTIFACTS,
    follow: Annotated[bool, Option("--follow", help="Go on until the runs have finished, or Ctrl-C.")] = False,
    every: Annotated[float, Option("--every", metavar="SECONDS", min=0.1, help="How often --follow looks.")] = 5.0,
    as_json: AsJson = False,
    sweep: Annotated[
        Path | None,
        Option("--sweep", metavar="CONFIG_DIR|CONFIG", help="The table over the seeds of a sweep; needs --seeds."),
    ] = None,
    seeds: Seeds = None,
    seed_of: SeedOf = None,
    overrides: Overrides = None,
) -> None:
    """Say where runs stand; works while they go on.

    Only files are read, so any machine that sees them will do. The chain of the ledger is not checked here: `verify`
    does that. With --follow, --json prints one line per change. With --sweep, --seeds, --seed-of and --set are those
    with which the sweep was run or launched, and RUN is the directory of all artifacts.
    """
    from openwright import commands

    options = _seed_options(seeds, seed_of)
    if (sweep is None) != (options is None) or (sweep is None and overrides) or (sweep is not None and follow):
        raise ConfigError(
            "options that do not go together",
            expected="--follow alone, or --sweep with --seeds, and with --set where the sweep had it",
            where="command line",
            next_command="openwright status [ARTIFACTS] --sweep CONFIG_DIR --seeds A:B",
        )
    if sweep is not None and options is not None:
        config_dir, stage = _directory_and_stage(sweep)
        commands.show_sweep(config_dir, overrides or (), run_dir, stage, options, as_json)
    elif follow:
        commands.follow_status(run_dir, every, as_json)
    else:
        commands.show_status(run_dir, as_json)


for verb in (verify, reproduce, compare, attest):
    app.command()(verb)


def main() -> None:
    """Entry point of the console script: run a command and exit with its code."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run a command and return its exit code; errors that a user can mend are shown without a traceback."""
    return run_shown(lambda: int(app(args=arguments, prog_name="openwright", standalone_mode=False) or 0), arguments)
