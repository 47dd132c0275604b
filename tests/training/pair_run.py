# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Two processes on the CPU, connected by gloo, in the environment that `accelerate launch` gives to its processes.

They are forked from a server that has imported what takes long and done nothing else: a launcher and two processes
that each start from nothing take ten times as long as what is run in them.
"""

import json
import multiprocessing
import os
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_multi_gpu_env
from torch.distributed import TCPStore

ROOT = Path(__file__).parents[2]
IMPORTED = ["tests.training.tiny_trainer", "training_concept.retrieval", "torch._dynamo"]
SHAPE = {"num_hidden_layers": 2, "num_token_layers": 1, "num_interleaved_token_layers": 0, "num_decoder_layers": 1}
BATCH = 6


def parse_launch(*command: str) -> Any:
    """What `accelerate launch` makes of its command line."""
    return _validate_launch_command(launch_command_parser().parse_args(command))[0]


def start_pair(launcher: list[str], function: Callable[..., None], *arguments: Any) -> None:
    """
    Call a function with `arguments` in each of two processes, as `accelerate launch` with flags `launcher` would.

    Raises:
        torch.multiprocessing.ProcessException: if one of them fails, with its traceback.
    """
    args = parse_launch("--mixed_precision", "no", "--num_processes", "2", *launcher, "script.py")
    # As torchrun does: the port is found by who holds it, so that no other process can take it.
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environment = prepare_multi_gpu_env(args) | {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    torch.multiprocessing.start_processes(
        _call_as_rank, (environment, function, arguments), nprocs=2, start_method="forkserver"
    )


def _call_as_rank(rank: int, environment: dict[str, str], function: Callable[..., None], arguments: tuple) -> None:
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    os.chdir(ROOT)
    function(*arguments)


def run_as_command(module: str, *arguments: str) -> None:
    """Run a module as `python -m` does, which has to end well."""
    sys.argv = [module, *arguments]
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def launch(folder: Path, launcher: list[str], runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What `train_one` gave for each of `runs`, settings by name, in two processes."""
    start_pair(launcher, train_all, folder, runs)
    return json.loads((folder / "results.json").read_text())


def train_one(folder: Path, processes: int = 1, **settings: Any) -> dict[str, Any]:
    """
    Train on rows of one length, `BATCH` of them in a step whatever the number of processes and micro-batches.

    Returns:
        What was logged (`loss`, `grad_norm`, `eval_loss`), how many graphs were compiled (`graphs`), how often
        gradients were exchanged (`exchanges`), and the kinds of the modules that hold sharded weights (`sharded`).
    """
    import torch
    from torch._dynamo.utils import counters

    from tests.training.tiny_trainer import build, history, rows, tiny_tokenizer, trainer

    torch._dynamo.reset()
    counters.clear()
    per_device = BATCH // processes // settings.get("gradient_accumulation_steps", 1)
    steps = {"max_steps": 4, "per_device_train_batch_size": per_device, "dataloader_drop_last": True}
    own = {"ddp_backend": "gloo"} if processes > 1 else {}
    data, tokenizer = rows(26, 20, 20), tiny_tokenizer()
    run = trainer(build(**SHAPE), folder, tokenizer, data, length=20, **own | steps | settings)
    exchanges = count_exchanges(run)
    run.train(resume_from_checkpoint=run.args.resume_from_checkpoint)
    run.evaluate()
    return {
        **{name: history(run, name) for name in ("loss", "grad_norm", "eval_loss")},
        "graphs": counters["stats"]["unique_graphs"],
        "exchanges": exchanges.total(),
        "sharded": sorted({type(part).__name__ for part in run.model.modules() if hasattr(part, "reshard")}),
    }


def count_exchanges(run: Any) -> Counter[str]:
    """Counts gradients that are sent: buckets of DDP, blocks of FSDP."""
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    counts: Counter[str] = Counter()

    def counted_bucket(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        counts["buckets"] += 1
        return allreduce_hook(group, bucket)

    prepare = run.accelerator.prepare_model

    def prepare_counted(*args: Any, **kwargs: Any) -> torch.nn.Module:
        model = prepare(*args, **kwargs)
        if hasattr(model, "register_comm_hook"):
            model.register_comm_hook(None, counted_bucket)
        return model

    run.accelerator.prepare_model = prepare_counted
    # torch 2.13 gave it a second name.
    for name in {"reduce_scatter_tensor", "reduce_scatter_single"} & set(dir(dist)):
        setattr(dist, name, _counted(getattr(dist, name), counts))
    return counts


def _counted(function: Callable[..., Any], counts: Counter[str]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        counts["blocks"] += 1
        return function(*args, **kwargs)

    return counted


def let_cpus_shard() -> None:
    """accelerate shards on accelerators only; let it take the CPUs for some."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    start = PartialState.__init__

    def start_as_accelerators(self: PartialState, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = start_as_accelerators


def train_all(folder: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Train each of `runs` in one of two processes; the first writes what `train_one` gave to `results.json`."""
    import torch.distributed as dist
    from accelerate.utils import parse_flag_from_env

    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        let_cpus_shard()
    results = {name: train_one(folder / name, processes=2, **settings) for name, settings in runs.items()}
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
