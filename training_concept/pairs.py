# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Queries and passages for contrastive fine-tuning: rows, and the batches that are made of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase


class Pair(NamedTuple):
    """A query, a passage that answers it, and passages that do not."""

    query: str
    passage: str
    negatives: list[str]


class PairBatch(TypedDict):
    """
    What the model takes of B queries and K passages, of which passage i answers query i.

    Attributes:
        queries: `input_ids` and `attention_mask`, int64 `[B, N]`.
        passages: the same of `[K, N]`; behind those that answer come the others.
        key_ids: int64 `[K, 2]`, a number for the text of each passage and one for the query that it answers: no
            negatives are those with a text that answers the query, whichever pair says so.
    """

    queries: dict[str, torch.Tensor]
    passages: dict[str, torch.Tensor]
    key_ids: torch.Tensor


class PairDataset(Dataset[Pair]):
    """
    Pairs with a fixed number of negatives, the first ones that they have.

    Args:
        pairs: query, passage and other passages.
        num_negatives: how many other passages of a pair are used.

    Raises:
        ValueError: if a pair has fewer.
    """

    def __init__(self, pairs: Sequence[tuple[str, str, list[str]]], num_negatives: int) -> None:
        fewest = min(len(negatives) for _, _, negatives in pairs)
        if num_negatives > fewest:
            raise ValueError(
                f"--num_negatives {num_negatives}: there is a pair that has {fewest} (--negatives_column)."
            )
        self.pairs = [Pair(query, passage, negatives[:num_negatives]) for query, passage, negatives in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    def digest(self) -> str:
        """What these pairs are, wherever they lie."""
        return hashlib.blake2b(repr(self.pairs).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class PairCollator:
    """
    Tokenises pairs.

    Attributes:
        tokenizer: special tokens that are spelled out in a text are read as characters, as they are in encoding.
        max_query_length: longer queries are cut to so many tokens, special ones included.
        max_passage_length: as for queries.

    Raises:
        ValueError: a length that leaves no room for a text beside special tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    max_query_length: int
    max_passage_length: int

    def __post_init__(self) -> None:
        # Told of less, tokenizers do not cut at all.
        special = self.tokenizer.num_special_tokens_to_add()
        for name in ("max_query_length", "max_passage_length"):
            if getattr(self, name) <= special:
                raise ValueError(
                    f"--{name} {getattr(self, name)} leaves no room for a text beside {special} special tokens."
                )

    def __call__(self, pairs: Sequence[Pair]) -> PairBatch:
        queries = [pair.query for pair in pairs]
        passages = [pair.passage for pair in pairs] + [text for pair in pairs for text in pair.negatives]
        numbers = [_number(text) for text in passages]
        answered = [_number(query) for query in queries] + [~number for number in numbers[len(pairs) :]]
        return {
            "queries": self._tokenise(queries, self.max_query_length),
            "passages": self._tokenise(passages, self.max_passage_length),
            "key_ids": torch.tensor([numbers, answered]).T,
        }

    def _tokenise(self, texts: list[str], max_length: int) -> dict[str, torch.Tensor]:
        encoded = self.tokenizer(
            texts,
            truncation=True,
            max_length=max_length,
            padding=True,
            split_special_tokens=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return dict(encoded)


def _number(text: str) -> int:
    """A number from 0 on that is the same for a text in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
