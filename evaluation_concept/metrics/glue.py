# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
GLUE's metrics as a local module of `evaluate`, for code that wants one; the one of that name is fetched from the Hub.

    evaluate.load("evaluation_concept/metrics/glue.py", "mrpc").compute(predictions=[0, 1], references=[0, 1])
"""

import datasets
import evaluate
import numpy as np

from evaluation_concept.glue import GLUE_TASKS
from evaluation_concept.metrics import measure

DESCRIPTION = "Accuracy, F1, Matthews' correlation, Pearson's and Spearman's, as each task of GLUE has it."
INPUTS = "predictions, references: numbers of classes, for stsb values."


class GlueMetric(evaluate.Metric):
    """`config_name` is a task of GLUE."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in GLUE_TASKS:
            raise ValueError(f"{self.config_name!r} is no task of GLUE; these are: {', '.join(GLUE_TASKS)}")
        kind = datasets.Value("float64" if GLUE_TASKS[self.config_name].is_regression else "int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Wang et al. 2018, arXiv 1804.07461",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return measure(GLUE_TASKS[self.config_name].metric, np.asarray(predictions), np.asarray(references))
