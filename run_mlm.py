# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Train a masked language model and evaluate it: a concept encoder, or any other `AutoModelForMaskedLM` as control.

    accelerate launch run_mlm.py recipes/nano.yaml
    accelerate launch run_mlm.py recipes/nano.yaml --preset mini --learning_rate 5e-4
    accelerate launch run_mlm.py recipes/nano.yaml --torch_compile --warm_up
    python run_mlm.py --preset nano --train_tokenizer_vocab_size 8192 --train_file text.txt --do_train --do_eval

`python run_mlm.py --help` lists every setting. Started again after an interruption, a run goes on from its last
complete checkpoint. With --warm_up nothing is trained but what will be compiled is, into a cache.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from evaluation_concept.errors import exit_code
from modeling_concept import register_auto_classes
from training_concept.arguments import ConceptTrainingArguments, DataArguments, ModelArguments, parse_arguments
from training_concept.build import build_config, build_model, build_tokenizer, check_length, note_length
from training_concept.data import load_documents, training_texts
from training_concept.logs import set_up_logging
from training_concept.masking import MaskingCollator, build_collator
from training_concept.mixture import EvenCollator, MixtureDataset, MixtureStream, rates_by_stage
from training_concept.publishing.card import LOSS_CURVE, has_code, loss_figure, write_card
from training_concept.publishing.pushing import push_run
from training_concept.recipes import DataRecipe, recipe_from_arguments
from training_concept.report import baseline_metrics, fill_masks, loading_code, print_report, results_table
from training_concept.rows import RunRows, build_rows, resolve_sequence_length, row_format
from training_concept.run import (
    check_results_folder,
    claim_folder,
    describe_run,
    find_checkpoint,
    finish_run,
    warn_of_stop,
    was_stopped,
    write_counts,
    write_results,
)
from training_concept.sources import AnyDataset
from training_concept.trainer import ConceptTrainer, decodes_positions, takes_documents
from training_concept.warmup import warm_up


def main(arguments: Sequence[str]) -> dict[str, float]:
    """
    Run the script with command-line `arguments`. Returns all metrics, none if training was stopped by a signal.

    Raises:
        ValueError, OSError: for what its user can put right; nothing is written or lost then.
        FinishedRunError: if the output folder holds this very run, finished.
    """
    model_args, data_args, training_args = parse_arguments(arguments, __doc__)
    if not (training_args.do_train or training_args.do_eval):
        raise ValueError("Nothing to do: ask for --do_train, --do_eval or both.")
    set_up_logging(training_args)
    register_auto_classes()
    config = build_config(model_args)
    description = describe_run(model_args, data_args, training_args, config)
    resumes = training_args.do_train and not training_args.warm_up
    checkpoint = find_checkpoint(training_args, description) if resumes else None
    if not training_args.do_train:
        check_results_folder(Path(training_args.output_dir), description, model_args.model_name_or_path)
    recipe = recipe_from_arguments(data_args)
    if recipe.streaming and training_args.do_train:
        _check_stream(data_args, training_args)
    documents, tokenizer = _load_texts(recipe, model_args, data_args, training_args)
    assert data_args.max_seq_length  # which texts and tokenizer have decided
    check_length(config, data_args.max_seq_length)
    if training_args.do_train:
        note_length(config, data_args.max_seq_length)
    set_seed(training_args.seed)
    model = build_model(model_args, config, tokenizer)
    with training_args.main_process_first():
        form = row_format(data_args, tokenizer, takes_documents(model))
        evaluates = training_args.do_eval or training_args.eval_strategy != "no"
        rows = build_rows(documents, tokenizer, form, data_args, evaluates)
    trainer = _build_trainer(model, tokenizer, rows, recipe, data_args, training_args)
    if training_args.warm_up:
        return warm_up(trainer)
    results = {}
    if training_args.do_train:
        if trainer.is_world_process_zero():
            claim_folder(training_args, description)
            write_counts(Path(training_args.output_dir), rows.counts)
        training = _train(trainer, checkpoint)
        if training is None:
            trainer.disconnect()
            return {}
        results["train"] = training
    if training_args.do_eval:
        results["eval"] = _evaluate(trainer, rows)
    metrics = {name: value for split in results.values() for name, value in split.items()}
    writes = trainer.is_world_process_zero()
    if writes:
        write_results(Path(training_args.output_dir), results)
        if training_args.do_train:
            _finish(trainer, model_args, data_args, metrics)
    # No process tears down what connects it while another still works, and an upload may outlast every time limit.
    trainer.accelerator.wait_for_everyone()
    trainer.disconnect()
    if writes and training_args.do_train and training_args.push_to_hub:
        push_run(training_args, Path(training_args.output_dir))
    return metrics


