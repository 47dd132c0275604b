# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Selections and answers that stand in the document, for any `AutoModelForTokenClassification` with two outputs a token.

A candidate's logit is that of its first token, second output less first; one of several right candidates is learned
with a softmax over all, sets with a sigmoid for each. An answer is the span with the highest sum of a start (first
output) and an end (second output) of 30 tokens at most (BERT on SQuAD, arXiv 1810.04805); of answers that stand there
several times the probabilities are summed (arXiv 1710.10723). No answer is the first token.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn
from transformers import BatchEncoding, PreTrainedTokenizerBase

from evaluation_concept.long_context.tasks import SELECTION, Example, Task
from training_concept.finetuning.data import cut_rows, text_rows
from training_concept.finetuning.trainer import FineTuningTrainer
from training_concept.long_context.forms import PositionExamples

MOST_ANSWER_TOKENS = 30
NOWHERE = -1
# Of the rows, what is not the tokenizer's; and an argument of Longformer and its like.
OWN_COLUMNS, GLOBAL = ("positions", "targets", "query_end"), "global_attention_mask"

Batch = dict[str, torch.Tensor]
Read = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def tokenize_positions(
    task: Task,
    examples: PositionExamples,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    num_proc: int | None = None,
) -> Dataset:
    """
    Token ids, and where in them a model is asked and right.

    Returns:
        Rows of what the tokenizer gives, `positions`, `targets` and `query_end`. Of a selection positions are the
        first token of each candidate, -1 if it is cut off, and targets whether it is right; else first and last token
        of the document and those in it that are white space, and first and last token of each answer in turn. The
        query, and what stands before it, are the first `query_end` tokens; without a query that is the first token,
        which stands for no answer.

    Raises:
        ValueError: a tokenizer that cannot say which characters its tokens are.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{task.name} needs a fast tokenizer, which knows the characters of its tokens.")
    locate = _locate_candidates if task.kind == SELECTION else _locate_answers

    def encode(batch: Mapping[str, list], rows: Sequence[int]) -> dict[str, Any]:
        columns = cut_rows([batch[name] for name in names], tokenizer, max_length)
        encoded = tokenizer(*columns, truncation=True, max_length=max_length)
        found = [locate(task, examples.examples[row], encoded, place) for place, row in enumerate(rows)]
        own = {"positions": [each[0] for each in found], "targets": [each[1] for each in found]}
        return {**encoded, **own, "query_end": [_query_end(encoded, place) for place in range(len(rows))]}

    rows = text_rows(examples.texts)
    names = rows.column_names
    return rows.map(encode, batched=True, with_indices=True, remove_columns=names, num_proc=num_proc)


def _locate_candidates(task: Task, example: Example, encoded: BatchEncoding, row: int) -> tuple[list[int], list[int]]:
    side = _document_side(encoded, row)
    places = [_token(encoded, row, character, side) for character in example.candidates]
    return places, [int(number in set(example.selected)) for number in range(len(places))]


def _locate_answers(task: Task, example: Example, encoded: BatchEncoding, row: int) -> tuple[list[int], list[int]]:
    side = _document_side(encoded, row)
    inside = [token for token, sequence in enumerate(encoded.sequence_ids(row)) if sequence == side]
    ends = [
        [_token(encoded, row, character, side) for character in (first, behind - 1)] for first, behind in example.spans
    ]
    found = [end for pair in ends if NOWHERE not in pair for end in pair]
    offsets = encoded.encodings[row].offsets
    blank = [token for token in inside if not example.text[slice(*offsets[token])].strip()]
    # What is cut off has no answer here, as has what the task says so of.
    return [inside[0], inside[-1], *blank] if inside else [0, 0], found or [0, 0]


def _document_side(encoded: BatchEncoding, row: int) -> int:
    return max(sequence for sequence in encoded.sequence_ids(row) if sequence is not None)


def _query_end(encoded: BatchEncoding, row: int) -> int:
    sides, document = encoded.sequence_ids(row), _document_side(encoded, row)
    return max((token + 1 for token, side in enumerate(sides) if side is not None and side < document), default=1)


def _token(encoded: BatchEncoding, row: int, character: int, side: int) -> int:
    token = encoded.char_to_token(row, character, side)
    return NOWHERE if token is None else token


class PositionCollator:
    """
    Pads rows of `tokenize_positions`; places that are none are -1.

    A model with global attention gets a mask of it for the query, which Longformer's class for tokens, other than that
    for questions, does not make itself: without one, what is far from the query would never see it.

    Args:
        tokenizer: pads token ids.
        length: that all rows get; `None` for the longest of the batch.
        model: that the batches are for; `None` for any without global attention.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None = None, model: nn.Module | None = None
    ) -> None:
        self.tokenizer, self.length = tokenizer, length
        self.has_global_attention = model is not None and GLOBAL in inspect.signature(model.forward).parameters

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """
        A batch: `[rows, tokens]` of the tokenizer's and, if the model takes it, `global_attention_mask`; `positions`
        and `targets` `[rows, most]`.
        """
        own = {name: [torch.tensor(row[name], dtype=torch.long) for row in rows] for name in ("positions", "targets")}
        inputs = [{name: row[name] for name in row if name not in OWN_COLUMNS} for row in rows]
        padding = "max_length" if self.length else "longest"
        batch = dict(self.tokenizer.pad(inputs, padding=padding, max_length=self.length, return_tensors="pt"))
        if self.has_global_attention:
            ends = torch.tensor([row["query_end"] for row in rows])
            batch[GLOBAL] = (torch.arange(batch["input_ids"].shape[1]) < ends[:, None]).long()
        pad = nn.utils.rnn.pad_sequence
        return {**batch, **{name: pad(values, True, NOWHERE) for name, values in own.items()}}


