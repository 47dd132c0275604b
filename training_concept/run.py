# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The output folder of a run: whose it is, where it goes on from, and what it must never lose."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from evaluation_concept.errors import FinishedRunError
from evaluation_concept.files import write_json
from training_concept.arguments import ConceptTrainingArguments, DataArguments, ModelArguments
from training_concept.combination import is_combined
from training_concept.recipes import DataRecipe, RecipeArguments, recipe_from_arguments
from training_concept.rows import RowCounts

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"

# What may differ between two starts of one run: it changes where data lies or how fast it comes, not what is learned.
_IRRELEVANT_DATA_ARGUMENTS = {"preprocessing_num_workers", "overwrite_cache"}
# Of these the recipe says what they come to.
_SOURCE_ARGUMENTS = set(RecipeArguments.__annotations__)
# What of stock's training arguments decides how weights follow from gradients, and gradients from batches.
OPTIMISATION = (
    *("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "bf16", "fp16", "train_sampling_strategy"),
)
_STEPS = (
    *("learning_rate", "weight_decay", "warmup_steps", "max_steps", "label_smoothing_factor", "muon", "optim_args"),
)
_IRRELEVANT_TRAINING_ARGUMENTS = {
    *("peak_flops", "contrastive_chunk_size", "warm_up", "ddp_find_unused_parameters", "logging_nan_inf_filter"),
}


def describe_run(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ConceptTrainingArguments,
    config: PreTrainedConfig,
) -> dict[str, Any]:
    """Everything that two starts must agree on to be one run: model, data, training and seeds, as JSON values."""
    left_out = _IRRELEVANT_DATA_ARGUMENTS | _SOURCE_ARGUMENTS
    data = {key: value for key, value in asdict(data_args).items() if key not in left_out}
    data |= {"pmi_vocabulary": _digest(data_args.pmi_vocabulary), **_describe_recipe(recipe_from_arguments(data_args))}
    configuration = {key: value for key, value in config.to_diff_dict().items() if key != "transformers_version"}
    description = {
        "configuration": configuration,
        "model_name_or_path": model_args.model_name_or_path,
        "tokenizer": model_args.tokenizer_name or model_args.train_tokenizer_vocab_size,
        "data": data,
        "training": describe_training(training_args, is_combined(training_args)) | {"dtype": model_args.dtype},
        "seed": training_args.seed,
        "data_seed": training_args.data_seed,
    }
    return json.loads(json.dumps(description, default=str))


def describe_training(args: ConceptTrainingArguments, compares_rows: bool) -> dict[str, Any]:
    """
    The training arguments that two starts must agree on to be one run, wherever and on however many devices they are.

    Args:
        args: of the training.
        compares_rows: whether the loss is more than a mean over rows, so that it matters which share a batch.
    """
    own = ConceptTrainingArguments.__annotations__.keys() - _IRRELEVANT_TRAINING_ARGUMENTS
    rows_per_batch = args.train_batch_size * args.world_size
    return {name: getattr(args, name) for name in (*OPTIMISATION, *_STEPS, *own)} | {
        "num_train_epochs": None if args.max_steps > 0 else args.num_train_epochs,
        "rows_per_step": rows_per_batch * args.gradient_accumulation_steps,
        "rows_per_batch": rows_per_batch if compares_rows else None,
    }


def find_checkpoint(training_args: TrainingArguments, description: dict[str, Any]) -> Path | None:
    """
    Checkpoint to go on from in `training_args.output_dir`, or `None` to start anew. Only reads.

    A checkpoint counts once its last file is whole, so that one cut short by a crash is passed over.

    Raises:
        ValueError: if the folder holds files that are not of this run, or damaged weights.
        FinishedRunError: if the run has already come to its end.
    """
    folder, chosen = Path(training_args.output_dir), training_args.resume_from_checkpoint
    if chosen and not _is_complete(Path(chosen)):
        raise ValueError(f"{chosen} is no complete checkpoint (--resume_from_checkpoint).")
    if _holds_run(folder) and not training_args.overwrite_output_dir:
        _check_owner(folder, description)
        complete = [checkpoint for checkpoint in _checkpoints(folder) if _is_complete(checkpoint)]
        chosen = chosen or (complete[-1] if complete else None)
    if not chosen:
        return None
    checkpoint = check_weights(Path(chosen))
    logger.warning("Going on from %s.", checkpoint)
    return checkpoint


def finished_description(folder: Path) -> dict[str, Any] | None:
    """What `describe_run` or its like said of the finished run in `folder`; `None` if there is none."""
    if not (folder / RUN_FILE).is_file():
        return None
    record = _read_record(folder)
    return record["description"] if record["finished"] else None


def check_results_folder(folder: Path, description: dict[str, Any], model: str | None) -> None:
    """
    Refuse `folder` for the results of an evaluation alone, unless it is that of the `model` or of no other run.

    Raises:
        ValueError: naming what differs from the run that is there.
    """
    is_models = model is not None and folder.resolve() == Path(model).resolve()
    if (folder / RUN_FILE).is_file() and not is_models and (differences := _differences_of_runs(folder, description)):
        raise ValueError(f"{folder} holds results of another run ({differences}). Choose another --output_dir.")


def claim_folder(training_args: TrainingArguments, description: dict[str, Any]) -> None:
    """Make the output folder this run's; `overwrite_output_dir` removes checkpoints, logs and results of the last."""
    folder = Path(training_args.output_dir)
    if training_args.overwrite_output_dir:
        for stale in [*_checkpoints(folder), folder / "runs"]:
            shutil.rmtree(stale, ignore_errors=True)
        for stale in folder.glob("*_results.json"):
            stale.unlink()
    write_json(folder / RUN_FILE, {"finished": False, "description": description})


def was_stopped(state: TrainerState) -> bool:
    """Whether training ended before its last step, on a signal (`enable_jit_checkpoint`), and is to go on later."""
    return state.global_step < state.max_steps


def warn_of_stop(state: TrainerState) -> None:
    """Say that training `was_stopped`, and what to do."""
    logger.warning(
        "Stopped at step %s of %s. Started again, the run goes on from there.", state.global_step, state.max_steps
    )


def finish_run(training_args: TrainingArguments) -> None:
    """Note in the output folder that its run has come to its end."""
    path = Path(training_args.output_dir) / RUN_FILE
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"finished": True})


