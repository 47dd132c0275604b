# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of PMI masking: counts and scores against a direct computation, its file, and the command."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.training.conftest import WORDS
from training_concept import ngrams, pmi
from training_concept.collocations import Collocation, PmiVocabulary, read_collocations, write_collocations
from training_concept.pmi import build_vocabulary, main, quotas
from training_concept.tokenization import train_tokenizer

Ngram = tuple[str, ...]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Random words, with a planted trigram, in sentences."""
    generator = np.random.default_rng(1)
    texts = []
    for _ in range(150):
        words = generator.choice(WORDS[:8], generator.integers(1, 30)).tolist()
        if generator.random() < 0.5:
            words[generator.integers(len(words)) : 0] = ["north", "by", "northwest"]
        texts.append(" ".join(words).replace("seven ", "seven. "))
    return texts


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[np.ndarray]:
    return [np.array(ids, dtype=np.uint16) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def sentences(corpus: Sequence[str]) -> Iterator[list[str]]:
    for text in corpus:
        yield from (sentence.split() for sentence in text.split("."))


def direct_scores(corpus: Sequence[str], max_ngram: int, min_count: int) -> dict[Ngram, tuple[int, float]]:
    """Count and PMI of every n-gram, by the definition: all 2^(n-1) - 1 ways to cut it are tried."""
    counts: list[Counter[Ngram]] = [
        Counter(tuple(words[place : place + n]) for words in sentences(corpus) for place in range(len(words) - n + 1))
        for n in range(1, max_ngram + 1)
    ]

    def log_p(ngram: Ngram) -> float:
        table = counts[len(ngram) - 1]
        return math.log(table[ngram] / table.total())

    def score(ngram: Ngram) -> float:
        cuts = (cut for size in range(1, len(ngram)) for cut in itertools.combinations(range(1, len(ngram)), size))
        parts = (itertools.pairwise((0, *cut, len(ngram))) for cut in cuts)
        return min(log_p(ngram) - sum(log_p(ngram[begin:end]) for begin, end in part) for part in parts)

    return {
        ngram: (count, score(ngram)) for table in counts[1:] for ngram, count in table.items() if count >= min_count
    }


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
@pytest.mark.parametrize("block", [2**20, 50])
def test_counts_and_scores_are_those_of_the_definition(
    corpus: list[str], model: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pmi, "TOKENS_PER_BLOCK", block)
    monkeypatch.setattr(ngrams, "NGRAMS_PER_BLOCK", block)
    tokenizer = train_tokenizer(corpus, 320, model=model)
    # More room than there are n-grams.
    found = build_vocabulary(encode(tokenizer, corpus), tokenizer, max_ngram=4, size=4000, min_count=3)
    expected = {name: values for name, values in direct_scores(corpus, 4, 3).items() if values[1] > 0}
    assert {tuple(each.text.split()): each.count for each in found} == {
        name: count for name, (count, _) in expected.items()
    }
    assert len(expected) > 100
    for each in found:
        assert each.pmi == pytest.approx(expected[tuple(each.text.split())][1], abs=1e-9)
        assert each.n == len(each.text.split())


def test_a_planted_collocation_comes_first(corpus: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    found = build_vocabulary(encode(tokenizer, corpus), tokenizer, max_ngram=3, size=40, min_count=10)
    best = next(each for each in found if each.n == 3)
    assert best.text == "north by northwest"
    # Its words occur nowhere else: nothing explains it but itself.
    assert best.pmi == max(each.pmi for each in found if each.n == 3) > 3
    scores = [(each.n, -each.pmi) for each in found]
    assert scores == sorted(scores)


def test_scores_worked_out_by_hand(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["red green"] * 6 + ["red blue"] * 2 + ["day"] * 4
    # 20 words, 8 bigrams: p(red) = .4, p(green) = .3, p(red green) = .75.
    (found,) = build_vocabulary(encode(tokenizer, texts), tokenizer, max_ngram=2, size=1, min_count=2)
    assert found == Collocation("red green", 2, 6, pytest.approx(math.log(0.75 / (0.4 * 0.3))))


def test_a_word_is_the_same_with_and_without_a_space_before(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["red green", "the red green", "(red green)", "\nred green"] * 3
    found = build_vocabulary(encode(tokenizer, texts), tokenizer, max_ngram=2, size=10, min_count=12)
    assert [(each.text, each.count) for each in found] == [("red green", 12)]


def test_contractions_are_written_as_in_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["I don't know", "we don't know", "day", "night", "river"] * 5
    found = build_vocabulary(encode(tokenizer, texts), tokenizer, max_ngram=3, size=8, min_count=10)
    assert {"don't", "'t know", "don't know"} == {each.text for each in found}
    assert {each.text: each.n for each in found}["don't know"] == 3


@pytest.mark.parametrize("border", [".", ",", " -- ", "\n", '" "'])
def test_punctuation_and_line_breaks_end_ngrams(tokenizer: PreTrainedTokenizerFast, border: str) -> None:
    texts = [f"red{border}green blue", "day", "night"] * 5
    found = build_vocabulary(encode(tokenizer, texts), tokenizer, max_ngram=3, size=10, min_count=5)
    assert [each.text for each in found] == ["green blue"]


def test_documents_end_ngrams(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="no n-gram of 2 to 5 words occurs min_count=2 times"):
        build_vocabulary(encode(tokenizer, ["red", "green", ""] * 9), tokenizer, min_count=2)


def test_without_documents_there_is_no_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="no n-gram"):
        build_vocabulary([], tokenizer)


@pytest.mark.parametrize("settings", [{"max_ngram": 1}, {"size": 0}, {"min_count": 0}])
def test_settings_are_checked(tokenizer: PreTrainedTokenizerFast, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="max_ngram must be at least 2, size and min_count at least 1"):
        build_vocabulary([], tokenizer, **settings)


@pytest.mark.parametrize(
    ("size", "max_ngram", "expected"),
    [(800, 5, [400, 200, 100, 100]), (100, 2, [100]), (100, 3, [50, 50]), (7, 4, [5, 1, 1]), (1, 5, [1, 0, 0, 0])],
)
def test_shares_of_the_lengths_are_those_of_the_paper(size: int, max_ngram: int, expected: list[int]) -> None:
    assert quotas(size, max_ngram) == expected


@pytest.fixture
def collocations() -> list[Collocation]:
    return [Collocation("red green", 2, 12, 3.25), Collocation("#1 don't \u2028know", 3, 10, 0.5)]


def test_the_file_gives_back_what_was_written(tmp_path: Path, collocations: list[Collocation]) -> None:
    path = tmp_path / "new" / "vocabulary.tsv"
    write_collocations(path, collocations, ["a comment", "another"])
    assert read_collocations(path) == collocations
    assert path.read_text(encoding="utf-8").startswith("# a comment\n# another\nngram\tn\tcount\tpmi\nred green\t2\t")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"red green\t2\t1\t0.5\n", "no line of the column names ngram, n, count, pmi"),
        (b"# x\nngram\tn\tcount\tpmi\nred green\t2\t1\t0.5\nred blue\t2\n", "line 4: expected an n-gram"),
        (b"ngram\tn\tcount\tpmi\nred\ttwo\t1\t0.5\n", "line 2: expected an n-gram"),
        (b"ngram\tn\tcount\tpmi\n\xff\xfe\t2\t1\t0.5\n", "it is not UTF-8 text"),
        (b"ngram\tn\tcount\tpmi\nred\t1\t1\t0.5\n", "holds no n-gram of two words or more of this tokenizer"),
    ],
)
def test_files_that_are_no_vocabulary_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, content: bytes, message: str
) -> None:
    path = tmp_path / "vocabulary.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        PmiVocabulary.load(path, tokenizer)
    assert str(path) in str(error.value)


def find(vocabulary: PmiVocabulary, tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The n-grams of a text of words and single spaces that the vocabulary finds."""
    encoding = tokenizer(text, add_special_tokens=False)
    words = np.array(encoding.word_ids())
    begins = np.flatnonzero(np.diff(words, prepend=-1))
    ends = np.append(begins[1:], len(words))
    ids = np.array(encoding["input_ids"])
    first, sizes = vocabulary.find(ids, begins, ends, np.zeros(len(begins), dtype=np.int64))
    spans = zip(begins[first], ends[first + sizes - 1], strict=True)
    return sorted(tokenizer.decode(ids[begin:end]).strip() for begin, end in spans)


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
def test_ngrams_are_found_wherever_they_stand(corpus: list[str], tmp_path: Path, model: str) -> None:
    texts = ("red green", "green blue", "red green blue river mountain", "green")
    path = tmp_path / "vocabulary.tsv"
    write_collocations(path, [Collocation(text, len(text.split()), 1, 1.0) for text in texts], [])
    tokenizer = train_tokenizer(corpus, 320, model=model)
    vocabulary = PmiVocabulary.load(path, tokenizer)
    assert vocabulary.max_ngram == 5
    assert find(vocabulary, tokenizer, "red green") == ["red green"]
    assert find(vocabulary, tokenizer, "blue red green red") == ["red green"]
    assert find(vocabulary, tokenizer, "red green blue river mountain") == sorted(texts[:3])
    assert find(vocabulary, tokenizer, "green red blue green house") == []
    assert find(vocabulary, tokenizer, "green") == []


