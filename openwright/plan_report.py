"""A plan as lines for people; every figure is one of the document's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openwright.outcome import command
from openwright.report import table_lines
from release.display import size

MAX_NAMED_SOURCES = 6
_INDENT = " " * 14


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan of a config directory, stage by stage and in all."""
    lines = [f"{plan['name']}: the plan of {plan['config_dir']}; nothing was run"]
    if plan["plan_only"]:
        lines.append(f"run refuses it: {plan['plan_only']}")
    if plan["device"]:
        device = plan["device"]
        memory = large_size(device["memory_bytes"])
        lines.append(f"on {device['name']} ({device['source']}): {memory}, {device['watts']} W")
    for stage in plan["stages"]:
        lines += ["", f"== {stage['stage']}", *_stage_lines(stage, plan["config_dir"])]
    if average := plan["average"]:
        lines += ["", "== average", *_average_lines(average)]
    lines += ["", "== in all", *_total_lines(plan)]
    lines += ["", "== openness: the best that this recipe can reach", *_openness_lines(plan["openness"])]
    return lines


def quantity(value: float) -> str:
    """A number in words that fit its size."""
    for factor, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= factor:
            return f"{value / factor:.2f} {word}"
    return f"{value:,.0f}"


def large_size(num_bytes: float) -> str:
    """A size in decimal units, up to terabytes."""
    return f"{num_bytes / 1e12:.1f} TB" if num_bytes >= 1e12 else size(round(num_bytes))


def _row(label: str, text: str) -> str:
    return f"{label:<{len(_INDENT)}}{text}"


def _stage_lines(stage: Mapping[str, Any], config_dir: str) -> Iterator[str]:
    model, layout, kept = stage["model"], stage["layout"], stage["checkpoints"]
    active = ""
    if model["num_active_parameters"] != model["num_parameters"]:
        active = f", {quantity(model['num_active_parameters'])} of them active for a token"
    embeddings = f"{quantity(model['num_embedding_parameters'])} in embedding and head"
    yield _row("model", f"{model['type']}, {quantity(model['num_parameters'])} parameters{active}; {embeddings}")
    steps = " to ".join(f"{tokens:,}" for tokens in stage["tokens_per_step"])
    yield _row("data", f"{quantity(stage['num_tokens'])} tokens in {stage['num_steps']:,} steps of {steps}")
    yield _row("epochs", _epochs(stage))
    yield _row("FLOPs", _flops(stage["flops"], recomputed=layout["activation_checkpointing"]))
    copies = "a whole model on each"
    if layout["shard_size"] > 1:
        copies = f"each model sharded over {layout['shard_size']} (copies: {layout['num_copies']})"
    if layout["tensor_size"] > 1:
        copies += f", its matrices cut over {layout['tensor_size']}"
    if layout["context_size"] > 1:
        copies += f", windows shared by {layout['context_size']}"
    yield _row(
        "layout",
        f"{layout['num_processes']} processes, {copies}; {layout['precision']}, {layout['reduction']} reduction",
    )
    if stage["memory"] is None:
        yield _row("memory", "not known: the table has no layouts with tensor_size or context_size")
    else:
        yield from _memory_lines(stage["memory"])
    weights = f"{kept['num_weights']} of weights, {large_size(kept['weights_bytes'])} each"
    full = f"{kept['num_full']} full, {large_size(kept['full_bytes'])} each"
    yield _row("checkpoints", f"{weights}; {full}; {large_size(kept['total_bytes'])} in all")
    yield _row("time", _time(stage["time"], config_dir, layout["num_processes"]))


def _average_lines(average: Mapping[str, Any]) -> Iterator[str]:
    named = ", ".join(f"{part['stage']} {part['step']:,}" for part in average["ingredients"])
    yield _row("checkpoints", f"{named}; kind {average['kind']}")
    yield _row("size", f"{large_size(average['read_bytes'])} read, {large_size(average['weights_bytes'])} written")


def _flops(flops: Mapping[str, Any], *, recomputed: bool) -> str:
    more = f"{flops['computed'] / flops['model'] - 1:+.0%}"
    why = "masked attention, layers done twice" if recomputed else "masked attention"
    asked = f"{flops['model']:.3g} for training, {flops['heldout']:.2g} for held-out losses"
    return f"{asked}; {flops['computed']:.3g} computed ({more}: {why})"


def _epochs(stage: Mapping[str, Any]) -> str:
    if stage["epochs"] is not None:
        most = sorted(stage["epochs"].items(), key=lambda item: -item[1])
        return _shortened([f"{name} {count:.2f}" for name, count in most])
    mixtures = [mixture for mixture in stage["mixtures"] if isinstance(mixture, Mapping)]
    shares = []
    for mixture in mixtures:
        total = sum(mixture.values())
        shares.append(_shortened([f"{name} {weight / total:.0%}" for name, weight in mixture.items()]))
    mixed = f"; shares {', then '.join(dict.fromkeys(shares))}" if shares else ""
    return f"unknown until the corpus is built{mixed}"


