# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Which documents are trained on and which are not: one rule for the corpus and for every task built on it."""

from dataclasses import dataclass

from training_concept.sources import stable_fraction

SPLITS = ("train", "validation", "test")
# Picked, among some hundreds, for shares of text that are close to the wanted ones in sources of few documents too.
SALT = b"91"


@dataclass(frozen=True)
class HeldOut:
    """Expected shares of the documents of a source that are not trained on."""

    validation: float = 0.01
    test: float = 0.01


DEFAULT = HeldOut()
# Where a task scores documents of the source, a hundredth would be too few.
SHARES = {
    "rfc": HeldOut(test=0.10),
    "imdb": HeldOut(test=0.20),
    "hotpotqa_questions": HeldOut(validation=0.0, test=0.20),
    # The held-out sources: kinds of text that nothing in training is like, one technical and one general.
    "postgresql": HeldOut(validation=0.5, test=0.5),
    "moby_dick": HeldOut(validation=0.5, test=0.5),
}


def split_of(source: str, document_id: str) -> str:
    """
    The split of a document: "train", "validation" or "test".

    It depends on what the document is alone, so that it is the same on every machine, in every version of the corpus
    and for every task.

    Args:
        source: name in the table of sources.
        document_id: the document's identity in its source, such as "rfc2119", the title of an article, or for a film
            review a digest of its text (`training_concept.corpus.readers.text_id`).
    """
    shares = SHARES.get(source, DEFAULT)
    fraction = stable_fraction(f"{source}/{document_id}", SALT)
    if fraction < shares.test:
        return "test"
    return "validation" if fraction < shares.test + shares.validation else "train"
