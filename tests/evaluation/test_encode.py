# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The command that encodes a folder: what it writes, in which order, and what it does with bad input."""

import json
import os
import shutil
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from evaluation_concept.encode import main
from evaluation_concept.errors import exit_code
from modeling_concept import ConceptEncoderForTextEncoding
from modeling_concept.encoding import TextEmbeddings, encode
from tests.modeling.tiny import tiny_model
from training_concept.tokenization import train_tokenizer

ROOT = Path(__file__).parents[2]
VOCABULARY = 300
TEXTS = {
    "river.txt": "The river keeps its name in the hills.",
    "deep/er/lake.txt": "A lake, and then\nanother one. " * 20,
    "deep/empty.txt": "",
    "hill.txt": "\ufeffHügel und Täler.",
    "notes.md": "Not for us.",
}
# In the order of their paths.
NAMES = ["deep/empty.txt", "deep/er/lake.txt", "hill.txt", "river.txt"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(list(TEXTS.values()), VOCABULARY, model_max_length=500)


@pytest.fixture(scope="module")
def model() -> ConceptEncoderForTextEncoding:
    return tiny_model(ConceptEncoderForTextEncoding, dtype=torch.float32, vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def checkpoint(model, tokenizer, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def texts(tmp_path) -> Path:
    folder = tmp_path / "texts"
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "new" / "embeddings.safetensors"


def expect(model, tokenizer, texts: list[str], **options) -> TextEmbeddings:
    return encode(model, tokenizer, texts, **options)


def read(output: Path) -> tuple[dict[str, torch.Tensor], dict]:
    return load_file(output), json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))


def run(checkpoint: str, source: Path, output: Path, *flags: str) -> tuple[dict[str, torch.Tensor], dict]:
    main([checkpoint, str(source), "--output", str(output), *flags])
    assert sorted(path.name for path in output.parent.iterdir()) == ["embeddings.json", "embeddings.safetensors"]
    return read(output)


def run_command(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "evaluation_concept.encode", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)


def refusal(capsys, *arguments: object) -> str:
    """What the command says of arguments that it refuses, in one line."""
    assert exit_code(main, list(map(str, arguments))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert ": error: " in lines[-1]
    return lines[-1]


def test_a_folder_is_encoded_in_the_order_of_its_paths(model, tokenizer, checkpoint, texts, output, capsys):
    tensors, index = run(checkpoint, texts, output)
    expected = expect(model, tokenizer, ["", TEXTS["deep/er/lake.txt"], "Hügel und Täler.", TEXTS["river.txt"]])
    assert index == {"checkpoint": checkpoint, "names": NAMES, "skipped": {}}
    torch.testing.assert_close(tensors["embeddings"], expected.embeddings, atol=1e-5, rtol=0)
    assert torch.equal(tensors["num_tokens"], expected.num_tokens)
    assert not tensors["truncated"].any()
    assert set(tensors) == {"embeddings", "num_tokens", "truncated"}
    assert "4 texts of" in capsys.readouterr().out


def test_concepts_of_every_text_can_be_found(model, tokenizer, checkpoint, texts, output):
    tensors, index = run(checkpoint, texts, output, "--late_interaction")
    for place, name in enumerate(index["names"]):
        start, end = tensors["concept_offsets"][place : place + 2]
        text = TEXTS[name].removeprefix("\ufeff")
        (expected,) = expect(model, tokenizer, [text], late_interaction=True).concept_embeddings
        torch.testing.assert_close(tensors["concept_embeddings"][start:end], expected, atol=1e-5, rtol=0)
    assert tensors["concept_offsets"][-1] == len(tensors["concept_embeddings"])


@pytest.mark.parametrize(
    "flags", [["--attn_implementation", "varlen"], ["--tokens_per_batch", "40"], ["--device", "cpu"], ["--no-bf16"]]
)
def test_settings_of_speed_change_no_embedding(checkpoint, texts, output, flags):
    plain, _ = run(checkpoint, texts, output)
    tensors, _ = run(checkpoint, texts, output, "--overwrite_output", *flags)
    torch.testing.assert_close(tensors, plain, atol=1e-5, rtol=0)


def test_a_compiled_model_gives_the_same(checkpoint, texts, output, monkeypatch):
    plain, _ = run(checkpoint, texts, output)
    compiled = []
    eager = partialmethod(nn.Module.compile, backend=lambda graph, _: compiled.append(graph) or graph)
    monkeypatch.setattr(ConceptEncoderForTextEncoding, "compile", eager)
    tensors, _ = run(checkpoint, texts, output, "--torch_compile", "--overwrite_output")
    torch.testing.assert_close(tensors, plain, atol=1e-5, rtol=0)
    assert compiled
    torch._dynamo.reset()


def test_half_precision_is_close(checkpoint, texts, output):
    plain, _ = run(checkpoint, texts, output)
    tensors, _ = run(checkpoint, texts, output, "--bf16", "--overwrite_output")
    assert tensors["embeddings"].dtype == torch.float32
    assert not torch.equal(tensors["embeddings"], plain["embeddings"])
    assert torch.cosine_similarity(tensors["embeddings"], plain["embeddings"]).min() > 0.99


def test_long_texts_are_cut(checkpoint, texts, output):
    tensors, _ = run(checkpoint, texts, output, "--max_seq_length", "10")
    assert tensors["truncated"].tolist() == [False, True, True, True]
    assert tensors["num_tokens"].tolist() == [2, 10, 10, 10]


def test_the_pattern_chooses_files(checkpoint, texts, output):
    _, index = run(checkpoint, texts, output, "--glob", "*.md")
    assert index["names"] == ["notes.md"]


def test_json_lines_are_encoded_in_their_order(model, tokenizer, checkpoint, tmp_path, output):
    path = tmp_path / "articles.jsonl"
    path.write_text('{"body": "A river.", "text": 1}\n\n{"body": "A hill."}\n', encoding="utf-8")
    tensors, index = run(checkpoint, path, output, "--text_column", "body")
    assert index["names"] == ["articles.jsonl:1", "articles.jsonl:3"]
    expected = expect(model, tokenizer, ["A river.", "A hill."]).embeddings
    torch.testing.assert_close(tensors["embeddings"], expected, atol=1e-5, rtol=0)


def test_a_checkpoint_runs_its_own_code_if_trusted(checkpoint, texts, output, tmp_path):
    plain, _ = run(checkpoint, texts, output)
    own = Path(shutil.copytree(checkpoint, tmp_path / "own"))
    with (own / "encoding.py").open("a", encoding="utf-8") as code:
        code.write('print("own code")\n')
    finished = run_command(own, texts, "--output", output, "--trust_remote_code", "--overwrite_output")
    assert "own code" in finished.stdout, finished.stderr
    torch.testing.assert_close(read(output)[0], plain, atol=0, rtol=0)


def test_unreadable_files_are_refused_before_anything_is_encoded(texts, output, capsys):
    (texts / "latin.txt").write_bytes("Hügel".encode("latin-1"))
    (texts / "gone.txt").symlink_to(texts / "nowhere")
    message = refusal(capsys, "no/checkpoint/needed", texts, "--output", output)
    assert "gone.txt (" in message
    assert "No such file" in message
    assert "and 1 more" in message
    assert "--skip_unreadable leaves such texts out." in message
    assert not output.parent.exists()


def test_unreadable_files_can_be_skipped(checkpoint, texts, output, capsys):
    plain, _ = run(checkpoint, texts, output)
    (texts / "latin.txt").write_bytes("Hügel".encode("latin-1"))
    tensors, index = run(checkpoint, texts, output, "--skip_unreadable", "--overwrite_output")
    assert index["names"] == NAMES
    assert list(index["skipped"]) == ["latin.txt"]
    assert "skipped latin.txt: not in UTF-8" in capsys.readouterr().err
    assert torch.equal(tensors["embeddings"], plain["embeddings"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "Expecting property name"),
        ("[1]", "no string 'text'"),
        ('{"title": "A"}', "no string 'text' (--text_column)"),
        ('{"text": null}', "no string 'text'"),
        ('{"text": "a\\ud800b"}', "not Unicode"),
    ],
)
def test_bad_lines_are_named(tmp_path, output, capsys, line, problem):
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"text": "A river."}}\n{line}\n', encoding="utf-8")
    message = refusal(capsys, "no/checkpoint/needed", path, "--output", output)
    assert "lines.jsonl:2" in message
    assert problem in message


