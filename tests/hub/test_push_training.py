# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`--push_to_hub` of the three scripts: what is in every commit, and that no upload that fails ends or harms a run."""

import json
import re
import shlex
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from huggingface_hub import ModelCard
from transformers import TrainingArguments

import run_long_context
from tests.training import tiny_glue, tiny_long, tiny_run
from training_concept.publishing.card import LOSS_CURVE
from training_concept.publishing.pushing import push_run

from .conftest import ROOT, RunPython
from .fake_hub import FakeHub, Fault

LOADABLE = {"config.json", "model.safetensors", "tokenizer.json", "modeling_concept.py", "attention.py"}


def run_scripts(
    run_python: RunPython,
    hub: FakeHub,
    folder: Path,
    *calls: tuple[str, list[str]],
    token: str | None = None,
    silence: float = 120,
) -> CompletedProcess:
    """Run scripts by name one after the other, in one process, with their arguments; the Hub may be silent so long."""
    path = folder / "calls.json"
    path.write_text(json.dumps(calls), encoding="utf-8")
    environment = hub.environment(folder / "cache", token)
    return run_python("-m", "tests.hub.run_scripts", path, silence, cwd=ROOT, **environment)


def commits_of(hub: FakeHub, repo_id: str) -> list[dict[str, bytes]]:
    """The files of every commit, but for the empty first one."""
    commits = hub.repositories[repo_id].commits.values()
    return [{path: file.content for path, file in files.items()} for files in commits][1:]


def mlm(folder: Path, name: str, **changes) -> tuple[str, list[str]]:
    settings = {"push_to_hub": True, "hub_model_id": f"someone/{name}", "output_dir": str(folder / name)}
    settings |= {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "hub_always_push": True}
    return "run_mlm", tiny_run.arguments(folder, **settings | changes)


def test_every_commit_loads_and_none_holds_a_secret_or_a_pickle(hub, run_python, tmp_path):
    call = mlm(tmp_path, "tiny", hub_token=hub.token)
    ended = run_scripts(run_python, hub, tmp_path, call, token="")
    assert ended.returncode == 0, ended.stdout
    commits = commits_of(hub, "someone/tiny")
    assert hub.repositories["someone/tiny"].private
    assert hub.repositories["someone/tiny"].messages[1:] == [
        "Training in progress, step 2",
        "Training in progress, step 4",
        "End of training",
    ]
    assert all(files.keys() >= LOADABLE for files in commits)
    unwanted = re.compile(r".*\.(bin|pt|pth)|checkpoint-.*|runs/.*|run\.json")
    assert not any(unwanted.fullmatch(path) for files in commits for path in files)
    for what in (hub.token, str(tmp_path)):
        assert not any(what.encode() in content for files in commits for content in files.values())
    assert hub.token not in ended.stdout
    final = commits[-1]
    assert {"README.md", LOSS_CURVE, "all_results.json"} <= final.keys()
    assert ModelCard(final["README.md"].decode()).data.pipeline_tag == "fill-mask"
    assert b'pipeline("fill-mask", model="someone/tiny", trust_remote_code=True)' in final["README.md"]
    assert not list((tmp_path / "tiny").glob(".upload-*"))


