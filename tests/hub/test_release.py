# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Released folders: made of tiny runs here, and those in `model_cards/`, which all have to keep the same promises."""

import argparse
import contextlib
import dataclasses
import json
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks import released
from benchmarks.results import RESULTS, read_results
from configuration_concept.configuration_concept import CODE_FILES
from evaluation_concept.errors import exit_code
from modeling_concept import (
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderForTextEncoding,
)
from training_concept import release
from training_concept.publishing.card import name_in_code
from training_concept.publishing.contents import CARD, files_in, staged, survey
from training_concept.publishing.validation import load_in_fresh_process

from .conftest import ROOT

OWN = "o_proj|^head|^lm_head"
TINY = ("tiny", "tiny-classifier", "tiny-embedding")
REAL = sorted(path.parent for path in (ROOT / "model_cards").glob("*/config.json"))
LARGEST_MB = 30
CARD_TEXT = """---
license: mit
pipeline_tag: fill-mask
model-index:
- name: {name}
  results:
  - task: {{type: fill-mask}}
    dataset: {{type: old, name: old}}
    metrics: [{{type: loss, value: 9}}]
---

# {name}

```python
from transformers import AutoConfig
AutoConfig.from_pretrained("{name}", trust_remote_code=True)
```
"""


def finish_run(folder: Path, model, tokenizer) -> Path:
    """What a finished run leaves: the model, and around it what is nobody else's business."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / CARD).write_text(CARD_TEXT.format(name=folder.name), encoding="utf-8")
    (folder / "training_args.json").write_text('{"output_dir": "/home/somebody"}', encoding="utf-8")
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "optimizer.pt").write_bytes(b"pickle")
    (folder / "results.json").write_text('{"tasks": {"sst2": {"splits": {"validation": {}}}}}', encoding="utf-8")
    return folder


def fine_tune(model_class, base: Path, trained: str):
    """A model on the weights of `base`, of which some have changed."""
    torch.manual_seed(1)
    model = model_class.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(trained, name):
                weight.add_(torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory, saved) -> dict[str, Path]:
    """Output folders of tiny runs; those fine-tuned start from the released language model."""
    folder = tmp_path_factory.mktemp("released")
    with contextlib.chdir(folder):
        return {name: folder / run for name, run in make_runs(saved).items()}


def make_runs(saved: Path) -> dict[str, Path]:
    tokenizer = AutoTokenizer.from_pretrained(saved / "mlm")
    mlm = ConceptEncoderForMaskedLM.from_pretrained(saved / "mlm")
    runs = {"tiny": finish_run(Path("outputs/tiny"), mlm, tokenizer)}
    base = Path("model_cards/tiny")
    release.main([str(runs["tiny"]), str(base), "--own", OWN])
    heads = (
        (ConceptEncoderForSequenceClassificationViaDecoder, "o_proj|classifier"),
        (ConceptEncoderForTextEncoding, "o_proj"),
    )
    for name, (model_class, trained) in zip(TINY[1:], heads, strict=True):
        model = fine_tune(model_class, base, trained)
        runs[name] = finish_run(Path("outputs") / name, model, tokenizer)
        release.main([str(runs[name]), str(base.parent / name), "--base", str(base)])
    return runs


@pytest.fixture(params=[*TINY, *REAL], ids=str)
def folder(request) -> Path:
    """Each released folder."""
    if isinstance(request.param, Path):
        return request.param
    return request.getfixturevalue("runs")["tiny"].parents[1] / "model_cards" / request.param


@pytest.mark.parametrize("name", [TINY[1], *(path.name for path in REAL)])
def test_it_loads_by_itself(name, runs):
    parent = (ROOT if ROOT / "model_cards" / name in REAL else runs["tiny"].parents[1]) / "model_cards"
    folder = parent / name
    assert load_in_fresh_process(folder)["problems"] == []


def test_its_code_is_that_of_the_packages(folder):
    """After a change: python -m training_concept.release --refresh_code model_cards/*/"""
    for package, stems in CODE_FILES.items():
        for stem in stems:
            assert (folder / f"{stem}.py").read_bytes() == (ROOT / package / f"{stem}.py").read_bytes(), stem


def test_its_weights_are_whole_and_in_bfloat16(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                assert name not in found
                assert file.get_slice(name).get_dtype() == "BF16", name
                found[name] = path.name
    assert index["weight_map"] == found


def test_its_links_lead_to_released_folders_beside_it(folder):
    for path in (path for path in folder.iterdir() if path.is_symlink()):
        assert not path.readlink().is_absolute()
        assert path.resolve().parent.parent == folder.resolve().parent
        assert path.suffix == ".safetensors"


def test_its_card_is_its_own(folder):
    card = ModelCard.load(folder / CARD)
    assert (card.data.model_name, card.data.license is not None) == (folder.name, True)
    assert f"\n# {folder.name}\n" in card.text
    assert f'{folder.name}"' in card.text
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".json", ".md")]
    assert not any(re.search(r"(?<![\w.])/(?:tmp|work|home|root)/", text) for text in texts)


def test_it_can_be_published(folder):
    """Links become files on the way."""
    contents = survey(folder)
    assert not contents.strays
    with staged(contents.travels) as copy:
        files = files_in(copy)
        assert {name: file.stat().st_size for name, file in files.items()} == {
            name: path.stat().st_size for name, path in contents.travels.items()
        }


def test_all_released_weights_fit_in_a_clone():
    assert sum(path.stat().st_size for path in released.files_of_weights(REAL)) <= LARGEST_MB * 1e6


def test_the_figures_are_those_of_the_cards():
    figures = read_results(RESULTS / "hub.json").figures
    losses = {
        result.metric_value
        for path in REAL
        for result in ModelCard.load(path / CARD).data.eval_results
        if result.task_type == "fill-mask"
    }
    assert ("checkpoint_heldout_loss" in figures) == bool(REAL)
    assert not REAL or figures["checkpoint_heldout_loss"].value in losses


def test_what_is_the_same_is_there_once(runs):
    folder = runs["tiny"].parents[1] / "model_cards"
    sizes = {
        name: sum(p.stat().st_size for p in (folder / name).glob("*.safetensors") if not p.is_symlink())
        for name in TINY
    }
    assert sizes["tiny-embedding"] < sizes["tiny-classifier"] < sizes["tiny"] / 2
    links = {path.readlink().as_posix() for path in (folder / "tiny-classifier").iterdir() if path.is_symlink()}
    assert links == {f"../tiny/model-0000{number}-of-00003.safetensors" for number in (1, 2)}


def test_a_released_model_computes_what_the_run_does(runs):
    name = "tiny-classifier"
    tokenizer = AutoTokenizer.from_pretrained(runs[name])
    inputs = tokenizer("The river keeps its name.", return_tensors="pt")
    folder = runs[name].parents[1] / "model_cards" / name
    models = [
        AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True, dtype=torch.float32).eval()
        for path in (runs[name], folder)
    ]
    for weight in models[0].parameters():
        weight.data = weight.data.bfloat16().float()
    with torch.no_grad():
        logits = [model(**inputs).logits for model in models]
    torch.testing.assert_close(*logits)


def test_what_a_run_keeps_for_itself_is_left_behind(runs):
    folder = runs["tiny"].parents[1] / "model_cards" / "tiny"
    assert not (folder / "training_args.json").exists()
    assert not (folder / "checkpoint-2").exists()
    assert 'from_pretrained("model_cards/tiny"' in (folder / CARD).read_text(encoding="utf-8")


def test_a_card_that_is_published_calls_the_model_by_its_repository():
    text = 'model="model_cards/tiny", SentenceTransformer("tiny"), from_pretrained("model_cards/tiny-classifier")'
    expected = 'model="user/tiny", SentenceTransformer("user/tiny"), from_pretrained("model_cards/tiny-classifier")'
    assert name_in_code(text, "tiny", "user/tiny") == expected


def refuse(capsys, *arguments: object) -> str:
    assert exit_code(release.main, [str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_bad_requests_are_refused_and_leave_nothing(runs, tmp_path, capsys):
    tiny, head = runs["tiny"], runs["tiny-classifier"]
    there = tiny.parents[1] / "model_cards" / "tiny"
    assert "is there already" in refuse(capsys, tiny, there)
    assert "--own nothing finds 0 of" in refuse(capsys, tiny, tmp_path / "new", "--own", "nothing")
    assert "Name the folder of a run" in refuse(capsys, tiny)
    assert "Name the folder of a run" in refuse(capsys, head, tmp_path / "new", "--own", "a", "--base", there)
    assert "is no folder" in refuse(capsys, tmp_path / "missing", tmp_path / "new")
    assert "holds no model" in refuse(capsys, tmp_path, "--refresh_code")
    other = shutil.copytree(head, tmp_path / "other")
    weights = {name: weight + 1 for name, weight in load_file(other / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert "fine-tune from that folder, with --trained_weights" in refuse(
        capsys, other, tmp_path / "new", "--base", there
    )
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_run_that_does_not_load_is_not_released(runs, tmp_path, capsys):
    run = shutil.copytree(runs["tiny"], tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    name = next(name for name in weights if "o_proj" in name)
    save_file(
        {key: weight for key, weight in weights.items() if key != name}, run / "model.safetensors", {"format": "pt"}
    )
    assert f"weights are missing: {name}" in refuse(capsys, run, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_code_can_be_renewed(runs, tmp_path):
    folder = shutil.copytree(runs["tiny"].parents[1] / "model_cards" / "tiny", tmp_path / "tiny")
    (folder / "tokens.py").write_text("# older\n", encoding="utf-8")
    before = (folder / CARD).read_bytes()
    release.main([str(folder), "--refresh_code"])
    assert (folder / "tokens.py").read_bytes() == (ROOT / "modeling_concept" / "tokens.py").read_bytes()
    assert (folder / CARD).read_bytes() == before


def result(value: float, metric: str = "loss") -> EvalResult:
    return EvalResult("fill-mask", "sotu", "speeches", metric, value, dataset_split="test")


MEASUREMENT = released.Measurement(
    "python -m scripted {model} {tasks} --output {output}",
    "r.json",
    {"loss": ["a", "b"]},
    "fill-mask",
    ("sotu", "speeches"),
    "test",
    preparation="python scripted.py --before",
    others={"BM25": {"loss": ["other"]}},
    note="A remark.",
)
PLACES = {"tasks": ""}


@pytest.fixture
def called(monkeypatch) -> list[list[str]]:
    """What the commands `scripted.py` and `-m scripted` were told."""
    calls: list[list[str]] = []

    def main(arguments):
        calls.append(arguments)
        print("what nobody has to see")
        if "--wrong" in arguments:
            raise OSError("there is no package, fetch it by hand")
        if "--unknown" in arguments:
            argparse.ArgumentParser().parse_args(arguments)
        if "--output" in arguments:
            folder = Path(arguments[-1])
            folder.mkdir(parents=True)
            (folder / "r.json").write_text('{"a": {"b": 2.5}, "other": 3.5}', encoding="utf-8")

    module = types.ModuleType("scripted")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scripted", module)
    return calls


@pytest.fixture
def measured(runs, called, tmp_path, monkeypatch) -> Path:
    """A released folder, of which `MEASUREMENT` measures the loss 2.5."""
    monkeypatch.setattr(released, "measurements", lambda folder: [MEASUREMENT])
    folder = tmp_path / "model_cards" / "tiny"
    return shutil.copytree(runs["tiny"].parents[1] / "model_cards" / "tiny", folder)


def test_a_measurement_runs_its_commands_in_this_process_and_reads_what_was_written(tmp_path, called, capsys):
    own, other = MEASUREMENT.run(tmp_path, PLACES)
    assert [words[:2] for words in called] == [["--before"], [str(tmp_path), "--output"]]
    assert (own.metric_type, own.metric_name, own.metric_value, own.dataset_name) == ("loss", None, 2.5, "speeches")
    assert (other.metric_type, other.metric_name, other.metric_value) == ("loss", "loss of BM25", 3.5)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("flag", "reason"), [("--wrong", "there is no package, fetch it by hand"), ("--unknown", "unrecognized arguments")]
)
def test_a_command_that_fails_says_why(tmp_path, called, flag, reason):
    failing = dataclasses.replace(MEASUREMENT, command=f"python scripted.py {flag}")
    with pytest.raises(ValueError, match=f"`python scripted.py {flag}` failed: .*{reason}"):
        failing.run(tmp_path, PLACES)


def test_cards_are_written_and_compared(measured, tmp_path, capsys):
    results = tmp_path / "hub.json"
    tasks = ["--task_dir", "kept"]
    with pytest.raises(ValueError, match=r"loss on speeches is 2\.5000 here and is not on the card"):
        released.main([str(measured), *tasks], results)
    for _ in range(2):
        released.main([str(measured), *tasks, "--write_cards", "--notes", "A note."], results)
    text = (measured / CARD).read_text(encoding="utf-8")
    assert [text.count(it) for it in (released.BEGIN, "- A remark.", "- A note.", "old")] == [1, 1, 1, 0]
    assert "| speeches | test | loss | 2.5000 |\n| speeches | test | loss of BM25 | 3.5000 |" in text
    assert "\npython scripted.py --before\npython -m scripted model_cards/tiny --package_dir PACKAGES --output" in text
    assert "Equal means within a tolerance (loss 0.002)" in " ".join(text.split())
    assert str(tmp_path) not in text
    assert [it.metric_value for it in ModelCard.load(measured / CARD).data.eval_results] == [2.5]
    released.main([str(measured), *tasks], results)
    assert "2.5000" in capsys.readouterr().out
    for said, changed, wrong in (
        ("value: 2.5", "value: 2.6", "loss on speeches is 2.5000 here and is 2.6000 on the card"),
        ("| 3.5000 |", "| 3.6000 |", "loss of BM25 on speeches is 3.5000 here and is 3.6000 on the card"),
    ):
        (measured / CARD).write_text(text.replace(said, changed), encoding="utf-8")
        assert exit_code(lambda arguments: released.main(arguments, results), [str(measured), *tasks]) == 2
        assert wrong in capsys.readouterr().err


def test_figures_are_recorded_only_with_cards_and_of_all_folders(measured, tmp_path):
    results = tmp_path / "hub.json"
    arguments = [str(measured), "--task_dir", "kept"]
    released.main([*arguments, "--write_cards"], results)
    figures = read_results(results).figures
    parameters = json.loads((measured / "model.safetensors.index.json").read_text())["metadata"]["total_parameters"]
    assert figures["checkpoint_heldout_loss"].value == 2.5
    assert figures["checkpoint_parameters"].value == parameters
    assert figures["checkpoint_mb"].value * 1e6 == pytest.approx(2 * parameters, rel=0.2)
    assert figures["released_seconds"].value > 0
    assert {figure.command for figure in figures.values()} == {
        "python -m benchmarks.released model_cards/tiny --package_dir PACKAGES --write_cards"
    }
    before = results.read_bytes()
    released.main(arguments, results)
    assert results.read_bytes() == before
    # Another one beside it, which is not measured.
    other = shutil.copytree(measured, measured.parent / "other")
    released.main([*arguments, "--write_cards"], tmp_path / "later.json")
    later = read_results(tmp_path / "later.json").figures
    assert later["checkpoint_mb"].value == pytest.approx(2 * figures["checkpoint_mb"].value)
    assert "released_seconds" not in later
    assert (other / CARD).is_file()


def test_a_checkpoint_that_cannot_be_measured_does_not_stop_the_others(measured, tmp_path, monkeypatch, capsys):
    results = tmp_path / "hub.json"
    released.main([str(measured), "--task_dir", "kept", "--write_cards"], results)
    other = shutil.copytree(measured, measured.parent / "other")
    wrong = dataclasses.replace(MEASUREMENT, command="python scripted.py --wrong")
    monkeypatch.setattr(released, "measurements", lambda folder: [wrong if folder.name == "other" else MEASUREMENT])
    arguments = [str(other), str(measured), "--task_dir", "kept"]
    assert exit_code(lambda words: released.main(words, results), arguments) == 2
    said = capsys.readouterr()
    assert f"{other} was not measured: `python scripted.py --wrong` failed: there is no package" in said.err
    assert "1 of 2 checkpoints" in said.out


def test_a_classifier_wants_its_tasks_before_anything_is_measured(measured, tmp_path, called, capsys):
    assert exit_code(lambda words: released.main(words, tmp_path / "hub.json"), [str(measured)]) == 2
    said = capsys.readouterr().err
    assert "tiny: the tasks of a classifier are in packages" in said
    assert "--package_dir" in said
    assert "--task_dir" in said
    assert called == []


def test_rounding_is_no_difference():
    card = ModelCard("---\nlicense: mit\n---\n")
    card.data.eval_results = [result(2.5)]
    assert released.compare(card, [result(2.502)]) == []
    assert released.compare(card, [result(2.5021)])
    assert released.compare(card, [result(2.5, "accuracy")])


def test_a_card_tells_lengths_apart(tmp_path):
    """Metadata merge the figures of one dataset."""
    lengths = [512, 4096]
    results = [released.heldout(length)._result("loss", length / 1000) for length in lengths]
    card = ModelCard("---\n{}\n---\n")
    card.data.model_name, card.data.eval_results = "tiny", results
    card.save(tmp_path / CARD)
    read = ModelCard.load(tmp_path / CARD)
    assert [it.metric_value for it in read.data.eval_results] == [length / 1000 for length in lengths]
    assert released.compare(read, results) == []


def test_each_kind_is_measured_by_commands_that_are_there(runs):
    folder = runs["tiny"].parents[1] / "model_cards"
    kinds = {name: [item.commands for item in released.measurements(folder / name)] for name in TINY}
    assert all("run_mlm.py" in command for (command,) in kinds["tiny"])
    assert "--task_name sst2" in kinds["tiny-classifier"][0][0]
    (similarity,), (passages, retrieval) = kinds["tiny-embedding"]
    assert "similarity" in similarity
    assert "benchmarks.passages" in passages
    assert "retrieval" in retrieval


def test_a_large_task_is_cut_and_its_card_says_so():
    whole, cut = (released.classification("vitaminc", "test", number) for number in (1500, 1501))
    assert ("--max_eval_samples" in whole.command, "--max_eval_samples 1500 " in cut.command) == (False, True)
    assert "only the first 1,500 examples" in cut.note
    assert cut.dataset[1] == "vitaminc, first 1,500"


def test_a_command_of_a_card_runs_as_it_is_typed(runs, tmp_path):
    """One of those that are there, in this process."""
    model = runs["tiny"].parents[1] / "model_cards" / "tiny-embedding"
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in "ab":
        (texts / f"{name}.txt").write_text("The river keeps its name from here on. " * 40, encoding="utf-8")
    auc, of_words = released.SIMILARITY.run(model, {"texts": str(texts)})
    assert 0 <= auc.metric_value <= 1
    assert of_words.metric_name == "auc of TF-IDF"
