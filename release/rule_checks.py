"""Checks of the rules about the bundle and about freedoms and terms; each returns a finding."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_recipes.order_file import ORDER_FILE
from provenance.digests import FileEntry, Parent, content_digest, sha256_file
from release.code_identity import code_problem
from release.components import assertion, licence_of, licence_text, needed_licence_ids
from release.facts import BundleFacts
from release.layout import TEXT_NAMES, TEXT_SUFFIXES, bundle_files, role_of
from release.licence_terms import Terms, is_copyleft, is_known_expression, read_terms
from release.secret_scan import find_secrets
from release.tolerance import TOLERANCE_NAME
from release.weights import header_problem, weights_digest

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not_applicable"
NEEDS_STATEMENT, UNKNOWN = "needs_statement", "unknown"


@dataclass(frozen=True)
class Finding:
    """What a check found: a result (pass, fail, not_applicable, needs_statement, unknown) and why in one line."""

    result: str
    reason: str


def passed(reason: str) -> Finding:
    """A pass with its reason."""
    return Finding(PASS, reason)


def failed(reason: str) -> Finding:
    """A fail with its reason."""
    return Finding(FAIL, reason)


def first_problem(problems: Iterator[str], otherwise: str) -> Finding:
    """Fail with the first problem, or pass."""
    problem = next(problems, None)
    return passed(otherwise) if problem is None else failed(problem)


# -------------------------------------------------------------------------------- the bundle and its records


def place_in_bundle(stage: str, path: str) -> str:
    """Where a file of a stage's artifact lies in a bundle."""
    if stage == "corpus":
        return f"dataset/{path}"
    if stage == "eval":
        return f"model/evaluation/{path}"
    if path.startswith("checkpoints/"):
        return f"model/checkpoints/{stage}/{path.removeprefix('checkpoints/')}"
    return f"model/training/{stage}/{path}"


def artifact_files(facts: BundleFacts) -> Finding:
    """BND-01."""
    return first_problem(_artifact_problems(facts), "every result file of every stage is the recorded one")


def _artifact_problems(facts: BundleFacts) -> Iterator[str]:
    found = facts.all_entries
    listed = set()
    for stage in facts.components["stages"]:
        manifest = facts.stage_manifest(stage)
        results = [FileEntry(**entry) for entry in manifest["results"]]
        parents = [Parent(**parent) for parent in manifest["parents"]]
        if content_digest(manifest["kind"], results, parents) != manifest["content_digest"]:
            yield f"the content digest of stage {stage} does not follow from its manifest"
        for entry in (*results, *(FileEntry(**e) for e in manifest["observations"])):
            place = place_in_bundle(stage, entry.path)
            listed.add(place)
            held = found.get(place)
            if held is None and not facts.may_be_left_out(place):
                yield f"{place} is missing"
            if held is not None and (held.size_bytes, held.sha256) != (entry.size_bytes, entry.sha256):
                yield f"{place} is not the file that stage {stage} recorded"
    names = ("manifest.json", TOLERANCE_NAME)
    made_here = {f"model/training/{stage}/{name}" for stage in facts.components["stages"][1:-1] for name in names}
    made_here.add("model/evaluation/manifest.json")
    folders = ("dataset/", "model/training/", "model/checkpoints/", "model/evaluation/")
    for place in found:
        generated = role_of(place) in ("document", "root") or place in made_here
        if place.startswith(folders) and place not in listed and not generated:
            yield f"{place} is listed by no stage"


def signature(facts: BundleFacts) -> Finding:
    """BND-02: the verdict is part of what a signature covers, so it can never see one."""
    return Finding(UNKNOWN, "not signed when this verdict was made; a later signature is checked by openwright verify")


def one_name(facts: BundleFacts) -> Finding:
    """BND-03."""
    components = facts.components
    names = {stage: facts.stage_manifest(stage)["name"] for stage in components["stages"]}
    wrong = [f"stage {stage} is named {name!r}" for stage, name in names.items() if name != components["name"]]
    if not components["version"]:
        wrong.append("no version is named")
    return first_problem(iter(wrong), f"{components['name']} {components['version']} in all records")


def code_that_ran(facts: BundleFacts) -> Finding:
    """BND-04."""
    problem = code_problem(facts)
    return failed(problem) if problem else passed("every stage names this source tree, commit and files as recorded")


def lineage(facts: BundleFacts) -> Finding:
    """BND-05."""
    return first_problem(_lineage_problems(facts), "all parents are stages of this bundle; the released run was scored")


def _lineage_problems(facts: BundleFacts) -> Iterator[str]:
    contents = {stage: facts.stage_manifest(stage)["content_digest"] for stage in facts.components["stages"]}
    for stage in contents:
        parents = facts.stage_manifest(stage)["parents"]
        for parent in parents:
            if parent["content_digest"] not in contents.values():
                yield f"stage {stage} was made from {parent['name']}, which is not in the bundle"
        if stage != "corpus" and not parents:
            yield f"stage {stage} names no parents"
    evaluated = {parent["content_digest"] for parent in facts.stage_manifest("eval")["parents"]}
    if contents[facts.released_stage] not in evaluated:
        yield f"the evaluation did not read the released run ({facts.released_stage})"


