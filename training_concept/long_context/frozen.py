# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Documents classified by the embeddings of an encoder that stays as it is: each is read once, whatever the folds."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel

from evaluation_concept import tasks as text_tasks
from evaluation_concept.baselines_text import fit_linear
from evaluation_concept.encode import find_device, load_encoder
from evaluation_concept.long_context.tasks import CLASSIFICATION, Task
from evaluation_concept.states import random_encoder
from modeling_concept.encoding import encode
from training_concept.build import adapt_to_length, build_config
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.finetuning.cell import Cell, CellResult
from training_concept.long_context.arguments import LongContextArguments
from training_concept.long_context.experiment import Stage
from training_concept.long_context.forms import DocumentExamples
from training_concept.long_context.tuner import DocumentTuner

# Inverse strengths of the regularisation of a few hundred features, each scaled to a variance of 1.
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
# Of a class that was not trained on.
NEVER = -1e9


def check_frozen(
    tasks: Sequence[Task], model_args: ClassifierArguments, options: LongContextArguments, args: FineTuningArguments
) -> None:
    """
    Refuse what has no meaning with an encoder that stays as it is.

    Raises:
        ValueError: naming it.
    """
    if others := [task.name for task in tasks if task.kind != CLASSIFICATION]:
        raise ValueError(f"--frozen_encoder classifies documents, and {others[0]} asks for something else.")
    if not model_args.model_name_or_path:
        raise ValueError("--frozen_encoder goes with --model_name_or_path: a new encoder has learned nothing.")
    meaningless = {
        "--seeds": len(options.seeds or ()) > 1,
        "--length_curriculum": options.length_curriculum,
        "--pad_to_max_length": options.pad_to_max_length,
        "--compare": options.compare,
        "--config_overrides": model_args.config_overrides,
        "--readout": model_args.readout,
        "--push_to_hub": args.push_to_hub,
    }
    if given := [flag for flag, value in meaningless.items() if value]:
        raise ValueError(f"{given[0]} has no meaning with --frozen_encoder, which trains no model.")
    if not args.do_train:
        raise ValueError("--frozen_encoder fits a classifier: ask for --do_train.")


def with_random_weights(stages: Sequence[Stage]) -> list[Stage]:
    """The stages of a `FrozenTuner` for an encoder that has learned nothing."""
    tuners = [stage.tuner for stage in stages]
    assert all(isinstance(tuner, FrozenTuner) for tuner in tuners)
    return [replace(stage, tuner=stage.tuner.with_random_weights()) for stage in stages]  # type: ignore[attr-defined]


class FrozenTuner(DocumentTuner):
    """
    In the place of fine-tuning, logistic regression on embeddings, scaled, of whole documents.

    How strongly to regularise is chosen inside the training examples, no group of which is on both sides. Query and
    document have their embeddings, the distance of each channel and the product (InferSent, arXiv 1705.02364). Seeds
    change nothing, and no model is kept.

    Args:
        args: of `FineTuner`.
        fresh: whether the encoder has random weights.
    """

    def __init__(self, *args: object, fresh: bool = False) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.fresh = fresh
        self._known: dict[str, np.ndarray] = {}
        self._seconds = 0.0

    def with_random_weights(self) -> "FrozenTuner":
        """The same for an encoder that has learned nothing."""
        return FrozenTuner(self.model_args, self.options, self.training_args, self.tokenizer, fresh=True)

    @cached_property
    def encoder(self) -> PreTrainedModel:
        """
        The encoder, adapted to the length of the documents if that is asked for.

        Raises:
            ValueError, OSError: as `load_encoder`.
        """
        args, device = self.model_args, find_device("cpu" if self.training_args.use_cpu else None)
        options = {"revision": args.model_revision, "attn_implementation": args.attn_implementation}
        if args.adapt_to_length:
            options["config"] = adapt_to_length(build_config(args), self.options.max_seq_length)
        dtype = torch.bfloat16 if self.training_args.bf16 else torch.float32
        encoder = load_encoder(str(args.model_name_or_path), args.trust_remote_code, dtype=dtype, **options).to(device)
        return random_encoder(encoder, self.training_args.seed) if self.fresh else encoder

    def run(self, task: text_tasks.Task, cell: Cell) -> CellResult:
        """
        The result of `cell`, from logarithms of probabilities; its facts have seconds a document of encoding.

        Raises:
            ValueError, OSError: as loading the encoder does.
        """
        assert isinstance(cell.train, DocumentExamples)
        groups = tuple(example.group or example.id for example in cell.train.examples)
        train = text_tasks.Examples(cell.train.texts, cell.train.labels, groups)
        features = self._features(train)
        scaler = StandardScaler().fit(features)
        model = fit_linear(task, train, scaler.transform(features), STRENGTHS)
        logits = {}
        for name, examples in cell.predicted.items():
            logits[name] = np.full((len(examples), len(task.labels or ())), NEVER)
            logits[name][:, model.classes_] = model.predict_log_proba(scaler.transform(self._features(examples)))
        return CellResult(logits, {"seconds_per_document": self._seconds / len(self._known)})

    def forget(self) -> None:
        """Let go of the embeddings of all documents so far."""
        super().forget()
        self._known.clear()
        self._seconds = 0.0

    def _features(self, examples: text_tasks.Examples) -> np.ndarray:
        """`[n, width]`, of pairs `[n, 4 * width]`."""
        columns = [self._embeddings(texts) for texts in examples.texts]
        if len(columns) == 1:
            return columns[0]
        query, document = columns
        return np.hstack([query, document, np.abs(query - document), query * document])

    def _embeddings(self, texts: tuple[str, ...]) -> np.ndarray:
        """Embeddings `[n, width]`, each text encoded once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        begun = time.perf_counter()
        if new:
            length = self.options.max_seq_length
            show = not self.training_args.disable_tqdm
            found = encode(self.encoder, self.tokenizer, new, max_length=length, show_progress=show).embeddings
            self._known |= dict(zip(new, found.numpy(), strict=True))
        self._seconds += time.perf_counter() - begun
        return np.stack([self._known[text] for text in texts])
