# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
One run of the ladder: the same data, order, masks, recipe and kernels for every model.

What does not count on the clock: reading data, compiling, steps of warming up (on weights that are put back bit by
bit) and evaluation.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from benchmarks.cells import allow_cudnn, compile_model
from benchmarks.contenders import Contender
from benchmarks.ladder.batches import FlatCollator, InputCollator, LadderBatch, most_documents
from benchmarks.ladder.corpus import HELD_OUT, Corpus, LadderRows
from benchmarks.ladder.evaluate import HeldOut, masking_collator
from benchmarks.ladder.optimizers import make_optimizer, take_step
from benchmarks.ladder.progress import Progress
from benchmarks.ladder.settings import Settings
from benchmarks.ladder.variants import Variant, find_variant, size_of
from benchmarks.loading import make_loader
from benchmarks.results import describe_device
from benchmarks.timing import synchronise
from modeling_concept import register_auto_classes
from training_concept.muon import MuonWithAdamW

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Steps on throw-away weights: the first compiles, the second has seen gradients and states of the optimiser.
WARM_UP_STEPS = 3
# The vocabulary is rounded up to this, so that the matrix product of the output layer has its fast kernels.
VOCABULARY_MULTIPLE = 64


class LeftOutError(Exception):
    """There is no time left for a run."""


