# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Train a tokenizer: byte-level BPE, which loses nothing, or WordPiece as BERT's; one corpus gives one vocabulary."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

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
CONTINUING_PREFIX = "##"
# Characters of a WordPiece vocabulary, as many as BERT's trainer kept. Words with others become [UNK].
LARGEST_ALPHABET = 1000


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    model_max_length: int = 1024,
    min_frequency: int = 2,
    model: str = "bpe",
    lowercase: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer with the special tokens and templates of BERT. `[PAD]` is token 0.

    `bpe` merges bytes (byte-level BPE of GPT-2): text is brought to Unicode NFC, and decoding gives it back byte by
    byte. `wordpiece` splits at white space and punctuation, drops control characters, and marks what continues a
    word with `##` (Devlin et al. 2019, BERT); decoding loses the white space.

    Args:
        texts: the corpus, any number of texts. WordPiece reads them twice, so an iterator is kept in memory for it.
        vocab_size: tokens in all. A small corpus can give fewer, which is logged.
        model_max_length: what the tokenizer declares as the longest sequence, in tokens.
        min_frequency: pairs seen less often are not merged.
        model: a key of `TRAINERS`, "bpe" or "wordpiece".
        lowercase: turn text to lower case first; WordPiece then drops accents, too, as BERT's uncased models do.

    Raises:
        ValueError: an unknown model, no text, or a vocabulary too small for the special tokens and the bytes or
            characters.
    """
    if model not in TRAINERS:
        raise ValueError(f"model must be one of {', '.join(TRAINERS)}, got {model!r}")
    tokenizer = TRAINERS[model](texts, vocab_size, min_frequency, lowercase)
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


def _train_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int, lowercase: bool) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _check_room(vocab_size, len(alphabet), f"{len(alphabet)} bytes")
    tokenizer = Tokenizer(models.BPE())
    composed = normalizers.NFC()
    tokenizer.normalizer = normalizers.Sequence([composed, normalizers.Lowercase()]) if lowercase else composed
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
    return tokenizer


def _train_wordpiece(texts: Iterable[str], vocab_size: int, min_frequency: int, lowercase: bool) -> Tokenizer:
    texts = texts if isinstance(texts, Collection) else list(texts)
    draft = _wordpiece({}, lowercase)
    alphabet = _alphabet(_not_blank(texts), draft)
    # Left to itself, the trainer numbers the tokens "##x" in the order of a hash table, by which ties between merges
    # are then broken. Taken for special tokens they have the numbers given here; the final tokenizer forgets that.
    inner = [CONTINUING_PREFIX + character for character in alphabet if _continues_words(character, draft)]
    _check_room(vocab_size, len(alphabet) + len(inner), f"{len(alphabet)} characters, most of them twice")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL_TOKENS.values(), *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUING_PREFIX,
        show_progress=False,
    )
    draft.train_from_iterator(_not_blank(texts), trainer)
    return _wordpiece(draft.get_vocab(), lowercase)


def _wordpiece(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    """BERT's tokenizer with this vocabulary; an empty one is to be trained."""
    model = models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=CONTINUING_PREFIX)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUING_PREFIX)
    if vocabulary:
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return tokenizer


def _alphabet(texts: Iterable[str], tokenizer: Tokenizer) -> list[str]:
    """The most frequent characters of the normalised texts, at most `LARGEST_ALPHABET`, in Unicode's order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    characters = [character for character in counts if not character.isspace()]
    characters.sort(key=lambda character: (-counts[character], character))
    return sorted(characters[:LARGEST_ALPHABET])


def _continues_words(character: str, tokenizer: Tokenizer) -> bool:
    """Whether the character can stand inside a word: punctuation cannot, nor can Chinese characters."""
    normalised = tokenizer.normalizer.normalize_str(f"a{character}a")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(normalised)) == 1


def _check_room(vocab_size: int, alphabet_size: int, alphabet: str) -> None:
    if vocab_size < (least := len(SPECIAL_TOKENS) + alphabet_size):
        raise ValueError(f"vocab_size must be at least {least} (special tokens and {alphabet}), got {vocab_size}")


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


TRAINERS: dict[str, Callable[[Iterable[str], int, int, bool], Tokenizer]] = {
    "bpe": _train_bpe,
    "wordpiece": _train_wordpiece,
}
