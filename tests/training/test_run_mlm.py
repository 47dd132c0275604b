# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`run_mlm.py` from settings to results: what a run leaves, what continues it, and the settings it honours."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

import run_mlm
from tests.training.tiny_run import BERT, CONCEPT, arguments, logged, record_batches, settings, train, write_text
from training_concept import arguments as arguments_module
from training_concept.arguments import ConceptTrainingArguments, ModelArguments, computes_in_bf16, parse_arguments
from training_concept.build import build_config, build_model
from training_concept.tokenization import train_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(folder, max_steps=4, eval_strategy="steps", eval_steps=2, report_to="tensorboard")


def continued(folder: Path, checkpoint: Path, **changes) -> dict[str, float]:
    scratch = {"preset": None, "config_overrides": None, "train_tokenizer_vocab_size": None}
    return train(folder, model_name_or_path=str(checkpoint), **scratch | changes)


def test_a_run_leaves_a_whole_folder(finished):
    folder, metrics = finished
    output = folder / "out"
    files = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "modeling_concept.py", "README.md"} <= files
    assert (output / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((output / "runs").rglob("events.out.tfevents.*"))
    assert sorted(logged(output, "eval_loss")) == [2, 4]
    written = {name: json.loads((output / f"{name}_results.json").read_text()) for name in ("train", "eval", "all")}
    assert written["all"] == written["train"] | written["eval"] == metrics
    assert not [name for name in files if name.startswith(".")]


def test_a_model_says_how_long_its_rows_were(tmp_path):
    shorter = CONCEPT["config_overrides"] + ",max_position_embeddings=16"
    train(tmp_path, max_steps=1, do_eval=False, config_overrides=shorter)
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["max_position_embeddings"] == 64


def test_the_results_stand_beside_those_of_baselines(finished):
    _, metrics = finished
    for name in ("", "unigram_", "bag_of_words_"):
        assert metrics[f"eval_{name}perplexity"] == pytest.approx(
            torch.tensor(metrics[f"eval_{name}loss"]).exp().item()
        )
        assert 0 <= metrics[f"eval_{name}accuracy"] <= 1
    assert metrics["eval_bag_of_words_loss"] <= metrics["eval_unigram_loss"] + 0.05


def test_the_report_shows_figures_guesses_and_how_to_load(tmp_path, capsys):
    metrics = train(tmp_path)
    printed = capsys.readouterr().out
    assert f"| this model | {metrics['eval_loss']:.3f} |" in printed
    assert f"| unigram | {metrics['eval_unigram_loss']:.3f} |" in printed
    assert printed.count("[MASK]") == 3
    code = printed[printed.index("from transformers import pipeline") :].strip()
    assert len(code.splitlines()) == 2
    scope: dict = {}
    exec(code, scope)
    assert len(scope["fill"]("We must work for [MASK].")) == 5


def test_evaluating_a_checkpoint_gives_its_figures_and_trains_nothing(tmp_path, finished):
    folder, metrics = finished
    weights = (folder / "out" / "model.safetensors").read_bytes()
    evaluation = continued(folder, folder / "out", do_train=False, output_dir=str(tmp_path / "evaluation"))
    assert evaluation["eval_loss"] == pytest.approx(metrics["eval_loss"], abs=1e-6)
    assert evaluation["eval_unigram_loss"] == metrics["eval_unigram_loss"]
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == {"eval_results.json", "all_results.json"}
    assert (folder / "out" / "model.safetensors").read_bytes() == weights


def test_training_goes_on_from_a_checkpoint(tmp_path, finished):
    folder, _ = finished
    continued(tmp_path, folder / "out", learning_rate=0.0, do_eval=False)
    weights, before = (load_file(path / "out" / "model.safetensors") for path in (tmp_path, folder))
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_a_stock_model_runs_as_control(tmp_path, finished):
    metrics = train(tmp_path, "bert")
    assert metrics["eval_loss"] > 0
    # The control is measured against the same baselines, on the same masks.
    assert metrics["eval_unigram_loss"] == finished[1]["eval_unigram_loss"]
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.model_type == "bert"


def test_a_new_model_fits_its_tokenizer(tmp_path):
    special = {"mask_token": "<m>", "pad_token": "<p>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<u>"}
    vocabulary = {token: index for index, token in enumerate([" ", *special.values(), *"abcdefghijklmnop"])}
    characters = Tokenizer(WordLevel(vocabulary, unk_token="<u>"))
    characters.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, model_max_length=64, **special)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    train(tmp_path, train_tokenizer_vocab_size=None, tokenizer_name=str(tmp_path / "tokenizer"))
    config = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config
    assert config.vocab_size == len(vocabulary)
    assert (config.mask_token_id, config.pad_token_id, config.sep_token_id, config.cls_token_id) == (1, 2, 3, 4)


