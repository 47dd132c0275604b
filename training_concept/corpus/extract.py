# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From files as packages hold them to paragraphs of English prose."""

import gzip
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lxml import etree, html

MIN_WORDS = 12
MIN_LETTER_SHARE = 0.70
MIN_STOP_WORD_SHARE = 0.18
# Beyond Latin with its diacritics; a paragraph with more than this share of it is in another script.
MAX_OTHER_SCRIPT_SHARE = 0.05

_STOP_WORDS = """
a all an and any are as at be been but by can could do does each for from had has have he her his how i
if in into is it its may more must no not of on one only or other our she should so some such than that
the their them then there these they this to was we were what when which who will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_PUNCTUATION = ".,;:!?()[]{}<>\"'`*_"
_NO_LETTERS = re.compile(r"[\W\d_]+")
_OTHER_SCRIPT = re.compile(r"[^\u0000-\u024f\u2000-\u206f]")
_NO_ASCII_LETTERS = re.compile(r"[^a-z]+")
_SPACE = re.compile(r"\s+")


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph reads like English: enough words, mostly letters and spaces, enough stop words."""
    words = paragraph.split()
    if len(words) < MIN_WORDS:
        return False
    letters = len(_NO_LETTERS.sub("", paragraph)) + len(words) - 1
    if letters < MIN_LETTER_SHARE * len(paragraph):
        return False
    if not paragraph.isascii() and len(_OTHER_SCRIPT.findall(paragraph)) > MAX_OTHER_SCRIPT_SHARE * len(paragraph):
        return False
    stop_words = sum(word.strip(_PUNCTUATION) in STOP_WORDS for word in paragraph.lower().split())
    return stop_words >= MIN_STOP_WORD_SHARE * len(words)


def paragraph_key(paragraph: str) -> bytes:
    """Eight bytes that agree for two paragraphs with the same letters a-z, whatever stands between these."""
    letters = _NO_ASCII_LETTERS.sub("", paragraph.lower())
    return hashlib.blake2b(letters.encode(), digest_size=8).digest()


