# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Metrics of SCROLLS (arXiv 2201.03533), LongBench (arXiv 2308.14508) and of tasks here, in points from 0 to 100.

Those of SCROLLS and LongBench give the numbers of the benchmarks' own evaluators, whose quirks are kept and said.
"""

import difflib
import importlib
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from typing import NamedTuple

from evaluation_concept.long_context.tasks import Example, Prediction, Task

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】"  # noqa: RUF001
    "〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."  # noqa: RUF001
)

TextScore = Callable[[str, str], float]


class Metric(NamedTuple):
    """
    Attributes:
        compute: from task, predictions and the examples they are for to scores; the first one is the task's.
        reads: what of an example says that it can be scored.
        packages: optional ones that it needs, see `MODULES`.
    """

    compute: Callable[[Task, Sequence[Prediction], Sequence[Example]], dict[str, float]]
    reads: str
    packages: tuple[str, ...] = ()


def score(task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
    """
    Scores of predictions; the first one is the task's.

    Raises:
        ValueError: another number of predictions than of examples, no examples, or one whose answer is hidden.
        ImportError: a package that the metric needs is missing.
    """
    if len(predictions) != len(examples) or not examples:
        raise ValueError(f"{task.name}: {len(predictions)} predictions for {len(examples)} examples.")
    check_scorable(task, examples)
    return METRICS[task.metric].compute(task, predictions, examples)


def check_scorable(task: Task, examples: Sequence[Example]) -> None:
    """
    Refuse what `score` would refuse, before there are predictions.

    Raises:
        ValueError: the answer to an example is hidden.
        ImportError: a package that the metric needs is missing.
    """
    metric = METRICS[task.metric]
    for package in metric.packages:
        with _needed(package):
            importlib.import_module(MODULES[package])
    if hidden := [example.id for example in examples if not getattr(example, metric.reads)]:
        raise ValueError(f"{task.name}: the answer to {hidden[0]} is hidden, it cannot be scored.")


# Of classes and selections


def accuracy(task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
    """Share of examples whose class or choice is right."""
    hits = [guess == example.label for guess, example in zip(predictions, examples, strict=True)]
    return {"accuracy": 100 * fmean(hits)}


def selection_f1(task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
    """
    Mean F1 of the set selected in each example, and the share of sets that are right: the supporting-fact scores of
    HotpotQA (arXiv 1809.09600).
    """
    pairs = [(set(guess), set(example.selected)) for guess, example in zip(predictions, examples, strict=True)]
    f1 = [2 * len(guess & right) / max(len(guess) + len(right), 1) for guess, right in pairs]
    return {"f1": 100 * fmean(f1), "exact_match": 100 * fmean(guess == right for guess, right in pairs)}


def selection_exact(task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
    """The scores of `selection_f1`, whole sets first."""
    scores = selection_f1(task, predictions, examples)
    return {name: scores[name] for name in ("exact_match", "f1")}


# Of texts


def normalize_answer(text: str) -> str:
    """Lower case without punctuation, articles and extra white space (SQuAD, arXiv 1606.05250)."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def counted_f1(guess: Sequence[str], right: Sequence[str]) -> float:
    """F1 of two bags of tokens; 0 if they share none."""
    common = (Counter(guess) & Counter(right)).total()
    return 2 * common / (len(guess) + len(right)) if common else 0.0


def token_f1(guess: str, right: str) -> float:
    """F1 of the words of two answers, in [0, 1]."""
    return counted_f1(normalize_answer(guess).split(), normalize_answer(right).split())


def exact_match(guess: str, right: str) -> float:
    """1 if two answers have the same words in the same order."""
    return float(normalize_answer(guess) == normalize_answer(right))


def best_of_answers(
    name: str, text_score: TextScore, task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]
) -> dict[str, float]:
    """Mean over the examples of the best score among the right answers, called `name`."""
    best = [
        max(text_score(task.text_of(example, guess), answer) for answer in example.answers)
        for guess, example in zip(predictions, examples, strict=True)
    ]
    return {name: 100 * fmean(best)}


def rouge(task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
    """
    ROUGE-1, -2 and -L (without stemming) and their geometric mean, as SCROLLS has them: of each the mean over the
    examples of the best F among the right answers, then the geometric mean of the three means.

    Raises:
        ImportError: without the package rouge-score.
    """
    with _needed("rouge-score"):
        from rouge_score.rouge_scorer import RougeScorer
    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=False)
    best: dict[str, list[float]] = {name: [] for name in ROUGE_TYPES}
    for guess, example in zip(predictions, examples, strict=True):
        scores = [scorer.score(answer, task.text_of(example, guess)) for answer in example.answers]
        for name, values in best.items():
            values.append(max(each[name].fmeasure for each in scores))
    means = {name: 100 * fmean(values) for name, values in best.items()}
    product = means["rouge1"] * means["rouge2"] * means["rougeL"]
    return {"rouge_geometric_mean": product ** (1 / 3)} | means


