# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Documents made to a length in which something has to be found, after RULER (arXiv 2404.06654), for encoders: what is
found is selected among sentences or classified, not written.

`ruler_needle`: one sentence gives the word of a key; which of 16 words? `ruler_multi_key`: such a sentence for each of
many keys; which of them is about the key asked for? `ruler_variable_tracking`: chains of assignments; which of them
give the value asked for? `ruler_common_words`: a list of words; which ten are in it most often?

Query, document and special tokens together have exactly the tokens asked for. The haystack is RULER's noise, or the
sentences of a file of text.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from evaluation_concept.long_context.tasks import CLASSIFICATION, SELECTION, Example, Examples, Sources, Task

FAMILY = "ruler"
SIZES = (4000, 200, 500)
SPLITS = ("train", "validation", "test")
# RULER's own.
NOISE = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
FILLERS = (".", "the", "a", "and", "of", "!", "0")
TOKENS_PER_KEY, FEWEST_KEYS, MOST_KEYS = 128, 4, 256
CHAINS, HOPS = 4, 4
COMMON_WORDS = 10
# Tokens that are left for what is no sentence to hide.
RESERVE = 16
CHECKED = 4

_ADJECTIVES = """
amber ancient bitter brave bright broad calm clever cold crisp dark deep early fair faint fierce free gentle grand
great happy heavy hollow honest keen kind late lean light lively lone long loud lucky mellow merry mild narrow
noble odd pale plain proud quick quiet rapid rare rich rough round royal sharp silent simple slow small smooth soft
solid steady strong sweet swift tall tame thin tidy vast warm wide wild wise young
"""
_NOUNS = """
anchor apple arrow basin beacon bell bird boat bridge brook candle canyon castle cedar circle cliff cloud coast
coin copper corner crown desert door dragon eagle engine falcon farm feather field flame forest fountain garden
gate glass harbor hill horse island jacket kettle lake lamp leaf letter lion meadow mirror moon mountain needle oak
ocean orchard owl paper path pearl pine planet pond prairie queen rabbit rain raven ribbon river road robin rope
rose sail shadow shell ship silver stone storm stream summer table tiger tower train tree valley village violin
wagon wall water willow wind window winter wolf wood
"""
_VALUES = """
apricot banana cherry fig grape kiwi lemon lime mango melon olive orange peach pear plum quince
"""
ADJECTIVES, NOUNS, VALUES = (tuple(words.split()) for words in (_ADJECTIVES, _NOUNS, _VALUES))


