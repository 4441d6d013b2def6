"""Checks of the rules about code and parameters."""

import re
from collections.abc import Iterator
from pathlib import Path

from data_recipes.document import UNRESOLVED
from data_recipes.settings import TAKEN_TOKENIZER
from provenance.canonical import read_json
from provenance.digests import sha256_file, tagged_digest
from release.components import TOKENIZER, licence_of, licence_text
from release.facts import BundleFacts
from release.licence_terms import read_terms
from release.rule_checks import (
    NOT_APPLICABLE,
    UNKNOWN,
    Finding,
    failed,
    first_problem,
    passed,
    terms_of,
)
from release.sources import taken_tokenizer, tokenizer_licence
from release.weights import num_parameters

_BUFFERS = ("e_score_correction_bias",)
"""Tensors of the weights that are no parameters: biases with which routers even out the load of experts."""

_LOCKED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==\S+", re.MULTILINE)


def _sources(facts: BundleFacts, package: str) -> list[Path]:
    return sorted((facts.model / "code" / package).rglob("*.py"))


def data_code(facts: BundleFacts) -> Finding:
    """OSAID-C1."""
    if len(_sources(facts, "data_recipes")) < 2:
        return failed("code/data_recipes holds no data processing code")
    if not list((facts.model / "code" / "configs").rglob("corpus.yaml")):
        return failed("code/configs holds no corpus.yaml")
    if not facts.dataset_manifest["corpus"]["recipe"]:
        return failed("the corpus manifest holds no recipe")
    return passed("code/data_recipes with its settings and the resolved recipe; that it is what ran: BND-04")


def training_code(facts: BundleFacts) -> Finding:
    """OSAID-C2."""
    return first_problem(_training_problems(facts), "code/train, the recipes that the ledgers name, launch files")


def _training_problems(facts: BundleFacts) -> Iterator[str]:
    if len(_sources(facts, "train")) < 1:
        yield "code/train holds no training code"
    for stage in facts.training_stages:
        recipe = facts.recipe(stage)
        if recipe != facts.stage_manifest(stage)["recipe"]:
            yield f"recipe.json of {stage} is not the recipe of its manifest"
        if tagged_digest("recipe/1", recipe) != facts.ledgers[stage].start["recipe_digest"]:
            yield f"the ledger of {stage} names another recipe than recipe.json"
        if not (facts.model / "training" / stage / "accelerate.yaml").is_file():
            yield f"the launch file of {stage}, accelerate.yaml, is missing"


def evaluation_code(facts: BundleFacts) -> Finding:
    """OSAID-C3."""
    if len(_sources(facts, "eval")) < 1:
        return failed("code/eval holds no evaluation code")
    if not facts.results:
        return failed("results.json has no rows")
    if not facts.record:
        return failed("record.json says nothing")
    if not [path for path in (facts.model / "evaluation" / "tasks").rglob("*") if path.is_file()]:
        return failed("evaluation/tasks holds no task")
    return passed("code/eval, tasks and the record of what was evaluated")


def locked_libraries(facts: BundleFacts) -> tuple[set[str], str]:
    """Libraries named with a version in `requirements/*.lock`, and the first that has no hash."""
    names, unhashed = set(), ""
    for path in sorted((facts.model / "code" / "requirements").glob("*.lock")):
        text = path.read_text(encoding="utf-8")
        for match in _LOCKED.finditer(text):
            names.add(match.group(1).lower().replace("_", "-"))
            following = _LOCKED.search(text, match.end())
            entry = text[match.start() : following.start() if following else len(text)]
            if "--hash=sha256:" not in entry and not unhashed and not _hash_recorded_elsewhere(match.group(1)):
                unhashed = f"{match.group(1)} in {path.name}"
    return names, unhashed


def _hash_recorded_elsewhere(library: str) -> bool:
    """torch is locked by version; which build ran is in every `environment.json` by the digest of its record."""
    return library.lower() == "torch"


def supporting_libraries(facts: BundleFacts) -> Finding:
    """OSAID-C4."""
    tokenizer = facts.model / "tokenizer.json"
    if not tokenizer.is_file():
        return failed("tokenizer.json is missing")
    if sha256_file(tokenizer) != facts.token_table.get("tokenizer_sha256"):
        return failed("tokenizer.json is not the one that made the tokens")
    if problem := _taken_problem(facts):
        return failed(problem)
    names, unhashed = locked_libraries(facts)
    if not {"torch", "transformers", "tokenizers"} <= names:
        return failed("requirements/*.lock does not lock torch, transformers and tokenizers")
    if unhashed:
        return failed(f"{unhashed} is locked without a hash")
    return passed(f"the tokenizer of the tokens; {len(names)} libraries locked with hashes (torch by version)")


