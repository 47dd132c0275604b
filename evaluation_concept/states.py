# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts to rows of token ids, rows to concepts, concepts to features of fixed width."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from evaluation_concept.concept_metrics import NOT_FINITE
from evaluation_concept.errors import NotMeasurableError, naming
from modeling_concept import register_auto_classes

TOKENS_PER_BATCH = 8192
MODEL_TYPE = "concept_encoder"


class TokenRow(NamedTuple):
    """Token ids `[N]`, special ones in place, and the document that they are from."""

    input_ids: np.ndarray
    document: int


@dataclass(frozen=True)
class EncodedRows:
    """
    Concepts of rows, in the order of the rows, on the CPU.

    Attributes:
        concepts: float32 `[rows, C, H]`, zeros where the mask is false.
        mask: bool `[rows, C]`, slots in use.
    """

    concepts: torch.Tensor
    mask: torch.Tensor


def load_masked_lm(name: str, *, trust_remote_code: bool = False, **options: Any) -> PreTrainedModel:
    """
    The masked language model of a checkpoint, ready for evaluation.

    Args:
        name: folder, or repository on the Hub.
        trust_remote_code: run the code that comes with the checkpoint, instead of this one.
        options: of `from_pretrained`.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is no concept encoder, or has another head.
    """
    if not trust_remote_code:  # else the code of the checkpoint would not be run
        register_auto_classes()
    with naming(name):
        model = AutoModelForMaskedLM.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
    check_kind(name, model)
    return model.eval()


def check_kind(name: str, model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: the checkpoint `name`, loaded as `model`, is no concept encoder, or was saved with another head.
    """
    kind = type(model).__name__
    if model.config.model_type != MODEL_TYPE:
        raise ValueError(f"{name} holds a {kind}, which is no concept encoder: it has no concepts.")
    saved = model.config.architectures or [kind]
    if kind not in saved:
        raise ValueError(f"{name} holds a {saved[0]}; what is needed is a {kind}, whose head predicts masked tokens.")


def random_encoder(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """A model of the same configuration and code on the same device, with fresh weights."""
    set_seed(seed)
    return type(model)(model.config).to(model.device, model.dtype).eval()


def cut_rows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, most: int | None = None
) -> list[TokenRow]:
    """
    Rows of at most `length` tokens, special ones included: every text in windows, the last of which is left out if it
    is less than half full and not the only one.

    Special tokens that are spelled out in a text are read as characters.

    Args:
        most: rows; taken evenly from all.

    Raises:
        ValueError: if there is nothing to read.
    """
    rows = []
    for document, text in enumerate(texts):
        windows = _windows(text, tokenizer, length) if text.strip() else []
        rows += [TokenRow(np.array(ids), document) for ids in windows if ids is windows[0] or 2 * len(ids) >= length]
    if not rows:
        raise ValueError("The texts to analyse are empty.")
    return [rows[index] for index in evenly(len(rows), most or len(rows))]


def evenly(number: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `number` things, spread evenly: int64, ascending."""
    return np.linspace(0, number - 1, min(most, number), dtype=int)


def _windows(text: str, tokenizer: PreTrainedTokenizerBase, length: int) -> list[list[int]]:
    return tokenizer(
        text,
        truncation=True,
        max_length=length,
        return_overflowing_tokens=True,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def pad_batches(
    rows: Sequence[np.ndarray], padding: int, device: torch.device, tokens_per_batch: int = TOKENS_PER_BATCH
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """
    Batches of rows of like length: the indices of their rows, and `input_ids` and `attention_mask` int64 `[B, N]`.

    Args:
        rows: token ids of each.
        padding: id of the padding token.
        device: where batches go.
        tokens_per_batch: padding included; a longer row goes alone.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    while order:
        longest = len(rows[order[0]])
        size = max(tokens_per_batch // longest, 1)
        group, order = order[:size], order[size:]
        ids = torch.full((len(group), longest), padding)
        mask = torch.zeros_like(ids)
        for place, index in enumerate(group):
            ids[place, : len(rows[index])] = torch.from_numpy(rows[index])
            mask[place, : len(rows[index])] = 1
        yield group, {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@torch.no_grad()
def encode_rows(model: PreTrainedModel, rows: Sequence[np.ndarray]) -> EncodedRows:
    """
    The concepts of every row.

    Args:
        model: with any head, or none.
        rows: token ids of each.

    Raises:
        NotMeasurableError: concepts are not finite.
    """
    encoded: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for group, batch in pad_batches(rows, model.config.pad_token_id or 0, model.device):
        outputs = model.base_model(**batch)
        # Once a batch, not once a row: each copy waits for the device.
        states, mask = outputs.last_hidden_state.float().cpu(), outputs.concept_mask.bool().cpu()
        for index, concepts, used in zip(group, states, mask, strict=True):
            encoded[index] = concepts[used]
    if not all(concepts.isfinite().all() for concepts in encoded):
        raise NotMeasurableError(NOT_FINITE)
    sizes = torch.tensor([len(concepts) for concepts in encoded])
    return EncodedRows(
        concepts=torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True),
        mask=torch.arange(int(sizes.max())) < sizes.unsqueeze(1),
    )


def mean_concepts(encoded: EncodedRows) -> np.ndarray:
    """
    Mean of the concepts in use of every row, float32 `[rows, H]`.

    It knows nothing of the order of the slots: what is found in it has to stand in the concepts themselves.
    """
    return ((encoded.concepts * encoded.mask.unsqueeze(2)).sum(dim=1) / encoded.mask.sum(dim=1, keepdim=True)).numpy()


def num_free_concepts(config: Any) -> int | None:
    """How many slots come before those anchored on spans of the text; `None` if no slot is."""
    return config.num_global_concepts if config.concept_init == "anchored" else None


def span_of(length: int, num_spans: int) -> np.ndarray:
    """The span of every position of a document of `length` tokens in `num_spans` spans, int64 `[length]`."""
    return np.arange(length) * num_spans // length
