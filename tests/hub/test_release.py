# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Released folders: made of tiny runs here, and those in `model_cards/`, which all have to keep the same promises."""

import contextlib
import json
import re
import shutil
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


SCRIPT = """import json, os
os.makedirs('{output}')
json.dump(dict(a=dict(b=2.5)), open('{output}/r.json', 'w'))
"""
MEASUREMENT = released.Measurement(
    f'python -c "{SCRIPT}"',
    "r.json",
    {"loss": ["a", "b"]},
    "fill-mask",
    ("sotu", "speeches"),
    "test",
)


def test_a_measurement_runs_its_command_and_reads_what_it_wrote(tmp_path):
    (found,) = MEASUREMENT.run(tmp_path, {})
    assert (found.metric_type, found.metric_value, found.dataset_name) == ("loss", 2.5, "speeches")


def test_a_command_that_fails_says_why(tmp_path):
    failing = released.Measurement("python -c 'raise SystemExit(\"no such thing\")'", "r.json", {}, "", ("", ""), "")
    with pytest.raises(ValueError, match="failed: no such thing"):
        failing.run(tmp_path, {})


def test_cards_are_written_and_compared(runs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(runs["tiny"].parents[1] / "model_cards" / "tiny", folder)
    monkeypatch.setattr(released, "measurements", lambda folder: [MEASUREMENT])
    results = tmp_path / "hub.json"
    with pytest.raises(ValueError, match=r"loss on speeches is 2\.5 here and None on the card"):
        released.main([str(folder)], results)
    assert not results.exists()
    for _ in range(2):
        released.main([str(folder), "--write_cards", "--notes", "A note."], results)
    text = (folder / CARD).read_text(encoding="utf-8")
    assert (text.count(released.BEGIN), text.count("- A note."), text.count("old")) == (1, 1, 0)
    assert "| speeches | test | loss | 2.5 |" in text
    released.main([str(folder)], results)
    figures = read_results(results).figures
    assert figures["checkpoint_heldout_loss"].value == 2.5
    parameters = json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_parameters"]
    assert figures["checkpoint_parameters"].value == parameters
    assert figures["checkpoint_mb"].value * 1e6 == pytest.approx(2 * parameters, rel=0.2)
    (folder / CARD).write_text(text.replace("value: 2.5", "value: 2.6"), encoding="utf-8")
    assert exit_code(lambda arguments: released.main(arguments, results), [str(folder)]) == 2
    assert "loss on speeches is 2.5 here and 2.6 on the card" in capsys.readouterr().err


def test_rounding_is_no_difference():
    card = ModelCard("---\nlicense: mit\n---\n")
    card.data.eval_results = [result(2.5)]
    assert released.compare(card, [result(2.501)]) == []
    assert released.compare(card, [result(2.503)])
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
    kinds = {name: [item.command for item in released.measurements(folder / name)] for name in TINY}
    assert all("run_mlm.py" in command for command in kinds["tiny"])
    assert "--task_name sst2" in kinds["tiny-classifier"][0]
    assert "similarity" in kinds["tiny-embedding"][0]