@pytest.mark.parametrize(("wanted", "size"), [(280, 300), (512, 512)])
def test_embeddings_grow_to_the_tokenizer_and_may_be_more(tmp_path, wanted, size):
    train(tmp_path, "bert", config_overrides=f"{BERT['config_overrides']},vocab_size={wanted}", do_eval=False)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.vocab_size == size


def test_masking_follows_its_settings(tmp_path, monkeypatch):
    batches = record_batches(monkeypatch)
    train(
        tmp_path,
        mlm_probability=0.5,
        masked_tokens="mask",
        mask_replace_prob=0.8,
        random_replace_prob=0.1,
    )
    labelled = batches[0]["labels"] != -100
    masked = batches[0]["input_ids"] == 4
    assert labelled.sum(1).tolist() == [32] * 5
    assert 0.6 < masked.sum() / labelled.sum() < 0.95
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.masked_tokens == "mask"


def test_lines_of_different_lengths_are_rows(tmp_path):
    (tmp_path / "short.txt").write_text("".join(f"{'ab ' * n}\n" for n in range(1, 21)))
    metrics = train(
        tmp_path,
        packing=None,
        line_by_line=True,
        train_file=str(tmp_path / "short.txt"),
        num_train_epochs=1,
        max_steps=-1,
    )
    assert len(logged(tmp_path / "out")) == 4
    assert metrics["eval_loss"] > 0


def test_a_stream_is_trained_on_for_as_many_steps_as_wanted(tmp_path):
    metrics = train(tmp_path, streaming=True, max_steps=8)
    assert len(logged(tmp_path / "out")) == 8
    assert metrics["eval_loss"] > 0
    assert "eval_unigram_loss" not in metrics


def test_a_concept_encoder_trains_on_packed_documents_in_one_shape(tmp_path, monkeypatch):
    batches = record_batches(monkeypatch)
    (tmp_path / "train.txt").write_text("".join(f"{'ab ' * (number % 30 + 1)}\n" for number in range(99)))
    metrics = train(tmp_path, packing=None, max_documents_per_row=5, max_steps=4)
    shapes = {"input_ids": (5, 64), "labels": (5, 64), "masked_positions": (5, 19), "document_lengths": (5, 5)}
    assert all({name: tuple(tensor.shape) for name, tensor in batch.items()} == shapes for batch in batches)
    assert any((batch["document_lengths"] > 0).sum(1).max() > 2 for batch in batches)
    assert metrics["eval_bag_of_words_loss"] > 0
    counts = json.loads((tmp_path / "out" / "data.json").read_text())
    assert (counts["train"]["train"]["documents"], counts["train"]["train"]["blank"]) == (99, 0)
    assert 0.9 < counts["train"]["train"]["efficiency"] <= 1


def test_a_stock_model_gets_rows_without_documents(tmp_path, monkeypatch):
    batches = record_batches(monkeypatch)
    train(tmp_path, "bert", packing=None, do_eval=False)
    assert all("document_lengths" not in batch for batch in batches)


def test_a_stock_model_of_bounded_length_gets_no_row_that_is_longer(tmp_path, monkeypatch):
    batches = record_batches(monkeypatch)
    # Every other token is a separator, which is never masked.
    (tmp_path / "letters.txt").write_text("a\n" * 400)
    letters = {"train_file": str(tmp_path / "letters.txt"), "mlm_probability": 0.7}
    train(tmp_path, "bert", max_steps=1, do_eval=False, **letters)
    assert batches[0]["input_ids"].shape == (5, 64)
    assert set((batches[0]["labels"] != -100).sum(1).tolist()) <= {31, 32}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_recipe_mixes_sources_that_are_evaluated_one_by_one(tmp_path, streaming):
    for seed, name in enumerate("ab"):
        write_text(tmp_path / f"{name}.txt", lines=20, seed=seed)
    sources = {name: {"path": str(tmp_path / f"{name}.txt"), "weight": seed} for seed, name in enumerate("ab", 1)}
    recipe = {"sources": sources, "streaming": streaming, "validation_split_percentage": 20}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    given = {"data_recipe": str(tmp_path / "recipe.yaml"), "train_file": None, "validation_file": None}
    metrics = train(tmp_path, packing=None, **given)
    assert min(metrics["eval_a_loss"], metrics["eval_b_loss"]) < metrics["eval_loss"]
    assert metrics["eval_loss"] < max(metrics["eval_a_loss"], metrics["eval_b_loss"])
    assert ("eval_unigram_loss" in metrics) != streaming
    assert (
        "`a` (33% of the rows); the training split of `b` (67% of the rows)"
        in (tmp_path / "out" / "README.md").read_text()
    )


