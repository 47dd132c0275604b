# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The analysis of a checkpoint: what its concepts are like, carry and read, each number beside what chance gives."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation_concept.ablation import Batch, ablate_slots
from evaluation_concept.concept_metrics import centred_spectrum, measure_concepts
from evaluation_concept.errors import NotMeasurableError
from evaluation_concept.probes import (
    OrderRecovery,
    SwapPair,
    TokenRecovery,
    choose_tokens,
    held_tokens,
    probe_order,
    probe_tokens,
    split_by_document,
    swap_pairs,
)
from evaluation_concept.reading import (
    TokenClasses,
    by_frequency,
    by_place_in_sentence,
    example_reading,
    read_weights,
    study_reading,
)
from evaluation_concept.states import (
    TokenRow,
    encode_rows,
    evenly,
    mean_concepts,
    num_free_concepts,
    random_encoder,
    span_of,
)
from evaluation_concept.tagged import PARTS_OF_SPEECH, TaggedText, tag_tokens

logger = logging.getLogger(__name__)

NUM_TOKENS, MOST_SPANS, MOST_SENTENCES = 100, 20_000, 6000
READ_ROWS, READ_LENGTH, EXAMPLE_LENGTH = 128, 512, 48
Results = dict[str, Any]


@dataclass
class Subject:
    """
    What is analysed, and on what.

    Attributes:
        model: a masked language model, ready for evaluation.
        tokenizer: its tokenizer.
        texts: one a document.
        rows: of these texts.
        masked_batches: of rows of these texts, for the loss; see `ablation.ablate_slots`.
        tagged: texts with parts of speech, or none.
        seed: of everything that is drawn.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    texts: Sequence[str]
    rows: Sequence[TokenRow]
    masked_batches: Sequence[Batch]
    tagged: Sequence[TaggedText] = ()
    seed: int = 0

    @cached_property
    def random(self) -> PreTrainedModel:
        """A model of the same configuration that has learned nothing, made when it is first asked for."""
        return random_encoder(self.model, self.seed)

    @property
    def encoders(self) -> dict[str, PreTrainedModel]:
        """The model, and one of its configuration that has learned nothing."""
        return {"model": self.model, "random": self.random}


def analyse(subject: Subject) -> Results:
    """
    All parts of the analysis, as numbers, words, and lists and dictionaries of them.

    Returns:
        A dictionary for each of `PARTS`, and `not_run`: why others were left out.
    """
    results: Results = {"not_run": {}}
    for name, part in PARTS.items():
        logger.info("analysing: %s", name)
        try:
            results[name] = part(subject)
        except NotMeasurableError as error:
            results["not_run"][name] = str(error)
    if not subject.tagged:
        results["not_run"]["parts of speech"] = "no corpus with tags was given (--tagged_corpus)"
    return results


def analyse_geometry(subject: Subject) -> Results:
    """`ConceptMetrics` of the model and of a random one, and the spectra that the ranks are made of."""
    rows = [row.input_ids for row in subject.rows]
    results: Results = {"spectrum": {}}
    for name, model in subject.encoders.items():
        encoded = encode_rows(model, rows)
        results[name] = asdict(measure_concepts(encoded.concepts, encoded.mask))
        results["spectrum"][name] = centred_spectrum(encoded.concepts, encoded.mask).tolist()
        if name == "model":
            first = encoded.concepts[0][encoded.mask[0]]
            # Of a single concept it would be a number.
            correlations = torch.corrcoef(first - first.mean(dim=0)).view(len(first), len(first))
            results["correlations"] = correlations.tolist()
    return results


def analyse_ablation(subject: Subject) -> Results:
    """`SlotAblation`, with the losses of shares and slots as lists of pairs."""
    ablation = ablate_slots(subject.model, subject.masked_batches, subject.tokenizer.all_special_ids, subject.seed)
    results = asdict(ablation)
    return results | {name: [[*pair] for pair in results[name].items()] for name in ("without_share", "without_slot")}


def analyse_token_recovery(subject: Subject) -> Results:
    """`TokenRecovery` of documents from their mean concept, and of spans, if there are any, from their own concept."""
    results: Results = {}
    free = num_free_concepts(subject.model.config)
    rows, documents = [row.input_ids for row in subject.rows], np.array([row.document for row in subject.rows])
    for name, model in subject.encoders.items():
        encoded = encode_rows(model, rows)
        whole = _recover(subject, mean_concepts(encoded), rows, documents)
        results.setdefault("document", {})[name] = asdict(whole)
        if free is not None:
            used = encoded.mask.numpy()
            used[:, :free] = False
            picked = evenly(int(used.sum()), MOST_SPANS)
            spans = [span for row, slots in zip(rows, used, strict=True) for span in _spans(row, int(slots.sum()))]
            features = encoded.concepts.numpy()[used][picked]
            members, owners = [spans[index] for index in picked], documents.repeat(used.sum(axis=1))[picked]
            results.setdefault("span", {})[name] = asdict(_recover(subject, features, members, owners))
    return results


def _recover(
    subject: Subject, features: np.ndarray, members: list[np.ndarray], documents: np.ndarray
) -> TokenRecovery:
    tokens = choose_tokens(members, NUM_TOKENS, subject.tokenizer.all_special_ids)
    return probe_tokens(features, held_tokens(members, tokens), split_by_document(documents, subject.seed))


def _spans(row: np.ndarray, number: int) -> list[np.ndarray]:
    places = span_of(len(row), number)
    return [row[places == span] for span in range(number)]


def analyse_order_recovery(subject: Subject) -> Results:
    """`OrderRecovery` from their mean concept of sentences and of the same with two words swapped."""
    longest = max(len(row.input_ids) for row in subject.rows)
    pairs = same_bags(subject.tokenizer, swap_pairs(subject.texts, MOST_SENTENCES, subject.seed), longest)
    split = split_by_document([pair.document for pair, _, _ in pairs], subject.seed)
    return {name: asdict(_tell_order(model, pairs, split)) for name, model in subject.encoders.items()}


def _tell_order(
    model: PreTrainedModel, pairs: list[tuple[SwapPair, np.ndarray, np.ndarray]], split: Any
) -> OrderRecovery:
    original, swapped = (mean_concepts(encode_rows(model, [pair[version] for pair in pairs])) for version in (1, 2))
    return probe_order(original, swapped, split)


def same_bags(
    tokenizer: PreTrainedTokenizerBase, pairs: list[SwapPair], longest: int
) -> list[tuple[SwapPair, np.ndarray, np.ndarray]]:
    """Pairs with the tokens of both sentences, at most `longest` and the same bag in both; others are left out."""
    tokenised = (
        (pair, *(np.array(ids) for ids in tokenizer([*pair[:2]], split_special_tokens=True)["input_ids"]))
        for pair in pairs
    )
    return [(pair, a, b) for pair, a, b in tokenised if len(a) <= longest and np.array_equal(np.sort(a), np.sort(b))]


def analyse_reading(subject: Subject) -> Results:
    """`Reading` on tagged texts, else on the texts, and an example of it."""
    model, tokenizer = subject.model, subject.tokenizer
    before = model.config._attn_implementation
    rows, classes = _sorted_tokens(subject)
    example = rows[0][:EXAMPLE_LENGTH]
    model.set_attn_implementation("eager")  # which alone gives weights
    try:
        results = asdict(study_reading(model, rows, classes, subject.seed))
        ((_, read),) = read_weights(model, [example])
    finally:
        model.set_attn_implementation(before)
    shown = [tokenizer.decode([token]) for token in example]
    return results | {"example": example_reading(read, shown), "on": "tagged texts" if subject.tagged else "the texts"}


def _sorted_tokens(subject: Subject) -> tuple[list[np.ndarray], dict[str, TokenClasses]]:
    """Rows to read, and the ways in which their tokens are sorted."""
    rows, classes = [row.input_ids[:READ_LENGTH] for row in subject.rows], {}
    rows = [rows[index] for index in evenly(len(rows), READ_ROWS)]
    if subject.tagged:
        length = min(READ_LENGTH, max(map(len, rows)))
        rows, tags = tag_tokens(list(subject.tagged), subject.tokenizer, length, READ_ROWS)
        classes["part of speech"] = TokenClasses(PARTS_OF_SPEECH, tags)
    classes["frequency"] = by_frequency(rows, subject.tokenizer.all_special_ids)
    classes["place in sentence"] = by_place_in_sentence(rows, subject.tokenizer)
    return rows, classes


PARTS: Mapping[str, Callable[[Subject], Results]] = {
    "geometry": analyse_geometry,
    "ablation": analyse_ablation,
    "token_recovery": analyse_token_recovery,
    "order_recovery": analyse_order_recovery,
    "reading": analyse_reading,
}
