# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From records of studies to figures and tables, and what is kept of tasks in packages."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.results import read_results
from benchmarks.studies import __main__ as command
from benchmarks.studies import costs, glue, long_context
from benchmarks.studies.cells import Cell
from benchmarks.studies.keep import keep_tasks, without_overlaps
from benchmarks.studies.records import Predictions, Record, make_record, read_records, write_records
from benchmarks.studies.scores import Scores
from benchmarks.tables import to_markdown
from evaluation_concept.long_context.kept import load_documents, write_kept_documents
from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.tasks import ALL, Example, Sources
from evaluation_concept.tasks import Examples, TaskData
from tests.training.tiny_glue import write_checkpoint
from tests.training.tiny_long import write_speeches
from training_concept.finetuning.kept import read_kept_task, write_kept_task
from training_concept.finetuning.package_tasks import PACKAGE_TASKS
from training_concept.finetuning.task_arguments import TaskArguments

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
RIGHT = np.array([0, 1] * 50)
RESULTS = {"trained_on": [20], "chosen": [{"learning_rate": 1e-4}], "facts": {"train_seconds": 2.5}}


def predicting(*wrong: int) -> np.ndarray:
    """For each run, predictions of which the first so many are wrong."""
    return np.stack([np.where(np.arange(len(RIGHT)) < number, 1 - RIGHT, RIGHT) for number in wrong])


def record(
    group: str, model: str, task: str, systems: dict[str, np.ndarray], variant: str = "", **facts: Any
) -> Record:
    cell = Cell(group, model, variant, task, "run_glue", {"max_seq_length": 8192})
    weights = {"weights": {model: "12345678"}} if model else {}
    return make_record(cell, RESULTS | facts, Predictions(RIGHT, systems), **weights)


def by_cell(records: list[Record]) -> dict[str, Record]:
    return {each["cell"]: each for each in records}


@pytest.fixture
def glue_records() -> dict[str, Record]:
    tasks = {"subject_verb_agreement": (4, 6), "adjacent_swaps": (10, 20)}
    records = [record("main", "ours", task, {"model": predicting(*wrong)}) for task, wrong in tasks.items()]
    records += [record("main", "bert_shaped", task, {"model": predicting(15, 15)}) for task in tasks]
    # A task that only one has counts for nothing but its own row.
    records.append(record("main", "ours", "sst2", {"model": predicting(0, 0)}))
    trivial = {"bag_of_words": predicting(10), "majority": predicting(50)}
    records += [record("baselines", "", task, trivial) | {"left_out": 3, "results": None} for task in tasks]
    records.append(record("readouts", "ours", "sst2", {"model": predicting(1, 3)}, "concepts"))
    records.append(record("released", "released", "adjacent_swaps", {"model": predicting(2, 4)}))
    return by_cell(records)


def test_averages_are_over_the_tasks_that_all_have(glue_records):
    figures, _ = glue.summarise(glue_records)
    assert figures["average_ours"].value == pytest.approx((96 + 94 + 90 + 80) / 4)
    assert figures["average_ours"].spread == pytest.approx(np.std([(96 + 90) / 2, (94 + 80) / 2], ddof=1))
    assert figures["average_bert_shaped"].value == pytest.approx(85)
    assert figures["average_bag_of_words"].value == pytest.approx(90)
    assert "average_modernbert_shaped" not in figures
    assert figures["agreement"].value == pytest.approx(95)
    assert figures["swap_detection"].value == pytest.approx(85)
    assert figures["scores_below_bag_of_words"].value == 1
    assert "adjacent_swaps" in figures["scores_below_bag_of_words"].note


def test_tables_show_scores_differences_and_what_is_not_scored(glue_records):
    tables = {table.name: table for table in glue.summarise(glue_records)[1]}
    text = to_markdown(tables["tasks"])
    assert "| `subject_verb_agreement` | 100 | 95.0 ± 1.4 (2) | 85.0 ± 0.0 (2) | 90.0 | 50.0 |" in text
    assert "3 of `subject_verb_agreement`" in text
    rows = {row[0]: row[1:] for row in tables["differences"].rows}
    assert rows["`adjacent_swaps`"][0].startswith("+0.0 [")
    low, high = (float(end) for end in rows["`subject_verb_agreement`"][0].split("[")[1].rstrip("]").split(", "))
    assert low < 10 < high
    assert tables["released"].rows == [["`adjacent_swaps`", 100, "97.0 ± 1.4 (2)", "90.0", "50.0"]]
    assert tables["readouts"].rows == [["ours", "concepts", "98.0 ± 1.4 (2)", "98.0 ± 1.4 (2)"]]
    assert ["`sst2`", "20", "0.0001", ""] in tables["settings"].rows