class Counter:
    """
    Counts tokens of pieces of a text.

    Args:
        tokenizer: one whose tokens do not span white space, so that those of a text are those of its words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, int] = {}

    def __call__(self, piece: str) -> int:
        """Tokens of a piece behind a space."""
        if piece not in self._known:
            self._known[piece] = len(self.tokenizer(f" {piece}", add_special_tokens=False)["input_ids"])
        return self._known[piece]

    def whole(self, query: str, text: str) -> int:
        """Tokens of query, text and the special ones, as a model gets them; some tokenizers take "" for no text."""
        return len(self.tokenizer(query, text)["input_ids"])

    def filler(self) -> str:
        """
        A word of one token.

        Raises:
            ValueError: the tokenizer has none of those tried.
        """
        for word in FILLERS:
            if self(word) == 1 and self(f"{word} {word}") == 2:
                return word
        raise ValueError("This tokenizer has no token for any of: " + " ".join(FILLERS))


@dataclass(frozen=True)
class Puzzle:
    """
    Sentences that must stand in a document.

    Attributes:
        query: what is asked.
        sentences: the ones to hide, in their order.
        candidates: which of them can be selected.
        selected: which of the candidates are right.
        label: the class, if a class is asked for.
        hidden: whether the sentences are hidden in a haystack, or are all that there is.
    """

    query: str
    sentences: Sequence[str]
    candidates: Sequence[int] = ()
    selected: Sequence[int] = ()
    label: str | None = None
    hidden: bool = True


Draw = Callable[[random.Random, int, Counter], Puzzle]


def draw_needle(generator: random.Random, length: int, count: Counter) -> Puzzle:
    """One key and its word."""
    (key,), value = _keys(generator, 1), generator.choice(VALUES)
    return Puzzle(_question(key), [_fact(key, value)], label=value)


def draw_multi_key(generator: random.Random, length: int, count: Counter) -> Puzzle:
    """A key for each 128 tokens, 4 at least and 256 at most, of which one is asked for."""
    keys = _keys(generator, min(max(length // TOKENS_PER_KEY, FEWEST_KEYS), MOST_KEYS))
    asked = generator.randrange(len(keys))
    sentences = [_fact(key, generator.choice(VALUES)) for key in keys]
    return Puzzle(_question(keys[asked]), sentences, range(len(keys)), [asked])


def draw_variable_tracking(generator: random.Random, length: int, count: Counter) -> Puzzle:
    """Chains of assignments, of a value to a variable, of that to another and so on; the value of one is asked for."""
    names = [name.upper() for name in generator.sample(NOUNS, CHAINS * (HOPS + 1))]
    values = [str(number) for number in generator.sample(range(10_000, 100_000), CHAINS)]
    queues = []
    for value in values:
        links = [value, *(names.pop() for _ in range(HOPS + 1))]
        queues.append([f"VAR {new} = {old}." for old, new in pairwise(links)])
    order = [chain for chain, queue in enumerate(queues) for _ in queue]
    generator.shuffle(order)
    sentences = [queues[chain].pop(0) for chain in order]
    asked = generator.randrange(CHAINS)
    selected = [place for place, chain in enumerate(order) if chain == asked]
    return Puzzle(f"Which variables have the value {values[asked]}?", sentences, range(len(order)), selected)


def draw_common_words(generator: random.Random, length: int, count: Counter) -> Puzzle:
    """
    A list of words that fills the length: ten of them 30 times, others 3 times (below 4096 tokens, 10 times and once).

    The first place of a word stands for it.

    Raises:
        ValueError: the length is too short for that.
    """
    query, often, seldom = "Which ten words are the most common?", *((30, 3) if length >= 4096 else (10, 1))
    left, listed = length - RESERVE - count(query), []
    for number, word in enumerate(_words(generator)):
        times = often if number < COMMON_WORDS else seldom
        left -= times * count(word)
        if left < 0 and number <= COMMON_WORDS:
            raise ValueError(f"a list of {length} tokens is too short for ten common words and another")
        if left < 0:
            break
        listed += [(word, number < COMMON_WORDS)] * times
    generator.shuffle(listed)
    first = {word: place for place, (word, _) in reversed(list(enumerate(listed)))}
    candidates = sorted(first.values())
    selected = [index for index, place in enumerate(candidates) if listed[place][1]]
    return Puzzle(query, [word for word, _ in listed], candidates, selected, hidden=False)


def build_document(
    puzzle: Puzzle, haystack: Iterable[str], length: int, count: Counter, generator: random.Random
) -> tuple[str, list[int]]:
    """
    A text with the sentences of a puzzle at random places, of exactly `length` tokens with query and special tokens.

    Args:
        haystack: sentences without end, of which as many are taken as fit.

    Returns:
        The text, and the character at which each sentence of the puzzle begins.

    Raises:
        ValueError: if the puzzle alone is longer.
    """
    filler = count.filler()
    left = length + 1 - count.whole(puzzle.query, f" {filler}") - sum(map(count, puzzle.sentences))
    if left < 0:
        raise ValueError(
            f"a document of {length} tokens is too short: {-left} more are needed for what is to be found"
        )
    pieces: list[str] = []
    for sentence in haystack if puzzle.hidden else ():
        if count(sentence) > left:
            break
        pieces.append(sentence)
        left -= count(sentence)
    places = sorted(generator.randint(0, len(pieces)) for _ in puzzle.sentences)
    numbers = {place + number: number for number, place in enumerate(places)}
    hidden = iter(pieces)
    pieces = [
        puzzle.sentences[numbers[index]] if index in numbers else next(hidden)
        for index in range(len(pieces) + len(numbers))
    ]
    starts = [1, *accumulate((len(piece) + 1 for piece in pieces), initial=1)][1:]
    text = "".join(f" {piece}" for piece in chain(pieces, [filler] * left))
    return text, [starts[index] for index in sorted(numbers)]


def make_example(
    draw: Draw, identity: str, haystack: Iterable[str], length: int, count: Counter, generator: random.Random
) -> Example:
    """An example of the task that draws puzzles by `draw`."""
    puzzle = draw(generator, length, count)
    text, starts = build_document(puzzle, haystack, length, count, generator)
    return Example(
        identity,
        text,
        puzzle.query,
        label=puzzle.label,
        choices=tuple(puzzle.sentences[index] for index in puzzle.candidates),
        candidates=tuple(starts[index] for index in puzzle.candidates),
        selected=tuple(puzzle.selected),
    )


def load(draw: Draw, name: str, sources: Sources) -> Examples:
    """
    The examples by split, the same for a seed, a length, a tokenizer and a haystack.

    Raises:
        ValueError: no tokenizer, a length that is too short for the task, or a tokenizer whose tokens span words.
        OSError: the haystack is not there.
    """
    count = Counter(sources.counter(name))
    sentences = NOISE if sources.haystack is None else read_sentences(sources.haystack)
    splits = {}
    for split, size in zip(SPLITS, sources.sizes or SIZES, strict=True):
        generator = random.Random(f"{name}/{split}/{sources.length}/{sources.seed}")
        splits[split] = [
            make_example(draw, f"{split}-{i}", _endless(sentences, generator), sources.length, count, generator)
            for i in range(size)
        ]
        for example in splits[split][:CHECKED]:
            if (found := count.whole(example.query, example.text)) != sources.length:
                raise ValueError(
                    f"{name}: this tokenizer makes {found} tokens of {sources.length}: those of a text are not those "
                    "of its words."
                )
    return splits


def read_sentences(path: Path) -> list[str]:
    """
    The sentences of a text file.

    Raises:
        OSError: there is no such file.
        ValueError: it has no sentence.
    """
    text = " ".join(path.read_text(encoding="utf-8").split())
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence]
    if not sentences:
        raise ValueError(f"{path} holds no text to hide something in.")
    return sentences


def _endless(sentences: Sequence[str], generator: random.Random) -> Iterator[str]:
    """The sentences again and again, from a random one on."""
    place = generator.randrange(len(sentences))
    while True:
        yield sentences[place % len(sentences)]
        place += 1


def _keys(generator: random.Random, number: int) -> list[str]:
    pairs = generator.sample(range(len(ADJECTIVES) * len(NOUNS)), number)
    return [f"{ADJECTIVES[pair % len(ADJECTIVES)]}-{NOUNS[pair // len(ADJECTIVES)]}" for pair in pairs]


def _words(generator: random.Random) -> Iterator[str]:
    """Different words in random order: simple ones, then compounds."""
    simple = [*NOUNS, *ADJECTIVES]
    generator.shuffle(simple)
    yield from simple
    yield from (first + second for first in simple for second in simple if first != second)


def _fact(key: str, value: str) -> str:
    return f"The special magic word for {key} is {value}."


def _question(key: str) -> str:
    return f"What is the special magic word for {key}?"


def _task(name: str, kind: str, metric: str, draw: Draw, **facts: bool | tuple[str, ...]) -> Task:
    name = f"ruler_{name}"
    return Task(name, FAMILY, kind, metric, partial(load, draw, name), generated=True, **facts)  # type: ignore[arg-type]


TASKS = (
    _task("needle", CLASSIFICATION, "accuracy", draw_needle, labels=VALUES),
    _task("multi_key", SELECTION, "selection_exact", draw_multi_key, single=True),
    _task("variable_tracking", SELECTION, "selection_f1", draw_variable_tracking),
    _task("common_words", SELECTION, "selection_f1", draw_common_words),
)
