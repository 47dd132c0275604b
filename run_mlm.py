# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Train a masked language model and evaluate it: a concept encoder, or any other `AutoModelForMaskedLM` as control.

    accelerate launch run_mlm.py recipes/nano.yaml
    accelerate launch run_mlm.py recipes/nano.yaml --preset mini --learning_rate 5e-4
    python run_mlm.py --preset nano --train_tokenizer_vocab_size 8192 --train_file text.txt --do_train --do_eval

`python run_mlm.py --help` lists every setting. Started again after an interruption, a run goes on from its last
complete checkpoint.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import datasets
import transformers
from datasets import DatasetDict, IterableDatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from configuration_concept import export_code
from modeling_concept import register_auto_classes
from training_concept.arguments import ConceptTrainingArguments, DataArguments, ModelArguments, parse_arguments
from training_concept.build import build_config, build_model, build_tokenizer, check_length
from training_concept.data import load_text_datasets, resolve_sequence_length, tokenize_and_chunk, with_epochs
from training_concept.errors import exit_code
from training_concept.masking import MaskingCollator
from training_concept.publish import LOSS_CURVE, has_code, loss_figure, push, write_card
from training_concept.report import baseline_metrics, fill_masks, loading_code, print_report, results_table
from training_concept.run import claim_folder, describe_run, find_checkpoint, finish_run, write_results
from training_concept.trainer import ConceptTrainer


def main(arguments: Sequence[str]) -> dict[str, float]:
    """
    Run the script with command-line `arguments`. Returns all metrics.

    Raises:
        ValueError, OSError: for what its user can put right; nothing is written or lost then.
        FinishedRunError: if the output folder holds this very run, finished.
    """
    model_args, data_args, training_args = parse_arguments(arguments)
    if not (training_args.do_train or training_args.do_eval):
        raise ValueError("Nothing to do: ask for --do_train, --do_eval or both.")
    _set_up_logging(training_args)
    register_auto_classes()
    config = build_config(model_args)
    description = describe_run(model_args, data_args, training_args, config)
    checkpoint = find_checkpoint(training_args, description) if training_args.do_train else None
    rows, tokenizer = _load_rows(model_args, data_args, training_args)
    check_length(config, data_args.max_seq_length)
    set_seed(training_args.seed)
    model = build_model(model_args, config, tokenizer)
    trainer = _build_trainer(model, tokenizer, rows, data_args, training_args)
    results = {}
    if training_args.do_train:
        if trainer.is_world_process_zero():
            claim_folder(training_args, description)
        results["train"] = _train(trainer, checkpoint)
    if training_args.do_eval:
        results["eval"] = _evaluate(trainer, rows)
    metrics = {name: value for split in results.values() for name, value in split.items()}
    writes = trainer.is_world_process_zero()
    if writes:
        write_results(Path(training_args.output_dir), results)
        if training_args.do_train:
            _finish(trainer, data_args, metrics)
    # No process tears down what connects it while another still works, and an upload may outlast every time limit.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    if writes and training_args.do_train and training_args.push_to_hub:
        push(trainer)
    return metrics


def _set_up_logging(training_args: ConceptTrainingArguments) -> None:
    for library in (datasets, transformers):
        library.utils.logging.set_verbosity(training_args.get_process_log_level())


def _load_rows(
    model_args: ModelArguments, data_args: DataArguments, training_args: ConceptTrainingArguments
) -> tuple[DatasetDict | IterableDatasetDict, PreTrainedTokenizerBase]:
    with training_args.main_process_first():
        texts = load_text_datasets(data_args, cache_dir=model_args.cache_dir, token=model_args.token)
        if training_args.do_train and "train" not in texts:
            raise ValueError("There is nothing to train on: --do_train needs a training split or --train_file.")
        training_texts = (row["text"] for row in texts.get("train", ()))
        tokenizer = build_tokenizer(model_args, training_texts, data_args.max_seq_length)
        data_args.max_seq_length = resolve_sequence_length(data_args.max_seq_length, tokenizer)
        return tokenize_and_chunk(texts, tokenizer, data_args), tokenizer


def _build_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: DatasetDict | IterableDatasetDict,
    data_args: DataArguments,
    training_args: ConceptTrainingArguments,
) -> ConceptTrainer:
    collator = MaskingCollator(
        tokenizer,
        mlm_probability=data_args.mlm_probability,
        mask_replace_prob=data_args.mask_replace_prob,
        random_replace_prob=data_args.random_replace_prob,
        seed=training_args.seed if training_args.data_seed is None else training_args.data_seed,
        vocab_size=model.get_input_embeddings().weight.shape[0],
    )
    return ConceptTrainer(
        model,
        training_args,
        data_collator=collator,
        train_dataset=with_epochs(rows["train"]) if training_args.do_train else None,
        eval_dataset=with_epochs(rows["validation"]) if "validation" in rows else None,
        processing_class=tokenizer,
    )


def _train(trainer: ConceptTrainer, checkpoint: Path | None) -> dict[str, float]:
    if has_code(trainer.model) and trainer.is_world_process_zero():
        # Uploads in mid-training take the weights from checkpoints, and leave their code behind.
        export_code(trainer.args.output_dir)
    metrics = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    trainer.log_metrics("train", metrics)
    return metrics


def _evaluate(trainer: ConceptTrainer, rows: DatasetDict | IterableDatasetDict) -> dict[str, float]:
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero() and isinstance(rows, DatasetDict) and "train" in rows:
        metrics |= baseline_metrics(rows, trainer.data_collator, trainer.processing_class)
    trainer.log_metrics("eval", metrics)
    return metrics


def _finish(trainer: ConceptTrainer, data_args: DataArguments, metrics: dict[str, float]) -> None:
    folder = Path(trainer.args.output_dir)
    loss_figure(trainer.state.log_history, metrics.get("eval_unigram_loss")).savefig(folder / LOSS_CURVE, dpi=120)
    table, examples = results_table(metrics), fill_masks(folder)
    write_card(trainer, data_args, metrics, table, examples)
    finish_run(trainer.args)
    print_report(table, examples, loading_code(str(folder), has_code(trainer.model)))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
