# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.hub.commit_files FOLDER REPO_ID [TAG [BRANCH]]`: the upload of `training_concept.publish` alone.

A process that imports no PyTorch, so that tests of what can go wrong with an upload are quick.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation_concept.errors import exit_code
from training_concept.publishing.repository import Repository, Target


def main(arguments: Sequence[str]) -> None:
    """Publish all files of the folder, by default without a tag and on main."""
    folder, repo_id, tag, branch = [*arguments, None, None][:4]
    repository = Repository(Target(repo_id, revision=branch))
    commit = repository.publish({path.name: path for path in Path(folder).iterdir()}, "Publish", tag)
    print(commit.id, commit.is_new)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