@pytest.mark.parametrize("scheme", ["whole_word", "span"])
def test_the_masking_scheme_is_a_setting(tmp_path, monkeypatch, scheme):
    batches = record_batches(monkeypatch)
    train(tmp_path, masking_scheme=scheme, span_distribution="uniform", min_span_length=3, max_steps=1, do_eval=False)
    positions = batches[0]["masked_positions"]
    neighbours = (positions.diff(dim=1) == 1).float().mean()
    assert neighbours > 0.5  # of single tokens about three in ten


def test_the_masking_rate_can_change_in_mid_training(tmp_path, monkeypatch):
    batches = record_batches(monkeypatch)
    train(tmp_path, mlm_probability_schedule=[0.5, 0.25], max_steps=8, do_eval=False)
    counts = [(batch["labels"] != -100).sum(1).tolist() for batch in batches]
    assert counts[:4] == [[32] * 5] * 4
    assert counts[4:] == [[16] * 5, [16], [16] * 5, [16] * 5]


@pytest.mark.parametrize("drops_last", [False, True])
def test_stages_have_equal_parts_of_the_steps_where_epochs_end_in_small_ones(tmp_path, monkeypatch, drops_last):
    batches = record_batches(monkeypatch)
    shape = {"per_device_train_batch_size": 10, "gradient_accumulation_steps": 2, "dataloader_drop_last": drops_last}
    train(tmp_path, mlm_probability_schedule=[0.1, 0.2, 0.4, 0.6], max_steps=8, do_eval=False, **shape)
    counts = [set((batch["labels"] != -100).sum(1).tolist()) for batch in batches]
    # Two steps a stage: of 10 + 10 and of 6 rows, or two of 10 + 10.
    assert counts == [{count} for count in (6, 13, 26, 38) for _ in range(4 if drops_last else 3)]


def test_samples_are_limited(tmp_path):
    train(tmp_path, max_train_samples=5, max_eval_samples=2, max_steps=-1, num_train_epochs=1, do_eval=False)
    assert len(logged(tmp_path / "out")) == 1


SCHEDULES = {
    "cosine": ({"warmup_steps": 2}, [0, 0.5, 1, 0.8536, 0.5, 0.1464]),
    "warmup_stable_decay": (
        {"warmup_steps": 2, "lr_scheduler_kwargs": {"num_decay_steps": 2, "decay_type": "linear"}},
        [0, 0.5, 1, 1, 1, 0.5],
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_come_from_a_settings_file(tmp_path, schedule):
    extra, factors = SCHEDULES[schedule]
    changes = extra | {"lr_scheduler_type": schedule, "max_steps": 6, "learning_rate": "1e-2", "do_eval": False}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(tmp_path, **changes)))
    run_mlm.main([str(tmp_path / "run.yaml")])
    rates = logged(tmp_path / "out", "learning_rate")
    assert [rates[step] for step in range(1, 7)] == pytest.approx([0.01 * factor for factor in factors], abs=1e-6)


def test_the_command_line_overrides_a_settings_file(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(settings(tmp_path, seed=1, bf16=True)))
    _, data_args, training_args = parse_arguments([str(tmp_path / "run.json"), "--seed", "2", "--bf16", "False"])
    assert (training_args.seed, training_args.bf16, data_args.max_seq_length) == (2, False, 64)


def test_a_settings_file_says_more_than_a_command_line_can(tmp_path):
    said = {"lr_scheduler_kwargs": {"num_cycles": 2}, "report_to": ["none"], "save_total_limit": None, "muon": True}
    said["mlm_probability_schedule"] = [0.5, 0.3]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(tmp_path) | said))
    _, data_args, args = parse_arguments([str(tmp_path / "run.yaml")])
    assert (args.lr_scheduler_kwargs, args.save_total_limit, args.muon) == ({"num_cycles": 2}, None, True)
    assert (args.report_to, data_args.mlm_probability_schedule) == ([], [0.5, 0.3])


STOCK = {
    "workers": {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True},
    "bf16": {"bf16": True},
    "checkpointed activations": {"gradient_checkpointing": True},
    "best model": {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps",
                   "eval_steps": 1},
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager"},
}  # fmt: skip


