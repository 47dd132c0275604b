# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""All tasks on long documents by name."""

from collections.abc import Sequence

from evaluation_concept.long_context import documents, listops, longbench, lra, rfc, ruler, scrolls
from evaluation_concept.long_context.tasks import Task

FAMILIES = (scrolls, longbench, listops, lra, ruler, documents, rfc)
TASKS: dict[str, Task] = {task.name: task for family in FAMILIES for task in family.TASKS}


def find_tasks(names: Sequence[str]) -> list[Task]:
    """
    Tasks by name, or all those of a family (`scrolls`, `longbench`, `lra`, `ruler`, `documents`).

    Raises:
        ValueError: a name that is neither.
    """
    found: dict[str, Task] = {}
    for name in names:
        named = [task for task in TASKS.values() if name in (task.name, task.family)]
        if not named:
            families = sorted({task.family for task in TASKS.values()})
            raise ValueError(f"There is no task {name!r}; families: {', '.join(families)}; tasks: {', '.join(TASKS)}.")
        found |= {task.name: task for task in named}
    return list(found.values())
