# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Load the samples of `samples.py` where this repository does not exist, and check that they are what was saved.

Run it in a process of its own, away from the repository: `cd / && python -I .../load_outside.py FOLDER`. Every
function called `check_*` is one check; --checks names the ones to run, all by default. Results go to the
screen and, with --report, to a JSON file: an empty string for a check that passed, the traceback for one that failed.
"""

import argparse
import inspect
import json
import logging
import sys
import traceback
from importlib.abc import MetaPathFinder
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    pipeline,
)
from transformers.utils.logging import add_handler, disable_progress_bar

PACKAGES = ("configuration_concept", "modeling_concept", "training_concept", "evaluation_concept")
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


class NoRepository(MetaPathFinder):
    """Makes the repository's packages impossible to import, also where they are installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Refuse the packages, and leave everything else to the other finders."""
        if fullname in PACKAGES:
            raise ModuleNotFoundError(f"{fullname} was imported from outside the checkpoint", name=fullname)


class Warnings(logging.Handler):
    """Collects what transformers warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message, unless it says that code came from the Hub for the first time."""
        if not record.getMessage().startswith("A new version of the following files was downloaded"):
            self.messages.append(record.getMessage())


WARNINGS = Warnings()


class Saved(NamedTuple):
    """Names of the two checkpoints (folders or Hub repositories) and what they computed before they were saved."""

    mlm: str
    classifier: str
    expected: dict[str, torch.Tensor]

    def agrees(self, model: PreTrainedModel, output: str) -> bool:
        """Whether `model` computes exactly the expected `output`: concepts, mlm_logits or classifier_logits."""
        return torch.equal(self.compute(model), self.expected[output])

    @torch.no_grad()
    def compute(self, model: PreTrainedModel) -> torch.Tensor:
        """Return the first output of `model` for the saved inputs."""
        return model(**{name: self.expected[name] for name in INPUTS})[0]


def load(auto_class: type, name: str, new: str | None = None, **kwargs: object) -> PreTrainedModel:
    """Load a model with no weight missing, but for those that start with `new`, none left over and no warning."""
    WARNINGS.messages.clear()
    options = {"trust_remote_code": True, "output_loading_info": True, **kwargs}
    model, info = auto_class.from_pretrained(name, **options)
    missing = {key for key in info["missing_keys"] if new is None or not key.startswith(new)}
    assert not missing, f"missing {missing}"
    assert not info["unexpected_keys"], f"unexpected {info['unexpected_keys']}"
    assert new or not WARNINGS.messages, WARNINGS.messages
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    return model.eval()


def check_code_needs_trust(saved: Saved) -> None:
    """Nothing of a checkpoint runs unless its reader says so."""
    refusal = ""
    try:
        AutoModel.from_pretrained(saved.mlm, trust_remote_code=False)
    except ValueError as error:
        refusal = str(error)
    assert "trust_remote_code" in refusal


def check_config(saved: Saved) -> None:
    """The configuration loads alone, as a class of the checkpoint's code."""
    config = AutoConfig.from_pretrained(saved.mlm, trust_remote_code=True)
    assert config.model_type == "concept_encoder"
    assert type(config).__module__.startswith("transformers_modules.")


def check_base_model(saved: Saved) -> None:
    """The base model takes its weights from the checkpoint of a head."""
    assert saved.agrees(load(AutoModel, saved.mlm), "concepts")


def check_masked_lm(saved: Saved) -> None:
    """The masked language model comes back as it was."""
    assert saved.agrees(load(AutoModelForMaskedLM, saved.mlm), "mlm_logits")


def check_classifier(saved: Saved) -> None:
    """The classifier comes back as it was, with its number of labels."""
    assert saved.agrees(load(AutoModelForSequenceClassification, saved.classifier), "classifier_logits")


def check_new_classifier(saved: Saved) -> None:
    """From a masked language model a classifier is built, and only its last layer is new."""
    model = load(AutoModelForSequenceClassification, saved.mlm, new="classifier.", num_labels=5)
    assert saved.compute(model).shape == (2, 5)


