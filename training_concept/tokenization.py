# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Train a tokenizer: byte-level BPE, so that any text round-trips and the same corpus gives the same vocabulary."""

import logging
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    # A word's token begins with the space before it. The mask stands for a whole token, hence takes that space too:
    # in "the [MASK] is" the model predicts " word", never "word" behind a lone space.
    "mask_token": AddedToken("[MASK]", lstrip=True, special=True),
}


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    model_max_length: int = 1024,
    min_frequency: int = 2,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the special tokens and templates of BERT.

    Text is brought to Unicode NFC; decoding gives it back byte by byte. `[PAD]` is token 0.

    Args:
        texts: the corpus, any number of texts.
        vocab_size: tokens in all. A small corpus can give fewer, which is logged.
        model_max_length: what the tokenizer declares as the longest sequence, in tokens.
        min_frequency: pairs seen less often are not merged.

    Raises:
        ValueError: a vocabulary too small for the special tokens and the 256 bytes, or no text.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least} (special tokens and 256 bytes), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_not_blank(texts), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        logger.warning("the corpus gave %d tokens, fewer than the %d wanted", tokenizer.get_vocab_size(), vocab_size)
    tokenizer.post_processor = _template(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )


def _not_blank(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        if text and text.strip():
            empty = False
            yield text
    if empty:
        raise ValueError("there is no text to train a tokenizer on")


def _template(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
