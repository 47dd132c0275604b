# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
How fast documents are encoded, in `results/inference.json`: by how they are put into batches, by how threads share the
work, and by the form that the model has.

    python -m benchmarks.inference                                   # random weights of `mini`, minutes on a CPU
    python -m benchmarks.inference --checkpoint outputs/nano         # what a trained model loses in other forms, too
    python -m benchmarks.inference --only forms --forms float32 int8

All contenders of a table take turns, so that ratios compare what was measured side by side.
"""

import argparse
import copy
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks.results import RESULTS, Figure, Table, describe_device, merge_results
from configuration_concept import PRESETS, ConceptEncoderConfig
from evaluation_concept.encode import find_device, load_encoder
from evaluation_concept.errors import exit_code
from evaluation_concept.onnx_export import export_onnx, quantize_onnx
from evaluation_concept.quantization import quantize_int8
from modeling_concept import ConceptEncoderForTextEncoding
from modeling_concept.encoding import TextEncoder

COMMAND = "python -m benchmarks.inference"
Encode = Callable[[], torch.Tensor]

BUDGETS = (1024, 2048, 4096, 8192, 16384)
# Texts in a batch of those who do not sort them.
BATCH_SIZE = 32
SHORTEST = 8
SPEED_COLUMNS = ("tokens/s", "times as fast")
MB = 1e6
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Workload:
    """
    What is encoded, and with what.

    Attributes:
        model: in float32, on the device.
        name: what the model is called.
        tokenizer: its tokenizer.
        texts: documents.
        num_tokens: of all of them, special ones included.
        repeats: how often everything is timed.
        command: what was typed.
    """

    model: PreTrainedModel
    name: str
    tokenizer: PreTrainedTokenizerBase
    texts: list[str]
    num_tokens: int
    repeats: int
    command: str

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def encoder(self, model: nn.Module | None = None, **options: Any) -> Encode:
        """Encode all documents with `model`, by default the one of this workload, as `TextEncoder` does."""
        encoder = TextEncoder(model or self.model, self.tokenizer, max_length=10**6, **options)
        return lambda: encoder.encode(self.texts).embeddings

    def figure(self, values: Sequence[float], note: str, unit: str = "ratio") -> Figure:
        """What was measured on this workload, by default a ratio of speeds."""
        device = describe_device() if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        return Figure.of_runs(values, unit=unit, command=self.command, device=device, note=f"{note}; {self.name}")


class OnnxModel(nn.Module):
    """An exported encoder in the ONNX runtime, which `TextEncoder` takes for a model; it computes on one thread."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, path: Path, config: ConceptEncoderConfig):
        super().__init__()
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.config = config
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def forward(
        self, input_ids: torch.Tensor, document_lengths: torch.Tensor, max_document_length: int
    ) -> dict[str, torch.Tensor]:
        """Documents `[B, N]`, one a row, of lengths `[B, 1]` to `embeddings` `[B, 1, hidden_size]`."""
        mask = (torch.arange(input_ids.shape[1]) < document_lengths).long()
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": mask.numpy()}
        return {"embeddings": torch.from_numpy(self.session.run(["embeddings"], inputs)[0]).unsqueeze(1)}


class Form(NamedTuple):
    """
    A model in another form.

    Attributes:
        encode: gives the embeddings of all documents.
        megabytes: of its weights, or of its file.
    """

    encode: Encode
    megabytes: float


def main(arguments: Sequence[str], path: Path = RESULTS / "inference.json") -> None:
    """
    Measure table after table, and merge each into the results file `path` when it is done.

    Raises:
        ValueError, OSError: for a checkpoint or device that is not there.
    """
    options = _parse(arguments)
    work = make_workload(options, " ".join([COMMAND, *arguments]))
    _say(f"{work.name}: {len(work.texts)} documents of {work.num_tokens} tokens on {work.device}")
    for name in options.only or SECTIONS:
        if name == "threads" and work.device.type != "cpu":
            _say("threads are for a CPU: left out")
            continue
        figures, table = SECTIONS[name](work, options)
        merge_results(path, figures, [table])