def test_systems_that_were_scored_on_other_examples_are_not_compared(glue_records):
    other = Predictions(1 - RIGHT, {"model": predicting(0)}).pack()
    glue_records["main-bert_shaped-adjacent_swaps"]["predictions"] = other
    with pytest.raises(ValueError, match="adjacent_swaps: ours and BERT-shaped"):
        glue.summarise(glue_records)


def test_collecting_archives_records_and_writes_what_they_give(glue_records, tmp_path, capsys):
    write_records(tmp_path / "new.jsonl", glue_records)
    command.main(["collect", "glue", str(tmp_path / "new.jsonl")], tmp_path)
    assert read_records([tmp_path / "glue_runs.jsonl"]).keys() == glue_records.keys()
    found = read_results(tmp_path / "glue.json")
    assert {"tasks", "differences", "released", "readouts", "settings"} == set(found.tables)
    assert "agreement: 95" in capsys.readouterr().out
    # Again from the archive alone: the same.
    command.main(["collect", "glue"], tmp_path)
    assert read_results(tmp_path / "glue.json") == found


def test_figures_of_long_documents():
    records = [
        record("documents", "ours", "sotu_eras", {"model": predicting(10, 20), "first_512": predicting(30, 50)}),
        record("documents", "modernbert_shaped", "sotu_eras", {"model": predicting(25)}),
        record("documents", "ours", "brown_genres", {"model": predicting(40)}),
        record("baselines", "", "sotu_eras", {"bag_of_words": predicting(12)}) | {"command": "baselines of a CPU"},
        record("listops", "small", "lra_listops", {"model": predicting(60, 58, 62)}, "scratch"),
    ]
    lengths = {"4096": {"scores": [99.0, 97.0]}, "16384": {"scores": [90.0, 92.0]}}
    final = {"model": predicting(8, 10)}
    for task in ("ruler_needle", "ruler_multi_key"):
        harder = {"4096": {"scores": [80.0, 90.0]}} if task == "ruler_multi_key" else {}
        records.append(
            record("needle", "ours", task, final, by_length=lengths | harder) | {"command": "x --max_seq_length 65536"}
        )
    figures, tables = long_context.summarise(by_cell(records))
    assert figures["sotu_eras"].value == pytest.approx(85)
    assert figures["sotu_bag_of_words"].value == pytest.approx(88)
    assert figures["sotu_bag_of_words"].command == "baselines of a CPU"
    assert "studies run" in figures["sotu_eras"].command
    assert figures["sotu_gain_over_first_512"].value == pytest.approx(25)
    assert figures["tasks_below_bag_of_words"].value == 1
    assert figures["listops_scratch"].value == pytest.approx(40)
    assert figures["needle_4k"].value == pytest.approx(0.85)
    assert figures["needle_16k"].value == pytest.approx(0.91)
    assert figures["needle_64k"].value == pytest.approx(0.91)
    by_name = {table.name: table for table in tables}
    assert by_name["document_costs"].rows[0][:4] == ["`sotu_eras`", "ours", "8192", "2.5"]
    assert by_name["needle"].columns == ["model", "task", "4K", "16K", "64K"]


def test_what_was_scored_to_choose_settings_is_not_collected(tmp_path):
    tuned = record("documents", "ours", "sotu_eras", {"model": predicting(10)}, split="validation")
    write_records(tmp_path / "new.jsonl", by_cell([tuned]))
    with pytest.raises(ValueError, match="scored on validation"):
        command.main(["collect", "long_context", str(tmp_path / "new.jsonl")], tmp_path)
    assert not (tmp_path / "long_context_runs.jsonl").exists()


def test_seeds_with_a_record_each_are_as_seeds_of_one_record():
    def needles(predicted: np.ndarray, seeds: list[int | None], right: np.ndarray = RIGHT) -> list[Record]:
        made = []
        for task in ("ruler_needle", "ruler_multi_key"):
            told = "needle", "ours", "", task, "run_long_context", {"max_seq_length": 65536}
            cells = (Cell(*told, seed) for seed in seeds)
            for cell, runs in zip(cells, np.split(predicted, len(seeds)), strict=True):
                shorter = {"4096": {"scores": [float(np.mean(run == RIGHT)) * 50 for run in runs]}}
                made.append(make_record(cell, RESULTS | {"by_length": shorter}, Predictions(right, {"model": runs})))
        return made

    runs = predicting(8, 10, 30)
    (one, _), (each, tables) = (long_context.summarise(by_cell(needles(runs, seeds))) for seeds in ([None], [3, 1, 2]))
    assert one.keys() == each.keys() >= {"needle_4k", "needle_64k"}
    for key in ("needle_4k", "needle_64k"):
        assert each[key].value == pytest.approx(one[key].value)
        assert (each[key].spread, each[key].runs) == (pytest.approx(one[key].spread), 3)
    assert len({table.name: table for table in tables}["needle"].rows) == 2
    others = needles(runs, [1, 2, 3])[:2] + needles(runs, [1, 2, 3], 1 - RIGHT)[2:]
    with pytest.raises(ValueError, match="same examples"):
        long_context.summarise(by_cell(others))


