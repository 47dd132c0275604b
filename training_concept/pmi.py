# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Build the vocabulary of PMI masking from the training documents of a data recipe (Levine et al., ICLR 2021).

    python -m training_concept.pmi recipes/data/offline.yaml --tokenizer_name outputs/bpe --output outputs/pmi.tsv

As in the paper and its published lists, n-grams of 2 to 5 words are ranked for each n by

    PMI_n(w_1 ... w_n) = min over all ways to cut it in two parts or more of log p(w_1 ... w_n) / product of p(part)

with p the relative frequency among all n-grams of that many words. Half of the vocabulary are the best bigrams, a
quarter the best trigrams, an eighth each the best 4-grams and 5-grams. What the paper leaves open is settled so: an
n-gram occurs at least `min_count` times (the paper's "over 10 occurrences") and has a positive PMI; a share that its
n cannot fill stays unfilled; sources count by their size. The paper takes 800,000 n-grams of 16 GB of text, so that
about half of the tokens lie in one.

Words are those of the tokenizer (training_concept.words). N-grams do not go beyond a document, nor over a word
without letter or digit: punctuation and, where it has tokens, a line break. A word at the beginning of an n-gram is
the same with and without a space before it.

Memory: 12 bytes for each word of the corpus, some 300 for each different word, and what training_concept.ngrams takes
to count.
"""

import argparse
import hashlib
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from evaluation_concept.encode import load_tokenizer
from evaluation_concept.errors import exit_code
from training_concept.collocations import Collocation, hash_sequences, hash_sums, write_collocations
from training_concept.data import DOCUMENTS_PER_BATCH, TEXT, encode_texts, load_documents, tokenize_documents
from training_concept.ngrams import BORDER, Level, count_ngrams, find_sorted, pmi_scores
from training_concept.recipes import read_recipe
from training_concept.rows import list_values
from training_concept.sources import AnyDataset, read_through
from training_concept.words import WordBoundaries

logger = logging.getLogger(__name__)

COMMAND = "python -m training_concept.pmi"
TOKENS_PER_BLOCK = 2**20


def main(arguments: Sequence[str]) -> None:
    """
    Run the command.

    Raises:
        ValueError: a bad recipe or setting, or a corpus without collocations.
        OSError: a source or tokenizer that cannot be read.
    """
    options = _parse(arguments)
    recipe = read_recipe(options.recipe)
    tokenizer = load_tokenizer(options.tokenizer_name)
    splits = {label: roles["train"] for label, roles in load_documents(recipe).items() if "train" in roles}
    documents = (
        tokens
        for label, split in splits.items()
        for tokens in islice(_read_tokens(split, label, tokenizer), options.max_documents)
    )
    collocations = build_vocabulary(documents, tokenizer, options.max_ngram, options.size, options.min_count)
    settings = {name: getattr(options, name) for name in ("recipe", "max_ngram", "size", "min_count", "max_documents")}
    comments = [
        "PMI-masking vocabulary (Levine et al., 2021): PMI in nats, the best n-grams of each length first",
        f"tokenizer: {options.tokenizer_name} ({tokenizer_fingerprint(tokenizer)})",
        ", ".join(f"{name}: {value}" for name, value in settings.items()),
    ]
    write_collocations(Path(options.output), collocations, comments)
    print(f"{len(collocations):,} n-grams in {options.output}")


def build_vocabulary(
    documents: Iterable[np.ndarray],
    tokenizer: PreTrainedTokenizerBase,
    max_ngram: int = 5,
    size: int = 100_000,
    min_count: int = 10,
) -> list[Collocation]:
    """Choose the collocations of tokenised documents.

    Args:
        documents: token ids of each document, without special tokens; read once.
        tokenizer: that made them.
        max_ngram: words of the longest n-grams.
        size: n-grams in all, at most.
        min_count: occurrences that an n-gram needs.

    Returns:
        Shorter n-grams first, and of equal length those with the highest PMI.

    Raises:
        ValueError: a setting out of range, or no n-gram that meets it.
    """
    if max_ngram < 2 or size < 1 or min_count < 1:
        raise ValueError(
            f"max_ngram must be at least 2, size and min_count at least 1, got {max_ngram}, {size} and {min_count}"
        )
    forms, lexicon = read_words(documents, tokenizer)
    levels = count_ngrams(forms, lexicon.word_of_form, max_ngram, min_count)
    chosen: list[Collocation] = []
    for n, (scores, quota) in enumerate(zip(pmi_scores(levels), quotas(size, max_ngram), strict=True), 2):
        level = levels[n - 1]
        best = np.lexsort((-level.counts, -scores))[:quota]
        best = best[scores[best] > 0]
        logger.info("%d-grams: %d chosen of %d", n, len(best), len(scores))
        texts = lexicon.texts(levels[:n], best)
        chosen += map(Collocation, texts, [n] * len(best), level.counts[best].tolist(), scores[best].tolist())
    if not chosen:
        raise ValueError(f"no n-gram of 2 to {max_ngram} words occurs min_count={min_count} times more than by chance")
    return chosen


def quotas(size: int, max_ngram: int) -> list[int]:
    """How many n-grams of 2, 3, ... words make a vocabulary: half, a quarter, and so on, the last two equally many."""
    shares = [size >> (n - 1) for n in range(2, max_ngram)]
    last = size >> (max_ngram - 2)
    return [size - sum(shares[1:]) - last, *shares[1:], last] if shares else [size]


@dataclass(frozen=True)
class Lexicon:
    """The words of a corpus.

    A form is a word with or without a space before it.

    Attributes:
        words: texts, by number.
        word_of_form: number of the word of each form, int32 [F].
        is_spaced: whether there is a space before it, bool [F].
    """

    words: list[str]
    word_of_form: np.ndarray
    is_spaced: np.ndarray

    def texts(self, levels: Sequence["Level"], ngrams: np.ndarray) -> list[str]:
        """The texts of some n-grams of the last of these levels."""
        forms = []
        for level in reversed(levels[1:]):
            forms.append(level.last[ngrams])
            ngrams = level.prefix[ngrams]
        texts = [self.words[word] for word in levels[0].last[ngrams]]
        for column in reversed(forms):
            spaces = np.where(self.is_spaced[column], " ", "")
            tails = (self.words[word] for word in self.word_of_form[column])
            texts = [text + space + tail for text, space, tail in zip(texts, spaces, tails, strict=True)]
        return texts


class WordNumbers:
    """Numbers words, told apart by their tokens, as they are met.

    Attributes:
        tokens: token ids of each word.
    """

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []
        self._hashes: np.ndarray = np.empty(0, dtype=np.uint64)
        self._numbers: np.ndarray = np.empty(0, dtype=np.int32)

    def of(self, ids: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Numbers of the words of a text, from their first tokens and those behind: int64 [W] each -> int32 [W]."""
        hashes, first, inverse = np.unique(
            hash_sequences(hash_sums(ids), begins, ends), return_index=True, return_inverse=True
        )
        places, is_known = find_sorted(self._hashes, hashes)
        new = np.flatnonzero(~is_known)
        numbers: np.ndarray = np.empty(len(hashes), dtype=np.int32)
        numbers[is_known] = self._numbers[places[is_known]]
        numbers[new] = len(self.tokens) + np.arange(len(new))
        self.tokens += [ids[begins[word] : ends[word]].tolist() for word in first[new]]
        self._hashes = np.insert(self._hashes, places[new], hashes[new])
        self._numbers = np.insert(self._numbers, places[new], numbers[new])
        return numbers[inverse]


def read_words(documents: Iterable[np.ndarray], tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, Lexicon]:
    """Turn documents into one sequence of words.

    Args:
        documents: token ids of each.
        tokenizer: that made them.

    Returns:
        The form of each word, int32 [W], -1 for one that no n-gram holds and between documents; and the lexicon.
    """
    boundaries = WordBoundaries.from_tokenizer(tokenizer)
    numbers = WordNumbers()
    parts: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    for block in _blocks(documents):
        ids = np.concatenate(block).astype(np.int64)
        document_begins = np.cumsum([0, *map(len, block[:-1])])
        starts = boundaries.starts(ids)
        starts[document_begins] = True
        begins = np.flatnonzero(starts)
        words = numbers.of(ids, begins, np.append(begins[1:], len(ids)))
        parts.append(np.insert(words, np.searchsorted(begins, document_begins), BORDER))
    form_of_number, lexicon = _build_lexicon(numbers.tokens, boundaries, tokenizer)
    return np.append(form_of_number, np.int32(BORDER))[np.concatenate(parts)], lexicon


def _build_lexicon(
    tokens: Sequence[list[int]], boundaries: WordBoundaries, tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, Lexicon]:
    """The form of each numbered word, int32, -1 for one without letter or digit; and the lexicon."""
    texts = tokenizer.batch_decode(tokens, clean_up_tokenization_spaces=False) if tokens else []
    words: dict[str, int] = {}
    forms: dict[tuple[int, bool], int] = {}
    form_of_number: np.ndarray = np.full(len(tokens), BORDER, dtype=np.int32)
    for number, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
        text = text.strip()
        if any(map(str.isalnum, text)) and "\ufffd" not in text and not boundaries.alone[ids[0]]:
            word = words.setdefault(text, len(words))
            form_of_number[number] = forms.setdefault((word, bool(boundaries.spaced[ids[0]])), len(forms))
    word_of_form: np.ndarray = np.array([word for word, _ in forms], dtype=np.int32)
    is_spaced: np.ndarray = np.array([spaced for _, spaced in forms], dtype=bool)
    return form_of_number, Lexicon(list(words), word_of_form, is_spaced)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of a fast tokenizer, 16 hexadecimal digits."""
    return hashlib.blake2b(tokenizer.backend_tokenizer.to_str().encode(), digest_size=8).hexdigest()


def _blocks(documents: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Documents that are not empty, in groups of at least `TOKENS_PER_BLOCK` tokens except for the last."""
    block: list[np.ndarray] = []
    size = 0
    for document in documents:
        if not len(document):
            continue
        block.append(document)
        size += len(document)
        if size >= TOKENS_PER_BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _read_tokens(documents: AnyDataset, label: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    if isinstance(documents, Dataset):
        tokens = tokenize_documents(documents, tokenizer).with_format("arrow")
        for table in tokens.iter(DOCUMENTS_PER_BATCH):
            yield from list_values(table, "input_ids")
        return
    rows = read_through(documents, label)
    while batch := list(islice(rows, DOCUMENTS_PER_BATCH)):
        yield from encode_texts((row[TEXT] for row in batch), tokenizer)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Build the vocabulary of PMI masking from the training documents of a data recipe.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file that names the sources, e.g. of recipes/data")
    parser.add_argument(
        "--tokenizer_name", required=True, help="folder or Hub id of the tokenizer, which defines words"
    )
    parser.add_argument("--output", required=True, help="where to write the vocabulary")
    parser.add_argument("--max_ngram", type=int, default=5, help="words of the longest n-grams (default: %(default)s)")
    parser.add_argument("--size", type=int, default=100_000, help="n-grams in all, at most (default: %(default)s)")
    parser.add_argument(
        "--min_count", type=int, default=10, help="occurrences that an n-gram needs (default: %(default)s)"
    )
    parser.add_argument("--max_documents", type=int, help="read only the first so many documents of each source")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
