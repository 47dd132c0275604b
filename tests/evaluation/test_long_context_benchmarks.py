# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""SCROLLS, LongBench and Long Range Arena from folders of the real schema."""

import zipfile
from pathlib import Path

import pytest
from datasets import Dataset

from evaluation_concept.long_context import longbench, scrolls
from evaluation_concept.long_context.registry import TASKS, find_tasks
from evaluation_concept.long_context.spans import find_spans
from evaluation_concept.long_context.splitting import folds
from evaluation_concept.long_context.tasks import ALL, EXTRACTIVE, GENERATIVE, Examples, Sources
from evaluation_concept.long_context.vocabularies import byte_tokenizer, listops_tokenizer
from tests.training.tiny_long import CHOICES, json_lines, longbench_row, passage, write_longbench, write_scrolls


def load(name: str, folder: Path) -> Examples:
    return TASKS[name].load(Sources(data_dir=folder))


def test_all_of_scrolls_is_read_from_its_zip_files(tmp_path):
    names = [task.name.removeprefix("scrolls_") for task in scrolls.TASKS]
    folder = write_scrolls(tmp_path, tuple(names), rows=4)
    for name in names:
        examples = load(f"scrolls_{name}", folder)
        assert {split: len(some) for split, some in examples.items()} == {"train": 4, "validation": 4, "test": 4}
        assert all(example.answers for example in examples["validation"])
        assert not any(example.answers or example.label for example in examples["test"])
        has_query = name not in ("gov_report", "summ_screen_fd")
        assert all(bool(example.query) == has_query for split in examples.values() for example in split)


def test_an_unpacked_zip_file_is_as_good(tmp_path):
    write_scrolls(tmp_path, ("contract_nli",))
    zipped = load("scrolls_contract_nli", tmp_path)
    archive = tmp_path / "scrolls" / "contract_nli.zip"
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "scrolls")
    archive.unlink()
    assert load("scrolls_contract_nli", tmp_path) == zipped


def test_questions_choices_and_spans_of_scrolls(tmp_path):
    write_scrolls(tmp_path, ("quality", "qasper"))
    first, second = load("scrolls_quality", tmp_path)["train"][:2]
    assert (first.query, first.choices, first.label) == ("What is it?", CHOICES, CHOICES[0])
    assert second.label == CHOICES[1]
    assert first.text == passage("train 0")
    found, missing = load("scrolls_qasper", tmp_path)["train"][:2]
    assert [found.text[start:end] for start, end in found.spans] == ["the needle text"]
    assert missing.answers == (TASKS["scrolls_qasper"].no_answer,)
    assert not missing.spans


def test_a_question_with_several_answers_is_one_example():
    rows = [{"id": "1", "input": "q\n\nd", "output": answer} for answer in ("a", "b")]
    (example,) = scrolls.merge([*rows, {"id": "1", "input": "q\n\nd", "output": None}])
    assert example.answers == ("a", "b")


def test_rows_of_another_schema_are_named(tmp_path):
    with pytest.raises(ValueError, match="lacks output"):
        scrolls.merge([{"id": "1", "input": "x"}])
    with pytest.raises(ValueError, match="no four choices"):
        scrolls.with_choices(scrolls.merge([{"id": "1", "input": "q (A) x\n\nd", "output": "x"}])[0])
    write_longbench(tmp_path, "trec", [{"_id": "1"}])
    with pytest.raises(ValueError, match="LongBench's trec lacks"):
        load("longbench_trec", tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither .*qasper\.zip nor .*qasper/train\.jsonl"):
        load("scrolls_qasper", tmp_path)
    (tmp_path / "scrolls").mkdir()
    (tmp_path / "scrolls" / "qasper.zip").write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"qasper\.zip is no zip file or is damaged"):
        load("scrolls_qasper", tmp_path)
    path = tmp_path / "longbench" / "data" / "trec.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"_id": \n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"trec\.jsonl, line 1 is no JSON"):
        load("longbench_trec", tmp_path)


def longbench_rows(name: str) -> list[dict]:
    if name in ("trec", "lsht"):
        return [longbench_row(row, all_classes=["x", "y"], answers=["xy"[row % 2]]) for row in range(10)]
    if name == "passage_count":
        return [longbench_row(row, answers=[str(row % 2)]) for row in range(10)]
    if name.startswith("passage_retrieval"):
        word, colon = ("段落", "：") if name.endswith("zh") else ("Paragraph ", ":")  # noqa: RUF001
        context = "\n\n".join(f"{word}{number}{colon} {passage(number)}" for number in (1, 2, 3))
        return [longbench_row(row, context=context, answers=[f"{word}2"]) for row in range(10)]
    return [longbench_row(row) for row in range(10)]


