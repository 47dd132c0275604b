# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Model cards: of a masked-LM run with its loss curve, and the least that a checkpoint without one needs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from matplotlib.figure import Figure
from transformers import PreTrainedModel, Trainer

from configuration_concept import ConceptEncoderConfig
from evaluation_concept.files import draft
from training_concept.arguments import ConceptTrainingArguments, DataArguments
from training_concept.publishing.contents import CARD
from training_concept.recipes import PACKAGE_PREFIX, Source, recipe_from_arguments
from training_concept.report import loading_code

TEMPLATES = Path(__file__).parents[2] / "model_cards"
LOSS_CURVE = "loss_curve.png"
# More texts than that are listed below one another.
MOST_IN_A_SENTENCE = 3
PIPELINES = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
}
METRICS = {"loss": "Masked-token loss (nats)", "accuracy": "Accuracy", "perplexity": "Perplexity"}


def has_code(model: PreTrainedModel) -> bool:
    """Whether a checkpoint of `model` carries its own code."""
    return model.config.model_type == ConceptEncoderConfig.model_type


def loss_figure(log_history: list[dict[str, float]], unigram_loss: float | None) -> Figure:
    """Training and evaluation loss over the steps of `log_history`, and the unigram loss as a line (nats)."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per masked token)")
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "evaluation", "o-")):
        points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, markersize=3, label=label)
    if unigram_loss is not None:
        axes.axhline(unigram_loss, color="grey", linestyle="--", label="unigram")
    if axes.lines:
        axes.legend()
    return figure


def hub_base(base_model: str | None) -> str | None:
    """The checkpoint that a model was made from, as metadata name it: no folder, which nobody else could look at."""
    return base_model if base_model and not Path(base_model).expanduser().exists() else None


def base_name(base_model: str) -> str:
    """The same as texts name it: a folder by its own name, since where it lies is nobody else's business."""
    return hub_base(base_model) or Path(base_model).expanduser().resolve().name


def write_card(
    trainer: Trainer,
    data_args: DataArguments,
    metrics: dict[str, float],
    table: str,
    examples: list[tuple[str, str]],
    base_model: str | None = None,
) -> ModelCard:
    """
    Write the model card of a finished run as README.md of its output folder: figures, usage, settings.

    Args:
        trainer: that trained it.
        data_args: which texts on.
        metrics: of training and evaluation.
        table: of the metrics, beside those of baselines.
        examples: sentences and how the model fills them in.
        base_model: checkpoint whose pretraining the run continued.
    """
    args, model = trainer.args, trainer.model
    name = trainer.hub_model_id or Path(args.output_dir).resolve().name
    concepts = _describe_concepts(model)
    rates = data_args.mlm_probability_schedule or [data_args.mlm_probability]
    card = ModelCard.from_template(
        _card_data(args, data_args, name, metrics, bool(concepts), base_model),
        template_path=str(TEMPLATES / "masked_lm.md"),
        title=name,
        concepts=concepts,
        model_type=model.config.model_type,
        base_model=base_name(base_model) if base_model else None,
        parameters=model.num_parameters(),
        loading_code=loading_code(name, trust_remote_code=bool(concepts)),
        example_code=_example_code(examples),
        masking=f"{rates[-1]:.0%} of a row's tokens",
        evaluation_data=_evaluation_data(data_args),
        results_table=table,
        loss_curve=LOSS_CURVE,
        examples=[(sentence, guesses.replace("|", r"\|")) for sentence, guesses in examples],
        training_data=_training_data(data_args, Path(args.output_dir)),
        settings=_settings(trainer, data_args, metrics),
    )
    save_card(card, Path(args.output_dir))
    return card


