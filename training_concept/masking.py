# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches for masked language modelling and denoising: exactly K tokens a row, drawn from its content and the epoch.

Masks do not depend on a global random state. The same row in the same epoch gets the same mask whatever the
batch size, its batch mates, the number of workers, or how often training was interrupted and resumed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from training_concept.collation import (
    IGNORED_LABEL,
    NO_POSITION,
    RowCollator,
    check_token,
    checked_rates,
    count_in_documents,
    document_lengths_of,
    epoch_of,
    gather_chosen,
    places_in_documents,
    share_of,
)
from training_concept.collocations import PmiVocabulary
from training_concept.schemes import Draw, Row, SchemeOptions, Units, build_scheme, expand, smallest


class MaskingCollator(RowCollator):
    """Pads rows of token ids to a batch and masks exactly K tokens in each.

    K is `mlm_probability` times the row's length (special tokens included), rounded, and at least 1. The scheme
    draws the K tokens among those that are not special (see training_concept.schemes); a row with fewer such tokens
    has all of them masked.

    Args:
        tokenizer: names the padding, mask and other special tokens.
        scheme: what is masked as one: `token`, `whole_word`, `span` or `pmi`.
        mlm_probability: share of a row's tokens to predict, between 0 and 1 exclusive. Of several the row's `stage`
            picks one.
        mask_replace_prob: share of the predicted tokens that become the mask token.
        random_replace_prob: share of the predicted tokens that become a random token; the rest stay as they are.
            Tokens are replaced one by one, with the schemes `span` and `pmi` (as in the papers) unit by unit.
        seed: another seed, other masks.
        length: pad every batch to this length N, with as many `masked_positions` as a row of N tokens has: all
            batches have the same shapes.
        max_documents: columns of `document_lengths`; by default as many as the batch needs.
        vocab_size: token ids of the model, if it has more than the tokenizer.
        gives_positions: whether batches have `masked_positions`, for which N may have to be raised. Models that take
            none may take no more tokens than N either.
        span_distribution: lengths of spans, `geometric` (SpanBERT) or `uniform`.
        span_success_probability: p of the geometric distribution.
        min_span_length: shortest span.
        max_span_length: longest span.
        span_unit: what these lengths count, `word` or `token`.
        pmi_vocabulary: for `pmi`, the collocations or the file that holds them.

    Raises:
        OSError: a vocabulary that cannot be read.
        ValueError: an option outside its range, a tokenizer without padding or mask token or, for a scheme that
            needs them, without words, or one with more tokens than `vocab_size`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        scheme: str = "token",
        mlm_probability: float | Sequence[float] = 0.3,
        mask_replace_prob: float = 1.0,
        random_replace_prob: float = 0.0,
        seed: int = 0,
        length: int | None = None,
        max_documents: int | None = None,
        vocab_size: int | None = None,
        *,
        gives_positions: bool = True,
        span_distribution: str = "geometric",
        span_success_probability: float = 0.2,
        min_span_length: int = 1,
        max_span_length: int = 10,
        span_unit: str = "word",
        pmi_vocabulary: PmiVocabulary | str | Path | None = None,
    ) -> None:
        super().__init__(tokenizer, seed, length, vocab_size, max_documents)
        check_token(tokenizer, "mask_token")
        _check_replacement(mask_replace_prob, random_replace_prob)
        self.rates = checked_rates("mlm_probability", mlm_probability)
        self.mask_replace_prob = mask_replace_prob
        self.masks_all = mask_replace_prob == 1
        self.gives_positions = gives_positions and self.masks_all
        self.random_replace_prob = random_replace_prob
        self.mask_token_id = tokenizer.mask_token_id
        # Random replacements are words of the tokenizer, never the spare ids of a larger embedding table.
        self.replacements = np.flatnonzero(self.is_maskable[: len(tokenizer)])
        options = SchemeOptions(
            vocab_size=self.vocab_size,
            span_distribution=span_distribution,
            span_success_probability=span_success_probability,
            min_span_length=min_span_length,
            max_span_length=max_span_length,
            span_unit=span_unit,
            pmi_vocabulary=pmi_vocabulary,
        )
        self.scheme = build_scheme(scheme, tokenizer, options)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate B rows.

        Args:
            rows: each with `input_ids` (token ids, special tokens in place), `epoch` (an integer), with several
                rates `stage` (an integer, default 0), and if packed `document_lengths` (tokens of each document).

        Returns:
            `input_ids` [B, N]; `labels` [B, N], -100 where nothing is to be predicted; `masked_positions`
            [B, K], ascending, -1 behind the last of a row with fewer (if wanted, and only if every predicted token
            became the mask token; then at most N - K tokens of a row are visible, for which N is raised if some row
            has too few tokens to mask); `attention_mask` [B, N] if any row is padded, or for packed rows
            `document_lengths` [B, D], 0 behind a row's last. All int64.

        Raises:
            ValueError: a row without tokens, of padding only, longer than `length`, with an id outside the
                vocabulary, without `epoch`, or of a stage without rate; packed rows beside others, with padding,
                with lengths that do not add up to the row's, or with more than `max_documents`.
        """
        ids = self.pad(rows)
        documents = self.documents(rows, ids)
        rates = [self._rate(row) for row in rows]
        counts = self._counts(ids, rates)
        width = self._width(counts, rates)
        if self.gives_positions:
            ids = self._widen(ids, counts, width)
        drawn = [self._draw(*row) for row in zip(rows, ids, counts.tolist(), strict=True)]
        members: np.ndarray = np.repeat(np.arange(len(ids)), counts)
        places, shown = (np.concatenate(values) for values in zip(*drawn, strict=True))
        labels = np.full_like(ids, IGNORED_LABEL)
        labels[members, places] = ids[members, places]
        attended = ids != self.pad_token_id
        ids[members, places] = shown
        batch = {"input_ids": ids, "labels": labels}
        if documents is not None:
            batch["document_lengths"] = documents
        elif not attended.all():
            batch["attention_mask"] = attended.astype(np.int64)
        if self.gives_positions:
            batch["masked_positions"] = _columns(places, counts, width)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def spans(self, row: Mapping[str, Any]) -> list[tuple[int, int]]:
        """The units of a row that are masked, ascending, each as its first position and the one behind its last.

        Raises:
            ValueError: as for a batch.
        """
        ids = self.pad([row])
        self.documents([row], ids)
        places, (begins, lengths), _ = self._choose(row, ids[0], int(self._counts(ids, [self._rate(row)])[0]))
        return sorted(zip(places[begins].tolist(), (places[begins + lengths - 1] + 1).tolist(), strict=True))

    def _rate(self, row: Mapping[str, Any]) -> float:
        if len(self.rates) == 1:
            return self.rates[0]
        stage = int(row.get("stage", 0))
        if not 0 <= stage < len(self.rates):
            raise ValueError(f"a row is of stage {stage}, but mlm_probability has {len(self.rates)} rates")
        return self.rates[stage]

    def _counts(self, ids: np.ndarray, rates: Sequence[float]) -> np.ndarray:
        """K of each row, int64 [B]."""
        wanted = share_of(rates, (ids != self.pad_token_id).sum(axis=1))
        return np.minimum(wanted, self.is_maskable[ids].sum(axis=1))

    def _width(self, counts: np.ndarray, rates: Sequence[float]) -> int:
        """Columns of `masked_positions`."""
        return max(int(counts.max()), 1) if self.length is None else int(share_of(rates, self.length).max())

    def _widen(self, ids: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
        """Pad to the N that holds the visible tokens of every row beside `width` masked ones."""
        visible = (ids != self.pad_token_id).sum(axis=1) - counts
        missing = max(int(visible.max()) + width - ids.shape[1], 0)
        return np.pad(ids, ((0, 0), (0, missing)), constant_values=self.pad_token_id)

    def _choose(self, row: Mapping[str, Any], ids: np.ndarray, count: int) -> tuple[np.ndarray, Units, Draw]:
        """Draw the units of a row [N].

        Returns:
            The places of the row's n tokens without padding, the units among these n, and what is left of the draws.
        """
        places = np.flatnonzero(ids != self.pad_token_id)
        tokens = ids[places]
        draw = self.stream(tokens, epoch_of(row))
        if count == 0:
            nothing: np.ndarray = np.empty(0, dtype=np.int64)
            return places, (nothing, nothing), draw
        borders = np.cumsum(document_lengths_of(row)[:-1])
        return places, self.scheme.choose(Row(tokens, self.is_maskable[tokens], borders), count, draw), draw

    def _draw(self, row: Mapping[str, Any], ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The places [K] of a row [N] that are masked, ascending, and the tokens [K] that they show."""
        places, (begins, lengths), draw = self._choose(row, ids, count)
        chosen = expand(begins, lengths)
        order = np.argsort(chosen)
        chosen = chosen[order]
        if self.masks_all:
            return places[chosen], np.full(count, self.mask_token_id)
        deciding = np.repeat(begins, lengths)[order] if self.scheme.replaces_units else chosen
        action = draw(len(places))[deciding] / 2.0**64
        words = self.replacements[draw(len(places))[chosen] % np.uint64(len(self.replacements))]
        randomised = action < self.mask_replace_prob + self.random_replace_prob
        kept_or_random = np.where(randomised, words, ids[places[chosen]])
        return places[chosen], np.where(action < self.mask_replace_prob, self.mask_token_id, kept_or_random)


class DeletionCollator(RowCollator):
    """Deletes tokens of rows whose whole text is to be predicted: the noise of TSDAE (Wang et al., 2021).

    Of each row K tokens are deleted, K being `deletion_probability` times its length (special tokens included),
    rounded; the others keep their order. Special tokens stay, and a row with fewer others loses all of these.

    Args:
        tokenizer: names the padding and other special tokens.
        deletion_probability: share of a row's tokens to delete, between 0 and 1 exclusive.
        seed: another seed, other tokens.
        length: pad the labels of every batch to this length N, and what is left of the rows to N - K of a row of N
            tokens; longer only if some row has too few tokens to delete.
        vocab_size: token ids of the model, if it has more than the tokenizer.
        max_documents: columns of `document_lengths`; by default as many as the batch needs.

    Raises:
        ValueError: a probability outside its range, a tokenizer without padding token, or one with more tokens than
            `vocab_size`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        deletion_probability: float = 0.6,
        seed: int = 0,
        length: int | None = None,
        vocab_size: int | None = None,
        max_documents: int | None = None,
    ) -> None:
        super().__init__(tokenizer, seed, length, vocab_size, max_documents)
        (self.rate,) = checked_rates("deletion_probability", deletion_probability)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate B rows.

        Args:
            rows: each with `input_ids` (token ids, special tokens in place), `epoch` (an integer), and if packed
                `document_lengths` (tokens of each document).

        Returns:
            `input_ids` [B, N'], what is left of the rows; `document_lengths` [B, D], what is left of each document, 0
            behind a row's last; `labels` [B, N], the whole rows, -100 on padding; `decoded_positions` [B, N], the
            place of each of them in its document, -1 on padding; for packed rows `decoded_documents` [B, N], its
            document. All int64.

        Raises:
            ValueError: as `MaskingCollator`, or a document of which nothing would be left.
        """
        ids = self.pad(rows)
        in_use = ids != self.pad_token_id
        packed = self.documents(rows, ids)
        lengths = in_use.sum(axis=1, keepdims=True) if packed is None else packed
        places, documents = places_in_documents(in_use, lengths)
        kept = np.stack([self._keep(row, tokens) for row, tokens in zip(rows, ids, strict=True)])
        left = count_in_documents(kept, documents, lengths.shape[1])
        if (left == 0)[lengths > 0].any():
            raise ValueError(
                "a document without special tokens would lose all of its tokens: lower deletion_probability"
            )
        width = int(left.sum(axis=1).max())
        if self.length is not None:
            width = max(width, self.length - int(share_of([self.rate], self.length)[0]))
        batch = {
            "input_ids": gather_chosen(ids, kept, width, self.pad_token_id),
            "document_lengths": left,
            "labels": np.where(in_use, ids, IGNORED_LABEL),
            "decoded_positions": places,
            **({} if lengths.shape[1] == 1 else {"decoded_documents": documents}),
        }
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _keep(self, row: Mapping[str, Any], ids: np.ndarray) -> np.ndarray:
        """Which tokens of a row [N] are left, bool [N]."""
        places = np.flatnonzero(ids != self.pad_token_id)
        tokens = ids[places]
        maskable = self.is_maskable[tokens]
        count = min(int(share_of([self.rate], len(tokens))[0]), int(maskable.sum()))
        draw = self.stream(tokens, epoch_of(row))
        kept: np.ndarray = np.zeros(len(ids), dtype=bool)
        kept[np.delete(places, smallest(draw(len(tokens)), maskable, count))] = True
        return kept


class MaskingArguments(Protocol):
    """What a run is told of masking."""

    mlm_probability: float
    mlm_probability_schedule: list[float] | None
    mask_replace_prob: float
    random_replace_prob: float
    masking_scheme: str
    span_distribution: str
    span_success_probability: float
    min_span_length: int
    max_span_length: int
    span_unit: str
    pmi_vocabulary: str | None


def build_collator(tokenizer: PreTrainedTokenizerBase, args: MaskingArguments, **options: Any) -> MaskingCollator:
    """
    The collator that `args` describe.

    Args:
        tokenizer: of the rows.
        args: of the run.
        options: of `MaskingCollator`, beside those that `args` tell or in place of them.

    Raises:
        OSError, ValueError: as `MaskingCollator`.
    """
    renamed = {"mlm_probability", "mlm_probability_schedule", "masking_scheme"}
    told: dict[str, Any] = {name: getattr(args, name) for name in MaskingArguments.__annotations__.keys() - renamed}
    told["mlm_probability"] = args.mlm_probability_schedule or args.mlm_probability
    return MaskingCollator(tokenizer, **told | {"scheme": args.masking_scheme} | options)


def _check_replacement(mask_replace_prob: float, random_replace_prob: float) -> None:
    if min(mask_replace_prob, random_replace_prob) < 0 or mask_replace_prob + random_replace_prob > 1:
        raise ValueError(
            "mask_replace_prob and random_replace_prob must not be negative and add up to at most 1, got "
            f"{mask_replace_prob} and {random_replace_prob}"
        )


def _columns(places: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    """The places of all rows, one row after the other, as [B, width], filled up with -1."""
    columns: np.ndarray = np.full((len(counts), width), NO_POSITION, dtype=np.int64)
    columns[np.arange(width) < counts[:, None]] = places
    return columns
