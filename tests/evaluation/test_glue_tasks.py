# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What tasks are read from, how their examples are split, the server's files, and what is known without a model."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from sklearn.model_selection import GroupKFold

from evaluation_concept.baselines_text import bag_of_words_baseline, majority_baseline
from evaluation_concept.glue import GLUE_TASKS, write_submission
from evaluation_concept.metrics import score
from evaluation_concept.tasks import (
    Examples,
    Task,
    TaskData,
    make_folds,
    pool,
    read_examples,
    split_by_group,
    without_duplicates,
)

OPINION = Task("opinion", ("sentence",), ("bad", "good"))
PAIR = Task("pair", ("first", "second"), ("other", "same"))
RATING = Task("rating", ("sentence",), None, "correlation")


def examples(number: int, groups: int | None = None) -> Examples:
    texts = tuple(f"text {row}" for row in range(number))
    names = texts if groups is None else tuple(f"group {row % groups}" for row in range(number))
    return Examples((texts,), np.arange(number) % 2, names)


def test_labels_are_numbers_or_names_of_classes() -> None:
    by_number = read_examples(OPINION, Dataset.from_dict({"sentence": ["a", "b"], "label": [1, 0]}), "train")
    by_name = read_examples(OPINION, Dataset.from_dict({"sentence": ["a", "b"], "label": ["good", "bad"]}), "train")
    assert by_number.labels.tolist() == by_name.labels.tolist() == [1, 0]
    years = Task("years", ("sentence",), ("1790", "1800"))
    numbered = read_examples(years, Dataset.from_dict({"sentence": ["a", "b"], "label": [1800, 1790]}), "train")
    assert numbered.labels.tolist() == [1, 0]


@pytest.mark.parametrize("labels", [["-1", "1"], [-1, 1]])
def test_minus_1_may_be_a_class(labels: list) -> None:
    polarity = Task("polarity", ("sentence",), ("-1", "1"))
    rows = Dataset.from_dict({"sentence": ["a", "b"], "label": labels})
    assert read_examples(polarity, rows, "train").labels.tolist() == [0, 1]


@pytest.mark.parametrize("hidden", [-1, None])
def test_hidden_labels_are_none_where_they_are_not_needed(hidden: int | None) -> None:
    rows = Dataset.from_dict({"sentence": ["a"], "label": [hidden]})
    assert read_examples(OPINION, rows, "test", labelled=False).labels is None
    with pytest.raises(ValueError, match=r"opinion, split test, column 'label': row 0 has no label"):
        read_examples(OPINION, rows, "test")


