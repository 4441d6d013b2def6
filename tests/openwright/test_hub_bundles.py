"""`hf:ORG/NAME[@REVISION]` as a bundle: what is fetched for which command, and what a Hub may not make us believe."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import conftest as release_fixtures
import pytest
from huggingface_hub import constants
from loopback_hub import Repository, files_of, loopback_hub

from openwright import cli, needs, open_bundle
from openwright.hub import HubName, parse_name
from openwright.located import BundleArgument
from provenance.errors import BundleError, ConfigError
from release.replay_segments import Segment, resumable_checkpoints

built = release_fixtures.built

ROOT = Path(__file__).resolve().parents[2]
MODEL_COMMIT, DATASET_COMMIT = "a1" * 20, "d2" * 20
DATASET_NAME = "tiny-0.1-dataset"
FOLDER = f"org--tiny@{MODEL_COMMIT}"


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A project of few files, since each file costs two requests."""
    target = release_fixtures.make_project(tmp_path_factory.mktemp("few-files") / "code")
    for path in target.glob("*/**/*"):
        if path.is_file() and path.name not in ("__init__.py", "verify.py", "cpu.lock"):
            path.unlink()
    return target


@pytest.fixture(scope="module")
def published(built):
    """The files of both repositories."""
    return {part: files_of(built.bundle / part) for part in ("model", "dataset")}


@pytest.fixture
def hub(published, monkeypatch):
    """The fixture bundle on a Hub of its own; the library in this process asks that Hub."""
    repositories = {
        "models/org/tiny": Repository(dict(published["model"]), MODEL_COMMIT, revisions=("main", "v0.1")),
        f"datasets/org/{DATASET_NAME}": Repository(dict(published["dataset"]), DATASET_COMMIT),
    }
    with loopback_hub(repositories) as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def locate(cache, text="hf:org/tiny", dataset=""):
    return BundleArgument(Path(text), dataset, cache).locate()


