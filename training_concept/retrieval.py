# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Fine-tune an encoder to find the passages that answer queries, and score it on others.

    accelerate launch -m training_concept.retrieval recipes/retrieval/pairs.yaml --model_name_or_path outputs/nano \\
        --train_file train.jsonl --validation_file test.jsonl --output_dir outputs/retrieval
    python -m training_concept.retrieval --model_name_or_path outputs/nano --train_file train.jsonl \\
        --validation_file test.jsonl --output_dir outputs/retrieval --do_train --do_eval --late_interaction

A row of a file has a query, a passage that answers it, and maybe a list of passages that do not. Each query has to
pick its passage among those of all queries of the batch, on all devices (InfoNCE). Started again after it was
interrupted, a run goes on from its last complete checkpoint. What it saves encodes texts and loads in
sentence-transformers.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerControl, set_seed

from evaluation_concept.encode import load_encoder, load_tokenizer
from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from evaluation_concept.late_interaction import max_sim, pad_concepts
from evaluation_concept.retrieval import (
    PairColumns,
    RetrievalTask,
    evaluate_bm25,
    evaluate_encoder,
    markdown_table,
    read_pairs,
)
from evaluation_concept.states import random_encoder
from training_concept.arguments import ATTENTION_HELP, ConceptTrainingArguments, given_settings, parse_dataclasses
from training_concept.build import train_only
from training_concept.infonce import dot_products, info_nce, is_distributed
from training_concept.pairs import PairBatch, PairCollator, PairDataset
from training_concept.publishing.card import write_embedding_card
from training_concept.run import (
    check_results_folder,
    check_weights,
    claim_folder,
    describe_training,
    find_checkpoint,
    finish_run,
    write_results,
)
from training_concept.saving import SavingTrainer
from training_concept.trainer import check_fills_batch

# Settings that change nothing, or how fast it goes and not what is learned.
_IRRELEVANT = {"model_name_or_path", "train_file", "validation_file", "trust_remote_code", "attn_implementation"}
# Of what run_mlm.py can be told, this has a meaning here.
_SUPPORTED = {"ddp_find_unused_parameters", "logging_nan_inf_filter"}
_UNSUPPORTED = (
    *("torch_compile", "torch_compile_regions", "use_liger_kernel", "push_to_hub", "label_smoothing_factor", "muon"),
    *(name for name in ConceptTrainingArguments.__annotations__ if name not in _SUPPORTED),
)