def test_nothing_left_to_encode_is_refused(texts, output, capsys):
    for path in texts.rglob("*.txt"):
        path.write_bytes(b"\xff")
    assert "holds what cannot be read" in refusal(
        capsys, "no/checkpoint", texts, "--output", output, "--skip_unreadable"
    )


def test_sources_that_cannot_be_are_refused(texts, tmp_path, output, capsys):
    arguments = ["no/checkpoint", texts / "nowhere", "--output", output]
    assert "There is no folder or file" in refusal(capsys, *arguments)
    assert "neither a folder nor a file of JSON lines" in refusal(
        capsys, "no/checkpoint", texts / "notes.md", "--output", output
    )
    assert "holds no texts that match --glob *.csv" in refusal(
        capsys, "no/checkpoint", texts, "--output", output, "--glob", "*.csv"
    )


def test_an_output_that_is_there_is_kept(checkpoint, texts, output, capsys):
    tensors, index = run(checkpoint, texts, output)
    (texts / "river.txt").write_text("Another text.", encoding="utf-8")
    assert "is there. Choose another --output" in refusal(capsys, checkpoint, texts, "--output", output)
    kept, kept_index = read(output)
    assert kept_index == index
    assert torch.equal(kept["embeddings"], tensors["embeddings"])
    assert "must end in .safetensors" in refusal(capsys, checkpoint, texts, "--output", output.with_suffix(".npy"))


