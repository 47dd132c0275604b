# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Uploads of a run in mid-training and at its end, none of which can fail it."""

import logging
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from training_concept.publishing.card import name_card
from training_concept.publishing.contents import DRAFT, check_secret, files_in, staged, survey
from training_concept.publishing.repository import Commit, HubSilentError, Repository, Target
from training_concept.publishing.waiting import bound_silence

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last-checkpoint"


def target_of(args: TrainingArguments) -> Target:
    """Where a run's arguments say that its model goes; private, unless they say otherwise."""
    return Target(
        args.hub_model_id or Path(args.output_dir).resolve().name,
        revision=args.hub_revision,
        private=args.hub_private_repo is not False,
        token=args.hub_token,
    )


def push_run(args: TrainingArguments, folder: Path) -> Commit | None:
    """
    Upload what a finished run leaves, in one commit. If that fails it says how to do it later, and raises nothing.

    Args:
        args: of the run.
        folder: with model, tokenizer, card and results.
    """
    target = target_of(args)
    words = ["python", "-m", "training_concept.publish", str(folder), target.repo_id]
    words += ["--revision", target.revision] if target.revision else []
    command = shlex.join(words + ["--public"] * (not target.private))
    failure = f"{folder} holds the finished model but was not uploaded"
    with _Harmless(failure, f"Later: {command}{_whose(target.repo_id)}"), staged(survey(folder).travels) as copy:
        check_secret(files_in(copy), target.token or get_token())
        repository = Repository(target)
        for name in (Path(args.output_dir).resolve().name, target.repo_id):
            name_card(copy, name, repository.id)
        return repository.commit(files_in(copy), "End of training")
    return None


def _whose(repo_id: str) -> str:
    return "" if "/" in repo_id else f" (which is USER/{repo_id} for the USER of your access token)"


class PushingTrainer(Trainer):
    """
    `transformers.Trainer` whose uploads in mid-training (`hub_strategy`) run beside the training and cannot fail it.

    Each is one commit, and complete: weights, configuration, tokenizer and, where the model has code of its own, that.
    Stock uploads leave the code behind, and stop a run that cannot reach the Hub when it starts, or hold it for ever
    if the Hub does not answer.
    """

    push_in_progress: PushInProgress | None
    _is_ending = _hub_is_silent = False

    def init_hf_repo(self, token: str | None = None, **kwargs: Any) -> None:
        """As stock, but training begins even if there is no repository, which the next upload makes."""
        if not self.is_world_process_zero():
            return
        for stale in Path(self.args.output_dir).glob(f"{DRAFT}*"):
            shutil.rmtree(stale, ignore_errors=True)  # of a run that was killed
        target = target_of(self.args)
        self.push_in_progress, self.hub_model_id = None, target.repo_id
        bound_silence()
        self._uploads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload")
        self._uploads.submit(self._make_repository, target)

    def _make_repository(self, target: Target) -> None:
        with _Harmless("There is no repository to upload to", "Every save tries again."):
            self.hub_model_id = Repository(target).id

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy, last = self.args.hub_strategy, self.push_in_progress
        jobs = [] if last is None or last.is_done() else last.jobs
        if not self.is_world_process_zero() or strategy == HubStrategy.END or (jobs and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = Path(checkpoint_folder)
        with _Harmless(f"{folder} was not uploaded", "Training goes on."):
            files = survey(folder).travels
            if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
                place = LAST_CHECKPOINT if strategy == HubStrategy.CHECKPOINT else folder.name
                files |= {f"{place}/{name}": path for name, path in files_in(folder).items()}
            with ExitStack() as stack:
                # Checkpoints may be deleted before they are uploaded.
                copy = stack.enter_context(staged(files, beside=Path(self.args.output_dir)))
                job = self._uploads.submit(self._upload, folder, copy, self._commit_message(), stack.pop_all())
            self.push_in_progress = PushInProgress([*jobs, job])

    def _commit_message(self) -> str:
        if self.args.save_strategy == SaveStrategy.STEPS:
            return f"Training in progress, step {self.state.global_step}"
        return f"Training in progress, epoch {int(self.state.epoch)}"

    def _finish_current_push(self) -> None:
        # With --hub_always_push there may be many, each of which would wait for a Hub that is silent.
        self._is_ending = True
        super()._finish_current_push()
        self._is_ending = False

    def _upload(self, folder: Path, copy: Path, message: str, stack: ExitStack) -> None:
        with stack, _Harmless(f"{folder} was not uploaded", "Training goes on."):
            if self._is_ending and self._hub_is_silent:
                raise HubSilentError("the Hub did not answer before")
            target, files = target_of(self.args), files_in(copy)
            check_secret(files, target.token or get_token())
            try:
                Repository(target).commit(files, message)
            except HubSilentError:
                self._hub_is_silent = True
                raise
            self._hub_is_silent = False


class _Harmless:
    """Makes of any error a warning of what did not happen: an upload is worth less than the run that it is of."""

    def __init__(self, failure: str, advice: str) -> None:
        self.failure, self.advice = failure, advice

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            logger.warning("%s (%s). %s", self.failure, " ".join(str(error).split()).rstrip("."), self.advice)
        return isinstance(error, Exception)