def test_a_rating_of_minus_1_is_no_hidden_label() -> None:
    rows = Dataset.from_dict({"sentence": ["a", "b"], "label": [-1.0, 2.5]})
    assert read_examples(RATING, rows, "train").labels.tolist() == [-1.0, 2.5]


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        (OPINION, {"text": ["a"], "label": [0]}, "opinion, split dev has no column 'sentence'; it has: text, label"),
        (OPINION, {"sentence": [], "label": []}, "opinion, split dev holds no examples"),
        (OPINION, {"sentence": ["a"], "label": [2]}, "row 0 holds the label 2; known: bad, good"),
        (OPINION, {"sentence": ["a"], "label": [[0]]}, r"row 0 holds the label \[0\]; known: bad, good"),
        (RATING, {"sentence": ["a"], "label": [[0.5]]}, r"row 0 holds \[0\.5\]; a regression needs numbers"),
        (RATING, {"sentence": ["a"], "label": ["high"]}, "row 0 holds 'high'; a regression needs numbers"),
        (RATING, {"sentence": ["a"], "label": [float("nan")]}, "row 0 has no label"),
        (
            PAIR,
            {"first": ["a"], "second": [None], "label": [0]},
            "column 'second': row 0 holds None, which is no text",
        ),
    ],
)
def test_rows_of_another_kind_are_refused(task: Task, columns: dict[str, list], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_examples(task, Dataset.from_dict(columns), "dev")


def test_no_group_is_on_both_sides_and_every_row_is_scored_once() -> None:
    data = examples(30, groups=7)
    scored = []
    for train, held_out in split_by_group(data, 5):
        assert not {data.groups[row] for row in train} & {data.groups[row] for row in held_out}
        assert len(train) + len(held_out) == 30
        scored += held_out.tolist()
    assert sorted(scored) == list(range(30))
    with pytest.raises(ValueError, match="8 folds need as many groups of examples, and there are 7"):
        split_by_group(data, 8)


def test_a_long_text_among_many_short_ones_takes_no_memory_of_its_length_for_each() -> None:
    texts = (*(f"text {n}" for n in range(1000)), "long " * 20_000)
    data = Examples((texts,), np.arange(len(texts)) % 2, texts)
    tracemalloc.start()
    parts = split_by_group(data, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20
    short = [text[:10] for text in texts]
    by_text = list(GroupKFold(10).split(short, groups=short))
    assert [scored.tolist() for _, scored in parts] == [scored.tolist() for _, scored in by_text]


def test_predictions_of_folds_come_back_in_the_order_of_the_examples() -> None:
    task = Task("folded", ("sentence",), ("bad", "good"), folds=4)
    folds = make_folds(TaskData(task, None, {"validation": examples(22)}))
    numbers = [
        {"validation": np.array([int(text.split()[1]) for text in fold.evaluation["validation"].texts[0]])}
        for fold in folds
    ]
    assert pool(folds, numbers)["validation"].tolist() == list(range(22))
    assert all(len(fold.train) + len(fold.evaluation["validation"]) == 22 for fold in folds)


def test_with_a_training_split_there_is_one_fold() -> None:
    data = TaskData(OPINION, examples(8), {"validation": examples(3)})
    (fold,) = make_folds(data)
    assert (fold.train, fold.evaluation) == (data.train, data.evaluation)


def test_what_is_scored_is_left_out_of_training_whatever_its_spelling() -> None:
    train = Examples((("It works.", "it  WORKS !", "It fails."),), np.array([1, 1, 0]), ("a", "b", "c"))
    scored = Examples((("it works",),), None, ("d",))
    left = without_duplicates(train, [scored])
    assert (left.texts, left.labels.tolist(), left.groups) == ((("It fails.",),), [0], ("c",))
    pairs = Examples((("one", "two"), ("two", "one")), np.array([0, 1]), ("a", "b"))
    assert len(without_duplicates(pairs, [pairs.take([0])])) == 1


def test_a_digest_tells_examples_apart() -> None:
    data = examples(4)
    assert data.digest() == examples(4).digest()
    changed = [
        examples(5),
        Examples(data.texts, 1 - data.labels),
        Examples((("text 0text 1", "", "text 2", "text 3"),), data.labels),
    ]
    assert data.digest() not in {other.digest() for other in changed}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_the_server_gets_names_numbers_or_ratings_as_it_asks_for_them(tmp_path: Path) -> None:
    rte = write_submission(tmp_path, GLUE_TASKS["rte"], "RTE", np.array([1, 0]))
    assert lines(rte) == ["index\tprediction", "0\tnot_entailment", "1\tentailment"]
    assert lines(write_submission(tmp_path, GLUE_TASKS["wnli"], "WNLI", np.array([1, 0])))[1:] == ["0\t1", "1\t0"]
    ratings = write_submission(tmp_path, GLUE_TASKS["stsb"], "STS-B", np.array([-0.3, 2.34567, 7.0]))
    assert lines(ratings)[1:] == ["0\t0.000", "1\t2.346", "2\t5.000"]
    assert lines(write_submission(tmp_path, RATING, "mine", np.array([-3.25])))[1:] == ["0\t-3.25"]


def test_the_majority_is_that_of_the_training_examples() -> None:
    train = Examples((("a", "b", "c"),), np.array([1, 1, 0]), ("a", "b", "c"))
    assert majority_baseline(OPINION, train, {"dev": examples(4)})["dev"].tolist() == [1, 1, 1, 1]
    rated = Examples((("a", "b"),), np.array([1.0, 4.0]), ("a", "b"))
    assert majority_baseline(RATING, rated, {"dev": examples(2)})["dev"].tolist() == [2.5, 2.5]


def sentiment(number: int, seed: int) -> Examples:
    """Sentences in which one word decides."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(2, size=number)
    texts = tuple(
        " ".join([*draw.choice(["a", "film", "of", "this"], 5), ["dull", "fine"][label]]) for label in labels
    )
    return Examples((texts,), labels, tuple(map(str, range(number))))


def test_a_bag_of_words_knows_which_words_there_are() -> None:
    train, dev = sentiment(200, seed=0), sentiment(50, seed=1)
    assert (bag_of_words_baseline(OPINION, train, {"dev": dev})["dev"] == dev.labels).all()
    rated = Examples(train.texts, train.labels * 3.0, train.groups)
    predicted = bag_of_words_baseline(RATING, rated, {"dev": dev})["dev"]
    assert score("correlation", predicted, dev.labels) > 85


def test_a_bag_of_words_knows_what_two_texts_share() -> None:
    draw = np.random.default_rng(0)
    words = [f"word{number}" for number in range(30)]
    labels = draw.integers(2, size=400)
    first = [" ".join(draw.choice(words, 6)) for _ in labels]
    second = [
        " ".join(text.split()[::-1]) if label else " ".join(draw.choice(words, 6))
        for text, label in zip(first, labels, strict=True)
    ]
    pairs = Examples((tuple(first), tuple(second)), labels, tuple(map(str, range(400))))
    predicted = bag_of_words_baseline(PAIR, pairs.take(range(300)), {"dev": pairs.take(range(300, 400))})["dev"]
    assert np.mean(predicted == labels[300:]) > 0.95


def test_training_examples_of_one_class_or_one_group_still_make_a_bag_of_words() -> None:
    one_class = Examples((("a b", "c d"),), np.array([1, 1]), ("x", "y"))
    assert bag_of_words_baseline(OPINION, one_class, {"dev": examples(3)})["dev"].tolist() == [1, 1, 1]
    no_words = Examples((("", " "),), np.array([1, 1]), ("x", "y"))
    assert bag_of_words_baseline(OPINION, no_words, {"dev": examples(3)})["dev"].tolist() == [1, 1, 1]
    one_group = Examples((("dull", "fine"),), np.array([0, 1]), ("x", "x"))
    assert bag_of_words_baseline(OPINION, one_group, {"dev": one_group})["dev"].tolist() == [0, 1]