@dataclass
class RetrievalArguments:
    """Which encoder to fine-tune, on which pairs, and how they are compared."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint to start from, with its tokenizer."})
    train_file: str | None = field(
        default=None, metadata={"help": "Pairs to train on: a JSON, CSV or Parquet file, or a dataset on the Hub."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Pairs to score on; every passage in it is a candidate for every query."}
    )
    query_column: str = field(default="query", metadata={"help": "Column of the queries."})
    passage_column: str = field(default="passage", metadata={"help": "Column of the passages that answer them."})
    negatives_column: str | None = field(
        default=None, metadata={"help": "Column of lists of passages that do not. Defaults to none."}
    )
    num_negatives: int = field(
        default=0, metadata={"help": "How many of them a query has beside the passages of other queries."}
    )
    max_query_length: int = field(default=64, metadata={"help": "Longer queries are cut to so many tokens."})
    max_passage_length: int = field(default=256, metadata={"help": "Longer passages are cut to so many tokens."})
    late_interaction: bool = field(
        default=False, metadata={"help": "Whether to compare concepts one by one instead of their mean."}
    )
    temperature: float = field(default=0.05, metadata={"help": "What scores are divided by in the loss."})
    trained_weights: str | None = field(
        default=None,
        metadata={
            "help": "Train only the weights whose names this regular expression finds, e.g. o_proj; the others stay "
            "those of the checkpoint, so that several fine-tuned models can share them."
        },
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether to run code that comes with the checkpoint."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": ATTENTION_HELP},
    )

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"--temperature {self.temperature} must be above 0.")
        if self.num_negatives < 0:
            raise ValueError(f"--num_negatives {self.num_negatives} must not be negative.")
        if self.num_negatives and not self.negatives_column:
            raise ValueError(f"--num_negatives {self.num_negatives} needs a --negatives_column.")

    @property
    def columns(self) -> PairColumns:
        """Where tables have what."""
        return PairColumns(self.query_column, self.passage_column, self.negatives_column)


class RetrievalTrainer(SavingTrainer):
    """
    `transformers.Trainer` for `ConceptEncoderForTextEncoding` on batches of `PairCollator`.

    Evaluation ranks all passages of a `RetrievalTask` (`eval_dataset`).
    """

    control: TrainerControl

    def __init__(
        self, model: PreTrainedModel, args: ConceptTrainingArguments, settings: RetrievalArguments, **kwargs: Any
    ) -> None:
        super().__init__(model, args, **kwargs)
        self.settings = settings
        # The loss is a mean over the batch: micro-batches are averaged.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: PairBatch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Mean loss of the queries in nats."""
        late = self.settings.late_interaction
        encode = self._concepts if late else lambda model, texts: model(**texts).embeddings
        return info_nce(
            encode(model, inputs["queries"]),
            encode(model, inputs["passages"]),
            temperature=self.settings.temperature,
            score=max_sim if late else dot_products,
            key_ids=inputs["key_ids"],
        )

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of `evaluate_encoder`, each with the prefix."""
        model = self.accelerator.unwrap_model(self.model)
        scores = score(model, self.processing_class, self.eval_dataset, self.settings)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: PairBatch) -> int:
        """Not counted: stock looks for `input_ids` at the top of a batch."""
        return 0

    def _concepts(self, model: torch.nn.Module, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings of concepts `[texts, C, H]`, with the same C on all processes."""
        concepts = model(**texts).concept_embeddings
        if not is_distributed():
            return concepts
        most = torch.tensor(concepts.shape[1], device=concepts.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return pad_concepts(concepts, int(most))


def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: RetrievalTask, settings: RetrievalArguments
) -> dict[str, float]:
    """Metrics of a model on a task, compared and cut as the settings say."""
    return evaluate_encoder(
        model,
        tokenizer,
        task,
        late_interaction=settings.late_interaction,
        max_query_length=settings.max_query_length,
        max_passage_length=settings.max_passage_length,
    )


def main(arguments: Sequence[str]) -> dict[str, dict[str, float]]:
    """
    Run the command with command-line `arguments`. Returns the metrics of each system that was scored.

    Raises:
        ValueError, OSError: for what its user can put right; nothing is written or lost then.
        FinishedRunError: if the output folder holds this very run, finished.
    """
    kinds = RetrievalArguments, ConceptTrainingArguments
    settings, args = parse_dataclasses(arguments, *kinds, description=__doc__)
    _check(settings, args)
    task = RetrievalTask.read(settings.validation_file, settings.columns) if args.do_eval else None
    pairs = None
    if args.do_train:
        pairs = PairDataset(read_pairs(settings.train_file, settings.columns), settings.num_negatives)
        check_fills_batch(pairs, args, "pairs")
    model, tokenizer = _load(settings)
    train_only(model, settings.trained_weights)
    description = _describe(settings, args, model, pairs, task)
    checkpoint = find_checkpoint(args, description) if args.do_train else None
    if not args.do_train:
        check_results_folder(Path(args.output_dir), description, settings.model_name_or_path)
    systems = _baselines(model.to(args.device), tokenizer, task, settings) if task else {}
    trainer = RetrievalTrainer(
        model,
        args,
        settings,
        data_collator=PairCollator(tokenizer, settings.max_query_length, settings.max_passage_length),
        train_dataset=pairs,
        eval_dataset=task,
        processing_class=tokenizer,
    )
    results: dict[str, dict[str, float]] = {}
    if pairs:
        results["train"] = _train(trainer, checkpoint, description)
    if task:
        results["eval"] = trainer.evaluate()
        systems["this model"] = {name.removeprefix("eval_"): value for name, value in results["eval"].items()}
    if trainer.is_world_process_zero():
        _finish(trainer, results, systems)
    trainer.accelerator.wait_for_everyone()
    trainer.disconnect()
    return systems


