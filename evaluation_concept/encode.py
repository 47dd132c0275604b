# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Encode a folder of texts, or the texts of a file of JSON lines, with a checkpoint.

    python -m evaluation_concept.encode outputs/nano texts --output embeddings.safetensors
    python -m evaluation_concept.encode outputs/nano articles.jsonl --text_column body --output articles.safetensors

Row i of `embeddings` (float32, `[texts, hidden_size]`) belongs to the i-th of the `names` in the JSON file beside the
output. `num_tokens` and `truncated` say how many tokens of a text were encoded and whether it had more. With
--late_interaction the concepts of all texts follow one another in `concept_embeddings`, those of text i from
`concept_offsets[i]` to `concept_offsets[i + 1]`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import AutoModelForTextEncoding, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evaluation_concept.errors import exit_code, naming
from evaluation_concept.files import draft, make_room
from evaluation_concept.quantization import quantize_int8
from modeling_concept import register_auto_classes
from modeling_concept.encoding import TextEmbeddings

COMMAND = "python -m evaluation_concept.encode"
JSON_LINES = (".jsonl", ".ndjson")
SUFFIX = ".safetensors"
SKIP_HINT = " --skip_unreadable leaves such texts out."


class Document(NamedTuple):
    """A text and what it is called; or, in place of the text, why it cannot be read."""

    name: str
    text: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Readable:
    """
    The texts that can be read, one at a time, each time anew.

    Attributes:
        read: gives all documents from the start.
        names: of those that can be read, in their order.
        problems: what is wrong with the others, by name.
    """

    read: Callable[[], Iterator[Document]]
    names: list[str]
    problems: dict[str, str]

    @classmethod
    def of(cls, read: Callable[[], Iterator[Document]]) -> "Readable":
        """Read everything once, to know."""
        names, problems = [], {}
        for document in read():
            if document.problem:
                problems[document.name] = document.problem
            else:
                names.append(document.name)
        return cls(read, names, problems)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """
        Raises:
            ValueError: if a text cannot be read any more.
        """
        for document in self.read():
            if document.name in self.problems:
                continue
            if document.problem:
                raise ValueError(f"{document.name} can no longer be read: {document.problem}.")
            yield document.text


def main(arguments: Sequence[str]) -> None:
    """
    Run the command.

    Raises:
        ValueError: a setting that cannot be, texts that cannot be read, a checkpoint of another kind of model.
        OSError: no such folder, file or checkpoint, or an output that cannot be written.
    """
    options = _parse(arguments)
    output = Path(options.output)
    check_output(output, options.overwrite_output)
    texts = find_texts(Path(options.source), options.glob, options.text_column)
    check_texts(texts, options.source, options.skip_unreadable)
    make_room(output)
    begin = time.perf_counter()
    model = place_encoder(options)
    encoded = model.encode(
        texts,
        load_tokenizer(options.checkpoint, options.trust_remote_code),
        tokens_per_batch=options.tokens_per_batch,
        max_length=options.max_seq_length,
        late_interaction=options.late_interaction,
        bf16=False,  # the weights have the type that was asked for
        show_progress=True,
    )
    save(output, encoded, texts, options.checkpoint)
    tokens, seconds = int(encoded.num_tokens.sum()), time.perf_counter() - begin
    print(f"{len(texts):,} texts of {tokens:,} tokens, in {seconds:.1f} seconds: {output} and {index_path(output)}")


def check_output(output: Path, overwrite: bool) -> None:
    """
    Raises:
        ValueError: if `output` has another suffix, or is there and to be kept.
    """
    if output.suffix != SUFFIX:
        raise ValueError(f"--output {output} must end in {SUFFIX}.")
    taken = [path for path in (output, index_path(output)) if path.exists()]
    if taken and not overwrite:
        raise ValueError(f"{taken[0]} is there. Choose another --output, or --overwrite_output.")


def find_texts(source: Path, pattern: str, column: str) -> Readable:
    """
    The texts of a folder and those below it, in the order of their paths, or of a file of JSON lines.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if it is another kind of file, or holds no texts.
    """
    if source.is_dir():
        paths = sorted(path for path in source.rglob(pattern) if not path.is_dir())
        texts = Readable.of(lambda: read_files(source, paths))
    elif source.suffix in JSON_LINES and source.exists():
        texts = Readable.of(lambda: read_lines(source, column))
    elif source.exists():
        raise ValueError(f"{source} is neither a folder nor a file of JSON lines ({', '.join(JSON_LINES)}).")
    else:
        raise FileNotFoundError(f"There is no folder or file {source}.")
    if not texts.names and not texts.problems:
        raise ValueError(f"{source} holds no texts" + (f" that match --glob {pattern}." if source.is_dir() else "."))
    return texts


