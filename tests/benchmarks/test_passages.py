# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs of a sentence and those that follow it."""

import json

from benchmarks import passages

TEXT = "One two three four five. Short one! Six  seven\neight nine ten? A b c d e. F g h i j. K l m n o."


def test_a_query_is_followed_by_its_passage():
    (pair,) = passages.make_pairs(TEXT)
    assert pair == {
        "query": "One two three four five.",
        "passage": "Six seven eight nine ten? A b c d e. F g h i j.",
    }
    assert len(list(passages.make_pairs(" ".join([TEXT] * 8)))) == 10


def test_splits_have_files_and_no_more_pairs_than_wanted(tmp_path):
    for name, mark in (("train", "seen"), ("test", "held")):
        rows = "".join(json.dumps({"text": f"{mark} {TEXT} " * 3 + str(row)}) + "\n" for row in range(30))
        (tmp_path / f"{name}.jsonl").write_text(rows)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"sources:\n  own:\n    data_files: {{train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl}}\n"
    )
    found = []
    for folder in ("one", "two"):
        sizes = ["--train", "20", "--test", "5"]
        passages.main(["--recipe", str(recipe), "--output", str(tmp_path / folder), *sizes])
        found.append([(tmp_path / folder / f"{name}.jsonl").read_text() for name in ("train", "test")])
    assert found[0] == found[1]
    train, test = (text.splitlines() for text in found[0])
    assert (len(train), len(test)) == (20, 5)
    assert "held" not in found[0][0]
    assert "seen" not in found[0][1]