def test_costs_are_measured_and_collected(tmp_path, monkeypatch):
    # However slow this machine happens to be.
    monkeypatch.setattr(costs, "KEPT_RATE", 0.0)
    monkeypatch.setitem(costs.COMPILERS, "regions", {"backend": "eager"})
    models = tmp_path / "models"
    for name in ("ours", "other"):
        write_checkpoint(models / name)
    quick = ["--seconds", "0.01", "--rounds", "2"]
    files = [tmp_path / "training.jsonl", tmp_path / "encoding.jsonl", tmp_path / "longest.jsonl"]
    names = ["--models", str(models), "--names", "ours", "other", "--shapes", "2x16"]
    names += ["--compile", "none", "regions"]
    costs.main(["finetuning", *names, *quick, "--output", str(files[0])])
    shape = ["--ours", "mini", "--control", "modernbert_256x9", "--length", "64", "--cpu"]
    costs.main(["encoding", *shape, *quick, "--output", str(files[1])])
    costs.main(["longest", "--ours", "mini", "--lengths", "256", "512", "--chunk", "128", "--output", str(files[2])])
    records = read_records(files)
    assert "--models MODELS" in records["costs-finetuning"]["command"]
    assert str(tmp_path) not in "".join(each["command"] for each in records.values())
    figures, tables = long_context.summarise(records)
    assert figures["finetuning_x_other_16"].runs == 2
    ways = [row[:3] for table in tables if table.name == "finetuning_costs" for row in table.rows]
    assert ways == [[name, "2 x 16", way] for name in ("ours", "other") for way in ("none", "regions")]
    assert figures["seconds_0k_over_modernbert_cpu"].value > 0
    assert figures["longest_document_tokens"].value == 512
    assert 0 < figures["chunks_relative_error"].value < 1e-5
    assert {"finetuning_costs", "encoding_cpu", "longest"} == {table.name for table in tables}


def test_chunks_that_are_not_the_whole_are_not_timed(tmp_path, monkeypatch):
    encode = costs.encode_in_chunks
    backwards = lambda model, document, chunk: encode(model, document.flip(0), chunk=chunk)  # noqa: E731
    monkeypatch.setattr(costs, "encode_in_chunks", backwards)
    output = tmp_path / "longest.jsonl"
    with pytest.raises(RuntimeError, match="from the whole one, which is more than rounding"):
        costs.main(["longest", "--ours", "mini", "--lengths", "256", "--output", str(output)])
    assert not output.exists()


def test_the_longest_document_keeps_its_rate():
    assert costs.longest_document({64: 10.0, 128: 12.0, 256: 8.0, 512: 7.9}) == 256
    assert costs.longest_document({64: 10.0, 128: 1.0, 256: 9.0}) == 256


def text_task(number: int = 6) -> TaskData:
    words = WORDS.split()
    texts = [" ".join([*words[row:], *words[:row]]) for row in range(number)]
    examples = Examples((tuple(texts),), np.arange(number) % 2, tuple(map(str, range(number))))
    return TaskData(PACKAGE_TASKS["sst2"].task, examples, {"validation": examples})


def test_scored_examples_that_were_pretrained_on_are_left_out():
    data = text_task()
    said = "He said: One two three, four five six seven eight nine ten eleven twelve thirteen FOURTEEN times."
    short = "one two three four five six seven eight nine ten eleven twelve"
    (kept,) = without_overlaps([data], [said, "nothing of it"])
    # The second begins with the second word, of which thirteen follow in the paragraph.
    assert [text.split()[0] for text in kept.evaluation["validation"].texts[0]] == ["three", "four", "five", "six"]
    assert len(kept.train) == len(data.train)
    (kept,) = without_overlaps([data], [short])
    assert len(kept.evaluation["validation"]) == 6


