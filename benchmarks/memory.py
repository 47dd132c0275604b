# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Peak memory of one forward pass of the encoder on the CPU, in a process of its own:

    python -m benchmarks.memory small 16384
"""

import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass

import psutil
import torch

from benchmarks.results import ROOT
from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoder

# `ru_maxrss` comes in KiB on Linux, in bytes on macOS.
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Memory:
    """Resident memory in bytes: of the whole process at its peak, and once the model was loaded, before the pass."""

    peak: int
    loaded: int

    @property
    def forward(self) -> int:
        """What the forward pass took on top of the loaded model."""
        return self.peak - self.loaded


def measure_here(config: ConceptEncoderConfig, tokens: int) -> Memory:
    """Run `ConceptEncoder` on one document in float32; the peak is that of this process since it began."""
    model = ConceptEncoder(config).eval()
    input_ids = torch.randint(config.vocab_size, (1, tokens))
    loaded = psutil.Process().memory_info().rss
    with torch.inference_mode():
        model(input_ids)
    return Memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES, loaded)


def measure(preset: str, tokens: int) -> Memory:
    """
    Do the same in a fresh process.

    On Linux a child's peak is at least that of its parent: do not call it from a process that holds more than a model.

    Raises:
        subprocess.CalledProcessError: if the child fails, out of memory say.
    """
    command = [sys.executable, "-m", "benchmarks.memory", preset, str(tokens)]
    child = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return Memory(**json.loads(child.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(measure_here(ConceptEncoderConfig.from_preset(sys.argv[1]), int(sys.argv[2])))))