def read_bytes(path: Path) -> bytes:
    """
    A file's content, unpacked if the file is .gz or .dz (dictzip).

    Raises:
        OSError: a file that is not there or is damaged, named.
    """
    content = path.read_bytes()
    if path.suffix not in (".gz", ".dz"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise OSError(f"{path} is damaged ({error})") from error


def decode(content: bytes) -> str:
    """UTF-8 if it is that, else Windows-1252, which every text of its time can be read as."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def paragraphs(content: bytes | str, form: str) -> list[str]:
    """
    All paragraphs of a document, each on one line, nothing filtered out.

    Args:
        content: of a file, or a text.
        form: one of `FORMS`.
    """
    text = decode(content) if isinstance(content, bytes) else content
    found = (_SPACE.sub(" ", paragraph).strip() for paragraph in FORMS[form](text))
    return [paragraph for paragraph in found if paragraph]


def text_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of plain text: blank lines part them; a word cut at a hyphen is put together, hyphen kept."""
    # Files that went through one system too many end their lines with two carriage returns.
    text = re.sub(r"\r+\n|\r", "\n", text)
    yield from re.split(r"\n(?:[ \t]*\n)+", re.sub(r"(?<=\w-)\n[ \t]*(?=[a-z])", "", text))


def rfc_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of an RFC without the lines at the foot and head of a page; those cut by a page are put together."""
    text = text.replace("\r", "")
    page_break = r"\n[^\n]*\[Page\s+\w+\][ \t]*\n\s*(?:RFC\s+\d+[^\n]*\n)?"
    text = re.sub(page_break, "\n\f\n", text)
    text = re.sub(r"\s*\f\s*?\n+(?=[ ]*[a-z])", "\n", text)
    yield from text_paragraphs(text.replace("\f", "\n\n"))


_BLOCK_TAGS = """
address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure
footer form h1 h2 h3 h4 h5 h6 header hr li main ol p section table tbody td tfoot th thead tr ul
"""
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_NO_PROSE = ("head", "script", "style", "pre", "nav", "header", "footer", "svg", "math", "form")
_NAVIGATION = etree.XPath(
    "//*[contains(@class, 'sidebar') or contains(@class, 'navheader') or contains(@class, 'navfooter')"
    " or @role = 'navigation']"
)


def html_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of a web page: the text between two borders of blocks, without navigation and code."""
    # lxml refuses text that declares an encoding, as XHTML does.
    content = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    if not content.strip():
        return
    parser = html.HTMLParser(remove_comments=True, remove_pis=True, encoding="utf-8", huge_tree=True)
    try:
        root = html.document_fromstring(content.encode("utf-8", "replace"), parser=parser, ensure_head_body=True)
    except etree.ParserError:  # nothing but comments
        return
    for element in _NAVIGATION(root):
        if element.getparent() is not None and element.tag not in ("body", "html"):
            element.drop_tree()
    etree.strip_elements(root, *_NO_PROSE, with_tail=False)
    buffer: list[str] = []
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if element.tag in _BLOCKS and buffer:
            yield "".join(buffer)
            buffer.clear()
        piece = element.text if event == "start" else element.tail
        if element.tag == "br" and event == "start":
            buffer.append(" ")
        if piece:
            buffer.append(piece)
    yield "".join(buffer)


_ALTERNATING_FONTS = re.compile(r"\.(?:BR|RB|IR|RI|BI|IB)\s+(.*)")
_FONT = re.compile(r"\.(?:B|I|SM|SB)\s+(.*)")
_ARGUMENT = re.compile(r'"([^"]*)"|(\S+)')
_ROFF_ESCAPES = (
    (re.compile(r"\\f(?:\[\w*\]|\(\w\w|\w)|\\s[-+]?\d|\\[&/,|^:%]"), ""),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\\(em|\\\*\(--|\\\(en"), "--"),
    (re.compile(r"\\-|\\\(mi|\\\(hy"), "-"),
    (re.compile(r"\\\((?:aq|cq|oq)|\\\*\(C[`']"), "'"),
    (re.compile(r"\\[(*]?\*?\(?(?:lq|rq|dq)|\\\*\([LR]\""), '"'),
    (re.compile(r"\\\*?\((\w\w)|\\\[\w+\]|\\\*\[\w+\]"), ""),
    (re.compile(r"\\e"), r"\\"),
)


def man_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of a manual page in the man macros; every macro but those that set a font parts two."""
    buffer: list[str] = []
    for line in text.split("\n"):
        if line.startswith(("'", '.\\"')):
            continue
        if match := _ALTERNATING_FONTS.match(line):
            line = "".join(quoted or bare for quoted, bare in _ARGUMENT.findall(match[1]))
        elif match := _FONT.match(line):
            line = " ".join(quoted or bare for quoted, bare in _ARGUMENT.findall(match[1]))
        elif line.startswith(".") or not line.strip():
            yield _plain_roff(" ".join(buffer))
            buffer.clear()
            continue
        buffer.append(line.strip())
    yield _plain_roff(" ".join(buffer))


def _plain_roff(text: str) -> str:
    for pattern, plain in _ROFF_ESCAPES:
        text = pattern.sub(plain, text)
    return text


_POD_CODE = re.compile(r"[A-Z](?:<<+\s(.*?)\s>>+|<([^<>]*)>)", re.DOTALL)
_POD_ENTITIES = {"E<lt>": "\x02", "E<gt>": "\x03", "E<sol>": "/", "E<verbar>": "|"}


def pod_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of Perl's documentation: commands and indented code left out, formatting codes undone."""
    for paragraph in text_paragraphs(text):
        if paragraph.startswith(("=", " ", "\t")):
            continue
        for entity, character in _POD_ENTITIES.items():
            paragraph = paragraph.replace(entity, character)
        # Codes nest, the innermost goes first.
        while (undone := _POD_CODE.sub(_pod_text, paragraph)) != paragraph:
            paragraph = undone
        yield paragraph.replace("\x02", "<").replace("\x03", ">")


def _pod_text(match: re.Match) -> str:
    """What a reader sees of L<text|link> is the text."""
    return (match[1] or match[2] or "").partition("|")[0]


_INFO_MENU_OR_TITLE = re.compile(r"^\* (?:Menu:|.*:)|\A\s*[^\n]+\n[*=.-]{3,}\s*\Z", re.MULTILINE)
_INFO_NOTE = re.compile(r"\(\*note [^)]*\)|\*note\s+([^:]*):[^.,]*")


def info_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of GNU Info without headers of nodes, menus and the targets of cross references."""
    for paragraph in text_paragraphs(re.sub(r"\x1f\n?[^\n]*\n", "\n\n", text)):
        if not _INFO_MENU_OR_TITLE.search(paragraph):
            yield _INFO_NOTE.sub(r"\1", paragraph)


def dictionary_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of dictd's text: a line that is not indented begins an entry; braces mark cross references."""
    yield from text_paragraphs(re.sub(r"\n(?=\S)", "\n\n", text).replace("{", "").replace("}", ""))


FORMS: dict[str, Callable[[str], Iterator[str]]] = {
    "text": text_paragraphs,
    "rfc": rfc_paragraphs,
    "html": html_paragraphs,
    "man": man_paragraphs,
    "pod": pod_paragraphs,
    "info": info_paragraphs,
    "dictionary": dictionary_paragraphs,
}
