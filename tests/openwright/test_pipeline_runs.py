import json

import pytest

from openwright import configs, pipeline
from openwright.configs import load_directory, stage_of
from provenance.canonical import read_json
from provenance.config import Config, recipe_of
from provenance.errors import CodeError, ConfigError, ReleaseError
from provenance.fingerprint import CodeIdentity
from provenance.stage import StageSpec, run_stage

CODE = CodeIdentity("c" * 40, False, "d" * 64)


class TinyRelease(Config):
    name: str
    stages: tuple[str, ...] = ("corpus", "pretrain", "eval")
    plan_only: str = ""

    model_config = Config.model_config | {"strict": False}


class TinyStage(Config):
    seed: int = 1


@pytest.fixture
def config_dir(tmp_path, monkeypatch):
    """A config directory of three stages whose models are small; the runner is under test, not the stages."""
    monkeypatch.setattr(configs, "_check_mixtures", lambda *_: None)  # these stages train on no sources
    monkeypatch.setattr(configs, "config_model", lambda stage: TinyRelease if stage == "release" else TinyStage)
    directory = tmp_path / "configs" / "крошка"
    directory.mkdir(parents=True)
    (directory / "release.yaml").write_text("name: tiny\n")
    for stage in ("corpus", "pretrain", "sft", "eval"):
        (directory / f"{stage}.yaml").write_text("seed: 1\n")
    return directory


@pytest.fixture
def ran(monkeypatch):
    """Replace the stages by ones that write a file; returns the list of stages whose body ran."""
    bodies = []

    def run_one(stage, stage_configs, context, artifacts, tolerances=None):
        def body(work):
            bodies.append(stage)
            (work / "made.txt").write_text(stage)

        parents = [artifact.as_parent(name) for name, artifact in artifacts.items()]
        recipe = recipe_of(stage_configs.models[stage])
        return run_stage(context, StageSpec(stage, ("provenance",), ()), recipe, parents, body)

    monkeypatch.setattr(pipeline, "run_one", run_one)
    monkeypatch.setattr(pipeline, "code_identity", lambda: CODE)
    return bodies


def test_stages_run_in_order_and_only_once(config_dir, ran, tmp_path):
    first = pipeline.run_directory(config_dir, store=tmp_path / "artifacts")
    assert ran == ["corpus", "pretrain", "eval", "release"]
    again = pipeline.run_directory(config_dir, store=tmp_path / "artifacts")
    assert ran == ["corpus", "pretrain", "eval", "release"]
    assert {stage: a.content_digest for stage, a in first.items()} == {
        stage: a.content_digest for stage, a in again.items()
    }


def test_an_override_runs_that_stage_and_those_after_it(config_dir, ran, tmp_path):
    pipeline.run_directory(config_dir, store=tmp_path / "artifacts")
    del ran[:]
    pipeline.run_directory(config_dir, ["pretrain.seed=2"], tmp_path / "artifacts")
    assert ran[0] == "pretrain"
    assert "corpus" not in ran


def test_a_run_up_to_a_stage_stops_there(config_dir, ran, tmp_path):
    made = pipeline.run_directory(config_dir, store=tmp_path / "artifacts", until="pretrain")
    assert list(made) == ran == ["corpus", "pretrain"]
    with pytest.raises(ReleaseError, match="no stage sft"):
        pipeline.run_directory(config_dir, store=tmp_path / "artifacts", until="sft")


def test_last_run_keeps_the_seconds_of_making(config_dir, ran, tmp_path):
    for _ in range(2):
        pipeline.run_directory(config_dir, store=tmp_path / "artifacts")
    last = read_json(tmp_path / "artifacts" / "tiny" / "last_run.json")
    assert [entry["stage"] for entry in last["stages"]] == ["corpus", "pretrain", "eval", "release"]
    for entry in last["stages"]:
        assert entry["making"]["peak_memory_bytes"] > 0
        assert float(entry["seconds"]) >= 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda directory: (directory / "eval.yaml").write_text("sed: 2\n"), r"eval\.yaml:1"),
        (lambda directory: (directory / "eval.yaml").unlink(), r"eval\.yaml"),
        (lambda directory: (directory / "release.yaml").unlink(), r"release\.yaml"),
        (lambda directory: (directory / "release.yaml").write_text("name: x\nstages: [pretrain]\n"), "corpus"),
        (lambda directory: (directory / "release.yaml").write_text("name: x\nstages: [corpus, dpo]\n"), "dpo"),
        (lambda directory: (directory / "release.yaml").write_text("name: x\nstages: [corpus, corpus]\n"), "twice"),
    ],
)
def test_every_config_error_comes_before_any_work(config_dir, ran, tmp_path, damage, words):
    damage(config_dir)
    with pytest.raises(ConfigError, match=words):
        pipeline.run_directory(config_dir, store=tmp_path / "artifacts")
    assert ran == []
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("override", ["seed=2", "dpo.seed=2", "pretrain=2", "pretrain.sed=2", "sft.seed=2", "=", ""])
def test_overrides_name_a_stage_of_the_release(config_dir, ran, tmp_path, override):
    with pytest.raises(ConfigError):
        pipeline.run_directory(config_dir, [override], tmp_path / "artifacts")
    assert ran == []