def write_minimal_card(folder: Path, repo_id: str) -> None:
    """Write a card of what a checkpoint's own files tell: what it is, how to load it, and that the rest is unknown."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    is_concept = config["model_type"] == ConceptEncoderConfig.model_type
    architecture = (config.get("architectures") or [""])[0]
    heads = (name for name in PIPELINES if name in architecture)
    auto_class = next(heads, "")
    card = ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            pipeline_tag=PIPELINES.get(auto_class, "feature-extraction"),
            tags=["encoder"] + (["concept-encoder", "custom_code"] if is_concept else []),
        ),
        template_path=str(TEMPLATES / "checkpoint.md"),
        title=repo_id,
        architecture=architecture,
        auto_class=f"AutoModel{auto_class}",
        has_code=is_concept,
    )
    save_card(card, folder)


def write_embedding_card(
    trainer: Trainer, base_model: str, settings: Mapping[str, str], task: Mapping[str, Any], table: str
) -> ModelCard:
    """
    Write the model card of an encoder that was fine-tuned on pairs as README.md of its output folder.

    Args:
        trainer: that trained it.
        base_model: name of what it was fine-tuned from.
        settings: what was special about it, beside the settings of every training.
        task: how many `queries` and `passages` it was scored on, and the metrics of `this model`; may be empty.
        table: of the scores of all systems.
    """
    name = trainer.hub_model_id or Path(trainer.args.output_dir).resolve().name
    results = [
        EvalResult(
            task_type="sentence-similarity",
            dataset_type="pairs",
            dataset_name="held-out pairs",
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for metric, value in task.get("this model", {}).items()
        if metric != "epoch"
    ]
    card = ModelCard.from_template(
        ModelCardData(
            language=trainer.args.language,
            license=trainer.args.license,
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            tags=["sentence-transformers", "concept-encoder", "custom_code"],
            base_model=hub_base(base_model),
            model_name=name,
            eval_results=results or None,
        ),
        template_path=str(TEMPLATES / "text_embedding.md"),
        title=name,
        base_model=base_name(base_model),
        queries=f"{task.get('queries', 0):,}",
        passages=f"{task.get('passages', 0):,}",
        results_table=table,
        settings=_optimisation(trainer) | dict(settings),
    )
    save_card(card, Path(trainer.args.output_dir))
    return card


def save_card(card: ModelCard, folder: Path) -> None:
    """Write a card as README.md of `folder`, whole or not at all."""
    with draft(folder / CARD) as path:
        card.save(path)


def name_card(folder: Path, name: str, repo_id: str) -> None:
    """
    If the card in `folder` calls the model by the `name` of a folder, call it by its repository.

    Raises:
        ValueError: the card's metadata cannot be read.
    """
    path = folder / CARD
    if not path.is_file():
        return
    try:
        ModelCard.load(path)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{CARD}: its metadata cannot be read ({error}).") from error
    text = rename_in_card(path.read_text(encoding="utf-8"), name, repo_id, repo_id)
    with draft(path) as draft_path:
        draft_path.write_text(text, encoding="utf-8")


def rename_in_card(text: str, name: str, title: str, address: str) -> str:
    """The text of a card that calls the model `title` in place of `name`, and loads it from `address` in its code."""
    text = re.sub(rf"^(# |- name: ){re.escape(name)}$", lambda found: found[1] + title, text, flags=re.MULTILINE)
    return name_in_code(text, name, address)


def name_in_code(text: str, name: str, new_name: str) -> str:
    """The text of a card whose code loads `new_name` in place of the folder called `name`, wherever that lay."""
    calls = rf'(model=|from_pretrained\(|SentenceTransformer\()"(?:[^"\s]*/)?{re.escape(name)}"'
    return re.sub(calls, lambda found: f'{found[1]}"{new_name}"', text)


def dataset_identity(source: Source) -> tuple[str | None, str]:
    """The id of the source's dataset on the Hub, `None` for text from elsewhere, and a short name for it."""
    path = source.path
    if path is None or path.startswith(PACKAGE_PREFIX) or Path(path).exists():
        return None, source.label
    return path, path


def _card_data(
    args: ConceptTrainingArguments,
    data_args: DataArguments,
    name: str,
    metrics: dict[str, float],
    has_code: bool,
    base_model: str | None,
) -> ModelCardData:
    identities = [dataset_identity(source) for source in recipe_from_arguments(data_args).sources]
    names = ", ".join(short_name for _, short_name in identities)
    results = [
        EvalResult(
            task_type="fill-mask",
            dataset_type=names,
            dataset_name=names,
            dataset_split=data_args.validation_split,
            metric_type=metric,
            metric_name=label,
            metric_value=round(metrics[f"eval_{metric}"], 4),
        )
        for metric, label in METRICS.items()
        if f"eval_{metric}" in metrics
    ]
    return ModelCardData(
        language=args.language,
        license=args.license,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["masked-lm", "encoder"] + (["concept-encoder", "custom_code"] if has_code else []),
        datasets=[hub_id for hub_id, _ in identities if hub_id] or None,
        base_model=hub_base(base_model),
        metrics=["accuracy", "perplexity"],
        model_name=name,
        eval_results=results or None,
    )