def _taken_problem(facts: BundleFacts) -> str:
    """What is wrong with a tokenizer that was made elsewhere; empty where nothing is."""
    entry = taken_tokenizer(facts.dataset)
    licence = tokenizer_licence(entry)
    declared = [part["licence"] for part in facts.components["components"] if part["name"] == TOKENIZER]
    if declared != [licence] * (entry is not None):
        return f"components.json and sources.lock do not agree on the tokenizer: {', '.join(declared) or 'none'}"
    if entry is None:
        return ""
    path = facts.dataset / TAKEN_TOKENIZER
    if not path.is_file() or sha256_file(path) != entry["sha256"]:
        return f"dataset/{TAKEN_TOKENIZER} is not the file that sources.lock names"
    if licence == UNRESOLVED:
        return "the tokenizer was made elsewhere and the recipe states no licence of it (tokenizer.file.licence)"
    terms = read_terms(licence)
    return f"the tokenizer was made elsewhere: {terms.reason}" if terms.verdict == "not-open" else ""


def search_code(facts: BundleFacts) -> Finding:
    """OSAID-C5."""
    search = facts.components["hyperparameter_search"]
    if not search["used"]:
        return Finding(NOT_APPLICABLE, "no hyperparameter search by a program is declared")
    listed = {entry["path"] for entry in read_json(facts.model / "code" / "CODE.json")["files"]}
    place = search["code_path"]
    if not any(path == place or path.startswith(f"{place}/") for path in listed):
        return failed(f"the code of the hyperparameter search, {place}, is not in code/")
    return passed(f"code/{place}")


def inference_code(facts: BundleFacts) -> Finding:
    """OSAID-C6."""
    config = read_json(facts.model / "config.json")
    if not config.get("model_type"):
        return failed("config.json names no architecture")
    if config.get("auto_map"):
        return failed("config.json asks for remote code")
    if not (facts.model / "tokenizer_config.json").is_file():
        return failed("tokenizer_config.json is missing")
    if "transformers" not in locked_libraries(facts)[0]:
        return failed("transformers, which defines and runs the architecture, is not locked")
    return passed(f"{config['model_type']} of transformers, locked; no remote code")


def code_terms(facts: BundleFacts) -> Finding:
    """OSAID-C7."""
    finding = terms_of(facts, "code")
    if finding.result != "pass":
        return failed(f"the code must be under an OSI-approved licence: {finding.reason}")
    licence, path = licence_of(facts.components, "code"), facts.model / "code" / "LICENSE"
    if not path.is_file():
        return failed("code/LICENSE is missing")
    text = licence_text(licence)
    if text is not None and _words(text)[:40] != _words(path.read_text(encoding="utf-8"))[:40]:
        return failed(f"code/LICENSE does not begin as the text of {licence} does")
    return passed(f"{licence}, text in code/LICENSE")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def restart(facts: BundleFacts) -> Finding:
    """OSAID-C8."""
    return Finding(UNKNOWN, "not attempted before this verdict; openwright reproduce BUNDLE does it")


def open_dependencies(facts: BundleFacts) -> Finding:
    """OSAID-C9."""
    return Finding(UNKNOWN, "the locked libraries are named; their licences are not recorded in the bundle")


def parameters_present(facts: BundleFacts) -> Finding:
    """OSAID-P1."""
    files = sorted(facts.model.glob("model*.safetensors"))
    if not files:
        return failed("model/ holds no weights")
    for name in ("config.json", "generation_config.json"):
        if not (facts.model / name).is_file():
            return failed(f"{name} is missing")
    count = num_parameters(files, without=_BUFFERS)
    stated = facts.released_model.num_parameters
    if count != stated:
        return failed(f"the files hold {count} parameters, the record of {facts.released_stage} states {stated}")
    return passed(f"{count:,} parameters, as stated")


def intermediate_checkpoints(facts: BundleFacts) -> Finding:
    """OSAID-P2."""
    return first_problem(_checkpoint_problems(facts), "the checkpoints that the recipes keep, with optimizer states")


def _checkpoint_problems(facts: BundleFacts) -> Iterator[str]:
    for stage in facts.training_stages:
        ledger, settings = facts.ledgers[stage], facts.recipe(stage)["checkpoints"]
        final = facts.run(stage)["final"]["step"]
        stay = {ledger.first_step, final, *settings["published_full_steps"]}
        for step, kind in ledger.checkpoints:
            name = f"step-{step:08d}"
            folder = facts.model / "checkpoints" / stage / name
            may_go = kind == "full" and settings["keep_last_full"] is not None and step not in stay
            if not (folder / "checkpoint.json").is_file():
                if not may_go:
                    yield f"checkpoint {stage}/{name} is not shipped"
                continue
            stated = facts.checkpoint(stage, name)
            if stated["step"] != step or stated["kind"] not in (kind, "weights" if may_go else kind):
                yield f"checkpoint {stage}/{name} is not of the step and kind that the ledger names"
            if stated["kind"] == "full" and not list(folder.glob("optimizer*.safetensors")):
                yield f"checkpoint {stage}/{name} lacks its optimizer state"
        if (final, "full") not in ledger.checkpoints:
            yield f"the final optimizer state of {stage} was not kept"