def test_an_output_that_cannot_be_written_is_refused_before_the_work(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("evaluation_concept.encode.place_encoder", None)
    (tmp_path / "file").touch()
    (tmp_path / "a.safetensors").mkdir()
    for output, reason in (("file/a.safetensors", "file"), ("a.safetensors", "a.safetensors is a folder, and")):
        arguments = ("no checkpoint", texts, "--output", tmp_path / output, "--overwrite_output")
        assert reason in refusal(capsys, *arguments)


def test_a_run_that_fails_leaves_the_old_output_and_no_drafts(checkpoint, texts, output, capsys, monkeypatch):
    _, index = run(checkpoint, texts, output)

    def fail_midway(tensors, path):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("evaluation_concept.encode.save_file", fail_midway)
    assert "no space left" in refusal(capsys, checkpoint, texts, "--output", output, "--overwrite_output")
    assert read(output)[1] == index
    assert len(list(output.parent.iterdir())) == 2


def test_int8_is_close_and_for_float32_alone(checkpoint, texts, output, capsys):
    plain, _ = run(checkpoint, texts, output)
    tensors, _ = run(checkpoint, texts, output, "--int8", "--overwrite_output")
    assert not torch.equal(tensors["embeddings"], plain["embeddings"])
    assert torch.cosine_similarity(tensors["embeddings"], plain["embeddings"]).min() > 0.99
    message = refusal(capsys, checkpoint, texts, "--output", output, "--overwrite_output", "--int8", "--bf16")
    assert "int8 is for models in float32 on a CPU" in message


@pytest.mark.parametrize(("device", "problem"), [("cuda:99", "is not there"), ("gpu", "is no device")])
def test_a_device_that_is_not_there_is_refused(checkpoint, texts, output, capsys, device, problem):
    message = refusal(capsys, checkpoint, texts, "--output", output, "--device", device)
    assert f"--device {device} {problem}" in message


def test_other_models_are_refused(tokenizer, texts, tmp_path, output, capsys):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    message = refusal(capsys, tmp_path / "bert", texts, "--output", output)
    assert "holds a BertModel, which has no method encode" in message


def test_the_command_ends_with_its_exit_code(texts, output):
    finished = run_command("no/checkpoint", texts / "nowhere", "--output", output)
    assert finished.returncode == 2
    assert finished.stderr.startswith("encode.py: error: There is no folder or file")
    assert len(finished.stderr.splitlines()) == 1
