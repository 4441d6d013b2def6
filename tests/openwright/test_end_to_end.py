"""Every verb on a second config, in processes of its own: another model family, another seed, non-Latin text."""

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
from forge_signatures import Key

from openwright import cli
from openwright.inspection import Readings


def report(done):
    return json.loads(done.stdout)


def test_the_summary_tells_what_was_made(made):
    summary = made["summary"]
    assert set(made["artifacts"]) == {"corpus", "pretrain", "sft", "eval", "release"}
    assert [stage["model_type"] for stage in summary["stages"]] == ["llama", "llama"]
    assert {"pretrain", "sft", "unigram", "trigram", "gzip"} <= set(summary["heldout_bits_per_byte"])
    assert all(row["low"] <= row["value"] <= row["high"] for row in summary["evaluation"])
    assert Path(summary["page"]).is_file()
    assert not summary["dev"]


def test_a_second_run_makes_nothing_and_says_the_same(made, place, openwright):
    done = openwright("run", str(place / "второй"), "--artifacts", str(place / "artifacts"), "--json")
    assert done.returncode == 0, done.stderr
    assert report(done) == made
    assert done.stderr.count("already done") == 5


def test_an_untouched_bundle_verifies(made, bundle, openwright):
    digest = made["summary"]["manifest_digest"]
    done = openwright("verify", str(bundle), "--expect", digest, "--tokens", "all", "--json")
    assert [check for check in report(done)["checks"] if check["verdict"] == "FAIL"] == []
    assert done.returncode in (0, 3)
    assert report(done)["counts"]["PASS"] > 0


def test_another_manifest_digest_fails(bundle, openwright):
    done = openwright("verify", str(bundle), "--expect", "0" * 64, "--tokens", "none", "--json")
    assert done.returncode == 1
    assert report(done)["counts"]["FAIL"] > 0


def test_a_flipped_byte_fails_and_its_file_is_named(bundle, tmp_path, openwright):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    path = copy / "model" / "evaluation" / "results.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = openwright("verify", str(copy), "--tokens", "none", "--json")
    assert done.returncode == 1
    failed = [check for check in report(done)["checks"] if check["verdict"] == "FAIL"]
    assert any("results.json" in check["where"] + check["detail"] for check in failed)


