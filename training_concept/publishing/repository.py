# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A model repository on the Hub, to which checkpoints go as a whole or not at all."""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from training_concept.publishing.patterns import is_outdated
from training_concept.publishing.waiting import bound_silence

# Of others that push to the same branch at the same time, as many may come first.
MOST_CONFLICTS = 5
CONFLICT = (409, 412)
# As often, and for as many seconds each time, it is waited when the Hub has had too many requests.
MOST_WAITS, LONGEST_WAIT, USUAL_WAIT = 3, 120, 10
TOO_MANY = 429
NO_TOKEN = "there is no access token: run `hf auth login` or set HF_TOKEN"
HINTS = {
    401: "it does not accept your access token, or there is none: run `hf auth login` or set HF_TOKEN",
    403: "your access token may not do this: it has to be one that writes, and the namespace one of yours",
    404: "there is no such repository or revision, or your access token may not see it",
    TOO_MANY: "there were too many requests of late; wait some minutes, and do the same again",
}


# What no name of a branch or tag holds (git help check-ref-format).
NO_REVISION = re.compile(r"[\x00-\x20~^:?*\[\\\x7f]|\.\.|@\{|//|/\.|^[-./]|[./]$|\.lock(/|$)|^@$|^$")


class HubError(OSError):
    """The Hub refused what was asked, or did not answer."""


class HubSilentError(HubError):
    """The Hub did not answer."""


@dataclass(frozen=True)
class Target:
    """
    Where a checkpoint goes.

    Attributes:
        repo_id: `user/name`, or `name` for one of the user whose token it is.
        revision: branch, made if it is not there; `None` for main.
        private: whether the repository is private, if it has to be made.
        token: `None` for the one that huggingface_hub knows (HF_TOKEN or `hf auth login`).
    """

    repo_id: str
    revision: str | None = None
    private: bool = True
    token: str | None = None


class Commit(NamedTuple):
    """Id and address of a commit, whether it was made or found to hold all files already, and what it removed."""

    id: str
    url: str
    is_new: bool
    removed: tuple[str, ...] = ()


def check_revision(name: str) -> None:
    """
    Raises:
        ValueError: Git has no branch or tag of this name.
    """
    if NO_REVISION.search(name):
        raise ValueError(f"{name!r} is no name that Git lets a branch or tag have.")


def check_access(target: Target) -> None:
    """
    Find out whether the Hub answers and knows the access token, which changes nothing there.

    Raises:
        HubError: it does not, or there is no token.
    """
    bound_silence()
    if not (target.token or get_token()):
        raise HubError(f"{target.repo_id}: {NO_TOKEN}.")
    with _explained(target.repo_id):
        try:
            HfApi(token=target.token).whoami()
        except HfHubHTTPError as error:
            # The Hub counts these questions strictly, and has answered all the same.
            if error.response.status_code != TOO_MANY:
                raise