# LongBench's own


def longbench_rouge(guess: str, right: str) -> float:
    """
    F of the summary-level ROUGE-L of the package rouge, which LongBench takes; 0 where that package gives up.

    Raises:
        ImportError: without that package.
    """
    with _needed("rouge"):
        from rouge import Rouge
    try:
        return Rouge(metrics=["rouge-l"]).get_scores([guess], [right], avg=True)["rouge-l"]["f"]
    except (ValueError, RecursionError):  # nothing but full stops, or texts too long for its recursion
        return 0.0


def longbench_rouge_chinese(guess: str, right: str) -> float:
    """`longbench_rouge` of the words that jieba cuts Chinese text into."""
    return longbench_rouge(*(" ".join(_chinese_words(text)) for text in (guess, right)))


def chinese_f1(guess: str, right: str) -> float:
    """`token_f1` of Chinese answers: of jieba's words without punctuation."""
    return counted_f1(
        *([word for word in map(_plain_chinese, _chinese_words(text)) if word] for text in (guess, right))
    )


def number_share(guess: str, right: str) -> float:
    """Share of the numbers in the prediction that are the number in the answer (counting and retrieval)."""
    wanted = re.findall(r"\d+", right)[0]
    numbers = re.findall(r"\d+", guess)
    return numbers.count(wanted) / len(numbers) if numbers else 0.0


def code_similarity(guess: str, right: str) -> float:
    """
    Edit similarity of a line of code: of the first predicted line that looks like code. LongBench takes fuzzywuzzy's
    ratio, which is this one in whole percent.
    """
    lines = guess.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    if not line or not right:
        return 0.0
    return round(100 * difflib.SequenceMatcher(None, line, right).ratio()) / 100


def named_class(classes: Sequence[str], guess: str, right: str) -> float:
    """
    1 over the number of classes that the prediction names, if the right one is among them; parts of the right one's
    name do not count. As in LongBench, the class behind one that was dropped is not looked at.
    """
    named = [name for name in classes if name in guess]
    place = 0
    while place < len(named):
        if named[place] in right and named[place] != right:
            named.pop(place)
        place += 1
    return 1 / len(named) if right in named else 0.0


def longbench_class(task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
    """Mean of `named_class` over the examples, whose `choices` are all classes."""
    best = []
    for guess, example in zip(predictions, examples, strict=True):
        text = first_line(task.text_of(example, guess))
        best.append(max(named_class(example.choices, text, answer) for answer in example.answers))
    return {"classification_score": 100 * fmean(best)}


def first_line(text: str) -> str:
    """What LongBench scores of a prediction in its few-shot tasks."""
    return text.lstrip("\n").split("\n")[0]


def on_first_line(text_score: TextScore, guess: str, right: str) -> float:
    """`text_score` of the first line of the prediction."""
    return text_score(first_line(guess), right)


def _chinese_words(text: str) -> Iterator[str]:
    with _needed("jieba"):
        import jieba
    return jieba.cut(text, cut_all=False)


def _plain_chinese(word: str) -> str:
    kept = (character for character in word.lower() if character not in string.punctuation + CHINESE_PUNCTUATION)
    return "".join("".join(kept).split())


@contextmanager
def _needed(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(f"This metric needs the package {package}: pip install {package}.") from error


def _of_answers(name: str, text_score: TextScore, *packages: str) -> Metric:
    return Metric(partial(best_of_answers, name, text_score), "answers", packages)


# Optional packages by the names that pip knows, and what is imported of them.
MODULES = {"rouge-score": "rouge_score", "rouge": "rouge", "jieba": "jieba"}
METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, "label"),
    "selection_f1": Metric(selection_f1, "selected"),
    "selection_exact": Metric(selection_exact, "selected"),
    "exact_match": _of_answers("exact_match", exact_match),
    "f1": _of_answers("f1", token_f1),
    "rouge": Metric(rouge, "answers", ("rouge-score",)),
    "longbench_f1_first_line": _of_answers("f1", partial(on_first_line, token_f1)),
    "longbench_f1_chinese": _of_answers("f1", chinese_f1, "jieba"),
    "longbench_rouge": _of_answers("rouge_l", longbench_rouge, "rouge"),
    "longbench_rouge_first_line": _of_answers("rouge_l", partial(on_first_line, longbench_rouge), "rouge"),
    "longbench_rouge_chinese": _of_answers("rouge_l", longbench_rouge_chinese, "rouge", "jieba"),
    "longbench_class": Metric(longbench_class, "answers"),
    "longbench_retrieval": _of_answers("retrieval_score", number_share),
    "longbench_count": _of_answers("count_score", number_share),
    "longbench_code": _of_answers("edit_similarity", code_similarity),
}
