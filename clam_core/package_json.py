# SPDX-License-Identifier: Apache-2.0
"""What ``model.json`` says, checked field by field."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from clam_core.errors import PackageError
from clam_core.quality import AbstainRule

SCHEMA = 1
Use = Literal["commercial", "non-commercial", "demonstration", "unknown"]
USES: dict[str, Use] = {
    "commercial": "commercial",
    "non-commercial": "non-commercial",
    "demonstration": "demonstration",
    "unknown": "unknown",
}
LICENCES = ("checkpoint", "encoder", "data")
LARGEST = sys.float_info.max

Value = TypeVar("Value")


@dataclass(frozen=True)
class Described:
    """The fields of ``model.json``; see `clam_core.package.ModelPackage` for what they mean."""

    name: str
    version: str
    classes: tuple[str, ...]
    checkpoint_file: str
    checkpoint_sha256: str
    encoder: str
    encoder_sha256: str
    patch_px: int
    mpp: float
    tissue_preset: str
    intended_use: str
    use: Use
    licences: Mapping[str, str]
    temperature: float
    abstain: AbstainRule
    reference_file: str
    reference_sha256: str
    performance: Mapping[str, Any]


def described(content: Mapping[str, Any], folder: Path) -> Described:
    """Read ``model.json``.

    Parameters
    ----------
    content
        The parsed JSON.
    folder
        Where it lies, for the errors.

    Returns
    -------
    Described
        Its fields; those that may be left out have their defaults.

    Raises
    ------
    PackageError
        If a field is missing or has a bad value: the sentence names it.
    """
    reader = _Reader(content, folder)
    schema = reader.get("schema", int)
    if schema > SCHEMA:
        raise PackageError(
            f"The model package {folder} is of a newer kind ({schema}) than this version reads ({SCHEMA}): "
            "update this software."
        )
    return Described(
        name=reader.get("name", str),
        version=reader.get("version", str),
        classes=_classes(reader),
        checkpoint_file=_file_name(reader, "checkpoint.file"),
        checkpoint_sha256=reader.get("checkpoint.sha256", str),
        encoder=reader.get("encoder.name", str),
        encoder_sha256=reader.get("encoder.sha256", str),
        patch_px=int(reader.positive("patches.size_px")),
        mpp=reader.positive("patches.mpp"),
        tissue_preset=reader.get("tissue.preset", str, "default"),
        intended_use=reader.get("intended_use", str),
        use=_use(reader),
        licences={kind: reader.get(f"licences.{kind}", str) for kind in LICENCES},
        temperature=reader.positive("calibration.temperature", 1.0),
        abstain=_abstain(reader),
        reference_file=_file_name(reader, "abstain.reference.file", ""),
        reference_sha256=reader.get("abstain.reference.sha256", str, ""),
        performance=reader.get("performance", dict, {}),
    )


def _classes(reader: "_Reader") -> tuple[str, ...]:
    classes = reader.get("classes", list)
    if len(classes) < 2 or len(set(map(str, classes))) < len(classes):
        raise reader.error("classes", "at least two different names")
    return tuple(str(name) for name in classes)


def _file_name(reader: "_Reader", name: str, default: str | None = None) -> str:
    """Read the name of a file of the package: right in its folder, so that no package reaches out of it."""
    value = reader.get(name, str, default)
    if value and (len(PurePosixPath(value).parts) != 1 or "\\" in value or value in {".", ".."}):
        raise reader.error(name, "the name of a file in the package's own folder")
    return value


def _use(reader: "_Reader") -> Use:
    value = reader.get("use", str)
    if value not in USES:
        raise reader.error("use", " or ".join(USES))
    return USES[value]


def _abstain(reader: "_Reader") -> AbstainRule:
    return AbstainRule(
        min_patches=int(reader.positive("abstain.min_patches", 1)),
        min_tissue_mm2=reader.number("abstain.min_tissue_mm2", 0.0),
        unusual_distance=reader.optional("abstain.unusual_distance"),
        max_distance=reader.optional("abstain.max_distance"),
    )


class _Reader:
    """Reads fields by their dotted names."""

    def __init__(self, content: Mapping[str, Any], folder: Path) -> None:
        self._content = content
        self._folder = folder

    def error(self, name: str, wanted: str) -> PackageError:
        return PackageError(
            f"The model package {self._folder} is wrong: {name} in model.json must be {wanted}."
        )

    def get(self, name: str, kind: type[Value], default: Value | None = None) -> Value:
        value: Any = self._content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None and default is not None:
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.error(name, f"given, as {kind.__name__}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value: Any = self.get(name, object, default)
        # NaN is in no range; what a float cannot hold would be no sentence later.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
            raise self.error(name, "a number that is neither negative nor infinite")
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        value = self.number(name, default)
        if value == 0:
            raise self.error(name, "a number above 0")
        return value

    def optional(self, name: str) -> float | None:
        return None if self.get(name, object, "") == "" else self.number(name)
