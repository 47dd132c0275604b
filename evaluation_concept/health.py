# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint is well: what should hold of every one of them, whatever it was trained on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from configuration_concept import AUTO_MAP
from evaluation_concept.concept_metrics import dead_slots, duplicate_slots
from evaluation_concept.errors import naming
from evaluation_concept.states import MODEL_TYPE
from modeling_concept import register_auto_classes

NUM_DOCUMENTS, LONGEST = 16, 256
# A tenth of the largest number in float16.
LARGEST_STATE = 6.5e3
LARGEST_WEIGHT = 1e3
# Share of the slots that may say nothing of their own before a checkpoint counts as sick.
MOST_WASTED = 0.1
# Kernels sum padded rows in another order.
TOLERANCE = 1e-3
SPECIAL_TOKENS = ("pad_token_id", "mask_token_id", "cls_token_id", "sep_token_id")
WELL, NOTED, SICK = "well", "noted", "sick"


@dataclass(frozen=True)
class Finding:
    """
    What a check found.

    Attributes:
        check: its name.
        status: `well`, `noted` (not as it might be, but no reason to hold a checkpoint back) or `sick`.
        detail: what was seen.
    """

    check: str
    status: str
    detail: str


@dataclass
class Patient:
    """
    A checkpoint that is looked at.

    Attributes:
        model: in float32, with the head that it was saved with, or none.
        tokenizer: beside it.
        missing: names of parameters that the checkpoint does not hold.
        unexpected: names of parameters that it holds and the model does not have.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @cached_property
    def documents(self) -> torch.Tensor:
        """Ordinary tokens drawn at random, int64 `[16, N]`: no text is needed, and none is like another."""
        vocabulary = min(self.model.config.vocab_size, len(self.tokenizer))
        special = [getattr(self.model.config, name) for name in SPECIAL_TOKENS] + self.tokenizer.all_special_ids
        ordinary = torch.tensor([token for token in range(vocabulary) if token not in set(special)])
        generator = torch.Generator().manual_seed(0)
        length = min(LONGEST, self.tokenizer.model_max_length, self.model.config.max_position_embeddings)
        drawn = torch.randint(len(ordinary), (NUM_DOCUMENTS, length), generator=generator)
        return ordinary[drawn].to(self.model.device)

    @property
    def predicts_tokens(self) -> bool:
        """Whether it has a language modelling head."""
        return self.model.get_output_embeddings() is not None

    def concepts_and_logits(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Concepts in use `[1, C, H]` of a row `[1, N]` and, of a language modelling head, logits `[1, N, V]`."""
        outputs = self.model.base_model(ids, attention_mask=mask)
        concepts = outputs.last_hidden_state[outputs.concept_mask.bool()].unsqueeze(0)
        return [concepts, self.model(ids, attention_mask=mask).logits] if self.predicts_tokens else [concepts]

    @cached_property
    @torch.no_grad()
    def states(self) -> dict[str, torch.Tensor]:
        """By name, states along the model for these documents."""
        outputs = self.model.base_model(self.documents, output_hidden_states=True, output_token_states=True)
        states = {f"concept layer {depth}": states for depth, states in enumerate(outputs.hidden_states or ())}
        states |= {"token states": outputs.token_states, "concepts": outputs.last_hidden_state}
        return states | ({"logits": self.model(self.documents[:2]).logits} if self.predicts_tokens else {})


def check_health(name: str, *, trust_remote_code: bool = False) -> list[Finding]:
    """
    Examine a checkpoint.

    Args:
        name: folder, or repository on the Hub, of a concept encoder, with any head or none, and its tokenizer.
        trust_remote_code: run the code that comes with the checkpoint, instead of this one.

    Returns:
        One finding for every check, the first that is sick last if others make no sense then; none on tied weights
        without a language modelling head. The checkpoint is well if `is_well` says so of them.

    Raises:
        OSError: there is no such checkpoint, or no tokenizer.
        ValueError: it is no concept encoder, or has a head that there is not.
    """
    if not trust_remote_code:  # else the code of the checkpoint would not be run
        register_auto_classes()
    try:
        with naming(name):
            patient = _admit(name, trust_remote_code)
    except (SafetensorError, RuntimeError) as error:
        return [Finding("weights load", SICK, " ".join(str(error).split()))]
    return list(examine(patient))


