# SPDX-License-Identifier: Apache-2.0
"""What a user may choose about one analysis."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from clam_core.errors import ParameterError
from clam_core.patches import PatchFile


class Reference(Enum):
    """Which part of the reference CLAM to behave like."""

    PATCHING = "patching"
    """Its patching and evaluation: any of four points in the tissue."""
    HEATMAP = "heatmap"
    """Its heatmap pipeline: all four points, tissue found on a finer level."""


@dataclass(frozen=True)
class AnalysisOptions:
    """The choices of one analysis.

    Parameters
    ----------
    mpp
        Micrometres per pixel of level 0, for slides that do not say or say it wrong.
    tissue_preset
        Name of a tissue preset instead of the model's own.
    reference
        Behave like the reference CLAM, which reads a fixed level whatever its magnification; None: choose the
        level by mpp.
    patch_level
        Level that `reference` reads.
    overlap
        Of the patches in the heatmap, 0 to 0.9: finer at the price of encoding more patches.
    batch_size
        Patches encoded together.
    readers
        Threads that read patches while others are encoded.
    heatmap_px, overlay_px
        Longest side of the heatmap's pictures, and at most of the overlay, which is no finer than its patches
        need (`clam_core.explanation.overlay_side`).
    top_patches, pictured_patches
        How many of the most attended patches are listed, and how many of them come as pictures.
    patches
        Patches that another program laid, instead of our own.
    caption_name
        What the heatmap's caption calls the slide; None: its container, file or series.

    Raises
    ------
    ParameterError
        If a value is out of its range.
    """

    mpp: float | None = None
    tissue_preset: str | None = None
    reference: Reference | None = None
    patch_level: int = 0
    overlap: float = 0.0
    batch_size: int = 64
    readers: int = min(4, os.cpu_count() or 1)
    heatmap_px: int = 1100
    overlay_px: int = 4096
    top_patches: int = 100
    pictured_patches: int = 8
    patches: PatchFile | None = None
    caption_name: str | None = None

    def __post_init__(self) -> None:
        _require(
            self.mpp is None or 0.01 <= self.mpp <= 100, "mpp", "0.01 to 100 micrometres per pixel", self.mpp
        )
        _require(0 <= self.overlap <= 0.9, "overlap", "0 to 0.9", self.overlap)
        if self.patches is not None:
            _require(self.overlap == 0, "overlap", "0 where patches are given", self.overlap)
            _require(self.reference is None, "reference", "left out where patches are given", self.reference)
            _require(
                self.patch_level == 0, "patch_level", "left out where patches are given", self.patch_level
            )
        _require(self.patch_level >= 0, "patch_level", "0 or more", self.patch_level)
        _require(0 <= self.top_patches <= 100, "top_patches", "0 to 100", self.top_patches)
        for name in ("batch_size", "readers", "heatmap_px", "overlay_px"):
            _require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        _require(self.overlay_px <= 16384, "overlay_px", "at most 16384", self.overlay_px)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> AnalysisOptions:
        """Read the parameters of a request (JSON).

        Parameters
        ----------
        parameters
            ``mpp``, ``tissue_preset``, ``reference`` (true, "patching" or "heatmap"), ``patch_level``,
            ``overlap``.

        Raises
        ------
        ParameterError
            If a parameter is unknown or has a bad value.
        """
        unknown = sorted(set(parameters) - set(_READERS))
        if unknown:
            raise ParameterError(
                f"There is no parameter {unknown[0]!r}; there are {', '.join(sorted(_READERS))}."
            )
        given: dict[str, Any] = {
            name: _READERS[name](name, value) for name, value in parameters.items() if value is not None
        }
        return cls(**given)

    def as_parameters(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON, so that a result says how it was made."""
        default = AnalysisOptions()
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        differing = {
            name: value.value if isinstance(value, Enum) else value
            for name, value in chosen.items()
            if name in _READERS and value != getattr(default, name)
        }
        return differing if self.patches is None else differing | {"patches": self.patches.digest}


def _require(condition: bool, name: str, range_: str, value: object) -> None:  # noqa: FBT001 - a check
    if not condition:
        raise ParameterError(f"The parameter {name} must be {range_}, not {value!r}.")


def _number(name: str, value: Any) -> float:
    valid = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    _require(valid, name, "a number", value)
    return float(value)


def _integer(name: str, value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool), name, "a whole number", value)
    return int(value)


def _text(name: str, value: Any) -> str:
    _require(isinstance(value, str), name, "text", value)
    return str(value)


def _reference(name: str, value: Any) -> Reference | None:
    if isinstance(value, bool):
        return Reference.PATCHING if value else None
    _require(value in [kind.value for kind in Reference], name, 'true, "patching" or "heatmap"', value)
    return Reference(value)


_READERS = {
    "mpp": _number,
    "tissue_preset": _text,
    "reference": _reference,
    "patch_level": _integer,
    "overlap": _number,
}