def test_a_dirty_tree_is_refused_before_any_work(config_dir, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "code_identity", lambda: CodeIdentity("c" * 40, True, "d" * 64))
    with pytest.raises(CodeError, match="uncommitted"):
        pipeline.run_directory(config_dir, store=tmp_path / "artifacts")
    assert ran == []
    made = pipeline.run_directory(config_dir, store=tmp_path / "artifacts", dev=True)
    assert all(artifact.dev for artifact in made.values())


def test_a_bundle_is_built_from_the_newest_artifacts(config_dir, ran, tmp_path):
    store = tmp_path / "artifacts"
    pipeline.run_directory(config_dir, store=store, until="eval")
    del ran[:]
    pipeline.build_from_latest(config_dir, (), store, dev=False)
    assert ran == ["release"]


def test_a_bundle_of_artifacts_of_different_descent_is_refused(config_dir, ran, tmp_path):
    store = tmp_path / "artifacts"
    pipeline.run_directory(config_dir, store=store, until="eval")
    pipeline.run_directory(config_dir, ["corpus.seed=2"], store, until="corpus")
    # equal files give equal content, so the other corpus must really differ
    newest = next(path for path in (store / "tiny" / "corpus").iterdir() if path.name != "latest")
    assert newest
    manifest = store / "tiny" / "corpus" / (store / "tiny" / "corpus" / "latest").read_text().strip() / "manifest.json"
    values = read_json(manifest)
    (manifest.parent / "made.txt").write_text("other")
    from provenance.digests import FileEntry, content_digest, hash_files

    entries = hash_files(manifest.parent, [manifest.parent / "made.txt"])
    values["results"] = [entry.as_json() for entry in entries]
    values["content_digest"] = content_digest("corpus", [FileEntry(**e) for e in values["results"]], [])
    manifest.write_text(json.dumps(values))
    with pytest.raises(ReleaseError, match="another corpus"):
        pipeline.build_from_latest(config_dir, (), store, dev=False)


def test_a_bundle_of_artifacts_of_another_recipe_is_refused(config_dir, ran, tmp_path):
    store = tmp_path / "artifacts"
    pipeline.run_directory(config_dir, ["pretrain.seed=2"], store=store)
    with pytest.raises(ReleaseError, match=r"newest pretrain was made by another recipe.*seed"):
        pipeline.build_from_latest(config_dir, (), store, dev=False)
    pipeline.build_from_latest(config_dir, ["pretrain.seed=2"], store, dev=False)


def test_kept_overrides_hold_and_those_that_decide_nothing_are_not_kept(config_dir):
    (config_dir / "overrides.yaml").write_text("overrides: [pretrain.seed=2, corpus.seed=3]\n")
    found = load_directory(config_dir, ["corpus.seed=4"])
    assert {stage: model.seed for stage, model in found.models.items() if stage != "release"} == {
        "corpus": 4,
        "pretrain": 2,
        "eval": 1,
    }
    assert found.overrides == ("pretrain.seed=2", "corpus.seed=3", "corpus.seed=4")
    (config_dir / "overrides.yaml").write_text("overrides: pretrain.seed=2\n")
    with pytest.raises(ConfigError, match="overrides"):
        load_directory(config_dir)


def test_the_stage_of_a_file_is_its_name(tmp_path):
    assert stage_of(tmp_path / "sft.yaml", ("pretrain", "sft")) == "sft"
    for name in ("corpus.yaml", "sft.yml", "sft"):
        with pytest.raises(ConfigError, match=r"pretrain\.yaml"):
            stage_of(tmp_path / name, ("pretrain", "sft"))


def test_a_directory_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        load_directory(tmp_path / "nowhere")
