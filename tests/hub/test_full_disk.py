# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A disk that is full: a run ends in a sentence, keeps what was whole, and ends as if nothing had been, once started
again. The operating system refuses files above a size, as it refuses those for which there is no room."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import run_glue
import run_mlm
from evaluation_concept.errors import exit_code
from tests.training import tiny_glue, tiny_run
from training_concept.saving import SavingTrainer

# In bytes: what is the first file that does not fit.
ROOM = {"code": 30_000, "weights": 100_000, "optimizer": 500_000}


@contextmanager
def room_for_files(size: int) -> Iterator[None]:
    """No file may grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def fill_disk(monkeypatch: pytest.MonkeyPatch):
    """Let the first checkpoint be saved, and no later one whole."""
    save = SavingTrainer._save_checkpoint

    def fill(size: int) -> None:
        saved: list[str] = []

        def save_and_fill(self: SavingTrainer, *args, **kwargs) -> None:
            if saved:
                with room_for_files(size):
                    save(self, *args, **kwargs)
            save(self, *args, **kwargs)
            saved.append(self.args.output_dir)

        monkeypatch.setattr(SavingTrainer, "_save_checkpoint", save_and_fill)

    return fill


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "lacks_room",
    [pytest.param("code", marks=pytest.mark.slow), "weights", pytest.param("optimizer", marks=pytest.mark.slow)],
)
def test_pretraining_goes_on_from_the_checkpoint_before(tmp_path, fill_disk, monkeypatch, capsys, lacks_room):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "do_eval": False}
    tiny_run.train(tmp_path, output_dir=str(tmp_path / "whole"), **settings)
    fill_disk(ROOM[lacks_room])
    arguments = tiny_run.arguments(tmp_path, **settings)
    assert exit_code(run_mlm.main, arguments) == 2
    assert "Not all could be saved in" in capsys.readouterr().err
    before = files(tmp_path / "out" / "checkpoint-2")
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= before.keys()
    monkeypatch.undo()
    assert exit_code(run_mlm.main, arguments) == 0
    assert files(tmp_path / "out" / "checkpoint-2") == before
    ends = [files(tmp_path / name)["model.safetensors"] for name in ("whole", "out")]
    assert ends[0] == ends[1]


def test_fine_tuning_goes_on_from_the_checkpoint_before(tmp_path, fill_disk, monkeypatch, capsys):
    model, glue = tiny_glue.write_checkpoint(tmp_path / "base"), tiny_glue.write_glue(tmp_path / "glue", ["rte"])
    settings = {"task_name": ["rte"], "dataset_name": str(glue), "save_strategy": "steps", "save_steps": 1}
    tiny_glue.run(model, tmp_path / "whole", **settings)
    fill_disk(ROOM["weights"])
    arguments = tiny_glue.arguments(model, tmp_path / "out", **settings)
    assert exit_code(run_glue.main, arguments) == 2
    assert "goes on from its last complete checkpoint" in capsys.readouterr().err
    monkeypatch.undo()
    assert exit_code(run_glue.main, arguments) == 0
    ends = [files(tmp_path / name)["model.safetensors"] for name in ("whole", "out")]
    assert ends[0] == ends[1]
