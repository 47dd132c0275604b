# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
What models cost beside controls: training steps of a classifier, seconds a document, and the longest document.

    python -m benchmarks.studies.costs finetuning --models MODELS --compile none regions --output finetuning.jsonl
    python -m benchmarks.studies.costs encoding --ours base --control modernbert_768x22 --output encoding.jsonl
    python -m benchmarks.studies.costs encoding --ours mini --control modernbert_256x9 --cpu --output cpu.jsonl
    python -m benchmarks.studies.costs longest --ours base --output longest.jsonl

To be run alone on a machine. Those who are compared take turns, so that ratios are of what was measured side by side;
`python -m benchmarks.studies collect` takes the records over.
"""

import argparse
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from benchmarks.cells import GRAPHS, Cell, Setting, allow_cudnn, compile_model, encoding_step, prepare
from benchmarks.contenders import CONTENDERS, ConceptContender, Contender
from benchmarks.ladder.variants import find_variant
from benchmarks.results import Table, describe_device
from benchmarks.studies.cells import MODELS
from benchmarks.studies.records import Record, origin, write_records
from benchmarks.studies.scores import COSTS
from benchmarks.timing import Step, current_device, synchronise, time_steps
from benchmarks.workload import VOCABULARY, make_documents
from evaluation_concept.errors import exit_code
from evaluation_concept.streaming import encode_in_chunks
from modeling_concept import ConceptEncoder, register_auto_classes
from training_concept.compilation import compile_in_place

COMMAND = "python -m benchmarks.studies.costs"
LEARNING_RATE = 1e-4
GIB = 2**30
DOCUMENT, BASE_LENGTH = 16_384, 65_536
CHUNK = 65_536
LENGTHS = (BASE_LENGTH, 262_144, 1_048_576, 2_097_152, 4_194_304)
WAYS = ("whole", "chunks")
# What a long document may lose of the tokens a second of a short one.
KEPT_RATE = 0.8
# In how many chunks the shortest document is compared with the whole one, and how far they may be apart in bfloat16,
# whose rounding differs with the order of sums.
COMPARED_CHUNKS, MOST_APART = 4, 0.05

# Rounds of each model (first) in each way to compile it (second).
SecondsByWay = Mapping[tuple[str, str], list[float]]


@dataclass(frozen=True)
class Shape:
    """Documents of a batch and tokens of each."""

    rows: int
    tokens: int


SHAPES = (Shape(32, 128), Shape(4, 8192))
# Ways to compile the parts of a classifier, by name.
NOT_COMPILED = "none"
COMPILERS: dict[str, dict[str, Any]] = {
    NOT_COMPILED: {},
    "regions": {},
    f"regions{GRAPHS}": {"mode": "reduce-overhead"},
}


def main(arguments: Sequence[str]) -> None:
    """
    Measure, and write a record to the file that `--output` names.

    Raises:
        ValueError, OSError: models that there are not.
    """
    options = _parse(arguments)
    results = options.measure(options)
    record = make_cost_record(options.name, _command(arguments), results, getattr(options, "cpu", False))
    record["commit"] = options.commit or record["commit"]
    write_records(options.output, {record["cell"]: record})
    for key, found in results["figures"].items():
        print(f"{key}: {statistics.fmean(found['values']):.4g} ({found['note']})")


def make_cost_record(name: str, command: str, results: Mapping[str, Any], on_cpu: bool = False) -> Record:
    """A record of what was timed; `results` holds figures by key and tables."""
    variant = f"{name}_cpu" if on_cpu else name
    about = {"group": COSTS, "model": "", "variant": variant, "task": "", "predictions": None}
    where = {"device": describe_device()} if on_cpu else {}
    cell = f"{COSTS}-{variant}"
    return {"cell": cell, "command": command, **about, **origin(), **where, "results": dict(results)}


def _command(arguments: Sequence[str]) -> str:
    """What was typed, with names in place of this machine's folders."""
    named = {"--models": MODELS, "--output": "FILE", "--commit": "COMMIT"}
    words = [named.get(before, word) for before, word in zip(["", *arguments], arguments, strict=False)]
    return " ".join([COMMAND, *words])


