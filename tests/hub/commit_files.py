# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.hub.commit_files FOLDER REPO_ID [TAG [BRANCH [SILENCE]]]`: the upload of `training_concept.publish`
alone, to a Hub that may be silent so many seconds.

A process that imports no PyTorch, so that tests of what can go wrong with an upload are quick.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation_concept.errors import exit_code
from training_concept.publishing import waiting
from training_concept.publishing.repository import Repository, Target, check_access


def files_of(folder: Path) -> dict[str, Path]:
    """All files of a folder, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def main(arguments: Sequence[str]) -> None:
    """Publish all files of the folder, by default without a tag and on main."""
    folder, repo_id, tag, branch, silence = [*(argument or None for argument in arguments), None, None, None][:5]
    if silence:
        waiting.LONGEST_SILENCE = float(silence)
    target = Target(repo_id, revision=branch)
    check_access(target)
    repository = Repository(target)
    commit = repository.publish(files_of(Path(folder)), "Publish", tag)
    print(commit.id, commit.is_new)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
