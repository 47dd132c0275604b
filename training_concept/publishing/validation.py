# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a folder is fit to be published: it loads where nothing else is, and its model is well."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from configuration_concept import ConceptEncoderConfig
from evaluation_concept.health import SICK, Finding
from training_concept.publishing import health_alone, load_alone
from training_concept.publishing.contents import read_config

LONGEST_SECONDS = 1800


def validate(folder: Path) -> list[str]:
    """
    Check a checkpoint that is about to be published. Runs the code in it, in processes that hold no token.

    Returns:
        What was checked, for its user to read.

    Raises:
        ValueError: naming all that is wrong.
    """
    report = load_in_fresh_process(folder)
    problems, checked = (
        list(report["problems"]),
        [f"loads by itself, offline, as {report['class']} with {report['parameters']:,} parameters"],
    )
    if not problems and _has_health_checks(folder):
        findings = check_health_in_fresh_process(folder)
        problems += [f"{finding.check}: {finding.detail}" for finding in findings if finding.status == SICK]
        checked += [f"{finding.check}: {finding.detail}" for finding in findings]
    if problems:
        raise ValueError(f"this checkpoint is not fit to be published: {'; '.join(problems)}.")
    return checked


def load_in_fresh_process(folder: Path) -> dict[str, Any]:
    """
    Load a folder's model and tokenizer with its own code and pip packages only, without network, caches or tokens.

    Returns:
        What `load_alone.main` does.

    Raises:
        ValueError: if it cannot be loaded, or not in time, with the last line that the process wrote.
    """
    return _run_alone(load_alone, folder, failure="does not load by itself")


def check_health_in_fresh_process(folder: Path) -> list[Finding]:
    """
    As `evaluation_concept.health.check_health` with the folder's own code, without network, caches or tokens.

    Raises:
        ValueError: if it cannot be done, or not in time, with the last line that the process wrote.
    """
    found = _run_alone(health_alone, folder, failure="cannot be examined")
    return [Finding(**finding) for finding in found]


def _run_alone(script: ModuleType, folder: Path, failure: str) -> Any:
    """What a script makes of the folder in a process of its own, from the JSON on its last line."""
    with TemporaryDirectory() as scratch:
        foreign = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        try:
            process = subprocess.run(
                [sys.executable, "-I", str(script.__file__), str(folder.resolve())],
                cwd=scratch,
                env=kept | {"HF_HUB_OFFLINE": "1", "HF_HOME": scratch, "HF_HUB_DISABLE_TELEMETRY": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LONGEST_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"this checkpoint {failure}: it took more than {LONGEST_SECONDS:,} seconds.") from error
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"it ended with {process.returncode}"])[-1]
        raise ValueError(f"this checkpoint {failure}: {reason}")
    try:
        return json.loads(process.stdout.strip().rpartition("\n")[2])
    except json.JSONDecodeError as error:
        raise ValueError(f"this checkpoint {failure}: its code ended the process, or wrote after its end.") from error


def _has_health_checks(folder: Path) -> bool:
    """Whether it is a concept encoder that predicts masked tokens, of which it is known what should hold."""
    config = read_config(folder)
    heads = config.get("architectures") or []
    return config["model_type"] == ConceptEncoderConfig.model_type and any("MaskedLM" in head for head in heads)
