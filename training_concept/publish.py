# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m training_concept.publish CHECKPOINT REPO_ID`: check a checkpoint and upload it in one commit.

Name, token and Hub are looked at first. The folder has to load by itself, offline and in a fresh process, on pip
packages and its own files alone, and its model to be well. Nothing in it is changed. What is uploaded is listed;
pickles and files that no checkpoint has are refused. An upload that broke off goes on where it stopped when the
command is given again. The access token is that of `hf auth login` or HF_TOKEN.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.utils import validate_repo_id
from rich.console import Console

from evaluation_concept.errors import exit_code
from training_concept.publishing.card import name_card, write_minimal_card
from training_concept.publishing.contents import CARD, check_secret, files_in, is_pickle, staged, survey
from training_concept.publishing.repository import Commit, Repository, Target, check_access, check_revision
from training_concept.publishing.validation import validate
from training_concept.terminal import TextTable, make_console, print_table


@dataclass(frozen=True)
class Options:
    """
    How a checkpoint is published.

    Attributes:
        tag: version to give to the commit; one that exists is never moved.
        message: of the commit.
        include: patterns of paths that are uploaded besides what a checkpoint is made of.
        leave_out: patterns of paths that are not uploaded.
        dry_run: check and list only.
    """

    tag: str | None = None
    message: str | None = None
    include: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    dry_run: bool = False


def publish(checkpoint: Path, target: Target, options: Options) -> Commit | None:
    """
    Check a checkpoint, upload it in one commit and tag that.

    Args:
        checkpoint: folder, which is not changed.
        target: repository to upload to.
        options: see there.

    Returns:
        The commit, `None` if nothing was to be uploaded.

    Raises:
        OSError: there is no such folder, or the Hub refuses the upload or cannot be reached (`HubError`).
        ValueError: the checkpoint is not fit to be published, a name cannot be, or the tag is that of something else.
    """
    validate_repo_id(target.repo_id)
    for name in (options.tag, target.revision):
        if name is not None:
            check_revision(name)
    contents = survey(checkpoint, include=options.include, leave_out=options.leave_out)
    if contents.strays:
        raise ValueError(_describe_strays(checkpoint, contents.strays, _command(checkpoint, target, options)))
    if not options.dry_run:
        check_access(target)
    console = make_console(sys.stderr)
    with staged(contents.travels) as folder:
        check_secret(files_in(folder), target.token or get_token())
        console.print("Checking the checkpoint in a process of its own ...")
        console.print("\n".join(f"- {line}" for line in validate(folder)), markup=False)
        if options.dry_run:
            _list(console, files_in(folder), contents.stays, f"{target.repo_id} would get")
            return None
        repository = Repository(target)
        if not (folder / CARD).is_file() and not repository.has(CARD):
            write_minimal_card(folder, repository.id)
        name_card(folder, checkpoint.resolve().name, repository.id)
        _list(console, files_in(folder), contents.stays, f"{repository.id} gets")
        message = options.message or f"Publish {options.tag or checkpoint.resolve().name}"
        return repository.publish(files_in(folder), message, options.tag)


def _command(checkpoint: Path, target: Target, options: Options) -> list[str]:
    """What says all this on a command line, `--leave_out` last."""
    given = {"--tag": options.tag, "--revision": target.revision, "--commit_message": options.message}
    flags = [word for flag, value in given.items() if value for word in (flag, value)]
    flags += ["--public"] * (not target.private) + ["--dry_run"] * options.dry_run
    flags += ["--include", *options.include] if options.include else []
    words = ["python", "-m", "training_concept.publish", str(checkpoint), target.repo_id]
    return [*words, *flags, "--leave_out", *options.leave_out]


def _describe_strays(checkpoint: Path, strays: Sequence[str], command: Sequence[str]) -> str:
    pickles = [name for name in strays if is_pickle(name)]
    others = [name for name in strays if name not in pickles]
    reasons = [f"{', '.join(pickles)} (pickles, which run code when they are loaded)"] if pickles else []
    reasons += [f"{', '.join(others)} (no part of a checkpoint)"] if others else []
    remedies = f"Remove them, or name them in --leave_out{' or --include' if others else ''}."
    ready = f"To leave them out: {shlex.join([*command, *strays])}"
    return f"{checkpoint} holds what is not published: {' and '.join(reasons)}. {remedies} {ready}"


def _list(console: Console, files: dict[str, Path], stays: Sequence[str], title: str) -> None:
    rows = [(name, path.stat().st_size) for name, path in files.items()]
    left = f"Left behind: {', '.join(stays)}." if stays else ""
    print_table(console, TextTable(title, ("file", "bytes"), rows, left))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training_concept.publish", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of model and tokenizer, e.g. the output folder of a run")
    parser.add_argument("repo_id", help="repository, user/name; made if it is not there")
    parser.add_argument("--tag", help="version to give to the commit, e.g. v1.0; versions that exist are never moved")
    parser.add_argument("--revision", help="branch to commit on, made if it is not there (default: main)")
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    parser.add_argument("--commit_message", help='default: "Publish" and the version or folder')
    parser.add_argument("--include", nargs="+", default=[], metavar="PATTERN", help="upload these too, e.g. 'onnx/*'")
    parser.add_argument("--leave_out", nargs="+", default=[], metavar="PATTERN", help="upload all but these")
    parser.add_argument("--dry_run", action="store_true", help="check and list, and upload nothing")
    return parser


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, publish, say where."""
    args = make_parser().parse_args(arguments)
    target = Target(args.repo_id, revision=args.revision, private=not args.public)
    options = Options(args.tag, args.commit_message, args.include, args.leave_out, args.dry_run)
    commit = publish(args.checkpoint, target, options)
    if commit and commit.removed:
        print(f"Of an earlier model, and removed from the repository: {', '.join(commit.removed)}.")
    if commit:
        print(commit.url if commit.is_new else f"{commit.url} holds this already")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
