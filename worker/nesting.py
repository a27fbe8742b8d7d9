# SPDX-License-Identifier: Apache-2.0
"""Headers whose sequences lie too deep in one another: pydicom fails on them, or does not come to an end."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset

from clam_core.errors import SlideError

DEEPEST = 32
"""Sequences within sequences; slides have 5 or so. Where pydicom meets Python's limit it tells, at each level
that it comes back from, twice what it told of the one below: for ever."""

_MAY_BE_SEQUENCES = frozenset({"SQ", "UN", None})
"""None is an element's kind in implicit VR until it is looked at."""


def is_too_deep(header: Dataset) -> bool:
    """Tell whether sequences lie deeper in one another than in any slide, without going there."""
    datasets = [header]
    for _ in range(DEEPEST + 1):
        datasets = [item for dataset in datasets for item in _items(dataset)]
        if not datasets:
            return False
    return True


def _items(dataset: Dataset) -> Iterator[Dataset]:
    # Values are decoded when they are looked at, and none but sequences need be: others' may be damaged.
    for element in dataset.elements():
        if element.VR in _MAY_BE_SEQUENCES and dataset[element.tag].VR == "SQ":
            yield from dataset[element.tag].value


def too_deep() -> SlideError:
    """Return what is said of such a slide."""
    return SlideError(
        f"The header of a stored image nests its sequences more than {DEEPEST} deep, as no slide's does: "
        "store another export of the scanner."
    )