def measure_finetuning(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of fine-tuning as `run_glue.py` takes them: bfloat16 where there is a GPU, compiled as asked."""
    register_auto_classes()
    # As the script does.
    allow_cudnn(False)
    device, rows = current_device(), []
    figures: dict[str, Any] = {}
    for shape in options.shapes:
        memory = {name: _training_memory(options.models / name, shape, device) for name in options.names}
        steps, sizes = {}, {}
        for name, compiled in itertools.product(options.names, options.compile):
            model = _classifier(options.models / name, device, compiled)
            sizes[name] = sum(it.numel() for it in model.parameters()) / 1e6
            steps[name, compiled] = finetuning_step(model, shape, device)
        taken = take_turns(list(steps.values()), device, options.seconds, options.rounds)
        seconds = dict(zip(steps, taken, strict=True))
        rows += _finetuning_rows(shape, seconds, sizes, memory)
        figures |= _finetuning_figures(options.names, shape, seconds)
        del model, steps
        _clean_up(device)
    columns = ["model", "batch", "compiled", "parameters (M)", "examples/s", f"{options.names[0]}'s time over its own"]
    note = (
        "Training steps of a classifier, random tokens, no padding; all take turns. Memory: each alone, not compiled."
    )
    table = Table("finetuning_costs", [*columns, "GiB"], rows, note)
    return {"figures": figures, "tables": [asdict(table)]}


def _finetuning_rows(
    shape: Shape, seconds: SecondsByWay, sizes: Mapping[str, float], memory: Mapping[str, int | None]
) -> list[list[Any]]:
    """A row for each model and way; the first model is compared with the others where they are compiled alike."""
    first, rows = next(iter(seconds))[0], []
    for (name, compiled), taken in seconds.items():
        ratio = statistics.fmean(ratios(seconds[first, compiled], taken))
        peak = memory[name] if compiled == NOT_COMPILED else None
        cells = [f"{shape.rows} x {shape.tokens}", compiled, round(sizes[name], 1)]
        rates = [f"{shape.rows / statistics.fmean(taken):.4g}", f"{ratio:.2f}"]
        rows.append([name.replace("_", "-"), *cells, *rates, "" if peak is None else round(peak / GIB, 2)])
    return rows


def _finetuning_figures(names: Sequence[str], shape: Shape, seconds: SecondsByWay) -> dict[str, Any]:
    """Rates of the first model over those of the others, each compiled in its fastest way."""
    fastest = {
        name: min((way for way in seconds if way[0] == name), key=lambda way: sum(seconds[way])) for name in names
    }
    ours, figures = fastest[names[0]], {}
    for name in names[1:]:
        ways = f"compiled: {ours[1]}, {fastest[name][1]}"
        step = f"{shape.rows} x {shape.tokens} tokens a step"
        note = f"examples a second of {names[0]} over those of {name}, {step}; {ways}"
        figures[f"finetuning_x_{name}_{shape.tokens}"] = figure(ratios(seconds[fastest[name]], seconds[ours]), note)
    return figures


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """By round."""
    return [first / second for first, second in zip(numerators, denominators, strict=True)]


def figure(values: Sequence[float], note: str, unit: str = "ratio") -> dict[str, Any]:
    """A figure as records hold it."""
    return {"values": list(values), "unit": unit, "note": note}


def take_turns(steps: Sequence[Step], device: torch.device, seconds: float, rounds: int) -> list[list[float]]:
    """Seconds of a step of each, by round; in a round each is timed for about `seconds`."""
    counts = [time_steps(step, device, seconds, repeats=1).steps for step in steps]
    taken: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, count, values in zip(steps, counts, taken, strict=True):
            timing = time_steps(step, device, seconds, repeats=1, warm_up=1, steps=count)
            values.append(timing.seconds[0])
    return taken


def finetuning_step(model: PreTrainedModel, shape: Shape, device: torch.device) -> Step:
    """Forward and backward pass and AdamW of a classifier on random tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=device.type == "cuda")
    words = min(model.get_input_embeddings().weight.shape[0], VOCABULARY)
    # Behind the special tokens, of which the mask token would be dropped.
    inputs = torch.randint(10, words, (shape.rows, shape.tokens), device=device)
    batch = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
    labels = torch.zeros(shape.rows, dtype=torch.long, device=device)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _classifier(folder: Path, device: torch.device, compiled: str = NOT_COMPILED) -> PreTrainedModel:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no model in {folder}.")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).to(device).train()
    if compiled != NOT_COMPILED:
        compile_in_place(model, by_regions=True, static_shapes=True, **COMPILERS[compiled])
    return model


def _training_memory(folder: Path, shape: Shape, device: torch.device) -> int | None:
    """Peak of a model that has the device for itself; `None` on a CPU."""
    if device.type != "cuda":
        return None
    step = finetuning_step(_classifier(folder, device), shape, device)
    peak = time_steps(step, device, seconds=0.0, repeats=1, steps=1).peak_bytes
    del step
    _clean_up(device)
    return peak


