# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Search a folder of texts, or the texts of a file of JSON lines, for what is like a query.

    python -m evaluation_concept.search index outputs/nano speeches --output speeches.arrow
    python -m evaluation_concept.search query speeches.arrow "the abolition of slavery" --top_k 5

Texts are split into passages that overlap. With --late_interaction an index has one vector for each concept of a
passage, and each concept of a query finds its own (ColBERT, arXiv 2004.12832); else one for the whole. Every passage
is compared with the query: what is found is exactly the best. With --bm25 the ranks by words count as much as those by
vectors (reciprocal rank fusion), for queries that hold names and terms.
"""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from evaluation_concept.encode import add_model_options, check_texts, find_texts, load_tokenizer, place_encoder
from evaluation_concept.errors import exit_code
from evaluation_concept.files import make_room
from evaluation_concept.passages import split_texts
from evaluation_concept.search_index import Hit, IndexSettings, SearchIndex, probe, write_index
from modeling_concept.encoding import TextEncoder

COMMAND = "python -m evaluation_concept.search"
SUFFIX = ".arrow"
MAX_TOKENS = 128


def main(arguments: Sequence[str]) -> None:
    """
    Run the command.

    Raises:
        ValueError: a setting that cannot be, texts that cannot be read, a checkpoint that is not that of the index.
        OSError: no such folder, file or checkpoint, or an output that cannot be written.
    """
    options = _parse(arguments)
    options.run(options)


def index(options: argparse.Namespace) -> None:
    """Write an index; see `main`."""
    output, begin = Path(options.output), time.perf_counter()
    if output.suffix != SUFFIX:
        raise ValueError(f"--output {output} must end in {SUFFIX}.")
    if output.exists() and not options.overwrite_output:
        raise ValueError(f"{output} is there. Choose another --output, or --overwrite_output.")
    texts = find_texts(Path(options.source), options.glob, options.text_column)
    check_texts(texts, options.source, options.skip_unreadable)
    make_room(output)
    encoder = load(options, options.late_interaction)
    room = (encoder.max_length or MAX_TOKENS) - encoder.tokenizer.num_special_tokens_to_add()
    max_tokens = min(MAX_TOKENS, room) if options.passage_tokens is None else options.passage_tokens
    if max_tokens > room and encoder.max_length:
        raise ValueError(f"--passage_tokens {max_tokens} is more than the {room} that the model reads of a text.")
    overlap = max_tokens // 4 if options.passage_overlap is None else options.passage_overlap
    passages = split_texts(zip(texts.names, texts, strict=True), encoder.tokenizer, max_tokens, overlap)
    known_by = probe(encoder).tolist()
    settings = IndexSettings(options.checkpoint, options.late_interaction, max_tokens, overlap, known_by)
    encoder.show_progress = True
    number = write_index(output, passages, encoder, settings)
    print(f"{len(texts):,} texts, {number:,} passages, in {time.perf_counter() - begin:.1f} seconds: {output}")


def query(options: argparse.Namespace) -> None:
    """Search an index; see `main`."""
    if not options.query.strip():
        raise ValueError("The query is empty.")
    if options.top_k < 1:
        raise ValueError(f"--top_k {options.top_k} must be at least 1.")
    if not Path(options.index).is_file():
        raise FileNotFoundError(f"There is no index {options.index}; `{COMMAND} index` makes one.")
    found_index = SearchIndex(Path(options.index))
    options.checkpoint = options.checkpoint or found_index.settings.checkpoint
    encoder = load(options, found_index.settings.late_interaction)
    found_index.check_encoder(encoder)
    hits = found_index.search(options.query, encoder, options.top_k, options.bm25)
    print("\n".join(map(_as_json if options.json else _as_text, hits)))


def load(options: argparse.Namespace, late_interaction: bool) -> TextEncoder:
    """The encoder that the settings name. See `place_encoder` for what it raises."""
    return TextEncoder(
        place_encoder(options),
        load_tokenizer(options.checkpoint, options.trust_remote_code),
        tokens_per_batch=options.tokens_per_batch,
        late_interaction=late_interaction,
        bf16=False,  # the weights have the type that was asked for
    )


def _as_text(hit: Hit) -> str:
    passage = hit.passage
    text = textwrap.fill(" ".join(passage.text.split()), 100, initial_indent="    ", subsequent_indent="    ")
    return f"{hit.score:.3f}  {passage.name}, from character {passage.start:,}\n{text}\n"


def _as_json(hit: Hit) -> str:
    return json.dumps({"score": hit.score, **hit.passage._asdict()}, ensure_ascii=False)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Search texts for what is like a query.")
    commands = parser.add_subparsers(required=True, metavar="index | query")
    _add_index(commands.add_parser("index", help="make the index of a folder", description="Make an index."))
    _add_query(commands.add_parser("query", help="search an index", description="Search an index."))
    return parser.parse_args(arguments)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=index)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="folder or name of a concept encoder and its tokenizer"
    )
    parser.add_argument("source", metavar="SOURCE", help="folder of texts, or a file of JSON lines")
    parser.add_argument("--output", required=True, help=f"file to write ({SUFFIX})")
    parser.add_argument(
        "--glob", default="*.txt", help="names of the files to index, in all folders below (default: %(default)s)"
    )
    parser.add_argument("--text_column", default="text", help="key of the text in JSON lines (default: %(default)s)")
    parser.add_argument(
        "--passage_tokens",
        type=int,
        help=f"tokens of a passage (default: {MAX_TOKENS}, or as many as the model reads)",
    )
    parser.add_argument("--passage_overlap", type=int, help="tokens that the next one has, too (default: a quarter)")
    parser.add_argument("--late_interaction", action="store_true", help="one vector for each concept of a passage")
    parser.add_argument("--skip_unreadable", action="store_true", help="leave out texts that cannot be read")
    parser.add_argument("--overwrite_output", action="store_true", help="replace an output that is there")
    add_model_options(parser)


def _add_query(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=query)
    parser.add_argument("index", metavar="INDEX", help="what the command index wrote")
    parser.add_argument("query", metavar="QUERY", help="what to look for")
    parser.add_argument("--top_k", type=int, default=5, help="passages to show (default: %(default)s)")
    parser.add_argument(
        "--bm25", action="store_true", help="let the words of the query count, too, as BM25 counts them"
    )
    parser.add_argument("--json", action="store_true", help="show them as JSON lines")
    parser.add_argument("--checkpoint", help="where the checkpoint lies now (default: where it lay)")
    add_model_options(parser)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