def below(directory):
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def test_verify_on_a_command_line_fetches_everything_and_says_so(hub, built, cache):
    command = [sys.executable, "-m", "openwright", "verify", "hf:org/tiny@v0.1", "--cache", str(cache), "--json"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    verdicts = {check["name"]: check["verdict"] for check in document["checks"]}
    assert verdicts["repository"] == "PASS"
    assert {name for name, verdict in verdicts.items() if verdict == "FAIL"} == set()
    assert done.returncode == 3, done.stdout
    assert verdicts["identity"] == "UNVERIFIED"
    assert document["bundle"] == f"hf:org/tiny@{MODEL_COMMIT}"
    place = cache / FOLDER
    assert below(place) == below(built.bundle)
    assert not any(path.is_symlink() for path in place.rglob("*"))
    assert sorted(path.name for path in place.iterdir()) == ["dataset", "model"]
    assert f"v0.1, commit {MODEL_COMMIT}" in done.stderr
    assert "bytes are free" in done.stderr


def test_what_lies_there_is_not_fetched_again(hub, cache):
    some = ("model/*", "dataset/tokens/**")
    locate(cache).fetch(*some)
    here = below(cache / FOLDER)
    assert hub.fetched() == here
    gone = cache / FOLDER / "model" / "config.json"
    gone.unlink()
    hub.requests.clear()
    locate(cache).fetch(*some)
    assert hub.fetched() == {"model/config.json"}
    assert below(cache / FOLDER) == here


def test_a_download_that_breaks_off_goes_on_where_it_was(hub, cache):
    model = hub.repositories["models/org/tiny"]
    data = model.files.pop("LICENSE")
    model.listed["LICENSE"] = (len(data), None)
    with pytest.raises(BundleError, match="lists the file and does not have it"):
        locate(cache).fetch("model/*")
    kept = below(cache / FOLDER)
    assert "model/LICENSE" not in kept
    assert below(cache) == {f"{FOLDER}/{path}" for path in kept} | {f"{FOLDER}.lock"}
    model.files["LICENSE"] = data
    hub.requests.clear()
    locate(cache).fetch("model/*")
    assert "model/LICENSE" in hub.fetched()
    assert hub.fetched() & kept == set()


def test_one_failure_ends_all_downloads(hub, cache, monkeypatch):
    found, begun, ended = locate(cache, dataset="none"), threading.Event(), []

    def download(repository, path, directory, counter):
        if path == "LICENSE":
            assert begun.wait(60)
            raise BundleError("broken off")
        begun.set()
        try:
            while True:
                counter().update(0)
                time.sleep(0.01)
        finally:
            ended.append(path)

    monkeypatch.setattr("openwright.hub_files.download", download)
    with pytest.raises(BundleError, match="broken off"):
        found.fetch("model/LICENSE", "model/NOTICE", "model/config.json")
    assert "NOTICE" in ended or "config.json" in ended
    assert below(found.path) == {"model/manifest.json"}


def test_two_processes_do_not_fetch_a_bundle_at_once(hub, cache, capfd):
    found = locate(cache, dataset="none")
    with (cache / f"{FOLDER}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.2, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        found.fetch("model/LICENSE")
    assert "waiting for it" in capfd.readouterr().err
    assert (found.path / "model" / "LICENSE").is_file()


def test_without_its_dataset_nothing_is_said_of_the_data(hub, built, cache, capfd):
    del hub.repositories[f"datasets/org/{DATASET_NAME}"]
    shutil.copytree(built.bundle / "model", cache / FOLDER / "model")
    assert cli.invoke(["verify", "hf:org/tiny", "--cache", str(cache), "--json"]) == 3
    captured = capfd.readouterr()
    checks = json.loads(captured.out)["checks"]
    assert {check["verdict"] for check in checks} == {"PASS", "UNVERIFIED"}
    verdicts = {check["name"]: check for check in checks}
    for name in ("dataset binding", "documents", "texts"):
        assert verdicts[name]["verdict"] == "UNVERIFIED"
    assert "the dataset is not here" in verdicts["texts"]["detail"]
    assert f"hf:org/{DATASET_NAME}" in captured.err
    with pytest.raises(BundleError, match="the dataset is not here"):
        needs.fetch_for_planning(locate(cache))
    with pytest.raises(BundleError, match="no such repository"):
        needs.fetch_everything(locate(cache, dataset="hf:org/other"), is_lone_allowed=True)


def test_dataset_none_asks_for_no_dataset(hub, cache):
    locate(cache, dataset="none").fetch("model/LICENSE", "dataset/**", is_lone_allowed=True)
    assert hub.fetched() == {"model/manifest.json", "model/LICENSE"}
    assert not [path for _, path in hub.requests if "/datasets/" in path]


def test_a_dataset_by_another_name_is_taken_if_it_is_the_bound_one(hub, cache):
    hub.repositories["datasets/else/data"] = hub.repositories.pop(f"datasets/org/{DATASET_NAME}")
    found = locate(cache, dataset="hf:else/data@main")
    found.fetch("dataset/tokens/**")
    assert found.argument == f"hf:org/tiny@{MODEL_COMMIT} --dataset hf:else/data@main --cache {cache}"
    assert (found.path / "dataset" / "tokens" / "tokens.json").is_file()


def test_another_dataset_is_refused(hub, cache):
    dataset = hub.repositories[f"datasets/org/{DATASET_NAME}"]
    manifest = json.loads(dataset.files["manifest.json"])
    dataset.files["manifest.json"] = json.dumps(manifest).encode()
    found = locate(cache)
    with pytest.raises(BundleError, match="not the dataset of this model") as caught:
        found.fetch("dataset/tokens/**")
    assert "--dataset" in caught.value.next_command
    assert not (found.path / "dataset" / "manifest.json").exists()


# ---- only what is needed --------------------------------------------------------------------------------------------

ROOTS = {"model/manifest.json", "dataset/manifest.json", "model/README.md"}


def shards_of(bundle, *splits):
    tokens = json.loads((bundle / "dataset" / "tokens" / "tokens.json").read_text())
    return {
        f"dataset/{file['path']}"
        for split in splits
        for source in tokens["splits"][split]["sources"]
        for shard in source["shards"]
        for file in shard["files"].values()
    }


def test_inspect_fetches_order_tokens_and_rows(hub, built, cache, capfd):
    arguments = ["--in", "hf:org/tiny", "--cache", str(cache), "--json"]
    assert cli.invoke(["inspect", "step", "1", *arguments]) == 0
    step = json.loads(capfd.readouterr().out)
    expected = ROOTS | {"dataset/tokens/tokens.json", "dataset/corpus.json"}
    expected |= {f"dataset/documents/{path.name}" for path in (built.bundle / "dataset" / "documents").iterdir()}
    expected |= {f"model/training/pretrain/{name}" for name in ("ledger.jsonl", "recipe.json")}
    expected |= shards_of(built.bundle, "train")
    assert hub.fetched() == expected | {"model/tokenizer.json"}
    document_id = step["windows"][0]["documents"][0]["document_id"]
    assert cli.invoke(["inspect", "document", document_id, *arguments]) == 0
    document = json.loads(capfd.readouterr().out)["document"]
    assert document["steps"]
    assert document["conversation_steps"].keys() == {"sft"}
    expected |= {f"model/training/sft/{name}" for name in ("ledger.jsonl", "recipe.json")}
    expected |= {f"dataset/conversations/{path.name}" for path in (built.bundle / "dataset/conversations").iterdir()}
    expected |= shards_of(built.bundle, "sft")
    assert hub.fetched() == expected | {"model/tokenizer.json"}


def test_compare_fetches_records_and_no_weights(hub, built, cache, capfd):
    assert cli.invoke(["compare", "hf:org/tiny", str(built.bundle), "--cache", str(cache), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["comparison"]
    assert found["steps"]["num_equal"] == found["steps"]["shared"][1]
    assert found["weights"]["equal"]
    assert found["weights"]["relative_distance"] is None, "the weights of one are not here"
    records = {f"model/training/pretrain/{name}" for name in ("ledger.jsonl", "recipe.json")}
    assert hub.fetched() == records | {"model/manifest.json", "model/evaluation/results.json"}


def test_reproduce_fetches_one_checkpoint_and_what_the_replay_is_compared_with(hub, built, cache, monkeypatch, capfd):
    seen = []

    def run_replays(plan, *_):
        (segment,) = plan.segments
        here = below(segment.checkpoint.parent)
        seen.append({path for path in here if not path.endswith("checkpoint.json")})
        return [
            SimpleNamespace(
                check="replay", name="r", verdict="PASS", detail="", where="", divergence=None, judgement=None
            )
        ]

    monkeypatch.setattr("release.reproduce.run_replays", run_replays)
    monkeypatch.setattr("release.replay_report.replay_report", lambda bundle, results: {})
    arguments = ["reproduce", "hf:org/tiny", "--cache", str(cache), "--step", "3:3", "--yes", "--json"]
    assert cli.invoke(arguments) == 0, capfd.readouterr().err
    fetched = hub.fetched()
    assert json.loads(capfd.readouterr().out)["bundle"] == f"hf:org/tiny@{MODEL_COMMIT}"
    assert {path.split("/")[0] for path in seen[0]} == {"step-00000002", "step-00000003"}
    assert {path for path in fetched if path.endswith(".safetensors")} == {
        f"model/checkpoints/pretrain/{path}" for path in seen[0] if path.endswith(".safetensors")
    }
    assert {path for path in fetched if path.startswith("dataset/tokens/")} == {
        "dataset/tokens/tokens.json"
    } | shards_of(built.bundle, "train", "heldout")
    assert {path.split("/")[1] for path in fetched if path.startswith("dataset/")} == {
        "manifest.json", "tokens", "tokenizer",
    }  # fmt: skip
    assert "model/code/CODE.json" in fetched
    assert not any(path.startswith("model/evaluation/") for path in fetched)


def test_a_replay_of_fine_tuning_needs_its_base(hub, cache):
    found = locate(cache)
    found.fetch("model/training/**", "model/checkpoints/*/*/checkpoint.json", "dataset/tokens/tokens.json")
    checkpoint = resumable_checkpoints(found.path, "sft")[0]
    assert not (checkpoint / "model.safetensors").exists()
    needs.fetch_for_replay(found, SimpleNamespace(segments=[Segment("sft", checkpoint, 1, 1)]))
    assert (checkpoint / "model.safetensors").is_file()
    assert (found.path / "model" / "checkpoints" / "pretrain" / "step-00000004" / "model.safetensors").is_file()


def test_malformed_records_are_no_traceback(hub, cache):
    found = locate(cache)
    found.fetch("model/training/**", "dataset/tokens/tokens.json")
    recipe = found.path / "model" / "training" / "pretrain" / "recipe.json"
    size_bytes = recipe.stat().st_size
    for text in ("{}", "[]", '{"data": {"split": "none"}}', '{"data": {"split": []}}'):
        recipe.write_text(text.ljust(size_bytes))  # of the same size, so that it is not fetched again
        with pytest.raises(BundleError) as refused:
            needs.fetch_for_inspection(found, "pretrain", with_text=False)
        assert "recipe.json" in refused.value.where


def test_a_branch_needs_records_and_one_checkpoint(hub, cache):
    found = locate(cache)
    needs.fetch_for_branch(found, "pretrain", 2)
    assert {path.split("/")[3] for path in hub.fetched() if path.endswith(".safetensors")} == {"step-00000002"}
    assert not any(path.startswith("dataset/") for path in hub.fetched())


def test_a_notebook_reads_the_records(hub, cache):
    bundle = open_bundle("hf:org/tiny@v0.1", cache)
    assert bundle.training_stages == ["pretrain", "sft"]
    assert next(bundle.ledger("pretrain"))["kind"] == "start"
    assert bundle.results
    assert bundle.verdict["results"]
    assert not any(path.endswith((".safetensors", ".py")) or path.startswith("dataset/") for path in hub.fetched())


# ---- what a Hub, or a stranger's repository, may not do --------------------------------------------------------------


def test_a_file_that_no_manifest_lists_fails(hub, cache):
    hub.repositories["models/org/tiny"].files["pytorch_model.bin"] = b"PK"
    found = locate(cache, dataset="none")
    (check,) = found.checks()
    assert check.verdict == "FAIL"
    assert "pytorch_model.bin" in check.detail
    found.fetch("model/*")
    assert "model/config.json" in hub.fetched()
    assert "model/pytorch_model.bin" not in hub.fetched()


def test_other_bytes_are_refused_and_not_kept(hub, cache):
    model = hub.repositories["models/org/tiny"]
    model.files["LICENSE"] = model.files["LICENSE"][:-1] + b"!"
    found = locate(cache)
    with pytest.raises(BundleError, match="LICENSE: sha256") as caught:
        found.fetch("model/*")
    assert "as listed" in caught.value.expected
    assert not (found.path / "model" / "LICENSE").exists()


@pytest.mark.parametrize("told", ["size", "sha256"])
def test_what_the_hub_lists_otherwise_is_refused_before_anything_is_fetched(hub, cache, told):
    model = hub.repositories["models/org/tiny"]
    size = len(model.files["model.safetensors"])
    model.listed["model.safetensors"] = (size + 1, "0" * 64) if told == "size" else (size, "0" * 64)
    found = locate(cache, dataset="none")
    hub.requests.clear()
    with pytest.raises(BundleError, match=r"model\.safetensors.*(bytes|sha256)"):
        needs.fetch_everything(found, is_lone_allowed=True)
    assert hub.requests == []


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\x", "a\x1b[2J", "a/./b", "x/" * 40 + "x", "n" * 300])
def test_names_that_would_lead_elsewhere_are_refused(hub, cache, path):
    hub.repositories["models/org/tiny"].listed[path] = (1, "0" * 64)
    with pytest.raises(BundleError, match="file with the name") as caught:
        locate(cache)
    assert "\x1b" not in str(caught.value)
    assert not cache.exists()


def test_a_manifest_with_such_names_is_refused(hub, cache):
    model = hub.repositories["models/org/tiny"]
    manifest = json.loads(model.files["manifest.json"])
    manifest["files"][0]["path"] = "../x"
    model.files["manifest.json"] = json.dumps(manifest).encode()
    with pytest.raises(BundleError, match=r"not a bundle.*\.\./x"):
        locate(cache)


def test_what_does_not_fit_the_disk_is_not_begun(hub, cache, monkeypatch):
    found = locate(cache, dataset="none")
    hub.requests.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(BundleError, match="1,000 bytes free") as caught:
        needs.fetch_everything(found, is_lone_allowed=True)
    assert "--cache" in caught.value.next_command
    assert hub.requests == []


def test_a_cache_that_cannot_be_written_is_told(hub, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no directory to write to") as caught:
        locate(tmp_path / "file")
    assert "--cache DIR" in caught.value.next_command


def refused(status, code=""):
    return lambda hub: setattr(hub.repositories["models/org/tiny"], "refuse", (status, code))


@pytest.mark.parametrize(
    ("arrange", "text", "told", "following"),
    [
        (lambda hub: None, "hf:org/absent", "no such repository", "look at its name"),
        (lambda hub: None, "hf:org/tiny@v9", "no such revision", ""),
        (refused(403, "GatedRepo"), "hf:org/tiny", "gated", "hf auth login"),
        (refused(401, "RepoNotFound"), "hf:org/tiny", "no such repository, or it is private", "hf auth login"),
        (refused(401), "hf:org/tiny", "HTTP status 401", "hf auth login"),
        (refused(403), "hf:org/tiny", "HTTP status 403", "hf auth login"),
        (refused(418), "hf:org/tiny", "HTTP status 418", "same command again"),
        (lambda hub: hub.repositories["models/org/tiny"].files.pop("manifest.json"), "hf:org/tiny", "not a bundle", ""),
    ],
)
def test_what_the_hub_refuses_is_told(hub, cache, arrange, text, told, following):
    arrange(hub)
    with pytest.raises(BundleError) as caught:
        locate(cache, text)
    assert told in caught.value.found
    assert following in caught.value.next_command
    assert "hf:org/" in caught.value.where


def test_a_hub_that_may_not_be_asked_or_does_not_answer(hub, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BundleError, match="HF_HUB_OFFLINE is set"):
        locate(cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BundleError, match="cannot be reached"):
        locate(cache)


def test_an_answer_of_another_shape_is_no_traceback(hub, cache):
    hub.repositories["models/org/tiny"].commit = "not-a-commit"
    with pytest.raises(BundleError, match="not one of a Hub"):
        locate(cache)


@pytest.mark.parametrize(
    "text", ["hf:", "hf:tiny", "hf:a/b/c", "hf:a/b@", "hf:a/b@x@y", "hf:a/b c", "hf:../x", "hf:a/-x-"]
)
def test_names_that_are_none(hub, cache, text):
    with pytest.raises(ConfigError) as caught:
        locate(cache, text)
    assert "hf:ORG/NAME" in caught.value.expected
    assert hub.requests == []


def test_names_in_words():
    assert parse_name("hf:org/tiny@refs/pr/1") == HubName("org/tiny", "refs/pr/1")
    assert str(parse_name("hf:org/tiny")) == "hf:org/tiny"


def test_a_dataset_beside_a_directory_and_a_signature_on_the_hub_are_refused(built, tmp_path, capsys):
    assert cli.invoke(["verify", str(built.bundle), "--dataset", "hf:a/b"]) == 2
    assert "hf:ORG/NAME as the bundle" in capsys.readouterr().err
    assert cli.invoke(["release", "sign", "hf:org/tiny", "--key", str(tmp_path / "key.pem")]) == 2
    assert "the directory of your own bundle" in capsys.readouterr().err
