"""`openwright launch`: check a release and a cluster file together, then submit the chain of jobs or show it."""

from collections.abc import Sequence
from pathlib import Path

from openwright.cluster import check_processes, load_cluster
from openwright.configs import load_directory
from openwright.pipeline import stages_until
from openwright.seeds import SeedOptions
from openwright.slurm import LaunchPlace, StageJob, make_chain, require_sbatch, submit, submit_command
from openwright.sweep_jobs import check_array_size, note_sweep
from provenance.fingerprint import code_identity, require_clean

SEVERAL_MACHINES = "several machines: this path is written and was never run on more than one; see docs/cluster.md"


def launch_chain(
    config_dir: Path,
    cluster_file: Path,
    overrides: Sequence[str],
    dry_run: bool,
    until: str = "",
    seeds: SeedOptions | None = None,
) -> tuple[Path, list[StageJob]]:
    """Make the chain of a config directory and submit it unless `dry_run`.

    Args:
        until: the last stage; empty for the whole release.
        seeds: what makes a sweep of it; None for one release.

    Returns:
        The directory of the release's artifacts, and the jobs in order.

    Raises:
        ConfigError: for a config or a cluster file that is wrong, processes that do not fit, seeds that are wrong or
            beyond what the cluster takes, or a missing sbatch.
        CodeError: for a dirty tree; a dry run accepts it.
    """
    cluster = load_cluster(cluster_file)
    configs = load_directory(config_dir, overrides)
    check_processes(cluster, cluster_file, configs.models)
    stages = stages_until(configs, until)
    sweep = seeds.sweep(configs.order, stages) if seeds else None
    code = code_identity()
    require_clean(code, dev=dry_run)
    place = LaunchPlace(Path.cwd(), config_dir.resolve(), tuple(overrides), sweep)
    chain = make_chain(cluster, configs, stages, place, code)
    store = cluster.artifacts / configs.name
    if dry_run:
        return store, chain
    require_sbatch()
    if sweep is not None:
        check_array_size(sweep)
    submitted = submit(chain)
    if sweep is not None:
        note_sweep(chain[0].script_path.parent, sweep, configs.overrides, submitted)
    return store, submitted


def launch_lines(chain: Sequence[StageJob], dry_run: bool) -> list[str]:
    """The chain for people: with `dry_run` each script in full, else one line per job."""
    lines = []
    for number, job in enumerate(chain):
        if dry_run:
            after = f"<job of {chain[number - 1].stage}>" if number else ""
            lines += [f"# {' '.join(submit_command(job, after))}", *job.script.splitlines(), ""]
        else:
            waits = f", after job {job.after}" if job.after else ""
            waits += ", seed by seed" if job.dependency == "aftercorr" else ""
            tasks = f" of {len(job.seeds)} tasks" if job.seeds else ""
            lines.append(f"{job.stage}: job {job.job_id}{tasks}{waits}; log {job.log_path}")
    if any(job.job.nodes > 1 for job in chain):
        lines.append(SEVERAL_MACHINES)
    return lines
