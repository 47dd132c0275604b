# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""How long a Hub may be silent, for which huggingface_hub 2 waits for ever."""

from functools import cache
from typing import Any

from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http

# In seconds, without a byte sent or received: what goes on, however slowly, takes as long as it takes.
LONGEST_SILENCE = 120.0


@cache
def bound_silence() -> None:
    """
    Let no request of huggingface_hub in this process wait for ever, from here on.

    Requests that have limits of their own keep them, and clients are made as they were. Connections that are open are
    closed: call it before any other thread talks to the Hub.
    """
    make_client = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)

    def make_bounded_client() -> Any:
        client = make_client()
        hooks = client.event_hooks
        client.event_hooks = hooks | {"request": [*hooks["request"], _bound]}
        return client

    set_client_factory(make_bounded_client)


def _bound(request: Any) -> None:
    # A client's own default would not do: many methods of HfApi ask for no limit in so many words.
    limits = request.extensions.get("timeout", {})
    bounds = {name: limits.get(name) or LONGEST_SILENCE for name in ("connect", "read", "write")}
    request.extensions["timeout"] = limits | bounds
