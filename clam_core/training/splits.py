# SPDX-License-Identifier: Apache-2.0
"""Which patients a model learns from, is chosen on, and is judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clam_core.errors import ParameterError


@dataclass(frozen=True)
class Split:
    """Indices of training, validation and test; no patient is in two of them."""

    training: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def reference_splits(
    members: Sequence[Sequence[int]],
    validation: Sequence[int],
    test: Sequence[int],
    *,
    count: int,
    seed: int,
    label_fraction: float = 1.0,
) -> list[Split]:
    """Draw splits as the reference does, from numpy's legacy generator seeded once.

    Parameters
    ----------
    members
        Ids of each class.
    validation, test
        How many of each class to draw.
    count
        Number of splits.
    seed
        Of the generator.
    label_fraction
        Share of each class's training ids that is used: the first ones, rounded up.

    Returns
    -------
    list of Split
        In the order in which they were drawn.
    """
    # The reference's splits can be drawn again only with the generator that drew them.
    rng = np.random.RandomState(seed)
    return [_draw(members, validation, test, rng, label_fraction) for _ in range(count)]


def _draw(
    members: Sequence[Sequence[int]],
    validation: Sequence[int],
    test: Sequence[int],
    rng: np.random.RandomState,
    label_fraction: float,
) -> Split:
    drawn: tuple[list[int], list[int], list[int]] = ([], [], [])
    for ids, n_validation, n_test in zip(members, validation, test, strict=True):
        held_out = rng.choice(np.sort(np.asarray(ids)), n_validation, replace=False)
        rest = np.setdiff1d(ids, held_out)
        tested = rng.choice(rest, n_test, replace=False)
        left = np.setdiff1d(rest, tested)
        used = len(left) if label_fraction == 1 else int(np.ceil(len(left) * label_fraction))
        for target, values in zip(drawn, (left[:used], held_out, tested), strict=True):
            target.extend(int(value) for value in values)
    return Split(tuple(drawn[0]), tuple(drawn[1]), tuple(drawn[2]))


def patient_folds(labels: Mapping[str, int], folds: int, seed: int) -> dict[str, int]:
    """Deal patients into folds so that each class is spread evenly.

    Parameters
    ----------
    labels
        Class of each patient.
    folds
        Their number, 2 at least.
    seed
        Of the order within a class.

    Returns
    -------
    dict of str to int
        The fold of each patient.

    Raises
    ------
    ParameterError
        If a class has fewer patients than there are folds.
    """
    if folds < 2:
        raise ParameterError("Cross-validation needs at least 2 folds.")
    rng = np.random.default_rng(seed)
    dealt: dict[str, int] = {}
    for label in sorted(set(labels.values())):
        patients = sorted(patient for patient, own in labels.items() if own == label)
        if len(patients) < folds:
            raise ParameterError(
                f"Class {label} has {len(patients)} patients, fewer than the {folds} folds: ask for fewer "
                "folds, or add patients."
            )
        # Each class goes on where the last one ended, so that the folds stay equally large.
        order = rng.permutation(len(patients))
        dealt |= {patients[index]: (len(dealt) + place) % folds for place, index in enumerate(order)}
    return dealt


def fold_split(folds: Mapping[str, int], patients: Sequence[str], fold: int) -> Split:
    """Make one fold the test and the next one the validation.

    Parameters
    ----------
    folds
        The fold of each patient.
    patients
        The patient of each slide.
    fold
        Which fold to test on.

    Returns
    -------
    Split
        Indices into `patients`. With two folds there is no validation.
    """
    count = max(folds.values()) + 1
    chosen_on = (fold + 1) % count if count > 2 else -1
    where = [folds[patient] for patient in patients]
    return Split(
        training=tuple(index for index, own in enumerate(where) if own not in {fold, chosen_on}),
        validation=tuple(index for index, own in enumerate(where) if own == chosen_on),
        test=tuple(index for index, own in enumerate(where) if own == fold),
    )