def _check_stream(data_args: DataArguments, training_args: ConceptTrainingArguments) -> None:
    """Refuse what needs the length of a stream, before any of it is read: evaluation may read hours of it."""
    if data_args.document_length_schedule:
        raise ValueError("--document_length_schedule is not for streams, whose length is not known.")
    # Of so many rows the length is known.
    if data_args.max_train_samples is not None:
        return
    if training_args.max_steps <= 0:
        raise ValueError("A stream needs --max_steps, since its length is not known.")
    if data_args.mlm_probability_schedule:
        raise ValueError("--mlm_probability_schedule is not for streams, whose length is not known.")


def _load_texts(
    recipe: DataRecipe, model_args: ModelArguments, data_args: DataArguments, training_args: ConceptTrainingArguments
) -> tuple[dict[str, dict[str, AnyDataset]], PreTrainedTokenizerBase]:
    with training_args.main_process_first():
        documents = load_documents(
            recipe,
            cache_dir=model_args.cache_dir,
            token=model_args.token,
            num_proc=data_args.preprocessing_num_workers,
        )
        if training_args.do_train and not any("train" in splits for splits in documents.values()):
            raise ValueError("There is nothing to train on: --do_train needs a training split or --train_file.")
        tokenizer = build_tokenizer(model_args, training_texts(documents), data_args.max_seq_length)
    data_args.max_seq_length = resolve_sequence_length(data_args.max_seq_length, tokenizer)
    return documents, tokenizer


def _build_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: RunRows,
    recipe: DataRecipe,
    data_args: DataArguments,
    training_args: ConceptTrainingArguments,
) -> ConceptTrainer:
    rates = rates_by_stage(data_args.mlm_probability_schedule or [data_args.mlm_probability], len(rows.train))
    seed = training_args.data_seed_or_seed
    train: MixtureDataset | MixtureStream | None = None
    if training_args.do_train and rows.streams:
        train = MixtureStream(rows.train[0], recipe.weights, seed, data_args.buffer_size(rows.format.length))
    elif training_args.do_train:
        train = MixtureDataset(rows.train, recipe.weights, len(rates))
    collator: MaskingCollator | EvenCollator = _build_collator(tokenizer, rows, rates, data_args, seed, model)
    if rows.streams and training_args.world_size > 1:
        collator = EvenCollator(collator, tokenizer.pad_token_id)
    return ConceptTrainer(
        model,
        training_args,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=MixtureDataset([rows.validation], num_stages=len(rates)) if rows.validation else None,
        processing_class=tokenizer,
    )


def _build_collator(
    tokenizer: PreTrainedTokenizerBase,
    rows: RunRows,
    rates: list[float],
    data_args: DataArguments,
    seed: int,
    model: PreTrainedModel,
) -> MaskingCollator:
    return build_collator(
        tokenizer,
        data_args,
        mlm_probability=rates,
        seed=seed,
        # Lines keep batches as short as they are, unless batches have to fit together.
        length=None if data_args.line_by_line and not rows.streams else rows.format.length,
        max_documents=rows.format.max_documents,
        vocab_size=len(model.get_input_embeddings().weight),
        gives_positions=decodes_positions(model),
    )


def _train(trainer: ConceptTrainer, checkpoint: Path | None) -> dict[str, float] | None:
    """Metrics of the training; `None` if it was stopped before its end, to go on later."""
    metrics = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    if was_stopped(trainer.state):
        warn_of_stop(trainer.state)
        return None
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    trainer.log_metrics("train", metrics)
    return metrics


def _evaluate(trainer: ConceptTrainer, rows: RunRows) -> dict[str, float]:
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero() and rows.train and not rows.streams:
        metrics |= baseline_metrics(rows, trainer.data_collator, trainer.processing_class)
    trainer.log_metrics("eval", metrics)
    return metrics


def _finish(
    trainer: ConceptTrainer, model_args: ModelArguments, data_args: DataArguments, metrics: dict[str, float]
) -> None:
    folder = Path(trainer.args.output_dir)
    loss_figure(trainer.state.log_history, metrics.get("eval_unigram_loss")).savefig(folder / LOSS_CURVE, dpi=120)
    table, examples = results_table(metrics), fill_masks(folder)
    write_card(trainer, data_args, metrics, table, examples, model_args.model_name_or_path)
    finish_run(trainer.args)
    print_report(table, examples, loading_code(str(folder), has_code(trainer.model)))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
