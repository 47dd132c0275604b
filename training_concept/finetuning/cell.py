# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""One fine-tuning: a model, examples, settings and a seed, to predictions; done once, resumed where it broke off."""

import copy
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as compute
import torch
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, set_seed

from evaluation_concept.errors import FinishedRunError
from evaluation_concept.files import draft, weights_digest, write_json
from evaluation_concept.tasks import Examples, Task
from training_concept.build import note_length, train_only
from training_concept.finetuning.arguments import (
    SWEPT,
    ClassifierArguments,
    ExperimentArguments,
    FineTuningArguments,
)
from training_concept.finetuning.data import collator, task_logits, tokenize
from training_concept.finetuning.model import build_classifier, check_labels, classifier_config, label_names
from training_concept.finetuning.trainer import FineTuningTrainer
from training_concept.publishing.pushing import target_of
from training_concept.run import (
    OPTIMISATION,
    claim_folder,
    find_checkpoint,
    finish_run,
    finished_description,
    was_stopped,
)

logger = logging.getLogger(__name__)

FACTS_FILE, LOGITS_FILE, KEPT_FILE = "cell.json", "logits.npz", "kept.json"
# What begins the names of test examples, and where those that are asked for after the training are predicted.
TEST_PREFIX, LATER_FOLDER = "test:", "later"
# Of the training arguments, what also decides what comes of a cell; said of one where it is not as by default.
SELDOM_SET = (
    *("muon", "optim_args", "neftune_noise_alpha", "dataloader_drop_last", "bf16_full_eval", "fp16_full_eval"),
)


@dataclass(frozen=True)
class Cell:
    """
    One fine-tuning.

    Attributes:
        folder: of its own.
        train: examples; `None` to predict with the checkpoint as it is.
        predicted: examples to predict, by name.
        seed: of the classifier's weights, the order of the examples and dropout.
        settings: of the training arguments, in place of those given.
        fresh: whether all weights are new.
        started_from: checkpoint in place of the one that the arguments name; the classifier may have another shape.
        keep: folder for the trained model; `None` to throw it away.
        uploaded: whether a model that is kept is the one that `--push_to_hub` uploads.
    """

    folder: Path
    train: Examples | None
    predicted: Mapping[str, Examples]
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False
    started_from: str | None = None
    keep: Path | None = None
    uploaded: bool = True


@dataclass(frozen=True)
class CellResult:
    """
    What came of a cell.

    Attributes:
        logits: by name of the predicted examples, float32 `[n, outputs]` in the order of the task's labels.
        facts: of the training: seconds, examples and tokens a second, peak memory; of one that was resumed, whose
            first part nobody timed, the number of its steps.
    """

    logits: dict[str, np.ndarray]
    facts: dict[str, float]


