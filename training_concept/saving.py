# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What every Trainer here saves and uploads: no pickled arguments, and clear words where there is no room."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from training_concept.publishing.pushing import PushingTrainer
from training_concept.run import replace_pickled_arguments


class SaveError(OSError):
    """What was to be saved is not there as a whole."""


class SavingTrainer(PushingTrainer):
    """
    `transformers.Trainer` as all of this repository save and upload.

    Raises:
        SaveError: when it saves, if that fails, for which safetensors and PyTorch have errors of their own.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """As stock. Losses are scaled by Trainer, and in transformers 5.4 once more by accelerate."""
        super().create_accelerator_and_postprocess()
        self.accelerator.gradient_accumulation_steps = 1

    def disconnect(self) -> None:
        """
        End what connects the processes, when all are done.

        The model lets go of it before: DistributedDataParallel's reducer would be the last to hold the process group,
        and its end keeps the interpreter while a thread of Gloo's, for which it waits, wants that to free its tensors.
        """
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with _explained(Path(self.args.output_dir)):
            super()._save_checkpoint(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        with _explained(folder):
            super()._save(output_dir, state_dict)
            replace_pickled_arguments(folder, self.args)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except SaveError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SaveError(
            f"Not all could be saved in {folder} ({str(error).rstrip('.')}). Is the disk full? Started again, the run "
            "goes on from its last complete checkpoint."
        ) from error
