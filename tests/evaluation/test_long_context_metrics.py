# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics on long documents against values by hand and examples of the benchmarks' own evaluators."""

import pytest

from evaluation_concept.long_context import longbench
from evaluation_concept.long_context.metrics import (
    METRICS,
    code_similarity,
    exact_match,
    named_class,
    normalize_answer,
    number_share,
    score,
    token_f1,
)
from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.tasks import SELECTION, Example, Task

# LongBench's table of tasks and metrics (arXiv 2308.14508, table 1, and its evaluator).
LONGBENCH = {
    **dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"), "f1"),
    "multifieldqa_zh": "longbench_f1_chinese",
    "dureader": "longbench_rouge_chinese",
    "gov_report": "longbench_rouge",
    "qmsum": "longbench_rouge",
    "multi_news": "longbench_rouge",
    "vcsum": "longbench_rouge_chinese",
    "trec": "longbench_class",
    "triviaqa": "longbench_f1_first_line",
    "samsum": "longbench_rouge_first_line",
    "lsht": "longbench_class",
    "passage_count": "longbench_count",
    "passage_retrieval_en": "longbench_retrieval",
    "passage_retrieval_zh": "longbench_retrieval",
    "lcc": "longbench_code",
    "repobench-p": "longbench_code",
}
SCROLLS = {
    **dict.fromkeys(("gov_report", "summ_screen_fd", "qmsum"), "rouge"),
    **dict.fromkeys(("qasper", "narrative_qa"), "f1"),
    **dict.fromkeys(("quality", "contract_nli"), "exact_match"),
}


def of(metric: str, guess: str, *answers: str, **facts: object) -> dict[str, float]:
    """Scores of one prediction."""
    return score(
        Task("t", "f", "k", metric, lambda sources: {}), [guess], [Example("1", "", answers=answers, **facts)]
    )


def test_every_task_has_its_benchmark_metric():
    found = {name.removeprefix("longbench_"): task.metric for name, task in TASKS.items() if "longbench_" in name}
    assert found == LONGBENCH
    assert len(found) == 21 == len(longbench.TASKS)
    found = {name.removeprefix("scrolls_"): task.metric for name, task in TASKS.items() if "scrolls_" in name}
    assert found == SCROLLS
    assert {task.metric for task in TASKS.values()} <= METRICS.keys()


def test_answers_are_normalised_as_in_squad():
    assert normalize_answer(" The  cat, an   Old-timer!  ") == "cat oldtimer"
    assert exact_match("the Cat.", "cat") == 1
    assert exact_match("a cat sat", "cat") == 0


@pytest.mark.parametrize(
    ("guess", "right", "value"),
    [
        ("the cat sat", "a cat", 2 * 0.5 * 1 / 1.5),
        ("cat cat dog", "cat dog dog", 2 / 3),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("The Cat", "cat", 1.0),
    ],
)
def test_token_f1_by_hand(guess, right, value):
    assert token_f1(guess, right) == pytest.approx(value)


def test_the_best_of_several_answers_counts():
    assert of("f1", "the cat sat", "dog", "a cat", "the cat sat down") == {"f1": pytest.approx(80)}
    assert of("exact_match", "cat", "dog", "the cat") == {"exact_match": 100}


def test_rouge_is_the_geometric_mean_of_three_means():
    """Two summaries: unigrams 2/3 and 1, bigrams 1/2 and 1, longest common subsequence 2/3 and 1, as F."""
    pytest.importorskip("rouge_score")
    examples = [Example("1", "", answers=("the cat sat",)), Example("2", "", answers=("x y", "the dog ran"))]
    task = TASKS["scrolls_gov_report"]
    scores = score(task, ["the cat ran", "the dog ran"], examples)
    one, two, longest = 100 * (2 / 3 + 1) / 2, 100 * (1 / 2 + 1) / 2, 100 * (2 / 3 + 1) / 2
    expected = {
        "rouge_geometric_mean": (one * two * longest) ** (1 / 3),
        "rouge1": one,
        "rouge2": two,
        "rougeL": longest,
    }
    assert scores == {name: pytest.approx(value) for name, value in expected.items()}
    assert next(iter(scores)) == "rouge_geometric_mean"
    # Words are not stemmed.
    assert score(task, ["cats"], [Example("1", "", answers=("cat",))])["rouge1"] == 0


def test_longbench_rouge_is_that_of_its_package():
    pytest.importorskip("rouge")
    assert of("longbench_rouge", "the cat sat", "the cat sat")["rouge_l"] == pytest.approx(100)
    # P = 2/3, R = 2/3.
    assert of("longbench_rouge", "the cat ran", "the cat sat")["rouge_l"] == pytest.approx(200 / 3)
    assert of("longbench_rouge", "...", "the cat sat")["rouge_l"] == 0
    first = of("longbench_rouge_first_line", "\nthe cat sat\nDialogue: more", "the cat sat")
    assert first["rouge_l"] == pytest.approx(100)


def test_chinese_answers_are_compared_by_words():
    pytest.importorskip("jieba")
    assert of("longbench_f1_chinese", "北京大学。", "北京大学")["f1"] == 100
    assert 0 < of("longbench_f1_chinese", "我爱北京", "北京")["f1"] < 100
    pytest.importorskip("rouge")
    assert of("longbench_rouge_chinese", "我爱北京", "我爱北京")["rouge_l"] == pytest.approx(100)


def test_only_the_first_line_of_few_shot_answers_counts():
    assert of("longbench_f1_first_line", "\n\ncat\nQuestion: dog", "cat") == {"f1": 100}
    assert of("longbench_f1_first_line", "dog\ncat", "cat") == {"f1": 0}


def test_counting_and_retrieval_give_the_share_of_right_numbers():
    assert number_share("Paragraph 3", "Paragraph 3") == 1
    assert number_share("3 or 4 or 3", "3") == pytest.approx(2 / 3)
    assert number_share("none", "3") == 0
    assert of("longbench_retrieval", "段落3", "段落3") == {"retrieval_score": 100}
    assert of("longbench_count", "13", "3") == {"count_score": 0}


def test_a_class_is_shared_with_others_that_are_named():
    classes = ("Food", "Food dish", "City", "Other city")
    assert named_class(classes, "Food dish", "Food dish") == 1
    assert named_class(classes, "Food dish or City", "Food dish") == 1 / 2
    assert named_class(classes, "City", "Food dish") == 0
    assert of("longbench_class", "\nCity\nFood", "City", choices=classes) == {"classification_score": 100}


def test_code_is_compared_on_its_first_line_of_code():
    assert code_similarity("# say\nreturn x\nmore", "return x") == 1
    assert code_similarity("return y", "return x") == pytest.approx(0.88)
    assert code_similarity("# nothing", "return x") == 0


def test_sets_of_sentences():
    examples = [Example("1", "", selected=(0, 2)), Example("2", "", selected=(1,))]
    task = Task("t", "f", SELECTION, "selection_f1", lambda sources: {})
    assert score(task, [(0, 1), (1,)], examples) == {"f1": 75, "exact_match": 50}
    exact = Task("t", "f", SELECTION, "selection_exact", lambda sources: {})
    assert next(iter(score(exact, [(), (1,)], examples).items())) == ("exact_match", 50)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="the answer to 1 is hidden"):
        of("f1", "cat")
    with pytest.raises(ValueError, match="1 predictions for 0 examples"):
        score(TASKS["lra_listops"], ["1"], [])