def write_results(folder: Path, results: dict[str, dict[str, float]]) -> None:
    """Write the metrics of each split ("train", "eval") to its `<split>_results.json`, and to all_results.json."""
    path = folder / "all_results.json"
    together = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for split, metrics in results.items():
        write_json(folder / f"{split}_results.json", metrics)
        together |= metrics
    write_json(path, together)


def write_counts(folder: Path, counts: Mapping[str, Mapping[str, RowCounts]]) -> None:
    """Write what became of the documents, by role and source, to data.json."""
    content = {
        role: {label: asdict(counted) | {"efficiency": counted.efficiency} for label, counted in sources.items()}
        for role, sources in counts.items()
    }
    write_json(folder / "data.json", content)


def replace_pickled_arguments(folder: Path, training_args: TrainingArguments) -> None:
    """Replace the pickle that stock leaves beside the weights, with the user's token in it, by JSON without."""
    if (pickled := folder / TRAINING_ARGS_NAME).exists():
        pickled.unlink()
        (folder / "training_args.json").write_text(training_args.to_json_string() + "\n", encoding="utf-8")


def check_weights(folder: Path) -> Path:
    """
    Return `folder` if every safetensors file in it is as long as its header says.

    Raises:
        ValueError: naming the first file that is not.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or cut short ({error}).") from error
    return folder


def _holds_run(folder: Path) -> bool:
    """Whether there is a run in `folder`, which else has to be empty, so that nothing of a stranger's is removed."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    if not (folder / RUN_FILE).is_file():
        raise ValueError(f"{folder} is not empty and holds no run of this script. Choose another --output_dir.")
    return True


def _check_owner(folder: Path, description: dict[str, Any]) -> None:
    if differences := _differences_of_runs(folder, description):
        raise ValueError(
            f"{folder} holds another run ({differences}). Choose another --output_dir, or start anew in this one with "
            "--overwrite_output_dir."
        )
    if _read_record(folder)["finished"]:
        raise FinishedRunError(f"{folder} holds this very run, finished. --overwrite_output_dir repeats it.")


def _read_record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))


def _differences_of_runs(folder: Path, description: dict[str, Any]) -> str:
    """In what a run differs from that in `folder`, in words."""
    theirs = _read_record(folder)["description"]
    # Older ones do not say how they were trained.
    comparable = description if "training" in theirs else {k: v for k, v in description.items() if k != "training"}
    return "; ".join(_differences(theirs, comparable))


def _checkpoints(folder: Path) -> list[Path]:
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    return sorted((path for path, step in steps.items() if step), key=lambda path: int(path.name.split("-")[1]))


def _state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))


def _is_complete(checkpoint: Path) -> bool:
    try:
        _state(checkpoint)
    except (OSError, ValueError):
        return False
    return True


def _describe_recipe(recipe: DataRecipe) -> dict[str, Any]:
    """The recipe by content, its sources by name; texts on this machine are what they hold, wherever they lie."""
    sources = {source.label: asdict(source) for source in recipe.sources}
    for source in sources.values():
        del source["license"]  # a note
        source |= {"path": _digest(source["path"]), "data_files": _digest(source["data_files"])}
    return recipe.to_dict() | {"sources": sources}


def _digest(files: Any) -> Any:
    """In place of paths: a digest of a file, and of the names and sizes in a folder; else (a name) what was given."""
    if isinstance(files, dict):
        return {key: _digest(value) for key, value in files.items()}
    if isinstance(files, list):
        return [_digest(value) for value in files]
    path = Path(files or "")
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    if files and path.is_dir():
        inside = sorted(
            (str(item.relative_to(path)), item.stat().st_size) for item in path.rglob("*") if item.is_file()
        )
        return hashlib.blake2b(repr(inside).encode(), digest_size=16).hexdigest()
    return files


def _differences(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> list[str]:
    differences = []
    for key in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(key), ours.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            differences += _differences(there, here, f"{prefix}{key}.")
        elif there != here:
            differences.append(f"{prefix}{key} is {there!r} there and {here!r} here")
    return differences