@pytest.mark.parametrize("name", [task.name.removeprefix("longbench_") for task in longbench.TASKS])
def test_each_task_of_longbench_is_read_and_has_folds(tmp_path, name):
    write_longbench(tmp_path, name, longbench_rows(name))
    task, examples = TASKS[f"longbench_{name}"], load(f"longbench_{name}", tmp_path)[ALL]
    assert len(examples) == 10
    assert "not comparable with zero-shot" in task.note
    assert task.folds == 5
    if task.kind == EXTRACTIVE:
        assert all(each.text[slice(*each.spans[0])] == "the needle text" for each in examples)
    if name.startswith("passage_retrieval"):
        assert {each.selected for each in examples} == {(1,)}
        assert all(each.text[each.candidates[1] :].startswith(each.choices[1]) for each in examples)
    scored = sorted(row for _, rows in folds(task, examples) for row in rows)
    assert scored == list(range(10))


def test_longbench_is_read_from_its_zip_file(tmp_path):
    (tmp_path / "longbench").mkdir()
    with zipfile.ZipFile(tmp_path / "longbench" / "data.zip", "w") as file:
        file.writestr("data/hotpotqa.jsonl", json_lines([longbench_row(0)]))
    assert len(load("longbench_hotpotqa", tmp_path)[ALL]) == 1
    with pytest.raises(ValueError, match="holds no rows of data/musique"):
        load("longbench_musique", tmp_path)


def test_pairs_and_reviews_of_long_range_arena(tmp_path):
    (tmp_path / "lra" / "imdb" / "data").mkdir(parents=True)
    rows = Dataset.from_dict({"text": ["bad<br />film", "good film"], "label": [0, 1]})
    for split in ("train", "test"):
        rows.to_parquet(str(tmp_path / "lra" / "imdb" / "data" / f"{split}-00000-of-00001.parquet"))
    for split in ("train", "eval", "test"):
        line = '1.0\tP1\tP2\ta paper\tanother "paper\n0\tP1\tP3\ta paper\tthird\n'
        (tmp_path / "lra" / f"new_aan_pairs.{split}.tsv").write_text(line, encoding="utf-8")
    reviews = load("lra_text", tmp_path)
    labelled = [(each.text, each.label) for each in reviews["test"]]
    assert labelled == [("bad\nfilm", "negative"), ("good film", "positive")]
    pairs = load("lra_retrieval", tmp_path)
    assert set(pairs) == {"train", "validation", "test"}
    assert [(each.text, each.query, each.label) for each in pairs["test"]] == [
        ("a paper", 'another "paper', "1"),
        ("a paper", "third", "0"),
    ]
    (tmp_path / "lra" / "new_aan_pairs.eval.tsv").write_text("1\tP1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: 2 columns"):
        load("lra_retrieval", tmp_path)


def test_bytes_and_listops_have_vocabularies_of_their_own():
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == 256 + 5
    assert len(tokenizer("naïve [MIN", add_special_tokens=False)["input_ids"]) == len("naïve [MIN".encode())
    assert tokenizer.decode(tokenizer("naïve", add_special_tokens=False)["input_ids"]) == "naïve"
    listops = listops_tokenizer()
    assert len(listops) == 10 + 4 + 1 + 5
    expression = "[MAX 2 9 [MIN 4 7 ] 0 ]"
    tokens = listops(expression)["input_ids"]
    assert listops.unk_token_id not in tokens
    assert len(tokens) == len(expression.split()) + 2


def test_spans_are_whole_words_whatever_their_case_and_spaces():
    text = "The Cat sat. A concat, the  cat."
    assert [text[slice(*span)] for span in find_spans(text, ["the cat"])] == ["The Cat", "the  cat"]
    assert not find_spans(text, ["at", ""])
    assert find_spans("我爱北京。", ["北京"]) == ((2, 4),)
    assert len(find_spans("a " * 50, ["a"])) == 20


def test_tasks_are_found_by_name_and_by_family():
    assert len(find_tasks(["scrolls", "scrolls_qasper"])) == 7
    assert [task.name for task in find_tasks(["lra"])] == ["lra_listops", "lra_text", "lra_retrieval"]
    assert sum(task.kind == GENERATIVE for task in TASKS.values()) == 3 + 8
    with pytest.raises(ValueError, match="There is no task 'glue'"):
        find_tasks(["glue"])