def measure_encoding(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a document, ours over a control of as many parameters, both with random weights."""
    device = torch.device("cpu") if options.cpu else current_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    contenders = {name: find_contender(name) for name in (options.ours, options.control)}
    setting = Setting(device, dtype, options.length, options.seconds, options.rounds, batches=2)
    steps, sizes = [], []
    for name, contender in contenders.items():
        attention = next(way for way in contender.attentions if device.type == "cuda" or way != "varlen")
        # One document gives a GPU less to do than Python takes to launch.
        compiled = "none" if device.type == "cpu" else f"{contender.compiles[0]}{GRAPHS}"
        cell = Cell(name, "encode", options.length, False, attention, compiled)
        documents = make_documents(options.length, options.length, False, setting.batches, device)
        model, batches = prepare(cell, contender, setting, documents)
        steps.append(encoding_step(model, batches, setting))
        sizes.append(sum(it.numel() for it in model.parameters()) / 1e6)
    seconds = take_turns(steps, device, options.seconds, options.rounds)
    rows = [
        [name, round(size, 1), options.length, f"{statistics.fmean(taken):.4g}"]
        for name, size, taken in zip(contenders, sizes, seconds, strict=True)
    ]
    kind = "cpu" if device.type == "cpu" else "gpu"
    note = (
        f"seconds of {options.ours} for a document of {options.length} tokens over those of {options.control}, "
        f"batches of one, {_name(dtype)}; required: at most 0.2"
    )
    key = f"seconds_{options.length // 1024}k_over_modernbert_{kind}"
    columns = ["model", "parameters (M)", "tokens", "seconds a document"]
    table = Table(f"encoding_{kind}", columns, rows, "One document at a time, random weights; both take turns.")
    return {"figures": {key: figure(ratios(*seconds), note)}, "tables": [asdict(table)]}


def find_contender(name: str) -> Contender:
    """
    A model of the speed benchmark, else one of the ladder.

    Raises:
        ValueError: neither has it.
    """
    return CONTENDERS[name] if name in CONTENDERS else find_variant(name).contender


def measure_longest(options: argparse.Namespace) -> dict[str, Any]:
    """Longer and longer documents, whole and in chunks, until memory or time is over."""
    device = current_device()
    contender = find_contender(options.ours)
    if not isinstance(contender, ConceptContender):
        raise ValueError(f"--ours {options.ours} is no concept encoder.")
    model = build_encoder(contender, device)
    apart = distance_of_chunks(model, min(options.lengths))
    rows, rates, deadline = [], {}, time.monotonic() + options.budget
    for way, length in itertools.product(WAYS, options.lengths):
        if time.monotonic() > deadline:
            print(f"{way}, {length}: left out, the time is over", flush=True)
            continue
        document = torch.randint(10, VOCABULARY, (length,))
        measured = encode_once(model, document, way, options.chunk)
        if measured is None:
            print(f"{way}, {length}: out of memory", flush=True)
            rows.append([way, length, "out of memory", "", ""])
            continue
        taken, peak = measured
        rates[way, length] = length / taken
        gib = "" if peak is None else round(peak / GIB, 1)
        rows.append([way, length, f"{length / taken:.4g}", f"{taken:.3g}", gib])
        print(*rows[-1], flush=True)
    best = {length: max(rates.get((way, length), 0.0) for way in WAYS) for _, length in rates}
    longest = longest_document(best)
    note = (
        f"tokens of the longest document that {options.ours} encoded at {KEPT_RATE} or more of the tokens a second of "
        f"documents of {min(best)}, batches of one, at most {model.config.max_concepts} concepts; the longest at all "
        f"had {max(best)}; required: at least 1,048,576"
    )
    columns = ["way", "tokens", "tokens/s", "seconds", "GiB"]
    about = (
        f"{options.ours}, random weights, bfloat16 on a GPU; chunks of {options.chunk} tokens, states in host memory."
    )
    table = Table("longest", columns, rows, about)
    figures = {"longest_document_tokens": figure([longest], note, "tokens")}
    note = (
        f"how far the concepts of a document of {min(options.lengths)} tokens in {COMPARED_CHUNKS} chunks are from "
        f"those of the whole, over the length of these; {options.ours}, random weights, {_name(model.dtype)}"
    )
    figures["chunks_relative_error"] = figure([apart], note, "fraction")
    return {"figures": figures, "tables": [asdict(table)]}


def distance_of_chunks(model: ConceptEncoder, length: int) -> float:
    """
    Distance between the concepts of a random document by chunks and as a whole, over the length of the latter.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    document = torch.randint(10, VOCABULARY, (length,))
    with torch.no_grad():
        whole = model(input_ids=document[None].to(model.device)).last_hidden_state.double()
        chunks = encode_in_chunks(model, document, chunk=length // COMPARED_CHUNKS).last_hidden_state.double()
    apart = ((chunks - whole).norm() / whole.norm()).item()
    if not apart <= MOST_APART:
        raise RuntimeError(f"a document in chunks is {apart:.3g} from the whole one, which is more than rounding")
    return apart


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def longest_document(rates: Mapping[int, float]) -> int:
    """The longest one whose tokens a second are `KEPT_RATE` of the shortest one's, of such rates by length."""
    least = KEPT_RATE * rates[min(rates)]
    return max(length for length, rate in rates.items() if rate >= least)


def build_encoder(contender: ConceptContender, device: torch.device) -> ConceptEncoder:
    """The encoder of a contender with random weights, as it encodes."""
    attention = "varlen" if device.type == "cuda" else "sdpa"
    with device:
        model = ConceptEncoder(contender.config(attention, BASE_LENGTH))
    compile_model(model, contender, "none")
    return model.eval().to(torch.bfloat16 if device.type == "cuda" else torch.float32)


def encode_once(
    model: ConceptEncoder, document: torch.Tensor, way: str, chunk: int
) -> tuple[float, int | None] | None:
    """Seconds and peak memory of the second time that a document is encoded; `None` if memory does not suffice."""
    device = model.device
    ways: dict[str, Callable[[], Any]] = {
        "whole": lambda: model(input_ids=document[None].to(device)),
        "chunks": lambda: encode_in_chunks(model, document, chunk=chunk),
    }
    try:
        with torch.no_grad():
            ways[way]()
            return _timed(ways[way], device)
    except torch.OutOfMemoryError:
        return None
    finally:
        _clean_up(device)


def _timed(encode: Callable[[], Any], device: torch.device) -> tuple[float, int | None]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronise(device)
    begun = time.perf_counter()
    encode()
    synchronise(device)
    taken = time.perf_counter() - begun
    return taken, torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def _clean_up(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="What models cost beside controls.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    training = commands.add_parser("finetuning", help="training steps of classifiers")
    training.add_argument("--models", type=Path, required=True, help="folder of pretrained models")
    names = ["ours", "bert_shaped", "modernbert_shaped"]
    training.add_argument("--names", nargs="+", default=names, help="of them; the first is compared with the others")
    training.add_argument("--shapes", nargs="+", type=_shape, default=SHAPES, metavar="ROWSxTOKENS", help="of batches")
    ways = "ways to compile each (default: %(default)s)"
    training.add_argument("--compile", nargs="+", choices=COMPILERS, default=[NOT_COMPILED], help=ways)
    training.set_defaults(measure=measure_finetuning)
    encoding = commands.add_parser("encoding", help="seconds a document")
    encoding.add_argument("--control", default="modernbert_768x22", help="its equal (default: %(default)s)")
    encoding.add_argument("--length", type=int, default=DOCUMENT, help="tokens (default: %(default)s)")
    encoding.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    encoding.set_defaults(measure=measure_encoding)
    longest = commands.add_parser("longest", help="the longest document")
    longest.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, help="tokens, ascending")
    longest.add_argument("--chunk", type=int, default=CHUNK, help="tokens (default: %(default)s)")
    longest.add_argument("--budget", type=float, default=300, help="seconds (default: %(default)s)")
    longest.set_defaults(measure=measure_longest)
    for each in (training, encoding):
        each.add_argument("--seconds", type=float, default=1.0, help="of a turn (default: %(default)s)")
        each.add_argument("--rounds", type=int, default=5, help="of turns (default: %(default)s)")
    for each in (encoding, longest):
        each.add_argument("--ours", default="base", help="a model of the speed benchmark or the ladder")
    for each in (training, encoding, longest):
        each.add_argument("--output", type=Path, required=True, help="file that gets the record")
        each.add_argument("--commit", help="of the code, where there is no git")
    return parser.parse_args(arguments)


def _shape(text: str) -> Shape:
    rows, _, tokens = text.partition("x")
    return Shape(int(rows), int(tokens))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
