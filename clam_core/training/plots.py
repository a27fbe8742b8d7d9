# SPDX-License-Identifier: Apache-2.0
"""ROC curves and the confusion matrix as pictures, where matplotlib is installed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clam_core.training.crossval import FoldResult
from clam_core.training.metrics import auc, confusion, softmax

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HOW_TO_GET = (
    "No plots: matplotlib is not installed. Install it with pip install '.[train]' in the project's folder "
    "and run the same command again; what is trained stays."
)


def can_draw() -> bool:
    """Tell whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def drawn(results: Sequence[FoldResult], classes: Sequence[str]) -> dict[str, bytes]:
    """Draw what the folds' models said of the slides that each had not seen.

    Returns
    -------
    dict of str to bytes
        PNG by file name: ``roc.png`` and ``confusion.png``.
    """
    # Not through pyplot, which keeps figures and asks for a display.
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra

    roc = Figure(figsize=(5, 5), layout="constrained")
    _draw_roc(roc.add_subplot(), results, classes)
    matrix = Figure(figsize=(5, 4.5), layout="constrained")
    _draw_confusion(matrix.add_subplot(), results, classes)
    return {"roc.png": _png(roc), "confusion.png": _png(matrix)}


def roc_curve(
    positive: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates from (0, 0) to (1, 1); equal scores are one step."""
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    right = np.cumsum(positive[order])[last_of_equals]
    wrong = np.cumsum(~positive[order])[last_of_equals]
    return np.append(0.0, wrong / max(1, wrong[-1])), np.append(0.0, right / max(1, right[-1]))


def _draw_roc(axes: Axes, results: Sequence[FoldResult], classes: Sequence[str]) -> None:
    """One curve a fold for two classes, one curve a class over all folds for more."""
    if len(classes) == 2:
        for result in results:
            _curve(axes, result.labels == 1, softmax(result.logits)[:, 1], f"fold {result.fold + 1}")
    else:
        labels, probabilities = _pooled(results)
        for index, name in enumerate(classes):
            _curve(axes, labels == index, probabilities[:, index], name)
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal", title="Unseen slides")
    axes.legend(loc="lower right", fontsize="small")


def _curve(axes: Axes, positive: NDArray[np.bool_], scores: NDArray[np.floating], name: str) -> None:
    area = auc(positive.astype(int), scores)
    axes.plot(*roc_curve(positive, scores), label=f"{name}, AUC {area:.3f}")


def _draw_confusion(axes: Axes, results: Sequence[FoldResult], classes: Sequence[str]) -> None:
    labels, probabilities = _pooled(results)
    matrix = confusion(labels, probabilities.argmax(axis=1), len(classes))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    places: list[Any] = list(range(len(classes)))
    axes.set_xticks(places, list(classes))
    axes.set_yticks(places, list(classes))
    axes.set(xlabel="predicted", ylabel="true", title="Slides")


def _pooled(results: Sequence[FoldResult]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    labels = np.concatenate([result.labels for result in results])
    return labels, softmax(np.concatenate([result.logits for result in results]))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, so that the same figures give the same file.
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