def make_workload(options: argparse.Namespace, command: str) -> Workload:
    """The model of a checkpoint or preset and random documents of normally distributed lengths."""
    device = find_device(options.device)
    torch.manual_seed(0)
    if options.checkpoint:
        model = load_encoder(options.checkpoint, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
        name = f"the checkpoint {Path(options.checkpoint).name}"
    else:
        config = ConceptEncoderConfig.from_preset(options.preset)
        model, tokenizer = ConceptEncoderForTextEncoding(config), word_tokenizer(config.vocab_size)
        name = f"{options.preset} with random weights"
    texts = make_texts(tokenizer, options.documents, options.mean_length)
    num_tokens = sum(map(len, tokenizer(texts, verbose=False).input_ids))
    return Workload(model.to(device).eval(), name, tokenizer, texts, num_tokens, options.repeats, command)


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `size` tokens, of which every word between spaces is one."""
    words = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(len(SPECIAL_TOKENS), size))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def make_texts(tokenizer: PreTrainedTokenizerBase, number: int, mean_length: int) -> list[str]:
    """
    Documents of about `mean_length` tokens, deviation a quarter of that. Each repeats few tokens and is unlike others,
    so that embeddings differ even of a model that was never trained.
    """
    rng = np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    lengths = rng.normal(mean_length, mean_length / 4, number).round().astype(int).clip(SHORTEST)
    return [tokenizer.decode(rng.choice(rng.choice(ordinary, 20), length)) for length in lengths]


def measure_batching(work: Workload, options: argparse.Namespace) -> tuple[dict[str, Figure], Table]:
    """Documents one by one, in batches as they come, and in batches of similar ones."""
    alone, unsorted = "one by one", f"{BATCH_SIZE} as they come"
    contenders: dict[str, Encode] = {
        alone: work.encoder(tokens_per_batch=1, workers=1),
        unsorted: lambda: encode_as_they_come(work),
    }
    budget = TextEncoder(work.model, work.tokenizer).batching.budget
    for size in sorted({*BUDGETS, budget}):
        contenders[by_budget(size)] = work.encoder(tokens_per_batch=size, workers=1)
    seconds = take_turns(contenders, work.repeats)
    note = "encode() with its default budget over documents {}, in tokens a second"
    figures = {
        f"encode_sorted_x_{key}_{work.device.type}": work.figure(
            ratios(seconds, by_budget(budget), base), note.format(base)
        )
        for key, base in {"one_by_one": alone, "unsorted": unsorted}.items()
    }
    return figures, speed_table("batching", work, seconds, alone, "Batch after batch, each on all threads.")


def by_budget(tokens: int) -> str:
    """What batches of similar documents are called."""
    return f"sorted, {tokens} tokens"


@torch.inference_mode()
def encode_as_they_come(work: Workload) -> torch.Tensor:
    """What is done without `TextEncoder`: so many texts in a batch, padded to the longest of them."""
    parts = []
    for start in range(0, len(work.texts), BATCH_SIZE):
        texts = work.texts[start : start + BATCH_SIZE]
        inputs = work.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False, verbose=False)
        parts.append(work.model(**inputs.to(work.device)).embeddings.float().cpu())
    return torch.cat(parts)


def measure_threads(work: Workload, options: argparse.Namespace) -> tuple[dict[str, Figure], Table]:
    """On a CPU: one thread, all threads on each batch, and a thread for each of several batches."""
    threads = torch.get_num_threads()
    one, shared, apart = "1 thread", f"{threads} threads on a batch", f"{threads} batches, each on a thread"
    contenders = {
        one: with_threads(1, work.encoder(workers=1)),
        shared: work.encoder(workers=1),
        apart: work.encoder(workers=threads),
    }
    seconds = take_turns(contenders, work.repeats)
    figures = {
        "encode_threads_x": work.figure(
            ratios(seconds, apart, one), f"encode() on {threads} threads, a batch for each, over 1 thread"
        ),
        "encode_batch_a_thread_x": work.figure(
            ratios(seconds, apart, shared), f"encode() on {threads} threads, a batch for each, over all on one batch"
        ),
    }
    return figures, speed_table("threads", work, seconds, one)


def with_threads(number: int, encode: Encode) -> Encode:
    """`encode` on so many threads."""

    def run() -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            return encode()
        finally:
            torch.set_num_threads(before)

    return run


def measure_forms(work: Workload, options: argparse.Namespace) -> tuple[dict[str, Figure], Table]:
    """The model in float32, and in forms that are faster or smaller: speed, closeness and size."""
    forms, costs, failures = prepare_forms(work, options.forms)
    base = next(iter(FORMS))
    results = {name: form.encode() for name, form in forms.items()}
    seconds = take_turns({name: form.encode for name, form in forms.items()}, work.repeats)
    figures, rows = {}, []
    for name, form in forms.items():
        cosine, neighbours = closeness(results[name], results[base])
        speed = speed_cells(work, seconds, name, base)
        rows.append([name, *speed, round(cosine, 5), neighbours, round(form.megabytes, 1), round(costs[name], 1)])
        if name != base:
            note = f"encode() with the model in the form {name} over {base}, in tokens a second"
            figures[f"encode_{name}_x_{work.device.type}"] = work.figure(ratios(seconds, name, base), note)
            note = f"least cosine between embeddings of the form {name} and of {base}"
            figures[f"encode_{name}_cosine_{work.device.type}"] = work.figure([cosine], note, "cosine")
    columns = ["form", *SPEED_COLUMNS, "least cosine", "same neighbour", "MB", "seconds to prepare"]
    lost = "".join(f" {name} failed: {problem}." for name, problem in failures.items())
    note = (
        f"{describe(work)} Cosine is that to the embedding of {base}; the same neighbour is the share of documents "
        f"with the same nearest other document. To prepare takes conversion and first run, compilation included.{lost}"
    )
    return figures, Table(f"forms_{work.device.type}", columns, rows, note)


def prepare_forms(work: Workload, names: Sequence[str]) -> tuple[dict[str, Form], dict[str, float], dict[str, str]]:
    """Forms, seconds that each took until all documents were encoded once, and what went wrong with others."""
    forms, costs, failures = {}, {}, {}
    for name in dict.fromkeys([next(iter(FORMS)), *names]):
        begin = time.perf_counter()
        try:
            form = FORMS[name](work)
            form.encode()
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
            _say(f"{name} failed: {failures[name]}")
            continue
        forms[name], costs[name] = form, time.perf_counter() - begin
        _say(f"{name}: {costs[name]:.1f} s to prepare")
    return forms, costs, failures


def float32(work: Workload) -> Form:
    """As it is."""
    return of_model(work, work.model, bf16=False)


def autocast(work: Workload) -> Form:
    """Weights in float32, what is computed with them in bfloat16."""
    return of_model(work, work.model, bf16=True)


def bfloat16(work: Workload) -> Form:
    """Everything in bfloat16."""
    return of_model(work, copy.deepcopy(work.model).bfloat16())


def varlen(work: Workload) -> Form:
    """Without padding, on a GPU in bfloat16, which its kernel needs."""
    return of_model(work, unpadded_model(work))


def compiled(work: Workload) -> Form:
    """By `torch.compile`, once for each of few shapes; on a GPU what `varlen` is."""
    model = copy.deepcopy(work.model) if work.device.type == "cpu" else unpadded_model(work)
    model.compile(dynamic=False)
    return of_model(work, model)


def int8(work: Workload) -> Form:
    """Linear layers quantised by PyTorch."""
    return of_model(work, quantize_int8(work.model))


def onnx(work: Workload) -> Form:
    """In the ONNX runtime."""
    with tempfile.TemporaryDirectory() as folder:
        return of_file(work, export(work, Path(folder)))


def onnx_int8(work: Workload) -> Form:
    """In the ONNX runtime, weights and matrix products in int8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_onnx(export(work, Path(folder)), path)
        return of_file(work, path)


# The first one is what the others are compared with.
FORMS: dict[str, Callable[[Workload], Form]] = {
    form.__name__: form for form in (float32, autocast, bfloat16, varlen, int8, compiled, onnx, onnx_int8)
}


def unpadded_model(work: Workload) -> PreTrainedModel:
    """A copy of the model that takes its documents unpadded."""
    model = copy.deepcopy(work.model)
    model.set_attn_implementation("varlen")
    return model if work.device.type == "cpu" else model.bfloat16()


def of_model(work: Workload, model: PreTrainedModel, **options: Any) -> Form:
    """The form of a model, which takes the space of its state."""
    state = io.BytesIO()
    torch.save(model.state_dict(), state)
    return Form(work.encoder(model, **options), state.tell() / MB)


def export(work: Workload, folder: Path) -> Path:
    """
    The file of the exported model.

    Raises:
        ValueError: if the model is not on a CPU, where the runtime is measured.
    """
    if work.device.type != "cpu":
        raise ValueError(f"the ONNX runtime is measured on a CPU, not on {work.device}")
    path = folder / "float32.onnx"
    export_onnx(work.model, path)
    return path


def of_file(work: Workload, path: Path) -> Form:
    """The form of an exported model."""
    model = OnnxModel(path, work.model.config)
    return Form(work.encoder(model, unpadded=False), path.stat().st_size / MB)


def closeness(embeddings: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """The least cosine of a document's two embeddings, and the share of documents whose nearest other is the same."""
    nearest = [(matrix @ matrix.T).fill_diagonal_(-torch.inf).argmax(dim=1) for matrix in (embeddings, reference)]
    least = torch.cosine_similarity(embeddings, reference).min().item()
    return least, (nearest[0] == nearest[1]).float().mean().item()


def take_turns(contenders: Mapping[str, Encode], repeats: int) -> dict[str, list[float]]:
    """Seconds of every contender by round; in each round all of them run once. The first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, encode in contenders.items():
            begin = time.perf_counter()
            encode()
            seconds[name].append(time.perf_counter() - begin)
    for name, (_, *counted) in seconds.items():
        _say(f"{name}: {statistics.median(counted):.3f} s")
    return {name: counted for name, (_, *counted) in seconds.items()}


def ratios(seconds: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """By round, how many times as fast as `base` the contender `name` was."""
    return [slow / fast for slow, fast in zip(seconds[base], seconds[name], strict=True)]


def speed_cells(work: Workload, seconds: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """What stands under `SPEED_COLUMNS`."""
    times = statistics.fmean(ratios(seconds, name, base))
    return [round(work.num_tokens / statistics.median(seconds[name])), round(times, 2)]


def speed_table(
    name: str, work: Workload, seconds: Mapping[str, Sequence[float]], base: str, remark: str = ""
) -> Table:
    """A row for every contender."""
    rows = [[contender, *speed_cells(work, seconds, contender, base)] for contender in seconds]
    return Table(f"{name}_{work.device.type}", [name, *SPEED_COLUMNS], rows, f"{describe(work)} {remark}".strip())


def describe(work: Workload) -> str:
    """What was encoded, by what, for the note of a table."""
    mean = work.num_tokens / len(work.texts)
    return f"{len(work.texts)} documents of {mean:.0f} tokens on average, by {work.name}; tokenising included."


SECTIONS = {"batching": measure_batching, "threads": measure_threads, "forms": measure_forms}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure how fast documents are encoded.")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), help="tables to measure (default: all)")
    parser.add_argument("--forms", nargs="+", choices=tuple(FORMS), default=list(FORMS), help="forms of the model")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mini", help="new model (default: %(default)s)")
    parser.add_argument("--checkpoint", help="trained model in its place, folder or name")
    parser.add_argument("--device", help="where to compute (default: the GPU if there is one)")
    parser.add_argument("--documents", type=int, default=128, help="how many (default: %(default)s)")
    parser.add_argument("--mean_length", type=int, default=256, help="of a document in tokens (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
