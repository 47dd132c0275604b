# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Train a tokenizer on the training documents of a data recipe, and say how well it fits the validation documents.

    python -m training_concept.train_tokenizer recipes/data/offline.yaml --output_dir outputs/bpe --vocab_size 32768
    python -m training_concept.train_tokenizer recipes/data/offline.yaml --output_dir outputs/wordpiece \\
        --model wordpiece --vocab_size 30522 --lowercase

`AutoTokenizer.from_pretrained` loads the folder, and run_mlm.py takes it as --tokenizer_name.
"""

import argparse
import json
import logging
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from training_concept.data import LARGEST_UINT16, TEXT, load_documents
from training_concept.recipes import read_recipe
from training_concept.sources import AnyDataset, read_through, stable_fraction
from training_concept.terminal import TextTable, make_console, print_table
from training_concept.tokenization import TRAINERS, train_tokenizer

logger = logging.getLogger(__name__)

COMMAND = "python -m training_concept.train_tokenizer"
RECORD = "tokenizer_training.json"
SAMPLE_SALT = b"tokenizer"
DOCUMENTS_TO_MEASURE = 1000
# A stream may have to be read far for a few documents that are held out.
DOCUMENTS_OF_A_STREAM = 100
WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class WeightedTexts:
    """
    Documents of several sources, thinned out so that their characters are shared out as the sources' weights want.

    A weight cannot be met by reading documents twice, which teaches a tokenizer nothing but wrong frequencies: all of
    the source that is shortest for its weight is taken, and of every other the fraction that fits. Which documents
    depends on their text alone. Can be read any number of times.

    Attributes:
        sources: documents by source, column `text`.
        fractions: by source the expected fraction that is taken.
    """

    sources: Mapping[str, AnyDataset]
    fractions: Mapping[str, float]

    @classmethod
    def of(cls, sources: Mapping[str, AnyDataset], weights: Mapping[str, float] | None) -> "WeightedTexts":
        """Take fractions by `weights`, which need not add up to 1; everything if there are none."""
        if weights is None:
            return cls(sources, dict.fromkeys(sources, 1.0))
        sizes = {name: sum(map(len, _texts(name, documents))) for name, documents in sources.items()}
        return cls(sources, sampled_fractions(sizes, weights))

    def __iter__(self) -> Iterator[str]:
        for name, documents in self.sources.items():
            fraction = self.fractions[name]
            yield from (text for text in _texts(name, documents) if stable_fraction(text, SAMPLE_SALT) < fraction)


@dataclass(frozen=True)
class Fit:
    """
    How a tokenizer fits some texts.

    Attributes:
        documents, characters, bytes, tokens: how many there were; bytes of UTF-8.
        unknown: tokens that are [UNK].
        words: stretches of letters.
        whole_words: of these, how many are a single token when they stand behind a space.
    """

    documents: int
    characters: int
    bytes: int
    tokens: int
    unknown: int
    words: int
    whole_words: int

    def __add__(self, other: "Fit") -> "Fit":
        return Fit(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))


def main(arguments: Sequence[str]) -> None:
    """
    Run the command.

    Raises:
        ValueError: a bad recipe or setting, or an output folder that holds something else.
        OSError: a source that cannot be read.
    """
    options = _parse(arguments)
    folder = Path(options.output_dir)
    check_folder(folder, options.overwrite_output_dir)
    recipe = read_recipe(options.recipe)
    if recipe.streaming and not options.max_documents:
        raise ValueError(f"{options.recipe} is streamed, from sources that may be endless: set --max_documents.")
    if options.vocab_size > LARGEST_UINT16:
        logger.warning("With more than %d tokens in the vocabulary, each takes 4 bytes on disk.", LARGEST_UINT16)
    documents = load_documents(recipe)
    limit = options.max_documents
    training = {name: _first(splits["train"], limit) for name, splits in documents.items() if "train" in splits}
    texts = WeightedTexts.of(training, recipe.weights)
    tokenizer = train_tokenizer(
        texts,
        options.vocab_size,
        model_max_length=options.model_max_length,
        min_frequency=options.min_frequency,
        model=options.model,
        lowercase=options.lowercase,
    )
    save(tokenizer, folder, {"recipe": recipe.to_dict(), "fractions": dict(texts.fractions)} | vars(options))
    validation = {name: splits["validation"] for name, splits in documents.items() if "validation" in splits}
    fits = {name: measure_fit(tokenizer, _spread(name, split)) for name, split in validation.items()}
    print_table(make_console(), fit_table(len(tokenizer), fits, texts.fractions))


def sampled_fractions(sizes: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, float]:
    """Fraction of each source to take, the highest 1, so that sizes times fractions are in proportion to `weights`."""
    scale = min((size / weights[name] for name, size in sizes.items() if size), default=0.0)
    return {name: scale * weights[name] / size if size else 0.0 for name, size in sizes.items()}


def measure_fit(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Fit:
    """Encode `texts`, without special tokens, and count."""
    texts = list(texts)
    rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    words = Counter(word for text in texts for word in WORD.findall(text))
    # A tokenizer of bytes has the space before a word inside the word's token.
    pieces = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"] if words else []
    unknown = tokenizer.unk_token_id
    whole = [len(ids) == 1 and ids[0] != unknown for ids in pieces]
    return Fit(
        documents=len(texts),
        characters=sum(map(len, texts)),
        bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
        tokens=sum(map(len, rows)),
        unknown=sum(row.count(unknown) for row in rows),
        words=words.total(),
        whole_words=sum(count for count, is_whole in zip(words.values(), whole, strict=True) if is_whole),
    )


def fit_table(vocabulary: int, fits: Mapping[str, Fit], fractions: Mapping[str, float]) -> TextTable:
    """A row for each source and for all: how much was trained on, how the tokenizer fits its validation texts."""
    columns = [
        "validation documents of",
        "part trained on",
        "documents",
        "tokens",
        "characters a token",
        "bytes a token",
        "words in one token",
        "unknown tokens",
    ]
    total = sum(fits.values(), Fit(0, 0, 0, 0, 0, 0, 0))
    rows = [
        [
            name,
            fractions.get(name),
            fit.documents,
            fit.tokens,
            fit.characters / max(fit.tokens, 1),
            fit.bytes / max(fit.tokens, 1),
            fit.whole_words / max(fit.words, 1),
            fit.unknown / max(fit.tokens, 1),
        ]
        for name, fit in {**fits, "all": total}.items()
    ]
    note = f"From at most {DOCUMENTS_TO_MEASURE:,} documents of each source. Words are stretches of letters."
    return TextTable(f"Tokenizer of {vocabulary:,} tokens", columns, rows, note)


def check_folder(folder: Path, overwrite: bool) -> None:
    """
    Raises:
        ValueError: if the folder holds anything that this command did not write, or a tokenizer that is to be kept.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file()):
        raise ValueError(f"{folder} holds something else. Choose another --output_dir.")
    if (folder / RECORD).is_file() and not overwrite:
        raise ValueError(f"{folder} holds a tokenizer. Choose another --output_dir, or --overwrite_output_dir.")


