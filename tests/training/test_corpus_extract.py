# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From the files of packages to paragraphs, and which of these are English prose."""

import gzip
from pathlib import Path

import pytest

from training_concept.corpus.extract import FORMS, decode, is_prose, paragraph_key, paragraphs, read_bytes
from training_concept.corpus.readers import chapters, dictionary, files, find_files

SENTENCE = "The house that stood by the river was sold to a man who had never seen it."


RFC = """   It goes on


Doe                          Informational                     [Page 3]

RFC 7                            Title                         May 1990


   after the page.

   A new one

Doe                            Standards                      [Page iv]

RFC 7                            Title                         May 1990

   Begins here.
"""
PAGE = """<?xml version='1.0' encoding='utf-8'?><html><head><title>No</title></head><body><nav>menu</nav>
<div>Before <p>One <code>word</code> and <!-- no -->more.<br/>Then.</p> after<pre>x = 1</pre>
<ul><li>Item</li></ul></div>
<div class="sphinxsidebar">links</div>tail &amp; end</body></html>"""
MAN = r""".\" comment
.SH NAME
pipe \- overview
.SH DESCRIPTION
Use
.BR pipe (2)
or
.I "read end"
of \fIit\fP.
.PP
\(lqQuoted\(rq \(em it\(aqs a\&.b\ef"""
POD = """=head1 NAME

See L<the manual|perlfunc> and C<< $a->b >>, B<bold I<both>>.

    code();

E<lt>END"""
INFO = """Start.
\x1f
File: a.info,  Node: Top,  Up: (dir)

1 Overview
**********

Read this (*note Elsewhere::) and *note text: Node.

* Menu:

* Other::   A line.

Appendices
* Last:: All.
"""
DICTIONARY = """Abacus
   A frame of {beads}.

   Second sense.
Abaft
   Behind."""


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        (
            "A line\nand the next.\n\n  \nAnother\r\r\none.\r\n\r\nThird.",
            "text",
            ["A line and the next.", "Another one.", "Third."],
        ),
        ("a well-\n   known word, a range 1-\n2", "text", ["a well-known word, a range 1- 2"]),
        (RFC.replace("]\n\n", "]\n\f\n"), "rfc", ["It goes on after the page.", "A new one", "Begins here."]),
        (PAGE, "html", ["Before", "One word and more. Then.", "after", "Item", "tail & end"]),
        ("<!-- nothing -->", "html", []),
        (MAN, "man", ["pipe - overview", "Use pipe(2) or read end of it.", '"Quoted" -- it\'s a.b\\f']),
        (POD, "pod", ["See the manual and $a->b, bold both.", "<END"]),
        (INFO, "info", ["Start.", "Read this and text."]),
        (DICTIONARY, "dictionary", ["Abacus A frame of beads.", "Second sense.", "Abaft Behind."]),
    ],
)
def test_paragraphs_of_every_form(text: str, form: str, expected: list[str]) -> None:
    assert paragraphs(text, form) == expected
    assert paragraphs(text.encode(), form) == expected


@pytest.mark.parametrize("form", FORMS)
def test_a_text_without_text_has_no_paragraphs(form: str) -> None:
    assert paragraphs(" \n\n ", form) == []


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        (SENTENCE, True),
        ("The house that stood by the river was sold.", False),  # too short
        ("0x3f 0x44 0x1a of the 12 345 and 6789 10 11 12 13 14 15 16 17 18", False),  # too few letters
        (" ".join(["river house letter number mountain window"] * 3), False),  # no stop words
        ("屋子 山 the of and to in a was is by it 河边 的 房子 卖 给 了 一个 从未 见过 它 的 人", False),
        ("Her café, naïve as it was, stood by the river and was sold to a man from Kraków.", True),
    ],
)
def test_which_paragraphs_are_prose(paragraph: str, expected: bool) -> None:
    assert is_prose(paragraph) is expected


def test_copies_share_a_key_whatever_stands_between_their_letters() -> None:
    assert paragraph_key(SENTENCE) == paragraph_key(SENTENCE.upper().replace(" ", "\n - 12 "))
    assert paragraph_key(SENTENCE) != paragraph_key(SENTENCE + " Not.")


def test_bytes_that_are_not_utf_8_are_read_as_windows_1252() -> None:
    assert decode("“naïve”".encode("cp1252")) == decode("“naïve”".encode()) == "“naïve”"
    assert decode(b"a\x81b")  # a byte that no character has


def test_a_packed_file_is_unpacked_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "page.txt.gz"
    path.write_bytes(gzip.compress(b"words"))
    assert read_bytes(path) == b"words"
    path.write_bytes(gzip.compress(b"words " * 1000)[:-9])
    with pytest.raises(OSError, match=r"page\.txt\.gz is damaged"):
        read_bytes(path)


def test_files_come_in_order_without_links_and_what_is_left_out(tmp_path: Path) -> None:
    for name in ("b.html", "a/z.html", "_sources/a.html", "a/style.css"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.html").symlink_to(tmp_path / "b.html")
    documents = list(files("html", "**/*.html", without=["_sources"])(tmp_path))
    assert [document.id for document in documents] == ["a/z.html", "b.html"]
    with pytest.raises(FileNotFoundError, match=r"no \*\.pod in "):
        find_files(tmp_path, ["*.pod"])


def test_a_manual_is_cut_in_chapters(tmp_path: Path) -> None:
    text = (
        "Preamble.\n\n1 First\n*******\n\nText.\n\n1.1 Section\n===========\n\nMore.\n\n2 Second\n********\n\nEnd.\n"
    )
    (tmp_path / "tool.info.gz").write_bytes(gzip.compress(text.encode()))
    documents = list(chapters("*.info.gz")(tmp_path))
    assert [document.id for document in documents] == ["tool.info/0", "tool.info/1", "tool.info/2"]
    assert [document.paragraphs() for document in documents] == [["Preamble."], ["Text.", "More."], ["End."]]


def test_a_dictionary_is_cut_by_first_letters(tmp_path: Path) -> None:
    text = "00-database-short\n   Title\nAbacus\n   A frame.\nbat\n   An animal.\naba.\n   Behind.\n1st\n   First.\n"
    (tmp_path / "words.dict.dz").write_bytes(gzip.compress(text.encode()))
    documents = {document.id: document.paragraphs() for document in dictionary("*.dict.dz")(tmp_path)}
    assert documents == {
        "words/aba": ["Abacus A frame.", "aba. Behind."],
        "words/bat": ["bat An animal."],
        "words/st": ["1st First."],
    }