@pytest.mark.slow
def test_strategies_are_those_of_the_stock_trainer(hub, run_python, tmp_path):
    strategies = ("end", "checkpoint", "all_checkpoints")
    calls = [mlm(tmp_path, name, hub_strategy=name, save_total_limit=1) for name in strategies]
    ended = run_scripts(run_python, hub, tmp_path, *calls)
    assert ended.returncode == 0, ended.stdout
    assert hub.repositories["someone/end"].messages[1:] == ["End of training"]
    for name, folders in (("checkpoint", ["last-checkpoint"]), ("all_checkpoints", ["checkpoint-2", "checkpoint-4"])):
        *_, final = commits_of(hub, f"someone/{name}")
        assert len(commits_of(hub, f"someone/{name}")) == 3
        for folder in folders:
            there = {path.removeprefix(f"{folder}/") for path in final if path.startswith(f"{folder}/")}
            assert there >= LOADABLE | {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    states = [files["last-checkpoint/trainer_state.json"] for files in commits_of(hub, "someone/checkpoint")]
    assert [json.loads(state)["global_step"] for state in states] == [2, 4, 4]


@pytest.mark.slow
def test_a_run_goes_on_from_the_checkpoint_on_the_hub(hub, run_python, tmp_path):
    whole = mlm(tmp_path, "whole", hub_strategy="checkpoint")
    assert run_scripts(run_python, hub, tmp_path, whole).returncode == 0
    first, *_ = commits_of(hub, "someone/whole")
    for path, content in first.items():
        target = tmp_path / "elsewhere" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    given = {"resume_from_checkpoint": str(tmp_path / "elsewhere" / "last-checkpoint"), "push_to_hub": None}
    assert run_scripts(run_python, hub, tmp_path, mlm(tmp_path, "resumed", **given)).returncode == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_hub_that_is_gone_fails_no_run_and_its_command_uploads_it_later(hub, run_python, tmp_path):
    hub.inject(Fault("POST .*/commit/", cut_after=10, dies=True))
    ended = run_scripts(run_python, hub, tmp_path, mlm(tmp_path, "tiny"))
    assert ended.returncode == 0, ended.stdout
    assert "checkpoint-2 was not uploaded (" in ended.stdout
    assert "Training goes on." in ended.stdout
    *_, later = re.findall(r"tiny holds the finished model but was not uploaded .* Later: python (.*)", ended.stdout)
    folder = tmp_path / "tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert json.loads(before["run.json"])["finished"]
    hub.restart()
    again = run_python(*shlex.split(later), cwd=ROOT, **hub.environment(tmp_path / "cache"))
    assert again.returncode == 0, again.stdout
    (files,) = commits_of(hub, "someone/tiny")
    # These named folders of this machine.
    changed = {"README.md", "training_args.json"}
    assert {name: before.get(name) for name in files.keys() - changed} == {
        name: content for name, content in files.items() if name not in changed
    }
    assert LOADABLE | {"README.md", LOSS_CURVE, "all_results.json"} <= files.keys()


def test_a_token_that_is_not_accepted_fails_no_run(hub, run_python, tmp_path):
    ended = run_scripts(run_python, hub, tmp_path, mlm(tmp_path, "tiny"), token="hf_revoked")
    assert ended.returncode == 0, ended.stdout
    assert "There is no repository to upload to (someone/tiny: the Hub refused this: it does not" in ended.stdout
    assert ended.stdout.count("was not uploaded") == 3
    assert "hf_revoked" not in ended.stdout
    assert not hub.repositories


@pytest.mark.parametrize("place", ["POST /api/repos/create", "POST .*/commit/"])
def test_a_hub_that_never_answers_holds_no_run(hub, run_python, tmp_path, place):
    hub.inject(Fault(place, times=99, delay=600))
    begin = time.monotonic()
    ended = run_scripts(run_python, hub, tmp_path, mlm(tmp_path, "tiny", hub_model_id=None), silence=1.5)
    assert time.monotonic() - begin < 120
    assert ended.returncode == 0, ended.stdout
    assert json.loads((tmp_path / "tiny" / "run.json").read_text())["finished"]
    assert "does not answer as it should" in ended.stdout
    later = f"Later: python -m training_concept.publish {tmp_path / 'tiny'} tiny (which is USER/tiny for the USER of"
    assert later in ended.stdout
    assert not list((tmp_path / "tiny").glob(".upload-*"))


def test_the_command_for_later_can_be_pasted_whatever_the_folder_is_called(tmp_path, caplog):
    folder = tmp_path / "my model"
    args = TrainingArguments(str(folder), hub_model_id="someone/tiny", hub_private_repo=False, use_cpu=True)
    assert push_run(args, folder) is None  # there is no such folder
    later = caplog.messages[-1].partition("Later: python -m training_concept.publish ")[2]
    assert shlex.split(later) == [str(folder), "someone/tiny", "--public"]


@pytest.mark.slow
def test_fine_tuned_models_are_pushed_with_their_cards(hub, run_python, tmp_path):
    model = tiny_glue.write_checkpoint(tmp_path / "base")
    glue = tiny_glue.write_glue(tmp_path / "glue", ["rte"])
    common = {"push_to_hub": True, "save_strategy": "steps", "save_steps": 1, "hub_always_push": True}
    calls = [
        (
            "run_glue",
            tiny_glue.arguments(
                model, tmp_path / "rte", task_name=["rte"], dataset_name=str(glue), seeds=[1, 2], **common
            ),
        ),
        (
            "run_long_context",
            tiny_long.arguments(
                model,
                tmp_path / "nli",
                task_name=["scrolls_contract_nli"],
                data_dir=tiny_long.write_scrolls(tmp_path / "data", ("contract_nli",)),
                hub_private_repo=False,
                **common,
            ),
        ),
    ]
    ended = run_scripts(run_python, hub, tmp_path, *calls)
    assert ended.returncode == 0, ended.stdout
    assert "not uploaded" not in ended.stdout
    assert [hub.repositories[f"someone/{name}"].private for name in ("rte", "nli")] == [True, False]
    for name in ("rte", "nli"):
        # Two steps of the model that is kept, and the end.
        commits = commits_of(hub, f"someone/{name}")
        assert len(commits) == 3
        assert all(files.keys() >= LOADABLE for files in commits)
        assert "results.json" in commits[-1]
        assert not any(str(tmp_path).encode() in content for files in commits for content in files.values())
        card = ModelCard(commits[-1]["README.md"].decode())
        assert card.data.pipeline_tag == "text-classification"
        assert f'model="someone/{name}", trust_remote_code=True)' in card.text
        assert "code_revision" in card.text


@pytest.mark.parametrize(
    ("changes", "trains"),
    [({"compare": ["concept_ratio=8"]}, True), ({"task_name": ["sotu_eras"]}, True), ({}, None)],
)
def test_a_run_that_leaves_no_single_model_is_not_pushed(tmp_path, changes, trains):
    settings = {"task_name": ["scrolls_contract_nli"], "data_dir": tmp_path, "push_to_hub": True, "do_train": trains}
    with pytest.raises(ValueError, match="--push_to_hub uploads one model"):
        run_long_context.main(tiny_long.arguments("nothing", tmp_path / "out", **settings | changes))
    assert not (tmp_path / "out").exists()