def _memory_lines(memory: Mapping[str, Any]) -> Iterator[str]:
    verdict = ""
    if memory["fits"] is not None:
        word = "fits" if memory["fits"] else "DOES NOT FIT"
        verdict = f"; {word} {large_size(memory['usable_bytes'])}, 90% of the device"
    moment = memory["peak_moment"]
    yield _row("memory", f"{large_size(memory['peak_bytes'])} per process, at its {moment}{verdict}")
    rows = [
        (part["part"], large_size(part["bytes"]), "*" if moment in part["moments"] else "", part["note"])
        for part in memory["parts"]
    ]
    if memory["resident_bytes"] is not None:
        yield _row("", f"on CPUs about {large_size(memory['resident_bytes'])} resident beside the libraries")
    yield from (_row("", line) for line in table_lines(("part", "bytes", "peak", ""), rows))
    snapshot = large_size(memory["snapshot_bytes"])
    yield _row("", f"and {snapshot} of host memory for copies of checkpoints, from the first full one on")


def _time(time: Mapping[str, Any] | None, config_dir: str, num_devices: int) -> str:
    if time is None:
        measure = f"measure with `{command('run', config_dir)}`, read `openwright status`"
        return f"unknown: give --device, or {measure} and give --tokens-per-second"
    rate = f"{time['tokens_per_second']:,.0f} tokens/s; {time['basis']}"
    return f"{_hours(time['seconds'])} on {num_devices} devices, {time['device_hours']:,.0f} device-hours ({rate})"


def _hours(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:,.1f} minutes"
    return f"{seconds / 86400:,.1f} days" if seconds >= 2 * 86400 else f"{seconds / 3600:,.1f} hours"


def _total_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    totals = plan["totals"]
    tokens, checkpoints = quantity(totals["num_tokens"]), large_size(totals["checkpoint_bytes"])
    yield f"{tokens} tokens, {totals['flops']['model']:.3g} FLOPs, {checkpoints} of checkpoints"
    if totals["device_hours"] is not None:
        yield f"{totals['device_hours']:,.0f} device-hours, {_hours(totals['seconds'])} one stage after another"
        cost = "unknown: give --price-per-device-hour" if totals["cost"] is None else f"{totals['cost']:,.0f}"
        yield f"cost of devices: {cost}"
    if totals["energy_kwh"] is not None:
        what = "an estimate: design power of the devices times hours, without hosts and cooling"
        yield f"energy: {totals['energy_kwh']:,.0f} kWh, {what}"
    for row in plan["thresholds"]:
        word = "above" if row["reached"] else "below"
        yield f"{word} {row['flops']:.0e} FLOPs ({row['share']:.2g} times it): {row['what']}"
    yield "thresholds are about training FLOPs; EU guidelines take an error of 30% into account; not legal advice"
    yield f"where the harness ends: {plan['harness_ends']}"


def _openness_lines(openness: Mapping[str, Any]) -> Iterator[str]:
    yield f"rules {openness['rules_version']} of {openness['rules_date']}. {openness['notice']}"
    for profile in openness["profiles"]:
        yield f"{profile['title']}: at best {profile['best_verdict']}"
    for part in openness["parts"]:
        yield f"  {part['name']}: {part['terms']}"
    models = ", ".join(model["name"] for model in openness["base_models"])
    yield f"  base model: {models or 'none, trained from random weights'}"
    search = openness["hyperparameter_search"]
    yield f"  hyperparameter search: {'code in ' + search['code_path'] if search['used'] else 'none declared'}"
    for names, problem in _grouped(openness["sources"]):
        yield f"  stands in the way: {names}: {problem}"
    for rule in openness["rules"]:
        if rule["result"] == "fail":
            yield f"  {rule['id']} fails: {rule['reason']}"
    for rule in openness["risks"]:
        yield f"  {rule['id']} is at risk, should the policy let such text in: {rule['reason']}"
    for rule in openness["rules"]:
        if rule["command"]:
            yield f"  {rule['id']} needs a person: {rule['command']}"
    later = openness["num_decided_by_the_run"]
    yield f"  {later} rules are decided by the run; nothing in the configs stands against them"


def _grouped(sources: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    names: dict[str, list[str]] = {}
    for source in sources:
        for problem in source["problems"]:
            names.setdefault(problem, []).append(source["name"])
    for problem, held in names.items():
        yield _shortened(held), problem


def _shortened(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MAX_NAMED_SOURCES} more" if len(texts) > MAX_NAMED_SOURCES else ""
    return ", ".join(texts[:MAX_NAMED_SOURCES]) + more