def _describe_concepts(model: PreTrainedModel) -> dict[str, Any] | None:
    if not has_code(model):
        return None
    sees = {
        "hybrid": "family *hybrid*: the decoder also sees token states near the position it predicts",
        "bottleneck": "family *bottleneck*: the decoder sees nothing else",
    }
    number = (
        f"about N / {model.config.concept_ratio}"
        if model.config.concept_init == "anchored"
        else model.config.num_concepts
    )
    return {"number": number, "decoder": sees[model.config.family]}


def _example_code(examples: list[tuple[str, str]]) -> str:
    return "\n".join(f'fill("{sentence}")' for sentence, _ in examples[:1])


def _training_data(data_args: DataArguments, folder: Path) -> str:
    """What was trained on. What a recipe names for evaluation alone is not in the run's counts; a stream has none."""
    if data_args.train_file:
        return f"the file {Path(data_args.train_file).name}."
    recipe = recipe_from_arguments(data_args)
    counts = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    sources = [source for source in recipe.sources if source.label in counts.get("train", {})] or [*recipe.sources]
    weights = recipe.weights
    trained = {source.label: weights[source.label] for source in sources} if weights else None
    if len(sources) <= MOST_IN_A_SENTENCE:
        return "; ".join(_describe_source(source, trained) for source in sources) + "."
    head = "the training splits of these.\n\n| text | share of the rows | licence |\n|---|---:|---|\n"
    shares = [f"{_share(source, trained):.1%}" if trained else "by size" for source in sources]
    return head + "\n".join(
        f"| {_link(source)} | {share} | {source.license or 'not stated'} |"
        for source, share in zip(sources, shares, strict=True)
    )


def _describe_source(source: Source, weights: Mapping[str, float] | None) -> str:
    share = f"{_share(source, weights):.0%} of the rows" if weights else ""
    notes = ", ".join(filter(None, (source.name, share, source.license)))
    return f"the training split of {_link(source)}" + (f" ({notes})" if notes else "")


def _link(source: Source) -> str:
    hub_id, short_name = dataset_identity(source)
    return f"[{hub_id}](https://huggingface.co/datasets/{hub_id})" if hub_id else f"`{short_name}`"


def _share(source: Source, weights: Mapping[str, float]) -> float:
    return weights[source.label] / sum(weights.values())


def _evaluation_data(data_args: DataArguments) -> str:
    if data_args.validation_file:
        return f"the file {Path(data_args.validation_file).name}"
    names = [dataset_identity(source)[1] for source in recipe_from_arguments(data_args).sources]
    if len(names) > MOST_IN_A_SENTENCE:
        return f"the {data_args.validation_split} splits of {len(names)} texts"
    return f"the {data_args.validation_split} split of {', '.join(names)}"


def _settings(trainer: Trainer, data_args: DataArguments, metrics: dict[str, float]) -> dict[str, str]:
    settings = _optimisation(trainer)
    settings["Rows a step"] += f" of up to {data_args.max_seq_length} tokens"
    if "train_tokens_per_second" in metrics:
        settings["Speed"] = (
            f"{metrics['train_tokens_per_second']:,.0f} tokens/s on {trainer.args.world_size} x "
            f"{_device_name(trainer.args.device)}, {metrics['train_runtime']:,.0f} s in all"
        )
    return settings


def _optimisation(trainer: Trainer) -> dict[str, str]:
    args = trainer.args
    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    optimizer = f"Muon for matrices of linear layers, {args.optim.value}" if args.muon else args.optim.value
    return {
        "Steps": f"{trainer.state.global_step:,}",
        "Rows a step": f"{rows:,}",
        "Learning rate": f"{args.learning_rate:g}, {args.lr_scheduler_type.value}, warm-up {args.warmup_steps:g}",
        "Optimizer": f"{optimizer}, betas {args.adam_beta1:g} and {args.adam_beta2:g}, "
        f"weight decay {args.weight_decay:g}",
        "Precision": args.mixed_precision if args.bf16 or args.fp16 else "fp32",
        "Seed": str(args.seed),
        "Versions": f"transformers {transformers.__version__}, torch {transformers.utils.get_torch_version()}",
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
