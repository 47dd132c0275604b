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
"""One vector for a document: from decoded positions, from concepts, from a query on them, or from token states."""

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig

from .attention import ConceptBlock
from .tokens import segment_means


def masked_mean(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean `[batch, width]` over the length of `[batch, length, width]`, where `mask` `[batch, length]` is not 0."""
    if mask is None:
        return states.mean(dim=1)
    # Half precision overflows where there are many states.
    weights = (mask != 0).unsqueeze(-1).to(torch.promote_types(states.dtype, torch.float32))
    return ((states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)).to(states.dtype)


def documents_or_one(documents: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
    """`documents`, or those of states that all belong to the first one: int64 `[batch, length]`."""
    return torch.zeros_like(mask, dtype=torch.long) if documents is None else documents


def members(mask: torch.Tensor, documents: torch.Tensor | None, number: int) -> torch.Tensor:
    """
    Which states count for which document: bool `[batch, number, length]`.

    Args:
        mask: `[batch, length]`, not 0 for states that count.
        documents: int64 `[batch, length]`, the document of each; `None` if all are of the first one.
        number: of documents in a row.
    """
    index = torch.arange(number, device=mask.device).view(1, -1, 1)
    return (documents_or_one(documents, mask).unsqueeze(1) == index) & (mask != 0).unsqueeze(1)


def document_means(
    states: torch.Tensor, mask: torch.Tensor | None, documents: torch.Tensor | None, number: int | None
) -> torch.Tensor:
    """Means `[batch, width]`, or `[batch, number, width]`, zeros for a document without states; see `MeanPooling`."""
    if number is None:
        return masked_mean(states, mask)
    return segment_means(states, documents_or_one(documents, mask), number, mask != 0)


class MeanPooling(nn.Module):
    """The mean."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()

    def forward(
        self,
        states: torch.Tensor,
        mask: torch.Tensor | None,
        documents: torch.Tensor | None = None,
        number: int | None = None,
    ) -> torch.Tensor:
        """
        Args:
            states: `[batch, length, width]`.
            mask: `[batch, length]`, not 0 for states that count; `None` if all do.
            documents: int64 `[batch, length]`, the document of each state; `None` if all are of one.
            number: documents of a row, if each has a vector of its own; this needs a `mask`.

        Returns:
            `[batch, width]`, or `[batch, number, width]`: finite, but of no meaning, for a document without states.
        """
        return document_means(states, mask, documents, number)


class WeightedPooling(nn.Module):
    """A weighted mean, with weights that the states get from what they hold."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        documents: torch.Tensor | None = None,
        number: int | None = None,
    ) -> torch.Tensor:
        """As `MeanPooling.forward`."""
        scores = self.score(states).squeeze(-1)
        lowest = torch.finfo(scores.dtype).min
        if number is None:
            weights = scores.masked_fill(mask == 0, lowest).softmax(dim=-1)
            return (states * weights.unsqueeze(-1)).sum(dim=1)
        scores = scores.unsqueeze(1).masked_fill(~members(mask, documents, number), lowest)
        return torch.matmul(scores.softmax(dim=-1), states)


class QueryPooling(nn.Module):
    """What one learned query reads, through a block of its own."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.query = nn.Parameter(torch.empty(1, width))
        self.block = ConceptBlock(config, width, key_width=width, inner_width=inner)

    def forward(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        documents: torch.Tensor | None = None,
        number: int | None = None,
    ) -> torch.Tensor:
        """As `MeanPooling.forward`."""
        query = self.query.expand(states.shape[0], number or 1, -1)
        if number is None:
            return self.block(query, states, attention_mask=mask[:, None, None] != 0).squeeze(1)
        read = members(mask, documents, number)
        # A document without concepts reads all of them, so that no softmax is empty.
        read = read | ~read.any(dim=-1, keepdim=True)
        return self.block(query, states, attention_mask=read.unsqueeze(1))


class Readout(NamedTuple):
    """
    Where the one vector of a document comes from.

    Attributes:
        states: `"decoded"` (every position, by the pretrained decoder), `"concepts"` or `"tokens"` (of the encoder).
        pooling: how they become one.
    """

    states: str
    pooling: type[nn.Module]

    def width(self, config: PreTrainedConfig) -> int:
        """Width of the vector."""
        return config.token_hidden_size if self.states == "tokens" else config.hidden_size


READOUTS: dict[str, Readout] = {
    "decoder": Readout("decoded", MeanPooling),
    "concepts": Readout("concepts", WeightedPooling),
    "cls_query": Readout("concepts", QueryPooling),
    "tokens": Readout("tokens", MeanPooling),
}