def save(tokenizer: PreTrainedTokenizerFast, folder: Path, record: dict[str, Any]) -> None:
    """Save the tokenizer and, last, how it was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tokenizer-", dir=folder) as draft:
        tokenizer.save_pretrained(draft)
        AutoTokenizer.from_pretrained(draft)
        for path in Path(draft).iterdir():
            path.replace(folder / path.name)
    write_json(folder / RECORD, json.loads(json.dumps(record, default=str)))


def _texts(name: str, documents: AnyDataset) -> Iterator[str]:
    """The texts of a source that are not blank."""
    rows = read_through(documents, name) if isinstance(documents, IterableDataset) else documents
    return (text for row in rows if (text := row[TEXT]) and text.strip())


def _first(documents: AnyDataset, limit: int | None) -> AnyDataset:
    if limit is None or (isinstance(documents, Dataset) and limit >= len(documents)):
        return documents
    return documents.take(limit)


def _spread(name: str, documents: AnyDataset) -> Iterator[str]:
    """Some texts from all over a dataset, or fewer from the beginning of a stream."""
    if isinstance(documents, IterableDataset):
        return islice(_texts(name, documents), DOCUMENTS_OF_A_STREAM)
    step = -(-len(documents) // DOCUMENTS_TO_MEASURE)
    return _texts(name, documents.select(range(0, len(documents), step)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        usage=f"{COMMAND} RECIPE --output_dir DIR [options]",
        description="Train a tokenizer on the training documents of a data recipe, as the recipe weights its sources.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file that names the sources, e.g. of recipes/data")
    parser.add_argument("--output_dir", required=True, help="where to save the tokenizer")
    parser.add_argument("--vocab_size", type=int, default=32768, help="tokens in all (default: %(default)s)")
    parser.add_argument(
        "--model",
        choices=sorted(TRAINERS),
        default="bpe",
        help="byte-level BPE, which gives every text back, or BERT's WordPiece (default: %(default)s)",
    )
    parser.add_argument(
        "--lowercase", action="store_true", help="turn text to lower case; WordPiece drops accents, too"
    )
    parser.add_argument(
        "--min_frequency", type=int, default=2, help="merge no pair seen less often (default: %(default)s)"
    )
    parser.add_argument(
        "--model_max_length",
        type=int,
        default=65536,
        help="longest sequence that the tokenizer declares, in tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--max_documents", type=int, help="read only the first so many documents of each source; streams need this"
    )
    parser.add_argument(
        "--overwrite_output_dir", action="store_true", help="replace the tokenizer that output_dir holds"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