class Run:
    """
    A run that is ready to start.

    Args:
        settings: of the run.
        corpus: to train and evaluate on.
        device: to train on.
        workers: processes that make batches.

    Raises:
        ValueError: no such variant, documents that it cannot take, or too little text for one batch.
    """

    def __init__(self, settings: Settings, corpus: Corpus, device: torch.device, workers: int = 4) -> None:
        self.settings, self.corpus, self.device = settings, corpus, device
        self.dtype = DTYPES[settings.dtype]
        self.vocabulary = padded_vocabulary(len(corpus.tokenizer))
        self.variant: Variant = find_variant(settings.variant).with_vocabulary(self.vocabulary)
        self.size = size_of(settings.variant, settings.length, self.vocabulary)
        self.batches = self._batches(workers)
        self.compile_seconds = 0.0

    @property
    def contender(self) -> Contender:
        """What builds the model."""
        return self.variant.contender

    def build(self) -> nn.Module:
        """The model with weights of the seed, to be compiled when it is first called."""
        torch.manual_seed(self.settings.seed)
        allow_cudnn(False)
        contender = self.contender
        with self.device:
            model = contender.build(contender.attentions[0], self.settings.length, "train").train()
        compile_model(model, contender, self.settings.compiled)
        return model

    def warm_up(self, model: nn.Module, steps: int = WARM_UP_STEPS) -> None:
        """Compile and warm up `model` on the first batch; weights and random state are as before, bit by bit."""
        begin = time.perf_counter()
        kept = {name: it.clone() for name, it in model.state_dict().items()}
        first = next(self.batches)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            optimizer = make_optimizer(model, self.settings)
            for _ in range(steps):
                self._step(model, optimizer, first, 0.5)
        model.load_state_dict(kept)
        self.batches = chain([first], self.batches)
        del optimizer, kept
        self._tidy()
        self.compile_seconds = time.perf_counter() - begin

    def train(self, model: nn.Module) -> Progress:
        """Train until the budget is used up."""
        optimizer = make_optimizer(model, self.settings)
        progress = Progress(self.settings.clock, self.settings.budget, self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        progress.start()
        while (share := progress.share) < 1:
            batch = next(self.batches)
            progress.count(batch.num_tokens, self._step(model, optimizer, batch, share))
        progress.finish()
        return progress

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Scores on the validation split, and with `final` on the test split."""
        settings = self.settings
        # Half a training batch: all of its logits are held at once.
        shape = (settings.length, max(settings.rows // 2, 1), settings.masked_share, self.vocabulary)
        scores = {
            split: HeldOut(self.corpus, split, *shape).score(model, self.contender, self.device, self.dtype)
            for split in (HELD_OUT if settings.final else HELD_OUT[:1])
        }
        return {split: it.summary() for split, it in scores.items()}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Put a trained model and its tokenizer into `folder`, for Auto classes to load."""
        register_auto_classes()
        self.contender.pretrained(model, self.settings.length).save_pretrained(folder)
        self.corpus.tokenizer.save_pretrained(folder)

    def result(self, progress: Progress, evaluation: dict[str, Any]) -> dict[str, Any]:
        """What is written of a finished run."""
        speed = progress.tokens / progress.seconds
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        return {
            "steps": len(progress.losses),
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "tokens_per_second": speed,
            "vocabulary": self.vocabulary,
            "parameters": {"total": self.size.total, "body": self.size.body},
            "flops_per_token": self.size.flops,
            "flops_per_second": self.size.flops * speed,
            "peak_bytes": peak,
            "compile_seconds": self.compile_seconds,
            "train_tokens": self.corpus.train_tokens,
            "config": self.contender.config(self.contender.attentions[0], self.settings.length).to_diff_dict(),
            "curve": [list(point) for point in progress.curve()],
            "evaluation": evaluation,
        }

    def _step(self, model: nn.Module, optimizer: MuonWithAdamW, batch: LadderBatch, share: float) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = model(**batch.to(self.device))
        loss.backward()
        take_step(optimizer, self.settings, share)
        # The next step of a CUDA graph writes over its result.
        return loss.detach().clone()

    def _batches(self, workers: int) -> Iterator[LadderBatch]:
        settings, corpus = self.settings, self.corpus
        rows = LadderRows(corpus.train, settings.length, corpus.tokenizer, settings.seed)
        if len(rows) < settings.rows:
            raise ValueError(
                f"the corpus makes {len(rows)} rows of {settings.length} tokens, fewer than the {settings.rows} of a "
                "batch: lower batch_tokens or select more text"
            )
        masking = masking_collator(
            corpus.tokenizer, settings.length, settings.masked_share, settings.seed, self.vocabulary
        )
        flat = FlatCollator(masking, most_documents(rows.num_documents, settings.rows))
        collator: Any = InputCollator(flat, self.contender)
        return iter(make_loader(rows, _same, collator, settings.rows, workers))

    def _tidy(self) -> None:
        synchronise(self.device)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def perform(
    settings: Settings,
    load: Callable[[], Corpus],
    device: torch.device,
    workers: int = 4,
    turn: AbstractContextManager[Any] | None = None,
    compile_ahead: bool = False,
    save: Path | None = None,
) -> dict[str, Any]:
    """
    Do a run and describe it; whatever goes wrong is part of the description.

    Args:
        settings: of the run.
        load: the corpus.
        device: to train on.
        workers: processes that make batches.
        turn: held while the run needs the device for itself; data are read before.
        compile_ahead: whether the run compiles before it is its turn, beside another one.
        save: folder that gets the trained model.

    Raises:
        LeftOutError: what `turn` raises, if its turn comes too late.
    """
    record = describe_run(settings, device)
    turn = turn or nullcontext()
    try:
        run = Run(settings, load(), device, workers)
        if compile_ahead:
            model = run.build()
            run.warm_up(model)
        with turn:
            if not compile_ahead:
                model = run.build()
                run.warm_up(model)
            progress = run.train(model)
            record |= run.result(progress, run.evaluate(model))
        if save is not None:
            run.save(model, save)
    except LeftOutError:
        raise
    # A library, kernel or device may raise anything; the ladder records it and goes on.
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return record


def describe_run(settings: Settings, device: torch.device) -> dict[str, Any]:
    """What is known of a run before it begins."""
    return {
        "run": settings.name,
        "settings": asdict(settings),
        "device": describe_device(device),
        "date": date.today().isoformat(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
    }


def padded_vocabulary(size: int) -> int:
    """Rows of the word embeddings for a tokenizer of so many tokens."""
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _same(visit: int) -> int:
    return visit
