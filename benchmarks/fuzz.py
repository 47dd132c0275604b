# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Malformed checkpoints: whatever config.json, weights or tokenizer.json hold, loading ends soon and in little memory.

    python -m benchmarks.fuzz --cases 3000     # of each kind; pip install -e ".[dev]"

Writes the figures `fuzz_cases` and `fuzz_hangs` of benchmarks/results/hub.json, and lists what went wrong.
"""

import argparse
import json
import multiprocessing
import os
import resource
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM, AutoTokenizer

from benchmarks.results import RESULTS, Figure, merge_results
from configuration_concept import ConceptEncoderConfig
from configuration_concept.configuration_concept import CHOICES
from evaluation_concept.errors import exit_code
from modeling_concept import ConceptEncoderForMaskedLM, register_auto_classes
from training_concept.tokenization import train_tokenizer

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
# What loading one checkpoint may take beyond what the process has before it.
SECONDS, GIBIBYTES = 20, 2
TEXTS = ["The river keeps its [MASK] in the hills.", "It tells no one. " * 8]
# A configuration's own fields, the library's that models are built from, and one that nobody knows.
OWN_FIELDS = tuple(ConceptEncoderConfig.__annotations__)
FIELDS = (
    *OWN_FIELDS,
    *(
        "num_labels",
        "problem_type",
        "id2label",
        "label2id",
        "dtype",
        "architectures",
        "model_type",
        "output_hidden_states",
    ),
    *("chunk_size_feed_forward", "attn_implementation", "rope_scaling", "quantization_config", "unknown"),
)
LOADED, REFUSED, NOT_FINITE, MEMORY, HUNG, DIED = "loaded", "refused", "not finite", "memory", "hung", "died"
# What no case may come to.
FATAL = (MEMORY, HUNG, DIED)


class Case(NamedTuple):
    """
    A checkpoint with one file changed.

    Attributes:
        file: its name.
        content: what it holds now.
        changed: fields of config.json that were changed, where that is how it was done.
    """

    file: str
    content: bytes
    changed: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """
    What became of a case.

    Attributes:
        verdict: `loaded`, `refused` (an error), `not finite` (loaded, but computes NaN or infinity), `memory`, `hung`
            or `died`.
        error: kind and text of the error.
    """

    verdict: str
    error: str = ""


def write_sample(folder: Path) -> dict[str, bytes]:
    """Save a tiny checkpoint to `folder`; returns the content of the files that are fuzzed."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=280, min_frequency=1)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "cls_token_id", "sep_token_id")}
    config = ConceptEncoderConfig.from_preset(
        "nano",
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_attention_heads=2,
        num_decoder_layers=1,
        num_token_layers=1,
        local_attention=4,
        decoder_window=4,
        mask_token_id=tokenizer.mask_token_id,
        **special,
    )
    ConceptEncoderForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, TOKENIZER)}


@torch.no_grad()
def load(folder: str) -> Outcome:
    """Load the checkpoint in `folder` and compute once with it."""
    try:
        # Without an answer, a configuration that names no known model would ask the user about its code.
        model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=False).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")
        finite = model(**inputs).logits.isfinite().all()
    except MemoryError as error:
        return Outcome(MEMORY, repr(error))
    except BaseException as error:  # a panic in the tokenizers library is no Exception
        exhausted = "allocate memory" in str(error) or "not enough memory" in str(error)
        return Outcome(MEMORY if exhausted else REFUSED, f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Outcome(LOADED if finite else NOT_FINITE)


def _serve(connection: Connection) -> None:
    """Load folders as they come, within the memory that is allowed."""
    # Panics of Rust are written there, whoever catches them.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    torch.set_num_threads(1)
    register_auto_classes()
    in_use = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + GIBIBYTES * 2**30, resource.RLIM_INFINITY))
    with suppress(EOFError):
        while True:
            connection.send(load(connection.recv()))