def examine(patient: Patient) -> Iterator[Finding]:
    """All checks; those that compute are left out if weights are not finite or ids do not fit."""
    first = [check(patient) for check in CHECKS_AT_REST if patient.predicts_tokens or check is not check_tied_weights]
    yield from first
    if any(finding.status == SICK and finding.check in PRECONDITIONS for finding in first):
        return
    states = check_states(patient)
    yield states
    if states.status != SICK:
        yield from (check(patient) for check in CHECKS_IN_MOTION)


def is_well(findings: list[Finding]) -> bool:
    """Whether no finding is sick."""
    return all(finding.status != SICK for finding in findings)


def _admit(name: str, trust_remote_code: bool) -> Patient:
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    auto_class = _auto_class(name, AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code))
    model, loaded = getattr(transformers, auto_class).from_pretrained(
        name,
        trust_remote_code=trust_remote_code,
        dtype=torch.float32,
        output_loading_info=True,
        # A weight of another shape is a finding, not the end.
        ignore_mismatched_sizes=True,
    )
    missing = sorted(loaded["missing_keys"]) + sorted(key for key, *_ in loaded["mismatched_keys"])
    return Patient(model.eval(), tokenizer, missing, sorted(loaded["unexpected_keys"]))


def _auto_class(name: str, config: PreTrainedConfig) -> str:
    """
    The Auto class for the head that the checkpoint `name` was saved with; for masked tokens where it does not say.

    Raises:
        ValueError: it is no concept encoder, or has a head that there is not.
    """
    saved = (config.architectures or ["ConceptEncoderForMaskedLM"])[0]
    if config.model_type != MODEL_TYPE:
        raise ValueError(f"{name} holds a {saved}, which is no concept encoder: it has no concepts.")
    # The configuration is no model.
    classes = {target.rpartition(".")[2]: auto for auto, target in AUTO_MAP.items() if auto != AutoConfig.__name__}
    if saved not in classes:
        raise ValueError(f"{name} holds a {saved}; what can be examined are {', '.join(classes)}.")
    return classes[saved]


def check_weights_complete(patient: Patient) -> Finding:
    """Every parameter comes from the checkpoint, in its shape; what does not would start anew."""
    if patient.missing:
        return Finding("weights complete", SICK, f"missing or of another shape: {_some(patient.missing)}")
    if patient.unexpected:
        return Finding("weights complete", NOTED, f"not used by this model: {_some(patient.unexpected)}")
    return Finding("weights complete", WELL, f"{patient.model.num_parameters():,} parameters")


def check_weights_finite(patient: Patient) -> Finding:
    """No weight is NaN or infinite."""
    bad = [name for name, weight in patient.model.named_parameters() if not weight.isfinite().all()]
    if bad:
        return Finding("weights finite", SICK, f"NaN or infinite numbers in {_some(bad)}")
    return Finding("weights finite", WELL, "no NaN, no infinity")


def check_weights_bounded(patient: Patient) -> Finding:
    """No weight has exploded."""
    # Numbers that are not finite have a check of their own.
    weights = {name: torch.nan_to_num(it.detach(), 0, 0, 0) for name, it in patient.model.named_parameters()}
    sizes = {name: float(weight.abs().max()) for name, weight in weights.items() if weight.numel()}
    name = max(sizes, key=lambda name: sizes[name])
    status = WELL if sizes[name] <= LARGEST_WEIGHT else SICK
    return Finding("weights bounded", status, f"largest {sizes[name]:.3g} in {name} (limit {LARGEST_WEIGHT:g})")


def check_tied_weights(patient: Patient) -> Finding:
    """Word embeddings and output layer are one where the configuration says so."""
    words, output = patient.model.get_input_embeddings().weight, patient.model.get_output_embeddings().weight
    if not patient.model.config.tie_word_embeddings:
        return Finding("tied weights", WELL, "not tied, as configured")
    if words is output or torch.equal(words, output):
        return Finding("tied weights", WELL, "word embeddings and output layer are one")
    return Finding("tied weights", SICK, "tie_word_embeddings is set, but word embeddings and output layer differ")


