# Copyright 2026 The Concept Encoder authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Texts to embeddings: tokenised ahead, sorted by length, encoded in batches of as many tokens as a budget allows."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .attention import takes_documents

logger = logging.get_logger(__name__)

# Tokens per batch unless told otherwise. What a CPU works on should stay in its caches.
TOKENS_PER_BATCH = {"cpu": 2048}
LARGEST_BATCH = 16384
# Texts are sorted by length among those that fill so many batches, at so many characters per token.
BATCHES_PER_PART, CHARACTERS_PER_TOKEN = 64, 4
# Static shapes are made for documents of no fewer tokens than this.
SHORTEST = 32
# Tokenizers that declare no longest sequence have an astronomic one.
NO_LIMIT = 10**9

# What the model returns of concepts, in the order that `split_concepts` takes them.
CONCEPT_OUTPUTS = ("concept_embeddings", "concept_mask", "concept_documents")

Item = TypeVar("Item")


class TextEmbeddings(NamedTuple):
    """
    What texts were encoded to, in their order. Everything is on the CPU.

    Attributes:
        embeddings: float32 `[texts, hidden_size]`, of length 1; zeros for a text without a single token.
        concept_embeddings: for each text its concepts, float32 `[C, hidden_size]`, of length 1 each; `None` without
            `late_interaction`.
        num_tokens: int64 `[texts]`, tokens that were encoded, special ones included.
        truncated: bool `[texts]`, which texts had more.
    """

    embeddings: torch.Tensor
    concept_embeddings: list[torch.Tensor] | None
    num_tokens: torch.Tensor
    truncated: torch.Tensor


class TokenisedTexts(NamedTuple):
    """Token ids of each text, and whether it had more."""

    input_ids: list[list[int]]
    truncated: list[bool]


