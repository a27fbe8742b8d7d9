# SPDX-License-Identifier: Apache-2.0
"""The result of a request, as far as DICOM objects tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import DicomResultsError

DEMONSTRATION = "demonstration"


@dataclass(frozen=True)
class TopPatch:
    """One of the patches with the most attention, in level-0 pixels."""

    x: float
    y: float
    width: float
    height: float
    attention: float
    percentile: float


@dataclass(frozen=True)
class Model:
    """What made the prediction.

    Attributes
    ----------
    use
        In one word what the model may be used for: ``demonstration``, ``non-commercial``, ``unknown``...
    parameters
        Hashes and names that pin the model down, a line each.
    """

    name: str
    version: str
    use: str
    parameters: tuple[str, ...]

    @property
    def is_demonstration(self) -> bool:
        """Whether its results must be marked as not for clinical use."""
        return self.use.strip().lower() == DEMONSTRATION


@dataclass(frozen=True)
class Prediction:
    """A result in the shape of the HTTP contract, read once and checked.

    Attributes
    ----------
    predicted_class
        Name of a class; where the model abstained the one that it leans to, or None.
    probabilities
        By class, 0 to 1, in the order of the result.
    quality, flags
        ``ok``, ``abstained`` or ``limited``, and why.
    slide_size
        (width, height) of level 0 as the analysis saw it; None where the result does not say.
    """

    predicted_class: str | None
    probabilities: tuple[tuple[str, float], ...]
    quality: str
    flags: tuple[str, ...]
    top_patches: tuple[TopPatch, ...]
    model: Model
    worker_version: str
    slide_size: tuple[int, int] | None

    @property
    def abstained(self) -> bool:
        """Whether the model gives no answer, whatever it leans to."""
        return self.quality == "abstained"

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        """Read a result.

        Raises
        ------
        DicomResultsError
            If the result lacks the model's name, or a value should be a number and is none.
        """
        try:
            return cls(
                predicted_class=_text(result.get("predicted_class")) or None,
                probabilities=tuple(
                    (str(name), float(value)) for name, value in (result.get("probabilities") or {}).items()
                ),
                quality=_text(_part(result, "quality").get("status")) or "ok",
                flags=_flags(_part(result, "quality")),
                top_patches=tuple(_patch(patch) for patch in result.get("top_patches") or ()),
                model=_model(_part(result, "model")),
                worker_version=_text(_part(result, "software").get("worker")) or "unknown",
                slide_size=_slide_size(_part(result, "slide")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DicomResultsError(
                f"The result cannot be written as DICOM: {type(error).__name__} at {error}; "
                "this is a fault of the worker, please report it."
            ) from error


def _part(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return result.get(name) or {}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _flags(quality: Mapping[str, Any]) -> tuple[str, ...]:
    reason = quality.get("reason")
    return (*(str(flag) for flag in quality.get("flags") or ()), *([str(reason)] if reason else []))


def _patch(patch: Mapping[str, Any]) -> TopPatch:
    return TopPatch(
        x=float(patch["x"]),
        y=float(patch["y"]),
        width=float(patch["width"]),
        height=float(patch["height"]),
        attention=float(patch["attention"]),
        percentile=float(patch["percentile"]),
    )


def _model(model: Mapping[str, Any]) -> Model:
    encoder = model.get("encoder") or {}
    facts = {
        "Model SHA-256": model.get("sha256"),
        "Encoder": encoder.get("name"),
        "Encoder SHA-256": encoder.get("sha256"),
        "Intended use": model.get("intended_use"),
    }
    return Model(
        name=str(model["name"]),
        version=_text(model.get("version")) or "unknown",
        use=_text(model.get("use")),
        parameters=tuple(f"{name}: {value}" for name, value in facts.items() if value),
    )


def _slide_size(slide: Mapping[str, Any]) -> tuple[int, int] | None:
    if not slide.get("width") or not slide.get("height"):
        return None
    return int(slide["width"]), int(slide["height"])