def test_kept_tasks_come_back_as_they_were(tmp_path):
    data = text_task()
    write_kept_task(tmp_path, data)
    found = read_kept_task(tmp_path, "sst2")
    assert found.train.digest() == data.train.digest()
    assert found.evaluation["validation"].groups == data.evaluation["validation"].groups
    with pytest.raises(FileNotFoundError, match="studies keep"):
        read_kept_task(tmp_path, "mrpc")
    pq.write_table(pa.table({"split": ["train"]}), tmp_path / "mrpc.parquet")
    with pytest.raises(ValueError, match="no file of the task mrpc"):
        read_kept_task(tmp_path, "mrpc")


def test_tasks_come_from_packages_or_from_kept_files():
    assert TaskArguments(task_name=["adjacent_swaps"], task_dir="kept").in_packages
    with pytest.raises(ValueError, match="exclude each other"):
        TaskArguments(task_name=["sst2"], package_dir="packages", task_dir="kept")
    with pytest.raises(ValueError, match="adjacent_swaps is not one of"):
        TaskArguments(task_name=["adjacent_swaps"])


def test_kept_documents_come_back_as_they_were(tmp_path):
    found = TASKS["hotpotqa_sentences"]
    examples = {
        "train": [Example("a", "x" * 50, "why?", None, ("one", "two"), candidates=(0, 4), selected=(1,))],
        "test": [Example("b", "y" * 50, answers=("z",), spans=((1, 2), (3, 4)), group="g")],
    }
    write_kept_documents(tmp_path, found, examples)
    assert load_documents(found, Sources(kept_dir=tmp_path)) == examples
    with pytest.raises(ValueError, match="cannot be cut"):
        write_kept_documents(tmp_path, found, examples, 10)
    eras = TASKS["sotu_eras"]
    write_kept_documents(tmp_path, eras, {ALL: examples["test"]}, 10)
    assert load_documents(eras, Sources(kept_dir=tmp_path))[ALL][0].text == "y" * 10


def test_examples_that_cannot_be_told_apart_are_refused(tmp_path):
    eras = TASKS["sotu_eras"]
    twice = [Example("a", "x", label=eras.labels[0]), Example("b", "y"), Example("a", "x", label=eras.labels[0])]
    write_kept_documents(tmp_path, eras, {ALL: twice})
    with pytest.raises(ValueError, match="sotu_eras: 2 examples of its split all are called 'a'"):
        load_documents(eras, Sources(kept_dir=tmp_path))


def test_tasks_are_kept_from_packages(tmp_path):
    packages = write_speeches(tmp_path / "packages")
    keep_tasks(["sotu_eras"], packages, tmp_path / "tasks", None, None)
    assert len(load_documents(TASKS["sotu_eras"], Sources(kept_dir=tmp_path / "tasks"))[ALL]) == 20
    with pytest.raises(ValueError, match="no task 'cola'"):
        keep_tasks(["cola"], packages, tmp_path / "tasks", None, None)


def test_answers_to_the_same_questions_can_be_compared_whatever_was_predicted():
    ours = Predictions.of_answers({"a": "x", "b": "y"}, {"model": [{"b": "y", "a": "w"}]})
    theirs = Predictions.of_answers({"b": "y", "a": "x"}, {"model": [{"a": "x", "b": "v"}, {"a": "x", "b": "y"}]})
    assert np.array_equal(ours.references, theirs.references)
    assert (ours.systems["model"] == ours.references).tolist() == [[False, True]]
    assert (theirs.systems["model"] == theirs.references).tolist() == [[True, False], [True, True]]


def test_baselines_are_records_too(tmp_path):
    write_kept_task(tmp_path / "tasks", text_task(12))
    write_checkpoint(tmp_path / "model")
    files = [tmp_path / "texts.jsonl", tmp_path / "documents.jsonl"]
    command.main(["baselines", "sst2", "--tasks", str(tmp_path / "tasks"), "--output", str(files[0])])
    packages = write_speeches(tmp_path / "packages")
    names = ["--package_dir", str(packages), "--tokenizer_name", str(tmp_path / "model")]
    command.main(["baselines", "sotu_eras", *names, "--output", str(files[1])])
    records = read_records(files)
    assert set(Predictions.unpack(records["baselines-sst2"]["predictions"]).systems) == {"majority", "bag_of_words"}
    systems = Predictions.unpack(records["baselines-sotu_eras"]["predictions"]).systems
    assert set(systems) == {"majority", "bag_of_words", "bag_of_words_first_512"}
    assert Scores(records, long_context.METRICS, "long_context").points(long_context.WORDS, "sotu_eras")


def test_the_studies_of_this_repository_can_be_read():
    from benchmarks.results import ROOT
    from benchmarks.studies.cells import read_study

    for path in sorted((ROOT / "recipes" / "studies").glob("*.yaml")):
        assert read_study(path)
