# Copyright 2026 The Concept Encoder authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What `from_pretrained` of these models has to know beside what the library's does."""

from contextlib import suppress
from os import PathLike
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

# Values of `device_map` that leave it to the library where the parts of a model go.
AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")


def loading_options(
    model_class: type[PreTrainedModel], name: str | PathLike | None, options: dict[str, Any]
) -> dict[str, Any]:
    """
    The `options` of `from_pretrained` for a checkpoint `name`, as `model_class` needs them.

    Names that weights once had are read where the checkpoint says that this class wrote it. They may be those that
    other heads have, whose weights are not meant.
    """
    former = model_class._former_names
    if former and model_class.__name__ in saved_architectures(model_class, name, options):
        mapping = {rf"^{old}\.": f"{new}." for old, new in former.items()}
        options = options | {"key_mapping": mapping | (options.get("key_mapping") or {})}
    # With `head` and `lm_head` in one model, the library takes either for the other when it spreads tied weights.
    if options.get("device_map") in AUTOMATIC and model_class._tied_weights_keys and options.get("max_memory") is None:
        options = options | {"device_map": {"": first_device()}}
    return options


def saved_architectures(
    model_class: type[PreTrainedModel], name: str | PathLike | None, options: dict[str, Any]
) -> list[str]:
    """The classes that wrote the checkpoint `name`, as its configuration has them; none if nothing says so."""
    config = options.get("config")
    if isinstance(config, PreTrainedConfig):
        return config.architectures or []
    saved: dict[str, Any] = {}
    # Whatever is wrong with the name, the library says it.
    with suppress(OSError):
        others = {key: value for key, value in options.items() if key != "config"}
        saved, _ = model_class.config_class.get_config_dict(config or name, **others)
    return saved.get("architectures") or []


def first_device() -> torch.device:
    """The accelerator at hand, or the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.device(torch.accelerator.current_accelerator().type, torch.accelerator.current_device_index())


def rename_former(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """
    A hook of `load_state_dict`, by which Trainers resume: in `state_dict` weights of former names get their own.
    """
    for old, new in module._former_names.items():
        for name in [name for name in state_dict if name.startswith(f"{prefix}{old}.")]:
            state_dict[f"{prefix}{new}.{name.removeprefix(f'{prefix}{old}.')}"] = state_dict.pop(name)