@pytest.mark.parametrize("name", STOCK)
def test_stock_settings_change_speed_but_not_the_loss(tmp_path, finished, name):
    train(tmp_path, max_steps=4, do_eval=False, **STOCK[name])
    losses = logged(finished[0] / "out")
    assert logged(tmp_path / "out") == pytest.approx(losses, abs=0.02 if name == "bf16" else 1e-5)


def test_compiled_training_has_one_shape(tmp_path, monkeypatch):
    batches = record_batches(monkeypatch)
    train(tmp_path, max_steps=8, do_eval=False, torch_compile=True, torch_compile_backend="eager")
    assert {name: tensor.shape for name, tensor in batches[0].items()} == {
        "input_ids": (5, 64),
        "labels": (5, 64),
        "masked_positions": (5, 19),
    }
    assert len({str({name: tensor.shape for name, tensor in batch.items()}) for batch in batches}) == 1


def test_several_gpus_of_one_process_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(ConceptTrainingArguments, "n_gpu", 4)
    with pytest.raises(ValueError, match="accelerate launch --num_processes 4"):
        ConceptTrainingArguments(output_dir=str(tmp_path))


@pytest.mark.parametrize("native", [False, True])
def test_auto_bf16_is_on_where_the_device_computes_in_it(monkeypatch, tmp_path, native):
    monkeypatch.setattr(arguments_module, "computes_in_bf16", lambda on_cpu: native)
    assert ConceptTrainingArguments(output_dir=str(tmp_path), auto_bf16=True).bf16 == native
    assert not ConceptTrainingArguments(output_dir=str(tmp_path)).bf16


def test_bf16_on_a_cpu_goes_by_its_instructions(monkeypatch):
    for bits in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda bits=bits: bits)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert computes_in_bf16(on_cpu=True) == bits


def test_bf16_multiplies_matrices_in_bf16(tmp_path, monkeypatch):
    dtypes = set()
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional, "linear", lambda *inputs: dtypes.add((out := linear(*inputs)).dtype) or out
    )
    train(tmp_path, max_steps=1, do_eval=False, bf16=True)
    assert torch.bfloat16 in dtypes
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}


RECIPES = sorted(set(ROOT.glob("recipes/*.yaml")) - {ROOT / "recipes" / "exclusions.yaml"})


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_settings_of_the_script(recipe, monkeypatch):
    monkeypatch.setattr(arguments_module, "computes_in_bf16", lambda on_cpu: True)
    _, data_args, training_args = parse_arguments([str(recipe)])
    assert training_args.do_train
    assert training_args.do_eval
    assert data_args.max_seq_length


def test_help_explains_every_setting_of_ours(capsys):
    with pytest.raises(SystemExit, match="0"):
        run_mlm.main(["--help"])
    assert "--train_tokenizer_vocab_size" in capsys.readouterr().out
    for group in (arguments_module.ModelArguments, arguments_module.DataArguments):
        assert all(field.metadata["help"].endswith(".") for field in group.__dataclass_fields__.values())


def test_arguments_need_not_be_abbreviated(tmp_path):
    with pytest.raises(ValueError, match="--learning_rat"):
        run_mlm.main([*arguments(tmp_path), "--learning_rat", "1"])


@pytest.mark.slow
def test_it_learns_real_text_better_than_a_bag_of_words(tmp_path):
    """A third of the demo: speeches held out whole, scored beside what word counts can do."""
    recipe = yaml.safe_load((ROOT / "recipes" / "nano.yaml").read_text())
    recipe.pop("lr_scheduler_kwargs")
    short = {"max_steps": 400, "warmup_steps": 40, "lr_scheduler_type": "linear", "eval_strategy": "no"}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(recipe | short | {"output_dir": str(tmp_path / "out")}))
    metrics = run_mlm.main([str(tmp_path / "short.yaml")])
    assert metrics["eval_bag_of_words_loss"] < metrics["eval_unigram_loss"]
    assert metrics["eval_loss"] < metrics["eval_bag_of_words_loss"] - 0.5
    assert metrics["eval_accuracy"] > 2 * metrics["eval_bag_of_words_accuracy"]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_attention_backend_is_a_choice(backend):
    args = ModelArguments(preset="nano", train_tokenizer_vocab_size=300, attn_implementation=backend)
    tokenizer = train_tokenizer(["a little text"] * 3, 300)
    assert build_model(args, build_config(args), tokenizer).config._attn_implementation == backend