def read_files(folder: Path, paths: Sequence[Path]) -> Iterator[Document]:
    """The files at `paths`, called by their places in `folder`."""
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            yield Document(name, path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            yield Document(name, problem=_describe(error))


def read_lines(path: Path, column: str) -> Iterator[Document]:
    """The texts under `column` in a file of JSON lines, called by file and line; a blank line is none."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _read_line(f"{path.name}:{number}", line, column)


def check_texts(texts: Readable, source: str, skip: bool, hint: str = SKIP_HINT) -> None:
    """
    Say on stderr which texts are skipped.

    Args:
        hint: what to do about it, where none is to be skipped.

    Raises:
        ValueError: if there is any and none is to be skipped, or if nothing is left.
    """
    if texts.problems and not (skip and texts.names):
        name, problem = next(iter(texts.problems.items()))
        others = f", and {len(texts.problems) - 1} more" if len(texts.problems) > 1 else ""
        raise ValueError(f"{source} holds what cannot be read: {name} ({problem}){others}.{'' if skip else hint}")
    for name, problem in texts.problems.items():
        print(f"skipped {name}: {problem}", file=sys.stderr)


def load_encoder(checkpoint: str, trust_remote_code: bool = False, **options: Any) -> PreTrainedModel:
    """
    The model of a checkpoint, as one that encodes texts; `options` are those of `from_pretrained`.

    Raises:
        ValueError: if it is of another kind.
        OSError: if there is no checkpoint.
    """
    if not trust_remote_code:  # else the code of the checkpoint would not be run
        register_auto_classes()
    with naming(checkpoint):
        model = AutoModelForTextEncoding.from_pretrained(checkpoint, trust_remote_code=trust_remote_code, **options)
    if not hasattr(model, "encode"):
        raise ValueError(
            f"{checkpoint} holds a {type(model).__name__}, which has no method encode: it is no concept encoder, or "
            "comes with older code."
        )
    return model


def load_tokenizer(name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a checkpoint, or one on its own, without running code that comes with it unless that is trusted.

    Raises:
        ValueError: if it needs such code.
        OSError: if there is none.
    """
    if not trust_remote_code:  # else transformers would ask whether to run that of a concept encoder
        register_auto_classes()
    with naming(name):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)


def place_encoder(options: argparse.Namespace) -> PreTrainedModel:
    """
    The model on the device, in the precision and form that the settings want.

    Raises:
        ValueError: if the device is not there, or settings contradict one another. See also `load_encoder`.
    """
    device = find_device(options.device)
    bf16 = device.type == "cuda" if options.bf16 is None else options.bf16
    model = load_encoder(
        options.checkpoint,
        options.trust_remote_code,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        attn_implementation=options.attn_implementation,
    ).to(device)
    if options.int8:
        model = quantize_int8(model)
    if options.torch_compile:
        model.compile(dynamic=False)
    return model


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What `place_encoder` reads beside the checkpoint, and the size of batches."""
    parser.add_argument(
        "--tokens_per_batch", type=int, help="tokens encoded at once (default: 16384, on a CPU 2048 a thread)"
    )
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="weights in bfloat16 (default: on a CUDA GPU)"
    )
    parser.add_argument("--int8", action="store_true", help="linear layers in int8, which is faster on a CPU")
    parser.add_argument("--torch_compile", action="store_true", help="compile the model, which pays off on a GPU")
    parser.add_argument("--device", help="where to compute (default: the GPU if there is one)")
    parser.add_argument("--attn_implementation", help="attention backend: sdpa (the default), eager or varlen")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the checkpoint")


def find_device(name: str | None) -> torch.device:
    """
    The device called `name`; if it is `None`, the accelerator of this machine, else its CPU.

    Raises:
        ValueError: if it is not there.
    """
    there = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name is None:
        return there
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name} is no device: {error}") from error
    if device.type not in ("cpu", there.type) or (device.index or 0) >= max(torch.accelerator.device_count(), 1):
        raise ValueError(f"--device {name} is not there; {there} is.")
    return device


def save(output: Path, encoded: TextEmbeddings, texts: Readable, checkpoint: str) -> None:
    """Write embeddings and index, each as a whole or not at all."""
    tensors = {name: getattr(encoded, name) for name in ("embeddings", "num_tokens", "truncated")}
    if encoded.concept_embeddings is not None:
        sizes = torch.tensor([0, *map(len, encoded.concept_embeddings)])
        tensors |= {"concept_embeddings": torch.cat(encoded.concept_embeddings), "concept_offsets": sizes.cumsum(0)}
    index = {"checkpoint": checkpoint, "names": texts.names, "skipped": texts.problems}
    with draft(output) as tensor_draft, draft(index_path(output)) as index_draft:
        save_file(tensors, tensor_draft)
        index_draft.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def index_path(output: Path) -> Path:
    """Where the names of the texts are written."""
    return output.with_suffix(".json")


def _read_line(name: str, line: bytes, column: str) -> Document:
    try:
        row = json.loads(line)
    except ValueError as error:
        return Document(name, problem=_describe(error))
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        return Document(name, problem=f"there is no string {column!r} (--text_column)")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Document(name, problem=f"not Unicode: {error}")
    return Document(name, text)


def _describe(error: Exception) -> str:
    return f"not in UTF-8: {error}" if isinstance(error, UnicodeDecodeError) else str(error)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        usage=f"{COMMAND} CHECKPOINT SOURCE --output FILE{SUFFIX} [options]",
        description="Encode texts with a checkpoint: one vector for each, and with --late_interaction its concepts.",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="folder or name of a concept encoder and its tokenizer"
    )
    parser.add_argument("source", metavar="SOURCE", help="folder of texts, or a file of JSON lines")
    parser.add_argument("--output", required=True, help=f"file to write ({SUFFIX}); the index is written beside it")
    parser.add_argument(
        "--glob", default="*.txt", help="names of the files to encode, in all folders below (default: %(default)s)"
    )
    parser.add_argument("--text_column", default="text", help="key of the text in JSON lines (default: %(default)s)")
    parser.add_argument(
        "--max_seq_length", type=int, help="longer texts are cut to so many tokens (default: the tokenizer's limit)"
    )
    parser.add_argument("--late_interaction", action="store_true", help="write the embeddings of concepts, too")
    parser.add_argument("--skip_unreadable", action="store_true", help="leave out texts that cannot be read")
    parser.add_argument("--overwrite_output", action="store_true", help="replace an output that is there")
    add_model_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
