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
"""The concept encoder in sentence-transformers, whose own pooling would take the mask of N tokens for C concepts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForTextEncoding, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


class ConceptSentenceEmbedding(nn.Module):
    """
    The one module of a `SentenceTransformer`: texts to the embeddings that `model.encode` gives, in batches that are
    padded. It is named in `modules.json`, and has the methods that sentence-transformers looks for by name, so that
    this file does not need the package.

    `MultiVectorEncoder(modules=[module])`, of the same package, has the embeddings of concepts.

    Args:
        model: [`ConceptEncoderForTextEncoding`].
        tokenizer: its tokenizer. Special tokens that are spelled out in a text are read as characters.
    """

    modalities = ["text"]
    forward_kwargs: set[str] = set()
    # In the folder of the checkpoint itself: weights and tokenizer are there already.
    save_in_root = True

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        # CODEPATH: only `perceiver_v1` has learned positions, and with them a longest text.
        if model.config.position_embedding == "learned":
            self.max_seq_length = min(self.max_seq_length, model.config.max_position_embeddings)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        tokenizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "ConceptSentenceEmbedding":
        """
        Load model and tokenizer; everything is passed on to their `from_pretrained`.

        Args:
            config_kwargs: changes to the configuration.
            tokenizer_kwargs: what `processor_kwargs` are called in versions of sentence-transformers before 5.4.

        Raises:
            ValueError: for another `backend` than PyTorch.
        """
        if backend != "torch":
            raise ValueError(f"backend={backend!r}: concept encoders run in sentence-transformers with 'torch' only.")
        common = {
            "cache_dir": cache_folder,
            "local_files_only": local_files_only,
            "revision": revision,
            "token": token,
            "trust_remote_code": trust_remote_code,
        }
        model = AutoModelForTextEncoding.from_pretrained(
            model_name_or_path, **(common | (config_kwargs or {}) | (model_kwargs or {}))
        )
        options = processor_kwargs or tokenizer_kwargs or {}
        return cls(model, AutoTokenizer.from_pretrained(model_name_or_path, **(common | options)))

    @property
    def max_seq_length(self) -> int:
        """Tokens of a text, special ones included, beyond which it is cut."""
        return self.tokenizer.model_max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.tokenizer.model_max_length = value

    @property
    def processor(self) -> PreTrainedTokenizerBase:
        """The tokenizer, as sentence-transformers calls what prepares inputs of any kind."""
        return self.tokenizer

    def get_embedding_dimension(self) -> int:
        """Width of embeddings."""
        return self.model.config.hidden_size

    def get_sentence_embedding_dimension(self) -> int:
        """What `get_embedding_dimension` is called in versions before 5.4."""
        return self.get_embedding_dimension()

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        """
        Tokenise texts.

        Args:
            prompt: put before each of them.

        Returns:
            `input_ids` and `attention_mask`, int64 `[texts, N]`.
        """
        texts = [(prompt or "") + text for text in inputs]
        encoded = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            split_special_tokens=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        # Texts without a token are padded like others.
        return {
            name: values if values.shape[1] else torch.zeros(len(texts), 1).long() for name, values in encoded.items()
        }

    def tokenize(self, texts: Sequence[str], **kwargs: Any) -> dict[str, torch.Tensor]:
        """What `preprocess` is called in versions before 5.4."""
        return self.preprocess(texts, **kwargs)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """
        Add to `features` what sentence-transformers reads: `sentence_embedding` `[texts, hidden_size]`, and the
        embeddings of concepts under `token_embeddings` `[texts, C, hidden_size]`, `attention_mask` `[texts, C]`.
        """
        outputs = self.model(features["input_ids"], features["attention_mask"])
        return features | {
            # A text without a token has no place; it is nothing, as `model.encode` has it.
            "sentence_embedding": outputs.embeddings * features["attention_mask"].any(dim=1, keepdim=True),
            "token_embeddings": outputs.concept_embeddings,
            "attention_mask": outputs.concept_mask,
        }

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save model and tokenizer; sentence-transformers adds this file and what names it."""
        self.model.save_pretrained(output_path)
        self.tokenizer.save_pretrained(output_path)