def safe_weights(facts: BundleFacts) -> Finding:
    """BND-06."""
    return first_problem(_weight_problems(facts), "all weights are safetensors with whole headers")


_CHECKPOINT_SUFFIXES = (".json", ".jinja", ".safetensors")


def _weight_problems(facts: BundleFacts) -> Iterator[str]:
    places = [*facts.model.glob("*.safetensors"), *(p for p in facts.model.glob("checkpoints/*/*/*") if p.is_file())]
    if not list(facts.model.glob("*.safetensors")):
        yield "model/ holds no safetensors file"
    for path in sorted(places):
        relative = path.relative_to(facts.bundle).as_posix()
        if path.suffix not in _CHECKPOINT_SUFFIXES:
            yield f"{relative} is of a kind that can hold code"
        if path.suffix == ".safetensors":
            problem = header_problem(path)
            if problem:
                yield f"{relative}: {problem}"


def no_secrets(facts: BundleFacts) -> Finding:
    """BND-07."""
    return first_problem(
        iter(find_secrets(facts.bundle)), "no key or token found in text files; quoted public text not scanned"
    )


def final_weights(facts: BundleFacts) -> Finding:
    """BND-08."""
    source = "the average that its record names" if facts.average else "the run's final checkpoint"
    return first_problem(_final_weight_problems(facts), f"the released files are those of {source}")


def _final_weight_problems(facts: BundleFacts) -> Iterator[str]:
    stage, made = facts.released_stage, facts.released_model
    checkpoint = facts.bundle / place_in_bundle(stage, made.path)
    if stage in facts.training_stages:
        end = facts.ledgers[stage].end
        if end.get("weights_digest") != made.weights_digest or end.get("step") != made.step:
            yield f"run.json of {stage} and the end of its ledger name different weights"
        if facts.checkpoint(stage, made.path)["weights_digest"] != made.weights_digest:
            yield f"the final checkpoint of {stage} states other weights than the run"
    weights = sorted(p.name for p in checkpoint.glob("model*.safetensors*"))
    if weights != sorted(p.name for p in facts.model.glob("model*.safetensors*")):
        yield "the released weight files are not those of the final checkpoint"
    for name in weights:
        if (facts.model / name).is_file() and sha256_file(facts.model / name) != sha256_file(checkpoint / name):
            yield f"model/{name} is not the file of the final checkpoint"
    computed = weights_digest(sorted(facts.model.glob("model*.safetensors")))
    if computed != made.weights_digest:
        yield f"the tensors of model/ are {computed[:12]}, {stage} ended with {made.weights_digest[:12]}"


def replay(facts: BundleFacts) -> Finding:
    """BND-09."""
    return Finding(UNKNOWN, "no replay was attempted before this verdict; openwright reproduce BUNDLE replays steps")


def statements_complete(facts: BundleFacts) -> Finding:
    """BND-10: the evaluation turns this into a fail where a statement is malformed or stale."""
    count = len(list((facts.model / "openness" / "statements").glob("*")))
    if not count:
        return Finding(NOT_APPLICABLE, "the bundle holds no statement")
    return passed(f"{count} statements, complete and about this evidence")


# -------------------------------------------------------------------------------- freedoms and terms


def _component_terms(facts: BundleFacts) -> Iterator[tuple[str, str, Terms]]:
    for component in facts.components["components"]:
        yield component["name"], component["licence"], read_terms(component["licence"])


def _freedom(facts: BundleFacts, freedom: str) -> Finding:
    open_only = ""
    for name, licence, terms in _component_terms(facts):
        if terms.verdict == "not-open":
            return failed(f"{name} is under {licence or 'no licence'}: {terms.reason}")
        if terms.verdict == "open-terms":
            open_only = open_only or f"{name} is under {licence}, open terms that are on no OSI list"
    if open_only:
        return Finding(NEEDS_STATEMENT, open_only)
    return passed(f"OSI-approved licences allow {freedom} for code, weights and data information")


def use_terms(facts: BundleFacts) -> Finding:
    """OSAID-F1."""
    return _freedom(facts, "any use")


def modify_terms(facts: BundleFacts) -> Finding:
    """OSAID-F3."""
    return _freedom(facts, "modification")


def share_terms(facts: BundleFacts) -> Finding:
    """OSAID-F4."""
    return _freedom(facts, "redistribution")


_OPEN_SUFFIXES = TEXT_SUFFIXES | {".bin", ".parquet", ".safetensors"}


def inspectable(facts: BundleFacts) -> Finding:
    """OSAID-F2: formats that anyone can read; `.bin` only where the formats page describes it."""
    for path in bundle_files(facts.bundle):
        relative = path.relative_to(facts.bundle).as_posix()
        tables = ("dataset/tokens/", "dataset/documents/", "dataset/redacted/tokens/")
        is_order = relative.startswith("model/training/") and path.name == ORDER_FILE
        documented = relative.startswith(tables) or is_order or path.suffix != ".bin"
        later = role_of(relative) == "root"
        if not later and not (documented and (path.suffix in _OPEN_SUFFIXES or path.name in TEXT_NAMES)):
            return failed(f"{relative} is in no documented open format")
    return passed("all files are source text, JSON, Parquet, safetensors or documented fixed-width tables")