def check_tokenizer(saved: Saved) -> None:
    """The tokenizer needs no code and gives the same ids and sentence types."""
    tokenizer = AutoTokenizer.from_pretrained(saved.mlm)
    ids = saved.expected["input_ids"][0, saved.expected["attention_mask"][0] == 1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.startswith("The river keeps its"), text
    assert set(tokenizer(text, text)["token_type_ids"]) == {0, 1}


def check_fill_mask(saved: Saved) -> None:
    """The fill-mask pipeline proposes tokens, for one text and for a batch."""
    fill = pipeline("fill-mask", model=saved.mlm, trust_remote_code=True)
    single = fill("A short [MASK].", top_k=3)
    assert len(single) == 3
    assert [len(answers) for answers in fill(["A [MASK] line.", "The first [MASK] was a river."], batch_size=2)] == [
        5,
        5,
    ]


def check_feature_extraction(saved: Saved) -> None:
    """The feature-extraction pipeline gives the concepts."""
    extract = pipeline("feature-extraction", model=saved.mlm, trust_remote_code=True)
    features = extract("A short line.", return_tensors=True)
    assert features.shape[0] == 1
    assert features.shape[2] == saved.expected["concepts"].shape[2]


def check_text_classification(saved: Saved) -> None:
    """The text-classification pipeline gives a score for every label, and does not call the model unsupported."""
    WARNINGS.messages.clear()
    classify = pipeline("text-classification", model=saved.classifier, trust_remote_code=True)
    labels = {answer["label"] for answer in classify("A short line.", top_k=None)}
    assert labels == {"LABEL_0", "LABEL_1", "LABEL_2"}
    assert not WARNINGS.messages, WARNINGS.messages


def check_saved_again(saved: Saved) -> None:
    """What was loaded can be saved: the same code travels on, and every Auto class still loads the same numbers."""
    with TemporaryDirectory() as folder:
        model = load(AutoModelForMaskedLM, saved.mlm)
        model.save_pretrained(folder)
        code_folder = Path(inspect.getfile(type(model))).parent
        code = {path.name: path.read_bytes() for path in code_folder.glob("*.py") if path.name != "__init__.py"}
        assert "modeling_concept.py" in code
        assert {path.name: path.read_bytes() for path in Path(folder).glob("*.py")} == code
        assert saved.agrees(load(AutoModel, folder), "concepts")
        assert saved.agrees(load(AutoModelForMaskedLM, folder), "mlm_logits")
        load(AutoModelForSequenceClassification, folder, new="classifier.")


def check_classifier_saved_again(saved: Saved) -> None:
    """So can a classifier, and its copy serves the base model too."""
    with TemporaryDirectory() as folder:
        model = load(AutoModelForSequenceClassification, saved.classifier)
        model.save_pretrained(folder)
        assert saved.agrees(load(AutoModelForSequenceClassification, folder), "classifier_logits")
        assert torch.equal(saved.compute(load(AutoModel, folder)), saved.compute(model.model))


def check_meta_device(saved: Saved) -> None:
    """A model can be built without memory, and has the shapes of the one that is loaded."""
    config = AutoConfig.from_pretrained(saved.mlm, trust_remote_code=True)
    with torch.device("meta"):
        empty = AutoModelForMaskedLM.from_config(config, trust_remote_code=True)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    loaded = load(AutoModelForMaskedLM, saved.mlm)
    assert shapes == {name: tensor.shape for name, tensor in loaded.state_dict().items()}


def check_device_map(saved: Saved) -> None:
    """`device_map` does not change the numbers."""
    assert saved.agrees(load(AutoModelForMaskedLM, saved.mlm, device_map="cpu"), "mlm_logits")


def check_bfloat16(saved: Saved) -> None:
    """Loaded in bfloat16 twice, the numbers are the same, and near those in float32."""
    first, second = (saved.compute(load(AutoModelForMaskedLM, saved.mlm, dtype=torch.bfloat16)) for _ in range(2))
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, second)
    torch.testing.assert_close(first.float(), saved.expected["mlm_logits"], rtol=0.05, atol=0.15)


def check_tied_weights(saved: Saved) -> None:
    """The word embedding and the output layer are still one tensor."""
    model = load(AutoModelForMaskedLM, saved.mlm)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


CHECKS = {name: function for name, function in globals().items() if name.startswith("check_")}


def run_check(name: str, saved: Saved) -> str:
    """Run one check; return an empty string or the traceback."""
    try:
        CHECKS[name](saved)
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> int:
    """Run the checks and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what samples.py saved, wherever it lies now")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--user", help="load USER/mlm and USER/classifier from the Hub instead of the folder")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    home = args.user or str(args.folder)
    saved = Saved(f"{home}/mlm", f"{home}/classifier", load_file(args.folder / "expected.safetensors"))
    sys.meta_path.insert(0, NoRepository())
    add_handler(WARNINGS)
    disable_progress_bar()
    report = {name: run_check(name, saved) for name in args.checks}
    if args.report:
        args.report.write_text(json.dumps(report), encoding="utf-8")
    for name, failure in report.items():
        print(f"FAILED  {name}\n{failure}" if failure else f"passed  {name}")
    failed = sum(map(bool, report.values()))
    print(f"{len(report) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
