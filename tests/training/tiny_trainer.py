# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A `ConceptTrainer` so small that it takes a second: random rows, a vocabulary of 300, models 32 wide."""

from pathlib import Path

import datasets
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderForMaskedLM, register_auto_classes
from training_concept.arguments import ConceptTrainingArguments
from training_concept.masking import MaskingCollator
from training_concept.mixture import with_epochs
from training_concept.tokenization import train_tokenizer
from training_concept.trainer import ConceptTrainer

VOCABULARY = 300
# One block of each kind, for the sake of time.
ONE_OF_EACH = {
    "num_hidden_layers": 1,
    "read_every": 1,
    "num_token_layers": 1,
    "num_interleaved_token_layers": 0,
    "num_decoder_layers": 1,
}


def build(name: str = "concept_encoder", **changes: int | str) -> PreTrainedModel:
    """A concept encoder or a BERT, the same weights every time."""
    set_seed(0)
    if name == "bert":
        widths = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **widths | dropout | changes))
    widths = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "local_attention": 16}
    settings = {"vocab_size": VOCABULARY, **widths, **changes}
    return ConceptEncoderForMaskedLM(ConceptEncoderConfig.from_preset("nano", **settings))


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Letters and little else."""
    register_auto_classes()
    return train_tokenizer(["a little text to learn letters from"] * 3, VOCABULARY)


def rows(count: int, shortest: int, longest: int) -> datasets.Dataset:
    """Rows `[CLS] words [SEP]` of random lengths and ids."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    words = [torch.randint(5, 250, (length - 2,), generator=generator).tolist() for length in lengths]
    features = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))})
    return datasets.Dataset.from_dict({"input_ids": [[2, *ids, 3] for ids in words]}, features=features)


def trainer(
    model: PreTrainedModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    data: datasets.Dataset,
    replace: float = 1.0,
    length: int | None = None,
    **settings,
) -> ConceptTrainer:
    """A trainer on the CPU that logs every step; all batches are padded to `length` if that is given."""
    stock = {"output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 1}
    args = ConceptTrainingArguments(**stock | {"logging_steps": 1, "learning_rate": 1e-3} | settings)
    collator = MaskingCollator(tokenizer, mask_replace_prob=replace, vocab_size=VOCABULARY, length=length)
    return ConceptTrainer(
        model,
        args,
        data_collator=collator,
        train_dataset=with_epochs(data),
        eval_dataset=with_epochs(data),
        processing_class=tokenizer,
    )


def history(run: ConceptTrainer, name: str) -> list[float]:
    """What was logged under `name`."""
    return [entry[name] for entry in run.state.log_history if name in entry]
