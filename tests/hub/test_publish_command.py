# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m training_concept.publish` from a folder to a tagged commit that loads elsewhere, and what it refuses."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from configuration_concept import AUTO_MAP
from evaluation_concept.errors import exit_code
from training_concept import publish
from training_concept.publishing import repository, validation
from training_concept.publishing.card import name_card, write_minimal_card
from training_concept.publishing.contents import check_secret, files_in, lacks_code, staged, survey
from training_concept.publishing.patterns import is_outdated
from training_concept.publishing.validation import validate

from .conftest import ROOT, RunPython
from .fake_hub import FakeHub, Fault, Repository, StoredFile
from .test_save import SOURCES

COMMAND = ("-m", "training_concept.publish")
# What is left of a run, beside what belongs to the model.
LEFT_OVERS = ("run.json", ".hidden", "checkpoint-2/optimizer.pt", "runs/events.out", "cells/sst2/cell.json")
LOAD = """
import sys
from transformers import AutoModelForMaskedLM, AutoTokenizer
repo_id, revision, *code_revisions = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(repo_id, revision=revision)
for code_revision in (None, *code_revisions):
    pinned = {"revision": revision, "code_revision": code_revision}
    model = AutoModelForMaskedLM.from_pretrained(repo_id, trust_remote_code=True, **pinned)
    logits = model(**tokenizer("The river keeps its name.", return_tensors="pt")).logits
    print(float(logits.double().sum()), getattr(sys.modules[type(model).__module__], "CHANGED", False))
"""


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_checkpoint(saved: Path, folder: Path) -> Path:
    """A masked language model in the output folder of a run."""
    shutil.copytree(saved / "mlm", folder)
    for name in LEFT_OVERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}", encoding="utf-8")
    (folder / "all_results.json").write_text('{"eval_loss": 1}', encoding="utf-8")
    (folder / "README.md").write_text(
        '---\nlicense: mit\n---\n\n# tiny\n\n```python\npipeline("fill-mask", model="tiny")\n```\n', encoding="utf-8"
    )
    return folder


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    return make_checkpoint(saved, tmp_path / "tiny")


class Published:
    """A folder that was published as v1, and what the command said."""

    def __init__(self, folder: Path, hub: FakeHub, run_python: RunPython) -> None:
        self.folder, self.hub, self.before = folder, hub, read(folder)
        environment = hub.environment(folder.parent / "cache")
        self.ended = run_python(*COMMAND, folder, "tiny", "--tag", "v1", cwd=ROOT, **environment)