class Repository:
    """
    A model repository, made if it is not there.

    Args:
        target: names it.

    Attributes:
        id: its full name.

    Raises:
        HubError: if the Hub does not let it be used, or cannot be reached. So do all methods.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.api = HfApi(token=target.token)
        bound_silence()
        with _explained(target.repo_id):
            self.id = self.api.create_repo(target.repo_id, private=target.private, exist_ok=True).repo_id
            if target.revision:
                self.api.create_branch(self.id, branch=target.revision, exist_ok=True)

    def commit(self, files: Mapping[str, Path], message: str) -> Commit:
        """
        Upload files in one commit, upon the newest of the branch.

        Large files that the Hub has already, perhaps from an upload that broke off, are not sent again. Files of an
        earlier model that are not among these are removed. If another commit comes in between, this one is made anew
        upon that, so that the files of two checkpoints are never mixed. If the Hub asks to wait, that is done for some
        minutes.

        Args:
            files: by path in the repository.
            message: of the commit.
        """
        conflicts = waits = 0
        with _explained(self.id):
            while True:
                try:
                    return self._commit(files, message)
                except HfHubHTTPError as error:
                    status = error.response.status_code
                    if status in CONFLICT and conflicts < MOST_CONFLICTS:
                        conflicts += 1
                    elif status == TOO_MANY and waits < MOST_WAITS and _wait(error) <= LONGEST_WAIT:
                        waits += 1
                        time.sleep(_wait(error))
                    else:
                        raise

    def publish(self, files: Mapping[str, Path], message: str, tag: str | None = None) -> Commit:
        """
        As `commit`, and call it by a version, which is never moved.

        Raises:
            ValueError: there is such a version, and its files are others.
        """
        if tag and (there := self._version(files, tag)):
            return there
        commit = self.commit(files, message)
        if tag:
            with _explained(self.id):
                self.api.create_tag(self.id, tag=tag, revision=commit.id, exist_ok=True)
            if self._tagged(tag) != commit.id:  # somebody else was quicker
                return self._version(files, tag) or commit
        return commit

    def has(self, name: str) -> bool:
        """Whether the branch has a file of this name."""
        with _explained(self.id):
            return self.api.file_exists(self.id, name, revision=self.target.revision)

    def _version(self, files: Mapping[str, Path], tag: str) -> Commit | None:
        """The commit that is called so, `None` if there is none; a `ValueError` if it holds something else."""
        tagged = self._tagged(tag)
        if tagged is None:
            return None
        if not self._holds(files, tagged):
            raise ValueError(f"{self.id} has another version {tag}, which stays: choose another --tag.")
        return Commit(tagged, f"{constants.ENDPOINT}/{self.id}/commit/{tagged}", is_new=False)

    def _tagged(self, tag: str) -> str | None:
        with _explained(self.id):
            tags = self.api.list_repo_refs(self.id).tags
        return next((found.target_commit for found in tags if found.name == tag), None)

    def _holds(self, files: Mapping[str, Path], revision: str) -> bool:
        """Whether `revision` is what a commit of the files makes: they are there, and none that it would remove."""
        with _explained(self.id):
            tree = self.api.list_repo_tree(self.id, recursive=True, revision=revision)
            there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        if any(is_outdated(name, [*files]) for name in there):
            return False
        return all(name in there and _is_same(path, there[name]) for name, path in files.items())

    def _commit(self, files: Mapping[str, Path], message: str) -> Commit:
        head = self.api.model_info(self.id, revision=self.target.revision)
        there = [sibling.rfilename for sibling in head.siblings or []]
        outdated = tuple(name for name in there if is_outdated(name, [*files]))
        made = self.api.create_commit(
            self.id,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in outdated),
            ],
            commit_message=message,
            revision=self.target.revision,
            parent_commit=head.sha,
        )
        return Commit(made.oid, made.commit_url, made.oid != head.sha, outdated)


def _is_same(path: Path, entry: RepoFile) -> bool:
    """Whether a file is the one in the repository, by the identity that Git LFS, else Git, goes by."""
    with path.open("rb") as file:
        if entry.lfs:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.lfs.sha256
        return git_hash(file.read()) == entry.blob_id


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Raise errors of the Hub's client in words that say what to do."""
    try:
        yield
    except (HTTPError, RuntimeError) as error:
        # Errors of uploads come wrapped, and those of Xet are of no class of their own.
        cause = error if isinstance(error, HTTPError) else error.__cause__ or error
        refused = isinstance(cause, HfHubHTTPError)
        raise (HubError if refused else HubSilentError)(f"{repo_id}: {_reason(cause)}.") from error


def _wait(error: HfHubHTTPError) -> int:
    """For how many seconds a Hub that has had too many requests asks to wait."""
    asked = error.response.headers.get("Retry-After", "")
    return int(asked) if asked.isdigit() else USUAL_WAIT


def _reason(error: BaseException) -> str:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"the Hub refused this: {HINTS.get(status) or f'{error.server_message or error} ({status})'}"
    return f"the Hub at {constants.ENDPOINT} does not answer as it should ({str(error).rstrip('.')})"
