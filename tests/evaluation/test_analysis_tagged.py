# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tagged texts: what is read from files of the Brown corpus's form, and which tag a token gets."""

import numpy as np
import pytest

from evaluation_concept.tagged import (
    PARTS_OF_SPEECH,
    TaggedWord,
    join_words,
    part_of_speech,
    read_tagged_folder,
    read_words,
    tag_tokens,
)
from tests.evaluation.checkpoints import small_tokenizer

TAGGED = "\n\n\tThe/at mill/nn-hl said/vbd ``/`` either/or/cc ''/'' ,/, and/cc it/pps stands/vbz ./.\n"


def part(name: str) -> int:
    return PARTS_OF_SPEECH.index(name)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("nn", "noun"),
        ("nns-tl", "noun"),
        ("nr$", "noun"),
        ("np$", "name"),
        ("vbd", "verb"),
        ("bedz*", "verb"),
        ("md", "verb"),
        ("jjr", "adjective"),
        ("ql", "adverb"),
        ("*", "adverb"),
        ("wps", "pronoun"),
        ("at", "determiner"),
        ("in", "preposition"),
        ("cc", "conjunction"),
        ("cd-hl", "number"),
        ("fw-in+at", "preposition"),
        (".", "punctuation"),
        ("``", "punctuation"),
        ("--hl", "punctuation"),
        ("uh", "other"),
        ("nil", "other"),
    ],
)
def test_tags_belong_to_parts_of_speech(tag, expected):
    assert part_of_speech(tag) == expected


def test_the_last_slash_parts_word_and_tag(tmp_path):
    (tmp_path / "ca01").write_text(TAGGED, encoding="utf-8")
    words = read_words(tmp_path / "ca01")
    assert words[1] == TaggedWord("mill", part("noun"))
    assert words[4] == TaggedWord("either/or", part("conjunction"))
    assert len(words) == 11


def test_words_are_joined_as_people_write(tmp_path):
    (tmp_path / "ca01").write_text(TAGGED, encoding="utf-8")
    found = join_words(read_words(tmp_path / "ca01"))
    assert found.text == 'The mill said "either/or", and it stands.'
    assert len(found.parts) == len(found.text)
    assert found.parts[found.text.index("mill") : found.text.index(" said")].tolist() == [part("noun")] * 4
    assert {found.text[place] for place in np.flatnonzero(found.parts == -1)} == {" "}


def test_files_without_tags_are_left_out(tmp_path):
    (tmp_path / "README").write_text("Words and no/tags here.", encoding="utf-8")
    (tmp_path / "image.png").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="no file of tagged words"):
        read_tagged_folder(tmp_path)
    (tmp_path / "cb").write_text("Second/jj", encoding="utf-8")
    (tmp_path / "ca").write_text("First/jj", encoding="utf-8")
    assert [text.text for text in read_tagged_folder(tmp_path)] == ["First", "Second"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_tagged_folder(tmp_path / "nowhere")


def test_tokens_have_the_tags_of_their_words(tmp_path):
    tokenizer = small_tokenizer()
    (tmp_path / "ca01").write_text(TAGGED, encoding="utf-8")
    texts = read_tagged_folder(tmp_path)
    ((row,), (tags,)) = tag_tokens(texts, tokenizer, length=40, most=5)
    assert (tags[0], tags[-1]) == (-1, -1)
    encoding = tokenizer(texts[0].text, return_offsets_mapping=True)
    assert row.tolist() == encoding["input_ids"]
    for (start, end), tag in list(zip(encoding["offset_mapping"], tags, strict=True))[1:-1]:
        there = [number for number in texts[0].parts[start:end] if number >= 0]
        assert tag == (there[0] if there else -1)
    assert {part("noun"), part("verb"), part("punctuation")} < set(tags)


def test_rows_are_cut_and_drawn_evenly(tmp_path):
    for number in range(10):
        (tmp_path / f"c{number}").write_text(f"day{number}/nn " * 20, encoding="utf-8")
    rows, tags = tag_tokens(read_tagged_folder(tmp_path), small_tokenizer(), length=16, most=4)
    assert len(rows) == len(tags) == 4
    assert [len(row) for row in rows] == [16] * 4
    assert len({tuple(row) for row in rows}) == 4