@pytest.fixture(scope="module")
def published(saved: Path, run_python: RunPython, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = make_checkpoint(saved, tmp_path_factory.mktemp("publish") / "tiny")
    with FakeHub() as hub:
        yield Published(folder, hub, run_python)


def test_a_checkpoint_becomes_one_private_tagged_commit(published):
    assert published.ended.returncode == 0, published.ended.stdout
    repository = published.hub.repositories["someone/tiny"]
    assert repository.private
    assert repository.messages == ["initial commit", "Publish v1"]
    assert repository.tags["v1"] == repository.branches["main"]
    assert published.ended.stdout.splitlines()[-1].endswith(f"/someone/tiny/commit/{repository.tags['v1']}")


def test_what_belongs_to_the_model_travels_and_nothing_else(published):
    files = published.hub.files("someone/tiny")
    expected = {name: data for name, data in published.before.items() if name not in LEFT_OVERS}
    assert files.keys() == expected.keys()
    assert {name for name in files if files[name] != expected[name]} == {"README.md"}
    assert all(name in published.ended.stdout for name in files)
    assert "Left behind: .hidden, cells/, checkpoint-2/, run.json, runs/." in published.ended.stdout


def test_the_card_is_kept_and_calls_the_model_by_its_repository(published):
    card = published.hub.files("someone/tiny")["README.md"].decode()
    assert "# someone/tiny\n" in card
    assert 'model="someone/tiny"' in card
    assert ModelCard(card).data.license == "mit"


def test_the_folder_stays_as_it_was_and_the_token_is_not_shown(published):
    assert read(published.folder) == published.before
    assert published.hub.token not in published.ended.stdout


def test_weights_and_code_load_elsewhere_each_from_its_revision(published, samples, run_python, tmp_path):
    repository = published.hub.repositories["someone/tiny"]
    files = dict(repository.commits[repository.tags["v1"]])
    code = files["modeling_concept.py"]
    files["modeling_concept.py"] = code._replace(content=code.content + b"\nCHANGED = True\n")
    files["model.safetensors"] = StoredFile(b"damaged", lfs=True)
    changed = repository.commit("changed", "A later version", files)
    environment = published.hub.environment(tmp_path / "cache")
    loaded = run_python("-I", "-c", LOAD, "someone/tiny", "v1", "changed", changed, **environment)
    logits = samples.mlm(**samples.tokenizer("The river keeps its name.", return_tensors="pt")).logits
    expected = logits.double().sum().item()
    assert loaded.stdout.splitlines()[-3:] == [f"{expected} False", f"{expected} True", f"{expected} True"]


def test_what_is_published_over_an_adapter_loads(saved, samples, hub, run_python, tmp_path):
    # With adapter_config.json there, transformers would look for the base; added tokens would not fit.
    outdated = {
        "adapter_config.json": '{"peft_type": "LORA", "base_model_name_or_path": "someone/base"}',
        "adapter_model.safetensors": "weights",
        "added_tokens.json": '{"<old>": 299}',
        "modeling_old.py": "",
        "eval_results.json": "{}",
    }
    kept = {"LICENSE": "MIT", "README.md": "![](curve.png)", "curve.png": "", "last-checkpoint/config.json": "{}"}
    existing = hub.repositories["someone/tiny"] = Repository()
    files = {name: StoredFile(text.encode(), lfs=False) for name, text in (outdated | kept).items()}
    existing.commit("main", "an adapter", files)
    environment = hub.environment(tmp_path / "cache")
    ended = run_python("-m", "tests.hub.commit_files", saved / "mlm", "someone/tiny", cwd=ROOT, **environment)
    assert ended.returncode == 0, ended.stdout
    assert hub.files("someone/tiny").keys() == read(saved / "mlm").keys() | kept.keys()
    assert existing.messages == ["an adapter", "Publish"]
    loaded = run_python("-I", "-c", LOAD, "someone/tiny", "main", **environment)
    assert loaded.returncode == 0, loaded.stdout


@pytest.mark.slow  # the client asks for half a minute before it gives up
@pytest.mark.parametrize(
    "fault",
    [Fault("POST .*/commit/", cut_after=100, dies=True), Fault("PUT /lfs/", cut_after=10_000, dies=True)],
    ids=["at the commit", "in mid-file"],
)
def test_the_same_command_ends_what_a_server_that_died_left(checkpoint, hub, run_python, tmp_path, fault):
    before, environment = read(checkpoint), hub.environment(tmp_path / "cache")
    hub.inject(fault)
    command = (*COMMAND, checkpoint, "someone/tiny", "--tag", "v1")
    broken = run_python(*command, cwd=ROOT, **environment)
    assert broken.returncode == 2
    assert "someone/tiny: the Hub at" in broken.stdout.splitlines()[-1]
    there = hub.repositories["someone/tiny"]
    assert (there.messages, there.tags) == (["initial commit"], {})
    hub.restart()
    left = 1 - len(hub.uploads)
    sent = hub.count("PUT /lfs/")
    again = run_python(*command, cwd=ROOT, **environment)
    assert again.returncode == 0, again.stdout
    assert hub.count("PUT /lfs/") - sent == left
    assert there.messages == ["initial commit", "Publish v1"]
    assert there.tags["v1"] == there.branches["main"]
    files = hub.files("someone/tiny", "v1")
    assert {name: before[name] for name in files if name != "README.md"}.items() <= files.items()
    assert read(checkpoint) == before


def test_figures_go_with_their_card():
    assert not is_outdated("curve.png", ["config.json"])
    assert is_outdated("curve.png", ["config.json", "README.md"])


def test_a_dry_run_asks_for_nothing(checkpoint, hub, in_this_process, monkeypatch):
    monkeypatch.setattr(publish, "Repository", None)
    assert exit_code(publish.main, [str(checkpoint), "someone/tiny", "--dry_run"]) == 0
    assert not hub.requests


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        ("optimizer.pt", "optimizer.pt (pickles, which run code when they are loaded). Remove them, or name them in"),
        ("training_args.bin", "training_args.bin (pickles"),
        ("notes.docx", "notes.docx (no part of a checkpoint). Remove them, or name them in --leave_out or --include."),
        ("onnx/model.onnx", "onnx/ (no part of a checkpoint)"),
    ],
)
def test_what_is_no_part_of_a_checkpoint_is_refused(checkpoint, capsys, stray, message):
    (checkpoint / stray).parent.mkdir(exist_ok=True)
    (checkpoint / stray).write_text("")
    before = read(checkpoint)
    assert exit_code(publish.main, [str(checkpoint), "someone/tiny"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert read(checkpoint) == before


def test_a_link_that_leads_nowhere_is_named_and_not_to_be_left_out(checkpoint, capsys):
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "base.safetensors")
    (checkpoint / "model.safetensors").symlink_to("../base.safetensors")
    assert "model.safetensors" in survey(checkpoint).travels
    (checkpoint.parent / "base.safetensors").unlink()
    assert exit_code(publish.main, [str(checkpoint), "someone/tiny"]) == 2
    error = capsys.readouterr().err
    assert "model.safetensors is a link to ../base.safetensors, which is not there" in error
    assert "--leave_out" not in error


def test_a_checkpoint_of_the_trainer_is_told_the_command_that_publishes_it(checkpoint, capsys):
    for name in ("optimizer.pt", "rng_state.pth", "my notes.txt"):
        (checkpoint / name).write_text("")
    given = [str(checkpoint), "someone/tiny", "--tag", "v1", "--public", "--leave_out", "all_results.json"]
    assert exit_code(publish.main, given) == 2
    _, _, ready = capsys.readouterr().err.strip().rpartition("To leave them out: python -m training_concept.publish ")
    args = publish.make_parser().parse_args(shlex.split(ready))
    assert (args.repo_id, args.tag, args.public) == ("someone/tiny", "v1", True)
    contents = survey(args.checkpoint, include=args.include, leave_out=args.leave_out)
    assert not contents.strays
    assert "all_results.json" in contents.stays


def test_name_token_and_hub_are_looked_at_first(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(publish, "validate", None)
    monkeypatch.setattr(publish, "check_access", None)
    assert exit_code(publish.main, [str(checkpoint), "bad repo/x/y"]) == 2
    assert "'bad repo/x/y'" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(publish, "validate", None)
    monkeypatch.setattr(repository, "get_token", lambda: None)
    assert exit_code(publish.main, [str(checkpoint), "tiny"]) == 2
    assert "tiny: there is no access token: run `hf auth login` or set HF_TOKEN." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["version 1", "v1..2", "v1.lock", "-v1", "v1/", "v~1", "", "@", "a/.b"])
@pytest.mark.parametrize("flag", ["--tag", "--revision"])
def test_a_name_that_git_refuses_is_refused_before_anything_is_uploaded(checkpoint, monkeypatch, capsys, flag, name):
    monkeypatch.setattr(publish, "check_access", None)
    assert exit_code(publish.main, [str(checkpoint), "someone/tiny", f"{flag}={name}"]) == 2
    assert f"{name!r} is no name that Git lets a branch or tag have." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v1.0", "release/2026-11", "v1.0+cpu", "größe", "v1@2"])
def test_other_names_are_not(name):
    repository.check_revision(name)


def test_what_is_named_is_left_out_or_included(checkpoint):
    for name in ("optimizer.pt", "notes.docx", "onnx/model.onnx", "onnx/model.pt"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("")
    found = survey(checkpoint, include=["notes.*", "onnx/*.onnx"], leave_out=["*.pt", "all_results.json"])
    assert not found.strays
    assert {"notes.docx", "onnx/model.onnx"} <= found.travels.keys()
    assert not {"optimizer.pt", "onnx/model.pt", "all_results.json"} & found.travels.keys()
    with pytest.raises(ValueError, match=r"optimizer\.pt may run code when it is loaded"):
        survey(checkpoint, include=["*.pt"])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "there is no config.json"),
        ("model.safetensors", "no weights in safetensors files"),
        ("tokenizer*", "no tokenizer"),
    ],
)
def test_what_is_no_checkpoint_is_refused(checkpoint, missing, message):
    for path in checkpoint.glob(missing):
        path.unlink()
    with pytest.raises(ValueError, match=message):
        survey(checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config.json cannot be read: Expecting value"),
        ("[" * 100_000, "config.json cannot be read: "),
        ("[]", "config.json holds no configuration."),
        ('{"model_type": "concept_encoder", "auto_map": ["a.B"]}', "config.json has an auto_map that is no table"),
        ('{"model_type": "concept_encoder", "auto_map": {"AutoModel": ["a.B"]}}', "config.json has an auto_map that"),
    ],
)
def test_what_is_no_configuration_is_refused_in_a_line(checkpoint, capsys, content, message):
    (checkpoint / "config.json").write_text(content, encoding="utf-8")
    assert exit_code(publish.main, [str(checkpoint), "someone/tiny", "--dry_run"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert len(error) == 1


def test_the_users_token_is_not_published(checkpoint):
    (checkpoint / "training_args.json").write_text('{"hub_token": "hf_mine"}')
    with pytest.raises(ValueError, match=r"training_args.json holds your access token"):
        check_secret(files_in(checkpoint), "hf_mine")
    check_secret(files_in(checkpoint), None)


def test_nor_is_anything_that_looks_like_a_token(checkpoint):
    token = "hf_" + "aB3" * 11 + "x"
    (checkpoint / "training_args.json").write_text(f'{{"url": "https://user:{token}@hub"}}')
    with pytest.raises(ValueError, match=r"training_args.json holds what looks like an access token \(hf_aB3\.\.\.\)"):
        check_secret(files_in(checkpoint), None)


@pytest.mark.parametrize("lost", ["auto_map", "modeling_concept.py", "attention.py"])
def test_code_that_is_missing_is_added_and_the_folder_left_alone(checkpoint, lost):
    config = json.loads((checkpoint / "config.json").read_text())
    if lost == "auto_map":
        del config["auto_map"]
        (checkpoint / "config.json").write_text(json.dumps(config))
    else:
        (checkpoint / lost).unlink()
    before = read(checkpoint)
    assert lacks_code(checkpoint)
    with staged(survey(checkpoint).travels) as folder:
        assert not lacks_code(folder)
        assert {path.name: path.read_bytes() for path in folder.glob("*.py")} == SOURCES
        assert json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
    assert read(checkpoint) == before


def test_code_that_is_there_is_kept(checkpoint):
    (checkpoint / "attention.py").write_text((checkpoint / "attention.py").read_text() + "# mine\n")
    with staged(survey(checkpoint).travels) as folder:
        assert read(folder) == {name: data for name, data in read(checkpoint).items() if name not in LEFT_OVERS}
    assert not folder.exists()


def test_folders_of_this_machine_are_called_by_their_last_names(checkpoint, tmp_path):
    (tmp_path / "my base").mkdir()
    (tmp_path / "corpus").mkdir()
    write = {
        "README.md": f"---\nbase_model: /home/me\n---\n`{tmp_path}/my base`, tuned on {tmp_path}/corpus, see\n"
        "[it](/datasets/glue/rte) or https://host/home/me, and/or run `#!/usr/bin/env python`.\n",
        "results.json": json.dumps({"model": f"{tmp_path}/my base", "tasks": [{"from": "/home/me", "all": "/"}]}),
        "training_args.json": json.dumps({"command": f"python {tmp_path}/corpus", "output": 'C:\\é\\o"ut'}),
        "trainer_state.json": "{",
        "special_tokens_map.json": json.dumps({"additional": ["/home/me"]}),
    }
    for name, text in write.items():
        (checkpoint / name).write_text(text)
    before = read(checkpoint)
    with staged(survey(checkpoint).travels) as folder:
        shown = {name: data.decode() for name, data in read(folder).items() if name in write}
        others = {name: data for name, data in read(folder).items() if name not in write}
    assert shown["README.md"] == (
        "---\n---\n`my base`, tuned on corpus, see\n"
        "[it](/datasets/glue/rte) or https://host/home/me, and/or run `#!/usr/bin/env python`.\n"
    )
    assert json.loads(shown["results.json"]) == {"model": "my base", "tasks": [{"from": "me", "all": "/"}]}
    assert json.loads(shown["training_args.json"]) == {"command": "python corpus", "output": 'o"ut'}
    assert [shown[name] for name in ("trainer_state.json", "special_tokens_map.json")] == [*write.values()][3:]
    assert others.items() <= before.items()
    assert read(checkpoint) == before


def test_files_that_are_staged_beside_outlive_the_originals(checkpoint):
    with staged(survey(checkpoint).travels, beside=checkpoint.parent) as folder:
        expected = (checkpoint / "model.safetensors").read_bytes()
        shutil.rmtree(checkpoint)
        assert (folder / "model.safetensors").read_bytes() == expected
    assert not folder.parent.exists()


def lose_weight(weights: dict[str, torch.Tensor]) -> None:
    del weights["head.norm.weight"]


def add_weight(weights: dict[str, torch.Tensor]) -> None:
    weights["tail.weight"] = torch.zeros(2)


def make_infinite(weights: dict[str, torch.Tensor]) -> None:
    weights["head.norm.weight"][0] = float("inf")


def explode(weights: dict[str, torch.Tensor]) -> None:
    weights["head.norm.weight"][:] = 1e4


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fresh processes do is done here, in a tenth of the time."""
    monkeypatch.setattr(validation, "_run_alone", lambda script, folder, failure: script.main(str(folder)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_weight, "weights are missing: head.norm.weight"),
        (add_weight, "weights that no part of the model takes: tail.weight"),
        (make_infinite, "weights are NaN or infinite: head.norm.weight"),
        (explode, "weights bounded: largest"),
    ],
)
def test_what_is_not_sound_is_not_published(checkpoint, in_this_process, damage, message):
    weights = load_file(checkpoint / "model.safetensors")
    damage(weights)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        validate(checkpoint)


def test_a_tokenizer_of_another_model_is_not_published(checkpoint, in_this_process):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"the tokenizer has .* tokens, the model"):
        validate(checkpoint)


SPY = """
import json, os, pathlib, sys
from huggingface_hub import constants, get_token
seen = {"token": get_token() or os.environ.get("HF_TOKEN"), "offline": constants.HF_HUB_OFFLINE, "id": os.getpid()}
with open(FILE, "a") as file:
    file.write(json.dumps(seen) + chr(10))
"""


def test_the_code_of_a_checkpoint_runs_where_no_token_is(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    path, seen = checkpoint / "modeling_concept.py", tmp_path / "seen.jsonl"
    path.write_text(path.read_text() + SPY.replace("FILE", repr(str(seen))))
    assert any("weights bounded" in line for line in validate(checkpoint))
    runs = [json.loads(line) for line in seen.read_text().splitlines()]
    assert len({run["id"] for run in runs} - {os.getpid()}) == len({run["id"] for run in runs}) == 2
    assert {(run["token"], run["offline"]) for run in runs} == {(None, True)}


def test_code_that_needs_this_repository_is_not_published(checkpoint):
    path = checkpoint / "modeling_concept.py"
    path.write_text("import evaluation_concept\n" + path.read_text())
    with pytest.raises(ValueError, match=r"does not load by itself: .*evaluation_concept"):
        validate(checkpoint)


@pytest.mark.parametrize(
    ("code", "longest_seconds", "message"),
    [
        ("raise SystemExit(0)", 600, "its code ended the process"),
        ("import atexit; atexit.register(print, 'bye')", 600, "or wrote after its end"),
        ("import time; time.sleep(600)", 1, "it took more than 1 seconds"),
    ],
)
def test_code_that_ends_or_holds_the_process_is_refused(checkpoint, monkeypatch, code, longest_seconds, message):
    path = checkpoint / "modeling_concept.py"
    path.write_text(f"{code}\n{path.read_text()}")
    monkeypatch.setattr(validation, "LONGEST_SECONDS", longest_seconds)
    with pytest.raises(ValueError, match=f"does not load by itself: .*{message}"):
        validate(checkpoint)


def test_classifiers_and_stock_models_are_published_too(saved, samples, in_this_process, tmp_path):
    assert "ViaDecoder" in validate(saved / "classifier")[0]
    widths = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=len(samples.tokenizer), **widths)).save_pretrained(tmp_path)
    samples.tokenizer.save_pretrained(tmp_path)
    assert "BertForMaskedLM" in validate(tmp_path)[0]


def test_a_checkpoint_without_a_card_gets_the_least(saved, tmp_path):
    for name, kind, auto_class in (
        ("mlm", "fill-mask", "AutoModelForMaskedLM"),
        ("classifier", "text-classification", "AutoModelForSequenceClassification"),
    ):
        folder = Path(shutil.copytree(saved / name, tmp_path / name))
        write_minimal_card(folder, "someone/x")
        card = ModelCard.load(folder / "README.md")
        assert card.data.pipeline_tag == kind
        assert f'{auto_class}.from_pretrained("someone/x", trust_remote_code=True)' in card.text
        assert "code_revision" in card.text


def test_a_card_with_a_title_of_its_own_keeps_it(tmp_path):
    text = "---\nlicense: mit\n---\n# Tiny, but mine\n\nA tiny thing. tiny\n"
    (tmp_path / "README.md").write_text(text)
    name_card(tmp_path, "tiny", "someone/tiny")
    assert (tmp_path / "README.md").read_text() == text
    (tmp_path / "README.md").write_text("---\n- a\nb: c\n---\n")
    with pytest.raises(ValueError, match=r"README\.md: its metadata"):
        name_card(tmp_path, "tiny", "someone/tiny")
