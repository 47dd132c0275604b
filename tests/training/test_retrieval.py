# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on queries and passages that share no word: it finds them, and goes on after an interruption."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from evaluation_concept.encode import load_encoder
from evaluation_concept.errors import FinishedRunError, exit_code
from evaluation_concept.late_interaction import max_sim
from modeling_concept import ConceptEncoderForTextEncoding
from tests.modeling.tiny import tiny_config
from tests.training.pair_run import run_as_command, start_pair
from training_concept.arguments import ConceptTrainingArguments
from training_concept.infonce import dot_products
from training_concept.pairs import PairCollator, PairDataset
from training_concept.retrieval import RetrievalArguments, RetrievalTrainer, main
from training_concept.tokenization import train_tokenizer

ROOT = Path(__file__).parents[2]
TOPICS = 12
QUESTIONS = [f"ask{letter}" for letter in "abcdefghijkl"]
ANSWERS = [f"told{letter}" for letter in "mnopqrstuvwx"]
FILLERS = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


def write_pairs(path: Path, number: int, seed: int) -> Path:
    """Pairs of a topic each, its words among fillers that are not the same in query and passage."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for index in range(number):
            topic = index % TOPICS
            query, passage = (
                draw.sample([words[topic]] * 2 + draw.choices(part, k=3), k=5)
                for words, part in ((QUESTIONS, FILLERS[:13]), (ANSWERS, FILLERS[13:]))
            )
            wrong = ANSWERS[(topic + 1) % TOPICS]
            row = {"query": " ".join(query), "passage": " ".join(passage), "others": [f"{wrong} {index}"]}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    tokenizer = train_tokenizer([" ".join(QUESTIONS + ANSWERS + FILLERS)] * 3, 300, model_max_length=64)
    torch.manual_seed(0)
    model = ConceptEncoderForTextEncoding(tiny_config(vocab_size=len(tokenizer), num_hidden_layers=1, read_every=1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_pairs(folder / "train.jsonl", 20 * TOPICS, seed=1)
    write_pairs(folder / "validation.jsonl", 5 * TOPICS, seed=2)
    return folder


def arguments(start: Path, folder: Path, **changes: Any) -> list[str]:
    settings = {
        "model_name_or_path": start,
        "train_file": start / "train.jsonl",
        "validation_file": start / "validation.jsonl",
        "output_dir": folder / "out",
        "do_train": True,
        "do_eval": True,
        "max_steps": 4,
        "per_device_train_batch_size": 24,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    } | changes
    return [f"--{name}={value}" for name, value in settings.items() if value is not None]


def refusal(capsys, *given: str) -> str:
    assert exit_code(main, list(given)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    return line


def logged(output: Path) -> list[float]:
    history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.parametrize("late", [False, True])
def test_passages_are_found_that_share_no_word_with_the_query(start, tmp_path, late):
    systems = main(arguments(start, tmp_path, max_steps=60, late_interaction=late))
    chance = 1 / TOPICS
    # Of five passages of its topic each query has one that is called right.
    assert systems["BM25"]["recall_at_10"] < 3 * chance
    assert systems["before"]["recall_at_10"] < 3 * chance
    assert systems["this model"]["recall_at_10"] > 0.8
    written = json.loads((tmp_path / "out" / "retrieval.json").read_text(encoding="utf-8"))
    assert written["this model"] == systems["this model"]
    assert (written["queries"], written["passages"]) == (60, 60)


def test_what_is_saved_encodes(start, tmp_path):
    main(arguments(start, tmp_path, do_eval=False))
    model = load_encoder(str(tmp_path / "out"))
    before = load_encoder(str(start))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    vectors = [encoder.encode(["aska worda"], tokenizer).embeddings for encoder in (model, before)]
    assert not torch.allclose(*vectors)
    assert (tmp_path / "out" / "modules.json").exists()
    assert not list((tmp_path / "out").rglob("*.bin"))


@pytest.mark.parametrize("late", [False, True])
def test_the_loss_is_that_of_single_texts(start, tmp_path, late):
    """Padding, the other passages and their numbers change nothing."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = load_encoder(str(start), dtype=torch.float64).eval()
    pairs = [
        ("aska wordb", "toldm", ["toldn wordz wordx wordy"]),
        ("askb", "toldn wordz wordx wordy", ["toldo"]),
        ("askc wordc worda askd", "toldo wordz", ["toldm"]),
    ]
    batch = PairCollator(tokenizer, 64, 64)(PairDataset(pairs, 1))
    settings = RetrievalArguments(str(start), late_interaction=late, negatives_column="others", temperature=0.3)
    args = ConceptTrainingArguments(tmp_path, use_cpu=True)
    trainer = RetrievalTrainer(model, args, settings, processing_class=tokenizer)
    loss = trainer.compute_loss(model, batch)
    passages = [pair[1] for pair in pairs] + [pair[2][0] for pair in pairs]
    queries, keys = (
        [
            model(torch.tensor([tokenizer(text)["input_ids"]]))["concept_embeddings" if late else "embeddings"][0]
            for text in texts
        ]
        for texts in ([pair[0] for pair in pairs], passages)
    )
    score = max_sim if late else dot_products
    scores = torch.tensor([[score(query[None], key[None]).item() for key in keys] for query in queries])
    # The other passage of the first pair answers the second, and that of the third the first.
    for row, twin in ((0, 5), (1, 3)):
        scores[row, twin] = -torch.inf
    expected = torch.nn.functional.cross_entropy(scores / 0.3, torch.arange(3))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_as_if_it_had_not_been(start, tmp_path, monkeypatch):
    settings = {"save_strategy": "steps", "save_steps": 2, "do_eval": False, "max_steps": 5}
    main(arguments(start, tmp_path / "whole", **settings))
    monkeypatch.setattr("transformers.trainer.DEFAULT_CALLBACKS", [*DEFAULT_CALLBACKS, Interrupt])
    with pytest.raises(KeyboardInterrupt):
        main(arguments(start, tmp_path / "broken", **settings))
    monkeypatch.undo()
    main(arguments(start, tmp_path / "broken", **settings))
    whole, broken = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("whole", "broken"))
    torch.testing.assert_close(broken, whole, atol=0, rtol=0)
    with pytest.raises(FinishedRunError, match="this very run, finished"):
        main(arguments(start, tmp_path / "broken", **settings))
    with pytest.raises(ValueError, match=r"settings.temperature is 0.05 there and 0.1 here"):
        main(arguments(start, tmp_path / "broken", temperature=0.1, **settings))
    with pytest.raises(ValueError, match=r"training.rows_per_batch is 24 there and 12 here"):
        main(arguments(start, tmp_path / "broken", per_device_train_batch_size=12, **settings))