_POLICY_NAMES = ("use_policy", "use-policy", "aup", "acceptable_use", "acceptable-use")


def no_use_policy(facts: BundleFacts) -> Finding:
    """OSAID-T1."""
    if facts.components["acceptable_use"]:
        return failed("an acceptable-use policy is declared as binding")
    for path in bundle_files(facts.bundle):
        if path.stem.lower().startswith(_POLICY_NAMES):
            return failed(f"{path.relative_to(facts.bundle).as_posix()} looks like an acceptable-use policy")
    return passed("none is declared and no such file is shipped")


def not_gated(facts: BundleFacts) -> Finding:
    """OSAID-T2."""
    gated = [channel["location"] for channel in facts.components["distribution"] if channel["gated"]]
    if gated:
        return failed(f"access is gated at {gated[0]}")
    if "extra_gated_" in (facts.dataset / "README.md").read_text(encoding="utf-8"):
        return failed("the data card asks for conditions before access (extra_gated_)")
    if not facts.components["distribution"]:
        return passed("no place of distribution is declared yet; nothing in the bundle asks for conditions")
    return passed("no declared place of distribution is gated")


def scope_declared(facts: BundleFacts) -> Finding:
    """OSAID-T3."""
    scope = facts.components["scope"]
    if scope not in ("system", "model", "weights"):
        return failed(f"scope {scope!r} is none of system, model, weights")
    for component in facts.components["components"]:
        for place in component["paths"]:
            if not any(p == place or p.startswith((f"{place}/",)) for p in facts.all_entries) and not _shards(
                facts, place
            ):
                return failed(f"{component['name']} is declared at {place}, which is missing")
    names = {component["name"] for component in facts.components["components"]}
    lacking = sorted({"code", "weights", "data_information"} - names)
    return failed(f"{lacking[0]} is not supplied") if lacking else passed(f"scope {scope}, all three elements supplied")


def _shards(facts: BundleFacts, place: str) -> bool:
    return place == "model/model.safetensors" and "model/model.safetensors.index.json" in facts.all_entries


def licence_texts(facts: BundleFacts) -> Finding:
    """OSAID-T4."""
    needed = needed_licence_ids(facts)
    folder = facts.model / "openness" / "LICENSES"
    for spdx in needed:
        path = folder / f"{spdx}.txt"
        if not path.is_file():
            return failed(f"the text of {spdx} is missing")
        if path.read_text(encoding="utf-8") != licence_text(spdx):
            return failed(f"{spdx}.txt is not the text that this project holds for {spdx}")
    return passed(f"texts of {len(needed)} licences: {', '.join(needed)}")


def one_expression(facts: BundleFacts) -> Finding:
    """OSAID-T5."""
    for name, licence, _ in _component_terms(facts):
        if not is_known_expression(licence):
            return failed(f"the licence of {name}, {licence!r}, is no expression of known SPDX identifiers")
    return passed("one known SPDX expression each")


def upstream_terms(facts: BundleFacts) -> Finding:
    """OSAID-T6."""
    for upstream in facts.components["upstreams"]:
        terms = read_terms(upstream["licence"])
        if terms.verdict == "not-open":
            return failed(f"upstream {upstream['name']}: {terms.reason}")
    for licence in facts.kept_licences:
        if read_terms(licence).verdict == "not-open":
            return failed(f"documents under {licence} were kept: {read_terms(licence).reason}")
    copyleft = [licence for licence in facts.kept_licences if is_copyleft(licence)]
    if copyleft:
        return Finding(
            NEEDS_STATEMENT, f"text under {copyleft[0]} was kept; whether weights derive from it, a person says"
        )
    return passed("no base model or teacher; all kept text is under permissive or attribution terms")


def free_availability(facts: BundleFacts) -> Finding:
    """OSAID-P4."""
    notice, text = facts.model / "NOTICE", facts.model / "LICENSE"
    if not notice.is_file() or assertion(facts.components) not in notice.read_text(encoding="utf-8"):
        return failed("NOTICE does not assert that the parameters are freely available to all")
    if not text.is_file() or not text.read_text(encoding="utf-8").strip():
        return failed("LICENSE is missing beside the weights")
    return passed("NOTICE asserts it, LICENSE lies beside the weights")


def terms_of(facts: BundleFacts, component: str) -> Finding:
    """Whether a component is under OSI-approved terms; open terms that OSI does not list need a person."""
    licence = licence_of(facts.components, component)
    terms = read_terms(licence)
    if terms.verdict == "osi":
        return passed(terms.reason)
    if terms.verdict == "open-terms":
        return Finding(NEEDS_STATEMENT, f"{terms.reason}; OSI lists approved licences, not terms")
    return failed(terms.reason)


def data_information_terms(facts: BundleFacts) -> Finding:
    """OSAID-D13."""
    return terms_of(facts, "data_information")


def parameter_terms(facts: BundleFacts) -> Finding:
    """OSAID-P3."""
    return terms_of(facts, "weights")