def _check(settings: RetrievalArguments, args: ConceptTrainingArguments) -> None:
    for wanted, path in (("do_train", settings.train_file), ("do_eval", settings.validation_file)):
        if getattr(args, wanted) and not path:
            raise ValueError(f"--{wanted} needs a --{'train' if wanted == 'do_train' else 'validation'}_file.")
    if not (args.do_train or args.do_eval):
        raise ValueError("Nothing to do: ask for --do_train, --do_eval or both.")
    given = given_settings(args)
    if wrong := [f"--{name}" for name in _UNSUPPORTED if name in given]:
        raise ValueError(f"{', '.join(wrong)} is not for retrieval.")
    # Keys are gathered, so that all processes have to have as many. The last layers serve masked words alone.
    args.dataloader_drop_last = True
    args.ddp_find_unused_parameters = True


def _load(settings: RetrievalArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, in float32, and tokenizer of the checkpoint to start from."""
    name, trust = settings.model_name_or_path, settings.trust_remote_code
    check_weights(Path(name))
    model = load_encoder(name, trust, dtype=torch.float32, attn_implementation=settings.attn_implementation)
    # CODEPATH: only `perceiver_v1` has learned positions, and with them a longest text.
    if model.config.position_embedding == "learned":
        longest = model.config.max_position_embeddings
        settings.max_query_length = min(settings.max_query_length, longest)
        settings.max_passage_length = min(settings.max_passage_length, longest)
    return model, load_tokenizer(name, trust)


def _describe(
    settings: RetrievalArguments,
    args: ConceptTrainingArguments,
    model: PreTrainedModel,
    pairs: PairDataset | None,
    task: RetrievalTask | None,
) -> dict[str, Any]:
    """What two starts must agree on to be one run, as JSON values."""
    start = sum(float(values.double().abs().sum()) for values in model.state_dict().values())
    description = {
        "settings": {name: value for name, value in asdict(settings).items() if name not in _IRRELEVANT},
        "start": f"{start:.10e}",
        "pairs": pairs.digest() if pairs else None,
        "candidates": len(task.passages) if task else None,
        "training": describe_training(args, compares_rows=True),
        "seed": args.seed,
        "data_seed": args.data_seed,
    }
    return json.loads(json.dumps(description, default=str))


def _baselines(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: RetrievalTask, settings: RetrievalArguments
) -> dict[str, dict[str, float]]:
    """Metrics of BM25, of a model with random weights and of the one to start from."""
    return {
        "BM25": evaluate_bm25(task),
        "random weights": score(random_encoder(model), tokenizer, task, settings),
        "before": score(model, tokenizer, task, settings),
    }


def _train(trainer: RetrievalTrainer, checkpoint: Path | None, description: dict[str, Any]) -> dict[str, float]:
    if trainer.is_world_process_zero():
        claim_folder(trainer.args, description)
    set_seed(trainer.args.seed)
    metrics = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    return metrics


def _finish(
    trainer: RetrievalTrainer, results: dict[str, dict[str, float]], systems: dict[str, dict[str, float]]
) -> None:
    folder, task = Path(trainer.args.output_dir), trainer.eval_dataset
    write_results(folder, results)
    content: dict[str, Any] = {}
    table = markdown_table(systems) if systems else ""
    if systems:
        content = {"queries": len(task.queries), "passages": len(task.passages), **systems}
        write_json(folder / "retrieval.json", content)
        print(f"\n{len(task.queries):,} queries, {len(task.passages):,} passages\n\n{table}")
    if "train" in results:
        write_embedding_card(trainer, *_facts(trainer.settings), content, table)
        finish_run(trainer.args)


def _facts(settings: RetrievalArguments) -> tuple[str, dict[str, str]]:
    """What a model card says of the settings: what the model was made from, and how."""
    return settings.model_name_or_path, {
        "Trained weights": f"`{settings.trained_weights}`" if settings.trained_weights else "all",
        "Temperature": f"{settings.temperature:g}",
        "Lengths": f"queries {settings.max_query_length}, passages {settings.max_passage_length} tokens",
    }


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