def test_two_processes_learn_what_one_does(start, tmp_path):
    settings = {"do_eval": False, "late_interaction": True, "max_steps": 3, "negatives_column": "others"}
    settings |= {"num_negatives": 1, "learning_rate": 1e-3}
    main(arguments(start, tmp_path / "one", **settings))
    options = arguments(start, tmp_path / "two", per_device_train_batch_size=12, ddp_backend="gloo", **settings)
    launcher = ["--multi_gpu", "--num_machines", "1", "--dynamo_backend", "no"]
    start_pair(launcher, run_as_command, "training_concept.retrieval", *options)
    assert logged(tmp_path / "two" / "out") == pytest.approx(logged(tmp_path / "one" / "out"), rel=1e-5)
    one, two = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"temperature": 0}, "--temperature 0.0 must be above 0"),
        ({"num_negatives": 1}, "needs a --negatives_column"),
        ({"num_negatives": -1, "negatives_column": "others"}, "--num_negatives -1 must not be negative"),
        ({"max_query_length": 1, "do_eval": False}, "--max_query_length 1 leaves no room for a text beside 2 special"),
        ({"max_passage_length": 2, "do_eval": False}, "--max_passage_length 2 leaves no room for a text"),
        ({"num_negatives": 2, "negatives_column": "others"}, "there is a pair that has 1"),
        ({"do_train": False, "do_eval": False}, "Nothing to do"),
        ({"train_file": None}, "--do_train needs a --train_file"),
        ({"validation_file": None}, "--do_eval needs a --validation_file"),
        ({"train_file": "nowhere.jsonl"}, "There is no file nowhere.jsonl"),
        ({"query_column": "question"}, "has no column 'question'; it has 'query', 'passage', 'others'"),
        ({"negatives_column": "query"}, "row 0: 'query' should be a list of texts"),
        ({"per_device_train_batch_size": 500}, "makes 240 pairs, too few for one full batch of 500"),
        ({"push_to_hub": True}, "--push_to_hub is not for retrieval"),
        ({"muon": True}, "--muon is not for retrieval"),
        ({"objectives": "mlm:2"}, "--objectives is not for retrieval"),
        ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor is not for retrieval"),
        ({"contrastive_temperature": 0.1, "z_loss": 0.1}, "--z_loss, --contrastive_temperature is not"),
        ({"eval_strategy": "steps", "do_eval": False, "validation_file": None}, "--do_eval needs a --validation_file"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(start, tmp_path, capsys, changes, problem):
    assert problem in refusal(capsys, *arguments(start, tmp_path, **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"query": "", "passage": "toldm"}', "row 1: 'query' is '', and should be a text"),
        ('{"query": "aska", "passage": null}', "row 1: 'passage' is None"),
        ("{", "cannot be read"),
    ],
)
def test_bad_rows_are_named(start, tmp_path, capsys, line, problem):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"query": "aska", "passage": "toldm"}}\n{line}\n', encoding="utf-8")
    assert problem in refusal(capsys, *arguments(start, tmp_path, train_file=path))


def test_results_of_another_run_are_kept(start, tmp_path):
    main(arguments(start, tmp_path, max_steps=1))
    before = (tmp_path / "out" / "eval_results.json").read_bytes()
    with pytest.raises(ValueError, match=r"out holds results of another run .*settings.temperature is 0.05"):
        main(arguments(start, tmp_path, do_train=False, temperature=0.1))
    assert (tmp_path / "out" / "eval_results.json").read_bytes() == before


def test_a_settings_file_may_name_the_checkpoint(start, tmp_path):
    given = dict(flag.removeprefix("--").split("=") for flag in arguments(start, tmp_path, do_train=False))
    (tmp_path / "run.json").write_text(json.dumps(given), encoding="utf-8")
    assert list(main([str(tmp_path / "run.json")]))[-1] == "this model"


def test_the_recipe_trains(start, tmp_path):
    given = [flag for flag in arguments(start, tmp_path) if not flag.startswith(("--do_", "--learning_rate"))]
    systems = main([str(ROOT / "recipes" / "retrieval" / "pairs.yaml"), *given, "--report_to", "none"])
    assert list(systems) == ["BM25", "random weights", "before", "this model"]
