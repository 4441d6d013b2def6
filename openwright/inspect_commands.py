"""What the commands `openwright inspect ...` do once their arguments are parsed."""

from pathlib import Path

from openwright.located import BundleArgument
from openwright.outcome import REPORT_FORMAT, finish, stoppable
from openwright.report import stdout_kept_clean


def inspect_step(step: int, bundle: BundleArgument, stage: str, as_json: bool) -> None:
    """`inspect step`: the windows that a step read."""
    from openwright.inspection import Readings, step_lines
    from openwright.needs import fetch_for_inspection

    with stdout_kept_clean(as_json), stoppable():
        found = bundle.locate()
        fetch_for_inspection(found, stage, with_text=True)
    windows, named = Readings(found.path, stage).step(step), found.argument
    document = {"format": REPORT_FORMAT, "bundle": found.name, "stage": stage, "step": step, "windows": windows}
    ids = [row["document_id"][:12] for window in windows for row in window["documents"]]
    following = f"openwright inspect document {ids[0]} --in {named}" if ids else f"openwright verify {named}"
    finish(document, step_lines(windows), following, as_json)


def inspect_document(document_id: str, bundle: BundleArgument, as_json: bool) -> None:
    """`inspect document`: a document's row, the steps that read it, and those that read conversations made from it."""
    from openwright.inspection import PRETRAIN, Readings, document_lines
    from openwright.needs import fetch_for_inspection

    with stdout_kept_clean(as_json), stoppable():
        place = bundle.locate()
        fetch_for_inspection(place, PRETRAIN, with_text=False)
        found, named = Readings(place.path).document(document_id), place.argument
        stages = _left_aside(place.path)
        made_from: dict[str, list[int]] = {}
        for stage in stages:
            fetch_for_inspection(place, stage, with_text=False)
            in_stage = Readings(place.path, stage).conversation_steps(found["document_id"])
            made_from |= {} if in_stage is None else {stage: in_stage}
    others = [stage for stage in stages if stage not in made_from]
    found["conversation_steps"] = made_from
    document = {"format": REPORT_FORMAT, "bundle": place.name, "document": found, "stages_left_aside": others}
    lines = [
        f"read in    {stage} steps, as conversations made from it: {', '.join(map(str, steps)) or 'none'}"
        for stage, steps in made_from.items()
    ]
    steps = found["steps"]
    following = f"openwright inspect step {steps[0]} --in {named}" if steps else f"openwright verify {named}"
    finish(document, [*document_lines(found), *lines, *_left_aside_lines(others)], following, as_json)


def inspect_text(passage: str, bundle: BundleArgument, limit: int, index: Path, as_json: bool) -> None:
    """`inspect text`: where a passage stands in the pretraining text, and which steps read it."""
    from openwright.inspection import PRETRAIN, Readings
    from openwright.needs import fetch_for_inspection
    from openwright.text_search import search_text, text_lines

    with stdout_kept_clean(as_json), stoppable():
        place = bundle.locate()
        fetch_for_inspection(place, PRETRAIN, with_text=True)
        found, named = search_text(Readings(place.path, cache=index), passage, limit), place.argument
    others = _left_aside(place.path)
    document = {"format": REPORT_FORMAT, "bundle": place.name, "search": found, "stages_left_aside": others}
    ids = [place["document_id"][:12] for place in found["places"]]
    following = f"openwright inspect document {ids[0]} --in {named}" if ids else f"openwright verify {named}"
    finish(document, [*text_lines(found), *_left_aside_lines(others)], following, as_json)


def compare(one: BundleArgument, other: BundleArgument, stage: str, as_json: bool) -> None:
    """`compare`: two runs side by side."""
    from openwright.comparing import compare_lines, compare_runs, side_of
    from openwright.needs import fetch_for_comparison

    with stdout_kept_clean(as_json), stoppable():
        places = [argument.locate() for argument in (one, other)]
        for place in places:
            fetch_for_comparison(place, stage)
        sides = [side_of(place.path, stage, place.name) for place in places]
        found = compare_runs(*sides)
    difference, named = found["steps"]["first_difference"], places[1].argument
    following = f"openwright {'verify' if sides[1].results else 'status'} {named}"
    if sides[1].results and difference:
        following = f"openwright inspect step {difference['step']} --stage {stage} --in {named}"
    document = {"format": REPORT_FORMAT, "a": sides[0].name, "b": sides[1].name, "comparison": found}
    finish(document, compare_lines(found, (sides[0].name, sides[1].name)), following, as_json)


def _left_aside(bundle: Path) -> list[str]:
    """Training stages of a bundle that read conversations made of documents: look-ups do not go through them."""
    from openwright.bundles import open_bundle
    from openwright.configs import TRAINING_STAGES
    from openwright.inspection import PRETRAIN

    stages = [str(entry["stage"]) for entry in open_bundle(bundle).manifest["stages"]]
    return [stage for stage in stages if stage in TRAINING_STAGES and stage != PRETRAIN]


def _left_aside_lines(stages: list[str]) -> list[str]:
    """What people are told of them: nothing found does not mean nothing read."""
    return [
        f"not looked through: {stage}; openwright inspect step N --stage {stage} shows its rows" for stage in stages
    ]
