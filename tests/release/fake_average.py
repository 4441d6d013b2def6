"""An average of checkpoints by the formats page, added up by torch: nothing of the stage runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fake_runs import Tensors, state_digest
from fake_store import finish_stage, start_stage
from safetensors.torch import load_file, save_file

from provenance.artifacts import Artifact
from provenance.canonical import write_json
from provenance.stage import StageContext


def averaged(parts: Sequence[Tensors], numerators: Sequence[int]) -> Tensors:
    """The weighted mean of F32 tensors, in float64, one addition after the other."""
    found = {}
    for name in parts[0]:
        total = numerators[0] * parts[0][name].double()
        for numerator, part in zip(numerators[1:], parts[1:], strict=True):
            total = total + numerator * part[name].double()
        found[name] = (total / sum(numerators)).float()
    return found


def make_average(
    context: StageContext,
    runs: Mapping[str, Artifact],
    recipe: Mapping[str, Any],
    numerators: Sequence[int],
) -> Artifact:
    """Make the artifact of the stage `average`; the numerators are what the recipe has to give."""
    work = start_stage(context, "average")
    named = [(group["stage"], step) for group in recipe["ingredients"] for step in group["steps"]]
    folders = [runs[stage].path / "checkpoints" / f"step-{step:08d}" for stage, step in named]
    parts = [
        {name: tensor for path in sorted(folder.glob("model*.safetensors")) for name, tensor in load_file(path).items()}
        for folder in folders
    ]
    weights = averaged(parts, numerators)
    target = work / "checkpoints" / "averaged"
    target.mkdir(parents=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    for path in folders[-1].iterdir():
        if path.suffix != ".safetensors" and path.name != "checkpoint.json":
            (target / path.name).write_bytes(path.read_bytes())
    write_json(work / "recipe.json", recipe)
    told = [
        {"stage": stage, "step": step, "numerator": numerator, "weights_digest": state_digest(part)}
        for (stage, step), numerator, part in zip(named, numerators, parts, strict=True)
    ]
    record = {
        "format": "openwright-average/1",
        "stage": "average",
        "kind": recipe["kind"],
        "arithmetic": "weighted-sum/1",
        "denominator": sum(numerators),
        "ingredients": told,
        "model_type": "olmo3",
        "num_parameters": sum(tensor.numel() for tensor in weights.values()),
        "final": {"path": "checkpoints/averaged", "weights_digest": state_digest(weights)},
    }
    write_json(work / "average.json", record)
    parents = [runs[stage].as_parent(stage) for stage in dict.fromkeys(stage for stage, _ in named)]
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    return finish_stage(context, work, "average", parents, dict(recipe))