def candidate_logits(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """
    Args:
        logits: `[batch, tokens, 2]`.
        positions: `[batch, most]`, tokens of candidates, -1 for none.

    Returns:
        `[batch, most]`, -inf for none.
    """
    scores = (logits[..., 1] - logits[..., 0]).float()
    return scores.gather(1, positions.clamp(min=0)).masked_fill(positions == NOWHERE, -torch.inf)


def single_selection_loss(logits: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the candidates of a document, of those whose right candidate was not cut off."""
    scores = candidate_logits(logits, positions)
    right = scores.masked_fill(targets != 1, -torch.inf)
    return _mean_surprise(scores, right)


def selection_loss(logits: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over all candidates that were not cut off."""
    there = positions != NOWHERE
    scores = candidate_logits(logits, positions)[there]
    loss = F.binary_cross_entropy_with_logits(scores, targets[there].to(scores.dtype), reduction="sum")
    return loss / there.sum().clamp(min=1) + 0 * logits.float().sum()


def answer_loss(logits: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over documents and both ends of the surprise at any of the answers."""
    losses = []
    for side in (0, 1):
        scores = _end_scores(logits, positions, side, with_first=True)
        places = targets[:, side::2]
        right = scores.gather(1, places.clamp(min=0)).masked_fill(places == NOWHERE, -torch.inf)
        losses.append(_mean_surprise(scores, right))
    return (losses[0] + losses[1]) / 2


def _mean_surprise(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Mean of -log of the share of `right` `[batch, some]` in the softmax of `scores`; rows without are left out."""
    learned = (right > -torch.inf).any(dim=1)
    if not learned.any():
        # Zero, of a graph that reaches the weights.
        return 0 * scores[scores > -torch.inf].sum()
    return (scores[learned].logsumexp(dim=1) - right[learned].logsumexp(dim=1)).mean()


def _end_scores(logits: torch.Tensor, positions: torch.Tensor, side: int, *, with_first: bool) -> torch.Tensor:
    """Scores `[batch, tokens]` of tokens as start (side 0) or end (1) of an answer, -inf where none is."""
    tokens = torch.arange(logits.shape[1], device=logits.device)[None]
    inside = (tokens >= positions[:, :1]) & (tokens <= positions[:, 1:2])
    # Places that are none become the first token, which is outside, or all there is of a document that is cut off.
    blank = torch.zeros_like(inside).scatter(1, positions[:, 2:].clamp(min=0), True)
    inside &= ~blank | (tokens == 0)
    allowed = inside | (tokens == 0) if with_first else inside
    return logits[..., side].float().masked_fill(~allowed, -torch.inf)


def best_answers(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """
    The best span of each document.

    Args:
        logits: `[batch, tokens, 2]`, of starts and ends.
        positions: `[batch, 2 + most]`, first and last token of the document, and tokens of white space, with which no
            answer begins or ends; -1 for none.

    Returns:
        float64 `[batch, 3]`: first token, last token, and by how much its score is above that of no answer.
    """
    starts, ends = (_end_scores(logits, positions, side, with_first=False) for side in (0, 1))
    best = starts.new_full((len(starts),), -torch.inf)
    first = last = torch.zeros(len(starts), dtype=torch.long, device=logits.device)
    for more in range(min(MOST_ANSWER_TOKENS, starts.shape[1])):
        score, place = (starts[:, : starts.shape[1] - more] + ends[:, more:]).max(dim=1)
        is_better = score > best
        best, first = torch.where(is_better, score, best), torch.where(is_better, place, first)
        last = torch.where(is_better, place + more, last)
    margin = best - logits[:, 0].float().sum(dim=-1)
    return torch.stack([first.double(), last.double(), margin.double()], dim=1)


def functions(task: Task) -> tuple[Loss, Read]:
    """Loss and reading of a task."""
    if task.kind == SELECTION:
        return single_selection_loss if task.single else selection_loss, candidate_logits
    return answer_loss, best_answers


class PositionTrainer(FineTuningTrainer):
    """
    `transformers.Trainer` for rows of `tokenize_positions`; what it predicts is what the task reads of the logits.

    Args:
        functions: loss and reading of the task.
        args, kwargs: of `FineTuningTrainer`.
    """

    def __init__(self, *args: Any, functions: tuple[Loss, Read], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loss, self._read = functions
        # Means of batches, which stock averages over those that are accumulated.
        self.compute_loss_func = self.compute_metrics = None

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Loss of a batch; `inputs` are left as they are."""
        inputs = dict(inputs)
        positions, targets = inputs.pop("positions"), inputs.pop("targets")
        outputs = model(**inputs)
        loss = self._loss(outputs["logits"], positions, targets)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, torch.Tensor, None]:
        """What the task reads of the logits of a batch, in place of these."""
        inputs = dict(self._prepare_inputs(inputs))
        positions, _ = inputs.pop("positions"), inputs.pop("targets")
        with self.compute_loss_context_manager():
            logits = model(**inputs)["logits"]
        return None, self._read(logits, positions), None
