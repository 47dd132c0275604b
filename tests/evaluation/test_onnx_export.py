# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""An exported encoder gives the embeddings of the model, for batches of every size and shape of padding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation_concept.errors import exit_code
from evaluation_concept.onnx_export import export_onnx, least_cosine, main, quantize_onnx
from modeling_concept import ConceptEncoderForTextEncoding
from tests.modeling.tiny import document, tiny_model

# Sizes with and without rests of windows (8), spans (4) and of the example that is exported (2 x 48).
SHAPES = ((2, 48), (1, 1), (3, 5), (4, 37), (1, 64), (5, 200))


@pytest.fixture(scope="module")
def runtime():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    return pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model() -> ConceptEncoderForTextEncoding:
    return tiny_model(ConceptEncoderForTextEncoding, dtype=torch.float32, num_hidden_layers=1, num_token_layers=1)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def exported(runtime, checkpoint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "new" / "encoder.onnx"
    main([checkpoint, "--output", str(path)])
    assert list(path.parent.iterdir()) == [path]
    return path


def make_batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    """The first row is full, others have padding on the right, on the left or in the middle."""
    ids = torch.stack([document(length, seed=row) for row in range(rows)])
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        hidden = slice(length // (row + 1), None) if row % 2 else slice(0, length // (row + 1))
        mask[row, hidden] = 0
        mask[row, length // 2] = 1
    return {"input_ids": ids, "attention_mask": mask}


def compute(runtime, path: Path, batch: dict[str, torch.Tensor]) -> np.ndarray:
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {name: values.numpy() for name, values in batch.items()})[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_runtime_gives_the_embeddings_of_the_model(runtime, model, exported, shape):
    batch = make_batch(*shape)
    with torch.no_grad():
        expected = model(**batch).embeddings.numpy()
    np.testing.assert_allclose(compute(runtime, exported, batch), expected, atol=1e-4, rtol=0)


def test_int8_is_smaller_and_close(runtime, model, exported, tmp_path):
    path = tmp_path / "int8.onnx"
    quantize_onnx(exported, path)
    batch = make_batch(4, 37)
    with torch.no_grad():
        expected = model(**batch).embeddings.numpy()
    cosines = (compute(runtime, path, batch) * expected).sum(axis=1)
    assert 0.98 < cosines.min() < 1
    assert path.stat().st_size < exported.stat().st_size
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_quantises_what_it_exports(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("evaluation_concept.onnx_export.export_onnx", lambda _, path: path.write_bytes(b"exact"))
    monkeypatch.setattr(
        "evaluation_concept.onnx_export.quantize_onnx", lambda path, int8: int8.write_bytes(path.read_bytes()[:2])
    )
    monkeypatch.setattr("evaluation_concept.onnx_export.least_cosine", lambda *_: None)
    main([checkpoint, "--output", str(tmp_path / "encoder.onnx"), "--int8"])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"ex"]
    assert "encoder.onnx: 0.0 MB, not compared with the model" in capsys.readouterr().out


def test_what_is_exported_is_compared_with_the_model(
    runtime, model, exported, checkpoint, tmp_path, monkeypatch, capsys
):
    assert least_cosine(model, exported) > 0.9999
    other = tiny_model(ConceptEncoderForTextEncoding, dtype=torch.float32, num_hidden_layers=1, num_token_layers=1)
    for weight in other.parameters():
        torch.nn.init.normal_(weight)
    assert least_cosine(other, exported) < 0.9

    def export_another(_, path):
        path.write_bytes(exported.read_bytes())

    monkeypatch.setattr("evaluation_concept.onnx_export.export_onnx", export_another)
    main([checkpoint, "--output", str(tmp_path / "same.onnx")])
    assert "cosine to the model's embeddings at least 1.0000" in capsys.readouterr().out
    other.save_pretrained(tmp_path / "other")
    assert exit_code(main, [str(tmp_path / "other"), "--output", str(tmp_path / "wrong.onnx")]) == 2
    assert "gives other embeddings than the model" in capsys.readouterr().err


def test_an_output_that_is_there_is_kept(runtime, exported, checkpoint, capsys):
    before = exported.read_bytes()
    assert exit_code(main, [checkpoint, "--output", str(exported)]) == 2
    assert "is there. Choose another --output" in capsys.readouterr().err
    assert exported.read_bytes() == before


def test_a_package_that_is_missing_is_named(model, tmp_path, monkeypatch):
    def without_packages(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", without_packages)
    monkeypatch.setattr("evaluation_concept.onnx_export.translations", dict)
    with pytest.raises(ImportError, match="needs the package onnxscript: pip install onnx"):
        export_onnx(model, tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())