class Sandbox:
    """
    A process that loads malformed checkpoints, replaced by a new one when it hangs or dies. Linux only.

    Args:
        folder: gets the files of the checkpoint.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.sample = write_sample(folder)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._start()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def run(self, case: Case) -> Outcome:
        """Load the sample with one file changed."""
        (self.folder / case.file).write_bytes(case.content)
        try:
            self._connection.send(str(self.folder))
            if self._connection.poll(SECONDS):
                return self._connection.recv()
            outcome = Outcome(HUNG, f"no end after {SECONDS} s")
        except (EOFError, ConnectionError):
            outcome = Outcome(DIED, "the process was gone")
        finally:
            (self.folder / case.file).write_bytes(self.sample[case.file])
        self._stop()
        self._start()
        return outcome

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        # A sound process ends when nobody is at the other end.
        self._connection.close()
        self._process.join(1)
        self._process.kill()
        self._process.join()


SIZES = st.one_of(
    st.integers(-2, 300),
    st.integers(0, 70).map(lambda power: 2**power),
    st.integers(min_value=-(2**80), max_value=2**80),
)
WORDS = st.one_of(
    st.text(max_size=8), st.sampled_from(sorted({str(value) for row in CHOICES.values() for value in row}))
)
SCALARS = st.one_of(st.none(), st.booleans(), SIZES, st.floats(), WORDS)
ROPE = st.fixed_dictionaries(
    {},
    optional={
        "rope_type": st.one_of(st.sampled_from(["default", "linear", "dynamic", "yarn", "llama3", "longrope"]), WORDS),
        "rope_theta": SCALARS,
        "factor": SCALARS,
        "original_max_position_embeddings": SCALARS,
        "partial_rotary_factor": SCALARS,
    },
)
VALUES = st.one_of(SCALARS, ROPE, st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4))


def configurations(sample: dict[str, bytes]) -> st.SearchStrategy[Case]:
    """config.json with one to four fields that hold something else, often of the right kind."""
    content = json.loads(sample[CONFIG])

    def values_of(field: str) -> st.SearchStrategy[Any]:
        if field in CHOICES:
            return st.one_of(st.sampled_from(CHOICES[field]), VALUES)
        likely = {int: SIZES, float: st.floats(), bool: st.booleans(), dict: ROPE}
        return st.one_of(likely.get(type(content.get(field)), SCALARS), VALUES)

    chosen = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=4, unique=True)
    changes = chosen.flatmap(lambda names: st.fixed_dictionaries({name: values_of(name) for name in names}))
    return changes.map(lambda change: Case(CONFIG, json.dumps(content | change).encode(), tuple(change)))


def tokenizers(sample: dict[str, bytes]) -> st.SearchStrategy[Case]:
    """tokenizer.json with one place that holds something else or nothing."""
    content = json.loads(sample[TOKENIZER])
    places = list(_places(content))

    def change(place: tuple[Any, ...], value: Any, removed: bool) -> Case:
        changed = json.loads(sample[TOKENIZER])
        parent = changed
        for step in place[:-1]:
            parent = parent[step]
        if removed:
            del parent[place[-1]]
        else:
            parent[place[-1]] = value
        return Case(TOKENIZER, json.dumps(changed).encode())

    return st.builds(change, st.sampled_from(places), VALUES, st.booleans())


def _places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are in nested JSON; of long lists and tables, the first few."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for step, value in list(inner)[:12]:
        yield (*place, step)
        yield from _places(value, (*place, step))


def weights(sample: dict[str, bytes]) -> st.SearchStrategy[Case]:
    """model.safetensors with a header that lies, or with tensors gone, added, of another type or another shape."""
    length = struct.unpack("<Q", sample[WEIGHTS][:8])[0]
    header, data = json.loads(sample[WEIGHTS][8 : 8 + length]), sample[WEIGHTS][8 + length :]
    entries = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.one_of(st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3"]), WORDS),
            "shape": st.lists(SIZES, max_size=4),
            "data_offsets": st.lists(st.one_of(SIZES, st.integers(0, len(data))), min_size=1, max_size=3),
        },
    )

    def change(name: str, entry: dict[str, Any] | None, other_name: bool, lie: int | None) -> Case:
        changed = dict(header)
        if entry is None:
            del changed[name]
        else:
            changed[name + "_" * other_name] = header[name] | entry
        written = json.dumps(changed).encode()
        told = len(written) if lie is None else lie % 2**64
        return Case(WEIGHTS, struct.pack("<Q", told) + written + data)

    names = st.sampled_from([name for name in header if name != "__metadata__"])
    return st.builds(change, names, st.none() | entries, st.booleans(), st.none() | st.none() | SIZES)


def damaged(sample: dict[str, bytes]) -> st.SearchStrategy[Case]:
    """Any of the files, cut off, with some bytes changed, or something else altogether."""

    def change(file: str, kept: float, flips: list[tuple[float, int]]) -> Case:
        content = bytearray(sample[file])
        for place, byte in flips:
            content[int(place * (len(content) - 1))] = byte
        return Case(file, bytes(content[: int(kept * len(content))]))

    shares, files = st.floats(0, 1), st.sampled_from(sorted(sample))
    flips = st.lists(st.tuples(shares, st.integers(0, 255)), max_size=4)
    return st.builds(change, files, st.just(1.0) | shares, flips) | st.builds(Case, files, st.binary(max_size=64))


KINDS: dict[str, Callable[[dict[str, bytes]], st.SearchStrategy[Case]]] = {
    "configurations": configurations,
    "weights": weights,
    "tokenizers": tokenizers,
    "damaged": damaged,
}


def is_fault(case: Case, outcome: Outcome) -> bool:
    """
    Whether a case came to what none may: the end of the process, of its time or of its memory; a configuration that
    makes sound weights compute NaN; or a single bad field of ours that the error does not name.
    """
    if outcome.verdict in FATAL:
        return True
    if case.file != CONFIG or not case.changed:
        return False
    return outcome.verdict == NOT_FINITE or (outcome.verdict == REFUSED and not is_clear(case, outcome.error))


def is_clear(case: Case, error: str) -> bool:
    """Whether an error names a field that was changed, or weights that do not fit it; of fields of ours only."""
    foreign = not set(case.changed) <= set(OWN_FIELDS)
    return foreign or "mismatch" in error or any(field in error for field in case.changed)


def run_kind(kind: str, sandbox: Sandbox, cases: int, number: int) -> list[tuple[Case, Outcome]]:
    """Run at most `cases` cases of a kind, drawn by the seed `number`."""
    done = []

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind](sandbox.sample))
    def run(case: Case) -> None:
        done.append((case, sandbox.run(case)))

    run()
    return done


def main(arguments: Sequence[str], path: Path = RESULTS / "hub.json") -> None:
    """Run the command; the results file is at `path`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description="Load malformed checkpoints.")
    parser.add_argument("--cases", type=int, default=3000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="other cases for another number")
    options = parser.parse_args(arguments)
    done = []
    with tempfile.TemporaryDirectory() as folder, Sandbox(Path(folder)) as sandbox:
        for kind in KINDS:
            results = run_kind(kind, sandbox, options.cases, options.seed)
            print(f"{kind}: {dict(Counter(outcome.verdict for _, outcome in results))}")
            for case, outcome in results:
                if is_fault(case, outcome):
                    print(f"  {case.file} {case.changed} {outcome.verdict}: {outcome.error[:200]}")
            done += results
    merge_results(path, figures(done, " ".join(["python -m benchmarks.fuzz", *arguments])))


def figures(done: Sequence[tuple[Case, Outcome]], command: str) -> dict[str, Figure]:
    """How many cases there were, and how many of them came to what none may."""
    hangs = sum(outcome.verdict in FATAL for _, outcome in done)
    limits = f"more than {SECONDS} s, more than {GIBIBYTES} GiB, or the end of the process"
    return {
        "fuzz_cases": Figure.of_runs(
            [len(done)],
            unit="cases",
            command=command,
            note=f"checkpoints with a malformed config.json, model.safetensors or tokenizer.json ({', '.join(KINDS)})",
        ),
        "fuzz_hangs": Figure.of_runs([hangs], unit="cases", command=command, note=f"of them, {limits}; required: 0"),
    }


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
