# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What users of transformers do to any model, and inputs of shapes that mean nothing."""

import inspect

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

import modeling_concept
from configuration_concept import AUTO_MAP
from modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForMultipleChoice,
    ConceptEncoderForQuestionAnswering,
    ConceptEncoderForSequenceClassificationViaDecoder,
)
from modeling_concept.loading import first_device
from tests.modeling.tiny import document, tiny_config, tiny_model

HEADS = [
    getattr(modeling_concept, name.rpartition(".")[2]) for name in AUTO_MAP.values() if ".ConceptEncoderFor" in name
]
IDS = torch.stack([document(20), document(20, seed=1)])


@pytest.mark.parametrize("device_map", ["auto", "balanced", "sequential"])
def test_the_library_may_choose_the_device(device_map, tmp_path):
    """It takes `head` and `lm_head`, which is tied, for one another and fails if it is to spread them."""
    model = tiny_model(ConceptEncoderForMaskedLM, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = ConceptEncoderForMaskedLM.from_pretrained(tmp_path, device_map=device_map)
    assert {parameter.device for parameter in loaded.parameters()} == {first_device()}
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert all(torch.equal(value.cpu(), model.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": IDS[0]}, r"input_ids of shape \(20,\) have 1 axes, not 2"),
        ({"input_ids": IDS[None]}, r"input_ids of shape \(1, 2, 20\) have 3 axes, not 2"),
        ({"inputs_embeds": torch.zeros(20, 32)}, r"inputs_embeds of shape \(20, 32\) have 2 axes, not 3"),
        ({"input_ids": IDS[:, :0]}, r"Inputs of shape \(2, 0\) hold no token"),
        ({"input_ids": IDS[:0]}, r"Inputs of shape \(0, 20\) hold no token"),
        ({"input_ids": IDS, "token_type_ids": torch.zeros(2, 30).long()}, r"token_type_ids of shape \(2, 30\)"),
        ({"input_ids": IDS, "masked_positions": torch.tensor([[3]])}, r"masked_positions of shape \(1, 1\)"),
        ({"input_ids": IDS, "masked_positions": torch.tensor([3, 4])}, r"masked_positions of shape \(2,\)"),
    ],
)
def test_inputs_of_other_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(ConceptEncoder)(**arguments)


def test_choices_have_an_axis_of_their_own():
    with pytest.raises(ValueError, match=r"input_ids \[batch_size, num_choices, N\]"):
        tiny_model(ConceptEncoderForMultipleChoice)(IDS)


def test_labels_of_packed_documents_have_to_fit():
    model, lengths = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder), torch.tensor([[5, 15], [20, 0]])
    with pytest.raises(ValueError, match=r"labels of shape \(2,\) do not fit: \(2, 2\)"):
        model(IDS, document_lengths=lengths, labels=torch.tensor([0, 1]))


@pytest.mark.parametrize("head", [ConceptEncoder, *HEADS])
def test_every_argument_is_documented(head):
    described = head.forward.__doc__
    for name in set(inspect.signature(head.forward).parameters) - {"self", "kwargs"}:
        assert f"{name} (`" in described or f"{name}, " in described, name
    if head is not ConceptEncoderForMultipleChoice:
        assert "(batch_size, sequence_length, embedding_size)" in described


def test_a_run_of_question_answering_resumes_from_what_it_saved_under_former_names(tmp_path):
    """Whatever a Trainer restores it takes by `load_state_dict`, which leaves out names that it does not know."""
    rows = [{"input_ids": ids, "start_positions": torch.tensor(1), "end_positions": torch.tensor(2)} for ids in IDS]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, learning_rate=0.1, use_cpu=True, disable_tqdm=True, report_to="none"
    )
    trained = ConceptEncoderForQuestionAnswering(tiny_config())
    Trainer(trained, arguments, train_dataset=rows).train()
    path = tmp_path / "checkpoint-1" / "model.safetensors"
    former = {name.replace("qa_outputs", "classifier"): value for name, value in load_file(path).items()}
    save_file(former, path, metadata={"format": "pt"})
    resumed = ConceptEncoderForQuestionAnswering(tiny_config())
    Trainer(resumed, arguments, train_dataset=rows).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert torch.equal(resumed.qa_outputs.weight, trained.qa_outputs.weight)
