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
"""Which positions have labels, and losses that are sums over all labels divided by their number."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig


def labelled_positions(labels: torch.Tensor) -> torch.Tensor | None:
    """
    Positions `[batch, K]` of the labels that are not -100, -1 filling rows that have fewer than K.

    K is known only to a host that waits for the device, and not to a compiler, which gets `None`: every position. The
    loss is the same.
    """
    if torch.compiler.is_compiling():
        return None
    labelled = labels != -100
    most = max(int(labelled.sum(dim=1).max()), 1)
    index = labelled.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return index.masked_fill(~labelled.gather(1, index), -1)


def labels_at(labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The `labels` `[batch, N]` at `positions` `[batch, K]`: `[batch, K]`, -100 for a position of -1."""
    return labels.gather(1, positions.clamp(min=0)).masked_fill(positions < 0, -100)


def mean_loss(
    criterion: Callable,
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: int | torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """
    Sum of `criterion` over all labels but -100, divided by their number, or by `num_items_in_batch` if given.

    With the number of items of all micro-batches and devices, sums of micro-batch losses equal the loss of the whole
    batch, which holds for every criterion here. No labels give a loss of 0.
    """
    total = criterion(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="sum")
    if num_items_in_batch is None:
        num_items_in_batch = (labels != -100).sum().clamp(min=1)
    elif isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: PreTrainedConfig, **kwargs: Any
) -> torch.Tensor:
    """Loss of `[batch, num_labels]` logits: `config.problem_type`, or what number and type of labels imply."""
    problem = config.problem_type
    if problem is None and config.num_labels == 1:
        problem = "regression"
    elif problem is None:
        problem = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    if problem == "single_label_classification":
        return mean_loss(nn.functional.cross_entropy, logits, labels.view(-1), **kwargs)
    criteria = {
        "regression": nn.functional.mse_loss,
        "multi_label_classification": nn.functional.binary_cross_entropy_with_logits,
    }
    return mean_loss(criteria[problem], logits, labels.view_as(logits).to(logits.dtype), **kwargs)