@dataclass(frozen=True)
class Batching:
    """
    How texts are put into batches.

    Attributes:
        budget: tokens in a batch, padding included. A text that has more goes alone.
        unpadded: whether a batch is one row of all its texts, end to end; else each text has a row.
        static: whether shapes are rounded up so that there are few: one for every doubling of the longest text.
        max_length: no text has more tokens, and no shape is made for more; `None` if there is no such bound.
    """

    budget: int
    unpadded: bool
    static: bool
    max_length: int | None = None

    def groups(self, num_tokens: Sequence[int]) -> Iterator[list[int]]:
        """Indices of the texts of each batch, longest first, from the tokens of all; a text without is in none."""
        group: list[int] = []
        used = 0
        for index in sorted(range(len(num_tokens)), key=lambda index: -num_tokens[index]):
            if not num_tokens[index]:
                break
            most = self._most(self._longest(num_tokens[group[0]])) if group else 1
            if group and (len(group) == most or used + num_tokens[index] > self.budget):
                yield group
                group, used = [], 0
            group.append(index)
            used += num_tokens[index]
        if group:
            yield group

    def inputs(self, input_ids: Sequence[list[int]], padding: int) -> dict[str, Any]:
        """
        The texts of a group as a model takes them: `input_ids` int64 `[B, N]`, `document_lengths` int64 `[B, D]` and
        `max_document_length`. Rows and documents without a text are empty and come last.

        Args:
            input_ids: of these texts, longest first.
            padding: id of the padding token.
        """
        longest = self._longest(len(input_ids[0]))
        lengths = torch.zeros(self._most(longest) if self.static else len(input_ids), dtype=torch.long)
        lengths[: len(input_ids)] = torch.tensor([len(ids) for ids in input_ids])
        if self.unpadded:
            size = max(self.budget, longest) if self.static else int(lengths.sum())
            input_ids, lengths = [list(chain.from_iterable(input_ids))], lengths.unsqueeze(0)
        else:
            size, lengths = longest, lengths.unsqueeze(1)
        rows = torch.full((len(lengths), size), padding)
        for row, ids in zip(rows, input_ids, strict=False):
            row[: len(ids)] = torch.tensor(ids)
        return {"input_ids": rows, "document_lengths": lengths, "max_document_length": longest}

    def _longest(self, length: int) -> int:
        if not self.static:
            return length
        return min(max(1 << (length - 1).bit_length(), SHORTEST), self.max_length or NO_LIMIT)

    def _most(self, longest: int) -> int:
        """How many texts a batch has room for; a row also for shorter ones, at the cost of more unused concepts."""
        if self.unpadded and not self.static:
            return self.budget
        return max((2 if self.unpadded else 1) * self.budget // longest, 1)


class TextEncoder:
    """
    Encodes texts with a model that maps `input_ids` and `document_lengths` to `embeddings`, in any number and length.

    Args:
        model: [`ConceptEncoderForTextEncoding`], or what `torch.compile` made of one. It works on the device and with
            the attention backend that it has.
        tokenizer: its tokenizer, a fast one. Special tokens that are spelled out in a text are read as characters.
        tokens_per_batch: budget of a batch, padding included. By default 16384, and 2048 on a CPU.
        max_length: a text of more tokens, special ones included, is cut. By default the tokenizer's
            `model_max_length`, and no more than the model has learned positions.
        late_interaction: whether to return the embeddings of concepts, too.
        unpadded: whether texts of a batch lie end to end in one row, which suits `attn_implementation="varlen"`, else
            each has a row, padded to the longest. By default as suits the attention of the model.
        static_shapes: whether to pad batches to few shapes, so that a compiled model is not compiled for each of
            them. By default if the model is compiled.
        bf16: whether to compute in bfloat16 what has weights in float32. By default on GPUs that can.
        workers: batches that are encoded at the same time, each by one thread, where there are enough of them. By
            default 1; on a CPU as many as torch has threads, which one batch alone cannot keep busy.
        show_progress: whether to draw a progress bar.

    Raises:
        ValueError: a budget, length or number that is too small, a tokenizer that is not fast.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokens_per_batch: int | None = None,
        max_length: int | None = None,
        late_interaction: bool = False,
        unpadded: bool | None = None,
        static_shapes: bool | None = None,
        bf16: bool | None = None,
        workers: int | None = None,
        show_progress: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, model.config
        self.late_interaction, self.show_progress = late_interaction, show_progress
        self.device = model.device
        self.max_length = self._longest_text(max_length)
        default = TOKENS_PER_BATCH.get(self.device.type, LARGEST_BATCH)
        budget = default if tokens_per_batch is None else tokens_per_batch
        compiled = _is_compiled(model)
        threads = torch.get_num_threads() if self.device.type == "cpu" and not compiled else 1
        self.workers = threads if workers is None else workers
        for name, number in {"tokens_per_batch": budget, "workers": self.workers}.items():
            if number < 1:
                raise ValueError(f"{name}={number} must be at least 1.")
        self.batching = Batching(
            budget,
            self._suits_rows() if unpadded is None else unpadded,
            compiled if static_shapes is None else static_shapes,
            self.max_length,
        )
        self.autocast = model.dtype == torch.float32 and (_has_bf16(self.device) if bf16 is None else bf16)

    def encode(self, texts: Iterable[str]) -> TextEmbeddings:
        """
        Encode `texts`. What comes back does not depend on how they fall into batches, rounding aside.

        Raises:
            ValueError: see `stream`.
        """
        parts = list(self.stream(texts))
        if not parts:
            parts = [self._blank(TokenisedTexts([], []))]
        embeddings, concepts, num_tokens, truncated = zip(*parts, strict=True)
        together = list(chain.from_iterable(concepts)) if self.late_interaction else None
        return TextEmbeddings(torch.cat(embeddings), together, torch.cat(num_tokens), torch.cat(truncated))

    def stream(self, texts: Iterable[str]) -> Iterator[TextEmbeddings]:
        """
        Encode `texts` in parts that come back in order, so that neither texts nor embeddings have to fit in memory.

        Texts are read as they are needed, and the next part is tokenised while one is encoded. Dropout is off
        meanwhile.

        Raises:
            ValueError: for what is no text, and for token ids that the model does not have.
        """
        if isinstance(texts, str):
            raise ValueError("texts is a single string; give a list of texts.")
        was_training = self.model.training
        self.model.eval()
        cut, total = 0, len(texts) if isinstance(texts, Sized) else None
        bar = logging.tqdm(total=total, unit=" texts", desc="Encoding", disable=not self.show_progress)
        try:
            with bar, ThreadPoolExecutor(max_workers=1) as pool:
                for part in one_ahead(pool.submit(self._tokenise, part) for part in self._parts(texts)):
                    result = self._encode_part(part.result(), bar)
                    cut += int(result.truncated.sum())
                    yield result
        finally:
            self.model.train(was_training)
        if cut:
            logger.warning(f"Cut at {self.max_length} tokens (max_length): {cut} of the texts.")

    def _longest_text(self, wanted: int | None) -> int | None:
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(self.tokenizer).__name__} is no fast tokenizer, which encoding needs.")
        special = self.tokenizer.num_special_tokens_to_add()
        if wanted is not None and wanted <= special:
            raise ValueError(f"max_length={wanted} leaves no room for a text beside {special} special tokens.")
        # CODEPATH: only `perceiver_v1` has learned positions, and with them a longest text.
        learned = self.config.position_embedding == "learned"
        most = self.config.max_position_embeddings if learned else NO_LIMIT
        longest = min(self.tokenizer.model_max_length, most) if wanted is None else wanted
        return longest if longest < NO_LIMIT else None

    def _suits_rows(self) -> bool:
        # Learned positions count along the row.
        return takes_documents(self.config) and self.config.position_embedding == "rope"

    def _parts(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Texts that fill some batches, and no more of them in memory."""
        limit = BATCHES_PER_PART * CHARACTERS_PER_TOKEN * self.batching.budget
        part: list[str] = []
        size = 0
        for number, text in enumerate(texts):
            _check_text(number, text)
            if part and size + len(text) >= limit:
                yield part
                part, size = [], 0
            part.append(text)
            size += len(text) + CHARACTERS_PER_TOKEN
        if part:
            yield part

    def _tokenise(self, texts: list[str]) -> TokenisedTexts:
        encoded = self.tokenizer(
            texts,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        largest = max(map(max, filter(None, encoded.input_ids)), default=0)
        if largest >= self.config.vocab_size:
            raise ValueError(
                f"The tokenizer gives token {largest}, but the model has a vocabulary of {self.config.vocab_size} "
                "(vocab_size): they do not belong together."
            )
        return TokenisedTexts(encoded.input_ids, [bool(encoding.overflowing) for encoding in encoded.encodings])

    def _blank(self, part: TokenisedTexts) -> TextEmbeddings:
        """Results that are yet to be filled in."""
        number, width = len(part.input_ids), self.config.hidden_size
        concepts = [torch.zeros(0, width)] * number if self.late_interaction else None
        num_tokens = torch.tensor([len(ids) for ids in part.input_ids], dtype=torch.long)
        return TextEmbeddings(
            torch.zeros(number, width), concepts, num_tokens, torch.tensor(part.truncated, dtype=torch.bool)
        )

    def _encode_part(self, part: TokenisedTexts, bar: Any) -> TextEmbeddings:
        result = self._blank(part)
        bar.update(int((result.num_tokens == 0).sum()))
        groups = list(self.batching.groups(result.num_tokens.tolist()))
        batches = [[part.input_ids[index] for index in group] for group in groups]
        for group, outputs in zip(groups, self._run(batches), strict=True):
            result.embeddings[group] = outputs["embeddings"].flatten(0, 1)[: len(group)].float().cpu()
            if self.late_interaction:
                for index, concepts in zip(group, split_concepts(outputs, len(group)), strict=True):
                    result.concept_embeddings[index] = concepts
            bar.update(len(group))
        return result

    def _run(self, batches: list[list[list[int]]]) -> Iterator[dict[str, torch.Tensor]]:
        """What the model makes of the token ids of each batch; those of the longest texts come first."""
        large = sum(len(batch[0]) > self.batching.budget for batch in batches)
        # A text that goes alone takes memory for itself and keeps all threads busy.
        large = large if 1 < self.workers <= len(batches) - large else len(batches)
        # The host waits for a batch only when the device has the next one to work on.
        yield from one_ahead(map(self._forward, batches[:large]))
        if batches[large:]:
            with single_threads(self.workers) as pool:
                yield from pool.map(self._forward, batches[large:])

    @torch.inference_mode()
    def _forward(self, batch: list[list[int]]) -> dict[str, torch.Tensor]:
        inputs = self.batching.inputs(batch, self.config.pad_token_id or 0)
        for name in ("input_ids", "document_lengths"):
            inputs[name] = inputs[name].to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs = self.model(**inputs)
        names = ("embeddings", *(CONCEPT_OUTPUTS if self.late_interaction else ()))
        # A compiled model that replays CUDA graphs has its next outputs in the same memory.
        return {name: outputs[name].clone() for name in names}


def _check_text(number: int, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"Text {number} is {text!r:.80}, not a string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Text {number} is no text in Unicode: {error}.") from error


def split_concepts(outputs: dict[str, torch.Tensor], number: int) -> list[torch.Tensor]:
    """
    The concepts of each of the first `number` documents of a batch, float32 `[C, hidden_size]`.

    Args:
        outputs: `embeddings` `[B, D, hidden_size]`, and of the concepts `concept_embeddings` `[B, C, hidden_size]`,
            `concept_mask` and `concept_documents` `[B, C]`.
    """
    embeddings, mask, documents = (outputs[name].cpu() for name in CONCEPT_OUTPUTS)
    rows, documents_per_row = outputs["embeddings"].shape[:2]
    owner = documents_per_row * torch.arange(rows).unsqueeze(1) + documents
    in_use = mask.bool() & (owner < number)
    sizes = owner[in_use].bincount(minlength=number)
    return [concepts.float() for concepts in embeddings[in_use].split(sizes.tolist())]


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, each handed out once the next one has been made."""
    iterator = iter(items)
    for item in iterator:
        for following in iterator:
            yield item
            item = following
        yield item


@contextmanager
def single_threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads, each of which computes alone."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        # Some libraries of torch have one number for all threads.
        torch.set_num_threads(before)


def _is_compiled(model: nn.Module) -> bool:
    """Whether the model or a part of it was given to `torch.compile`, or compiled in place."""
    return any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules())


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def encode(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], **options: Any
) -> TextEmbeddings:
    """Encode `texts`; `options` are those of `TextEncoder`, which also has a way for more than fits in memory."""
    return TextEncoder(model, tokenizer, **options).encode(texts)


class TextEncodingMixin:
    """The method `encode`, for a model that maps `input_ids` and `document_lengths` to `embeddings`."""

    def encode(self, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, **options: Any) -> TextEmbeddings:
        """
        Encode `texts` of any number and length, in batches of similar ones.

        Args:
            tokenizer: of this model.
            options: such as `tokens_per_batch`, `max_length`, `late_interaction` and `show_progress`; see
                `TextEncoder`.

        Returns:
            `.embeddings`, float32 `[texts, hidden_size]` in the order of the texts, and more; see `TextEmbeddings`.
        """
        return encode(self, tokenizer, texts, **options)