class FineTuner:
    """
    Fine-tunes one checkpoint as often as wanted.

    A cell that is finished is read from its folder, one that broke off goes on from its last complete checkpoint. Test
    examples that are asked for when it is finished are predicted by the model that was kept, if it was.

    Args:
        model_args: name the checkpoint.
        options: of the experiment.
        training_args: of every cell, but for its folder, seed and settings.
        tokenizer: of all texts.
    """

    def __init__(
        self,
        model_args: ClassifierArguments,
        options: ExperimentArguments,
        training_args: FineTuningArguments,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.model_args, self.options, self.training_args = model_args, options, training_args
        self.tokenizer = tokenizer
        self._rows: dict[tuple[Examples, tuple[str, ...]], Dataset] = {}
        self._digests: dict[Path, str] = {}

    def run(self, task: Task, cell: Cell) -> CellResult:
        """
        The result of `cell`.

        Raises:
            ValueError: as building the model does, or if the cell's folder holds one that differs.
        """
        model_args = self._model_args(cell)
        config = classifier_config(model_args, task, self.options.max_seq_length)
        order = label_names(config, task)
        if cell.train is None:
            check_labels(model_args, task)
        args = self._training_args(cell)
        description = self._describe(model_args, config, args, cell)
        if (found := self._with_other_tests(task, cell, description)) is not None:
            return found
        try:
            checkpoint = find_checkpoint(args, description)
        except FinishedRunError:
            if cell.keep is None or _holds_model_of(cell.folder, cell.keep):
                return read_cell(cell.folder)
            args.overwrite_output_dir, checkpoint = True, None
        trainer = self._build_trainer(task, cell, model_args, config, order, args)
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            claim_folder(args, description)
        facts = self._train(trainer, cell, order, checkpoint) if cell.train is not None else {}
        logits = {name: self._predict(trainer, examples, order) for name, examples in cell.predicted.items()}
        if not all(self._are_numbers(task, cell.predicted[name], order, logits[name]) for name in logits):
            logger.warning("%s: the model diverged, it answers with what is no number.", cell.folder)
        if cell.keep is not None:
            trainer.save_model(str(cell.keep), _internal_call=True)
        result = CellResult(logits, facts)
        if trainer.is_world_process_zero():
            _write_cell(cell.folder, result)
            write_json(cell.folder / KEPT_FILE, {"weights": weights_digest(cell.keep) if cell.keep else None})
            finish_run(args)
        trainer.accelerator.wait_for_everyone()
        return result

    def forget(self) -> None:
        """Let go of the token ids of all examples so far."""
        self._rows.clear()

    def _with_other_tests(self, task: Task, cell: Cell, description: dict[str, Any]) -> CellResult | None:
        """
        The result of a finished cell that predicted other test examples, these predicted by the model that it left.

        `None` if the folder holds no such cell, or the model is needed and gone.
        """
        known = finished_description(cell.folder)
        if known is None or known == description or _without_tests(known) != _without_tests(description):
            return None
        lacking = {
            name: examples
            for name, examples in cell.predicted.items()
            if known["predicted"].get(name) != description["predicted"][name]
        }
        if (lacking or cell.keep) and not (cell.keep and _holds_model_of(cell.folder, cell.keep)):
            return None
        result = read_cell(cell.folder)
        for name, examples in lacking.items():
            folder = cell.folder / LATER_FOLDER / examples.digest()
            later = Cell(folder, None, {LATER_FOLDER: examples}, cell.seed, started_from=str(cell.keep))
            result.logits[name] = self.run(task, later).logits[LATER_FOLDER]
        return result

    def _model_args(self, cell: Cell) -> ClassifierArguments:
        if cell.started_from is None:
            return self.model_args
        # What a new model would be made of, the checkpoint knows.
        made_of: dict[str, Any] = dict.fromkeys(("preset", "model_type", "config_name", "config_overrides"))
        changes = {"model_name_or_path": cell.started_from, "ignore_mismatched_sizes": True}
        return replace(self.model_args, **made_of | changes)

    def _training_args(self, cell: Cell) -> FineTuningArguments:
        args = copy.copy(self.training_args)
        own = {
            "output_dir": str(cell.folder),
            "seed": cell.seed,
            # Of the models of an experiment the one that is kept is uploaded, as the experiment's.
            "push_to_hub": args.push_to_hub and cell.uploaded and cell.keep is not None and cell.train is not None,
            "hub_model_id": target_of(args).repo_id,
        }
        for name, value in {**own, "overwrite_output_dir": False, **cell.settings}.items():
            setattr(args, name, value)
        return args

    def _describe(
        self, model_args: ClassifierArguments, config: PreTrainedConfig, args: FineTuningArguments, cell: Cell
    ) -> dict[str, Any]:
        """All that decides what comes of a cell, as JSON values."""
        described = {
            "model": None if cell.fresh else model_args.model_name_or_path,
            "revision": model_args.model_revision,
            "weights": None if cell.fresh else self._digest(model_args.model_name_or_path),
            "configuration": {k: v for k, v in config.to_diff_dict().items() if k != "transformers_version"},
            "tokenizer": model_args.tokenizer_name or model_args.train_tokenizer_vocab_size,
            "max_seq_length": self.options.max_seq_length,
            "pad_to_max_length": self.options.pad_to_max_length,
            "trained_weights": self.options.trained_weights,
            "train": cell.train.digest() if cell.train else None,
            "predicted": {name: examples.digest() for name, examples in cell.predicted.items()},
            "training": {name: getattr(args, name) for name in (*SWEPT, *OPTIMISATION, "world_size", "data_seed")}
            | _seldom_set(args),
            "seed": cell.seed,
        }
        if model_args.dtype != ClassifierArguments.dtype:
            described["dtype"] = model_args.dtype
        return json.loads(json.dumps(described, default=str))

    def _digest(self, checkpoint: str | None) -> str | None:
        """Of the weights of a checkpoint on this machine, which may have been trained again under the same name."""
        folder = Path(checkpoint or "")
        if checkpoint is None or not folder.is_dir():
            return None
        if folder not in self._digests:
            self._digests[folder] = weights_digest(folder)
        return self._digests[folder]

    def _build_trainer(
        self,
        task: Task,
        cell: Cell,
        model_args: ClassifierArguments,
        config: PreTrainedConfig,
        order: tuple[str, ...],
        args: FineTuningArguments,
    ) -> FineTuningTrainer:
        set_seed(cell.seed)
        trained = cell.train is not None
        model = build_classifier(model_args, config, self.tokenizer, fresh=cell.fresh, trained=trained)
        train_only(model, self.options.trained_weights)
        scored = next((examples for examples in cell.predicted.values() if examples.labels is not None), None)
        return FineTuningTrainer(
            model,
            args,
            task,
            order,
            train_dataset=self._tokens(task, cell.train, order) if cell.train else None,
            eval_dataset=self._tokens(task, scored, order) if scored and args.eval_strategy != "no" else None,
            data_collator=collator(self.tokenizer, self.options.max_seq_length, self.options.pad_to_max_length),
            processing_class=self.tokenizer,
        )

    def _tokens(self, task: Task, examples: Examples, order: tuple[str, ...]) -> Dataset:
        key = (examples, order)
        if key not in self._rows:
            with self.training_args.main_process_first():
                self._rows[key] = tokenize(
                    examples,
                    task,
                    self.tokenizer,
                    self.options.max_seq_length,
                    order,
                    self.options.preprocessing_num_workers,
                )
        return self._rows[key]

    def _train(
        self, trainer: FineTuningTrainer, cell: Cell, order: Sequence[str], checkpoint: Path | None
    ) -> dict[str, float]:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        rows_per_step = trainer.args.train_batch_size * trainer.args.world_size
        if trainer.args.dataloader_drop_last and len(trainer.train_dataset) < rows_per_step:
            raise ValueError(f"--dataloader_drop_last drops all {len(trainer.train_dataset)} training examples.")
        note_length(trainer.model.config, _longest(trainer.train_dataset))
        metrics = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
        if was_stopped(trainer.state):
            raise InterruptedError(
                f"{cell.folder} was stopped at step {trainer.state.global_step} of {trainer.state.max_steps}: started "
                "again, it goes on from there."
            )
        if checkpoint:
            return {"steps": float(trainer.state.global_step)}
        rows = trainer.train_dataset
        tokens = sum(map(len, rows["input_ids"])) / len(rows)
        facts = {
            "train_seconds": metrics["train_runtime"],
            "train_examples_per_second": metrics["train_samples_per_second"],
            "train_tokens_per_second": metrics["train_samples_per_second"] * tokens,
            "train_loss": metrics["train_loss"],
            "steps": float(trainer.state.global_step),
        }
        if torch.cuda.is_available():
            facts["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return facts

    def _predict(self, trainer: FineTuningTrainer, examples: Examples, order: tuple[str, ...]) -> np.ndarray:
        logits = trainer.predict(self._tokens(trainer.task, examples, order)).predictions
        return task_logits(logits[0] if isinstance(logits, tuple) else logits, trainer.task, order)

    def _are_numbers(self, task: Task, examples: Examples, order: tuple[str, ...], outputs: np.ndarray) -> bool:
        """Whether a model that has not diverged could have given `outputs` for these examples."""
        return bool(np.isfinite(outputs).all())


def read_cell(folder: Path) -> CellResult:
    """
    The result in the folder of a finished cell.

    Raises:
        ValueError: a file that is missing or damaged.
    """
    try:
        with np.load(folder / LOGITS_FILE, allow_pickle=False) as arrays:
            logits = dict(arrays)
        return CellResult(logits, json.loads((folder / FACTS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} cannot be read ({error}): remove it, and it is run again") from error


def _seldom_set(args: FineTuningArguments) -> dict[str, Any]:
    defaults = {item.name: item.default for item in fields(args)}
    found = {name: value for name in SELDOM_SET if (value := getattr(args, name)) != defaults[name]}
    # Cells of before this was so are not to be read: their answers belong to other examples.
    in_order = {"scored_in_order": True} if args.train_sampling_strategy == "group_by_length" else {}
    return found | in_order


def _longest(rows: Dataset) -> int:
    """Tokens of the longest row."""
    return compute.max(compute.list_value_length(rows.data["input_ids"])).as_py()


def _holds_model_of(folder: Path, kept: Path) -> bool:
    """Whether the model in `kept` is that of the finished cell in `folder`, rather than one that came after it."""
    if not (kept / "config.json").is_file():
        return False
    record = folder / KEPT_FILE
    # Older cells have none.
    return not record.is_file() or json.loads(record.read_text(encoding="utf-8"))["weights"] == weights_digest(kept)


def _without_tests(description: Mapping[str, Any]) -> dict[str, Any]:
    predicted = {name: told for name, told in description["predicted"].items() if not name.startswith(TEST_PREFIX)}
    return {**description, "predicted": predicted}


def _write_cell(folder: Path, result: CellResult) -> None:
    """Write the result, and throw away what was for going on."""
    write_arrays(folder / LOGITS_FILE, result.logits)
    write_json(folder / FACTS_FILE, result.facts)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to `path` (.npz) as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named: dict[str, Any] = dict(arrays)
    with draft(path) as draft_path, draft_path.open("wb") as file:
        np.savez_compressed(file, **named)
