# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The inference benchmark: contenders encode the same documents, take turns, and may fail without harm to others."""

from dataclasses import replace

import pytest
import torch

from benchmarks import inference
from benchmarks.inference import closeness, encode_as_they_come, main, make_workload, ratios, take_turns
from benchmarks.results import read_results
from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderForTextEncoding

TINY = ["--preset", "nano", "--documents", "6", "--mean_length", "20", "--repeats", "2", "--device", "cpu"]


@pytest.fixture
def work():
    return make_workload(inference._parse(TINY), "python -m benchmarks.inference")


def test_the_workload_has_the_documents_that_were_asked_for(work):
    assert len(work.texts) == 6
    assert work.num_tokens == sum(len(ids) for ids in work.tokenizer(work.texts).input_ids)
    assert 6 * 10 < work.num_tokens < 6 * 35
    assert len(work.tokenizer) == work.model.config.vocab_size
    again = make_workload(inference._parse(TINY), "")
    assert again.texts == work.texts


def test_all_forms_encode_the_same_documents(work):
    expected = work.encoder()()
    torch.testing.assert_close(encode_as_they_come(work), expected, atol=1e-5, rtol=0)
    for name in ("float32", "autocast", "bfloat16", "varlen", "int8"):
        form = inference.FORMS[name](work)
        assert closeness(form.encode(), expected)[0] > 0.99
        assert form.megabytes > 1


def test_a_form_in_the_onnx_runtime_encodes_them_too(work):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    layers = {"num_hidden_layers": 1, "read_every": 1, "num_token_layers": 1}  # exporting goes by their number
    model = ConceptEncoderForTextEncoding(ConceptEncoderConfig.from_preset("nano", **layers)).eval()
    work = replace(work, model=model)
    form = inference.onnx(work)
    torch.testing.assert_close(form.encode(), work.encoder()(), atol=1e-4, rtol=0)


def test_all_tables_are_written_with_their_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "BUDGETS", (64,))
    path = tmp_path / "inference.json"
    main([*TINY, "--forms", "bfloat16", "int8"], path)
    results = read_results(path)
    assert set(results.tables) == {"batching_cpu", "threads_cpu", "forms_cpu"}
    batches = [row[0] for row in results.tables["batching_cpu"].rows]
    assert batches == ["one by one", "32 as they come", "sorted, 64 tokens", "sorted, 2048 tokens"]
    assert [row[0] for row in results.tables["forms_cpu"].rows] == ["float32", "bfloat16", "int8"]
    float32 = results.tables["forms_cpu"].rows[0]
    assert float32[2:5] == [1.0, 1.0, 1.0]
    assert all(row[5] < float32[5] for row in results.tables["forms_cpu"].rows[1:])
    figure = results.figures["encode_int8_x_cpu"]
    assert (figure.runs, figure.unit) == (2, "ratio")
    assert figure.value > 0
    assert figure.command.startswith("python -m benchmarks.inference --preset nano")
    assert {"encode_threads_x", "encode_batch_a_thread_x", "encode_sorted_x_one_by_one_cpu"} <= set(results.figures)
    assert 0.9 < results.figures["encode_int8_cosine_cpu"].value < 1


def test_a_form_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(_):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setitem(inference.FORMS, "int8", broken)
    path = tmp_path / "inference.json"
    main([*TINY, "--only", "forms", "--forms", "int8", "bfloat16"], path)
    table = read_results(path).tables["forms_cpu"]
    assert [row[0] for row in table.rows] == ["float32", "bfloat16"]
    assert "int8 failed: RuntimeError: no such kernel." in table.note
    assert "int8 failed" in capsys.readouterr().err


def test_contenders_take_turns_and_the_first_round_does_not_count():
    ran = []
    seconds = take_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 2)
    assert ran == ["a", "b"] * 3
    assert {name: len(counted) for name, counted in seconds.items()} == {"a": 2, "b": 2}
    assert ratios({"slow": [4.0, 6.0], "fast": [2.0, 2.0]}, "fast", "slow") == [2.0, 3.0]


def test_closeness_is_that_of_the_worst_document_and_of_neighbours():
    reference = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    assert closeness(2 * reference, reference) == pytest.approx((1, 1))
    swapped = reference[[0, 2, 1, 3]]
    least, same = closeness(swapped, reference)
    assert least == pytest.approx(0.1104, abs=1e-3)
    assert same == 0


def test_what_is_for_a_cpu_is_left_out_on_a_gpu(work, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inference.Workload, "device", torch.device("cuda"))
    monkeypatch.setattr(inference, "make_workload", lambda *_: work)
    main([*TINY, "--only", "threads"], tmp_path / "inference.json")
    assert "left out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="measured on a CPU, not on cuda"):
        inference.onnx(work)