def check_tokenizer(patient: Patient) -> Finding:
    """Tokenizer and configuration have the same special tokens, and every token an embedding."""
    config, tokenizer = patient.model.config, patient.tokenizer
    if len(tokenizer) > config.vocab_size:
        detail = f"the tokenizer has {len(tokenizer):,} tokens, the model {config.vocab_size:,} (vocab_size)"
        return Finding("tokenizer", SICK, detail)
    ids = {name: (getattr(tokenizer, name), getattr(config, name)) for name in SPECIAL_TOKENS}
    other = [
        f"{name} is {mine} in the tokenizer, {its} in the model" for name, (mine, its) in ids.items() if mine != its
    ]
    if other:
        return Finding("tokenizer", SICK, "; ".join(other))
    return Finding("tokenizer", WELL, f"{len(tokenizer):,} tokens of {config.vocab_size:,}, the same special ones")


def check_states(patient: Patient) -> Finding:
    """No state along the model is NaN, infinite or has exploded."""
    bad = [name for name, states in patient.states.items() if not states.isfinite().all()]
    if bad:
        return Finding("states", SICK, f"NaN or infinite numbers in {_some(bad)}")
    sizes = {name: float(states.abs().max()) for name, states in patient.states.items()}
    name = max(sizes, key=lambda name: sizes[name])
    status = WELL if sizes[name] <= LARGEST_STATE else SICK
    return Finding("states", status, f"finite; largest {sizes[name]:.3g} in {name} (limit {LARGEST_STATE:g})")


def check_dead_concepts(patient: Patient) -> Finding:
    """Concepts depend on the document."""
    return _slots("dead concepts", dead_slots(patient.states["concepts"]), "hardly depend on the document")


def check_duplicate_concepts(patient: Patient) -> Finding:
    """No concept is a copy of another one."""
    return _slots("duplicate concepts", duplicate_slots(patient.states["concepts"]), "repeat an earlier one")


@torch.no_grad()
def check_padding(patient: Patient) -> Finding:
    """A row gives the same concepts, and scores of tokens, alone as padded."""
    length = patient.documents.shape[1]
    alone, padding = patient.documents[:1, : length // 4], patient.model.config.pad_token_id or 0
    room = length - alone.shape[1]
    padded = torch.nn.functional.pad(alone, (0, room), value=padding)
    mask = torch.nn.functional.pad(torch.ones_like(alone), (0, room))
    expected, found = patient.concepts_and_logits(alone), patient.concepts_and_logits(padded, mask)
    if found[0].shape != expected[0].shape:
        return Finding("padding", SICK, f"{found[0].shape[1]} concepts padded, {expected[0].shape[1]} alone")
    # Of padding there are scores, too, but no concepts.
    pairs = ((a, b[:, : a.shape[1]]) for a, b in zip(expected, found, strict=True))
    # Of numbers, `max` would lose a NaN that is not the first.
    difference = float(torch.stack([(a - b).abs().max() / a.abs().max() for a, b in pairs]).max())
    status = WELL if difference <= TOLERANCE else SICK
    return Finding("padding", status, f"padded and unpadded rows differ by {difference:.1g} (limit {TOLERANCE:g})")


Check = Callable[[Patient], Finding]
CHECKS_AT_REST: tuple[Check, ...] = (
    check_weights_complete,
    check_weights_finite,
    check_weights_bounded,
    check_tied_weights,
    check_tokenizer,
)
PRECONDITIONS = ("weights complete", "weights finite")
CHECKS_IN_MOTION: tuple[Check, ...] = (check_dead_concepts, check_duplicate_concepts, check_padding)


def _slots(check: str, bad: torch.Tensor, problem: str) -> Finding:
    count, slots = int(bad.sum()), bad.nonzero().flatten().tolist()
    if not count:
        return Finding(check, WELL, f"none of {len(bad)}")
    status = SICK if count > MOST_WASTED * len(bad) else NOTED
    return Finding(check, status, f"{count} of {len(bad)} {problem}: {_some(slots)} (limit {MOST_WASTED:.0%})")


def _some(names: list) -> str:
    """Up to three names and how many more there are."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(str, names[:3])) + rest