def test_steps_replay_bit_for_bit(bundle, openwright):
    done = openwright("reproduce", str(bundle), "--stage", "pretrain", "--step", "5:6", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert [check["verdict"] for check in report(done)["checks"]] == ["PASS"]


def test_a_publisher_signs_and_a_stranger_attests_a_replay(bundle, tmp_path, openwright):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    publisher, stranger = Key(tmp_path, "publisher", password="секрет"), Key(tmp_path, "stranger")
    key = ["--key", str(publisher.private)]
    assert openwright("release", "sign", str(copy), *key, stdin="wrong\n").returncode == 2
    assert openwright("release", "sign", str(copy), *key, stdin="секрет\n").returncode == 0
    replayed = openwright("reproduce", str(copy), "--stage", "sft", "--step", "4:4", "--yes", "--json")
    (tmp_path / "report.json").write_text(replayed.stdout)
    done = openwright(
        *("attest", str(copy), "--key", str(stranger.private), "--report", str(tmp_path / "report.json"), "--json")
    )
    assert report(done)["key"] == stranger.fingerprint, done.stderr
    given = ["--key", str(publisher.public), "--attester", str(stranger.public)]
    done = openwright("verify", str(copy), *given, "--json")
    found = {check["name"]: check for check in report(done)["checks"]}
    assert [found[name]["verdict"] for name in ("identity", "signature", "attestations")] == ["PASS"] * 3
    assert (
        "1 attestation by 1 key, of which 1 you know; replayed by those, bitwise: sft steps 4-4"
        in (found["attestations"]["detail"])
    )


def test_steps_that_the_bundle_lacks_are_bad_usage(bundle, openwright):
    assert openwright("reproduce", str(bundle), "--step", "5:600").returncode == 2


def test_status_and_rescore_read_what_is_there(made, bundle, place, openwright, monkeypatch):
    done = openwright("status", str(place / "artifacts"), "--json")
    assert [(run["stage"], run["state"]) for run in report(done)["runs"]] == [
        ("pretrain", "finished"),
        ("sft", "finished"),
    ]
    monkeypatch.chdir(place)
    assert cli.invoke(["eval", "rescore", made["artifacts"]["eval"]["path"]]) == 0
    assert cli.invoke(["eval", "rescore", str(bundle)]) == 0


def test_the_bundle_is_rebuilt_from_the_newest_artifacts(made, place, openwright):
    done = openwright("release", "build", str(place / "второй"), "--artifacts", str(place / "artifacts"), "--json")
    assert done.returncode == 0, done.stderr
    assert report(done)["summary"]["content_digest"] == made["summary"]["content_digest"]


def test_a_statement_is_kept_beside_the_configs(made, bundle, tmp_path, openwright):
    needed = [rule for profile in made["summary"]["openness"]["profiles"] for rule in profile["statements_needed"]]
    assert needed
    (tmp_path / "release.yaml").touch()
    arguments = ["--bundle", str(bundle), "--name", "Олена", "--role", "lead", "--config-dir", str(tmp_path)]
    done = openwright("release", "statement", needed[0], *arguments, stdin="In our words: так, 是的.\n")
    assert done.returncode == 0, done.stderr
    assert "так" in (tmp_path / "statements" / f"{needed[0]}.yaml").read_text(encoding="utf-8")
    empty = openwright("release", "statement", needed[0], *arguments, stdin="\n")
    assert empty.returncode == 2


def test_steps_and_documents_find_one_another(bundle, openwright):
    windows = report(openwright("inspect", "step", "2", "--in", str(bundle), "--json"))["windows"]
    assert len(windows) == 4
    for window in windows:
        assert window["documents"]
        assert window["text"]
    document_id = windows[0]["documents"][0]["document_id"]
    found = report(openwright("inspect", "document", document_id[:16], "--in", str(bundle), "--json"))["document"]
    assert found["document_id"] == document_id
    assert found["source"] == windows[0]["source"]
    assert 2 in found["steps"]
    assert all(rule["kept"] for rule in found["rules"])
    assert {"min_num_words", "max_num_special_tokens"} <= {rule["rule"] for rule in found["rules"]}
    assert found["tokens"]["end"] - found["tokens"]["begin"] == found["num_tokens"]
    assert openwright("inspect", "document", "zz", "--in", str(bundle)).returncode == 2
    assert openwright("inspect", "step", "600", "--in", str(bundle)).returncode == 1


def test_a_passage_is_found_with_its_document_and_steps(bundle, tmp_path, openwright, capsys):
    document = report(openwright("inspect", "step", "2", "--in", str(bundle), "--json"))["windows"][0]["documents"][0]
    texts = pq.read_table(bundle / "dataset" / "text", columns=["document_id", "text"]).to_pylist()
    (text,) = [row["text"] for row in texts if row["document_id"] == document["document_id"]]
    arguments = ["--in", str(bundle), "--index", str(tmp_path), "--json"]
    found = report(openwright("inspect", "text", text, *arguments))["search"]
    assert found["num_places"] == 1
    (place,) = found["places"]
    assert (place["document_id"], place["byte"], place["tokens"][0]) == (document["document_id"], 0, 0)
    whole = report(openwright("inspect", "document", document["document_id"], *arguments[:2], "--json"))["document"]
    assert place["steps"]
    assert set(place["steps"]) <= set(whole["steps"])
    assert openwright("inspect", "text", "", *arguments).returncode == 2
    assert cli.invoke(["inspect", "text", "no such passage", *arguments[:-1]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 places in the text of pretraining"
    assert lines[1].startswith("not looked through: sft"), "what fine-tuning read is not in these places"


def test_rows_of_fine_tuning_name_the_documents_of_their_conversations(bundle, capsys):
    table = pq.read_table(bundle / "dataset" / "conversations").to_pylist()
    made_from = defaultdict(set)
    for row in table:
        made_from["".join("".join(turn["content"] for turn in row["messages"]).split())].add(row["document_id"])
    readings, seen = Readings(bundle, "sft"), defaultdict(set)
    for step in range(1, readings.order.num_steps + 1):
        for window in readings.step(step):
            (document,) = window["documents"]
            whole = next(text for text in made_from if text.startswith("".join(window["text"].split())))
            assert document["document_id"] in made_from[whole]
            seen[document["document_id"]].add(step)
    for ident in {row["document_id"] for row in table}:
        assert readings.conversation_steps(ident) == sorted(seen[ident])
    assert cli.invoke(["inspect", "document", next(iter(seen)), "--in", str(bundle)]) == 0
    told = ", ".join(map(str, sorted(seen[next(iter(seen))])))
    assert f"read in    sft steps, as conversations made from it: {told}" in capsys.readouterr().out.splitlines()


def test_the_steps_of_every_document_are_those_that_name_it(bundle):
    readings = Readings(bundle)
    seen = defaultdict(set)
    for step in range(1, readings.order.num_steps + 1):
        for window in readings.step(step):
            for document in window["documents"]:
                seen[document["document_id"]].add(step)
    assert seen
    for row in map(readings.lookup.index.row, range(readings.lookup.index.num_documents)):
        assert readings.document(row.document_id)["steps"] == sorted(seen[row.document_id])