def test_ngrams_are_not_found_across_stretches(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = PmiVocabulary([[50, 51], [50, 51, 52]], max_ngram=3)
    begins = np.arange(4)
    for stretches, expected in (([0, 0, 0, 0], [(1, 2), (1, 3)]), ([0, 0, 0, 1], [(1, 2)]), ([0, 0, 1, 1], [])):
        found = vocabulary.find(np.array([49, 50, 51, 52]), begins, begins + 1, np.array(stretches))
        assert list(zip(*(values.tolist() for values in found), strict=True)) == expected
    assert [len(part) for part in vocabulary.find(np.empty(0, int), begins[:0], begins[:0], begins[:0])] == [0, 0]


@pytest.mark.parametrize("streaming", [False, True])
def test_the_command_writes_a_vocabulary_for_a_recipe(
    corpus: list[str], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, streaming: bool
) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("\n".join(corpus), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    files = f"{{train: {tmp_path}/train.txt, validation: {tmp_path}/validation.txt}}"
    recipe.write_text(f"streaming: {str(streaming).lower()}\nsources:\n  words:\n    data_files: {files}\n")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    output = tmp_path / "pmi.tsv"
    arguments = [str(recipe), "--tokenizer_name", str(tmp_path / "tokenizer"), "--output", str(output)]
    main([*arguments, "--max_ngram", "3", "--size", "40"])
    found = build_vocabulary(encode(tokenizer, corpus), tokenizer, max_ngram=3, size=40)
    assert [(each.text, each.n, each.count) for each in read_collocations(output)] == [
        (each.text, each.n, each.count) for each in found
    ]
    assert pmi.tokenizer_fingerprint(tokenizer) in output.read_text(encoding="utf-8")
    before = output.read_bytes()
    with pytest.raises(ValueError, match="no n-gram"):
        main([*arguments, "--max_documents", "1"])
    assert output.read_bytes() == before
