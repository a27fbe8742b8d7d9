# SPDX-License-Identifier: Apache-2.0
"""What decides the features of a patch, so that those of an earlier run may stand for a new computation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import clam_core
from clam_core.encoders import Encoder
from clam_core.patches import PatchPlan
from clam_core.software import DECODERS, versions

_READING = 2
"""Counted up with every change of this package that gives a patch other pixels."""


@dataclass(frozen=True)
class FeatureKey:
    """Everything besides its place that decides the features of a patch.

    Tissue preset, overlap and aggregator are missing on purpose: they choose among patches and change none.

    Attributes
    ----------
    slide
        Fingerprint of the slide's content, as the caller knows it. It must name no patient.
    encoder, weights
        The encoder's name and the SHA-256 of its weights.
    numerics
        How the encoder computes, in words: another way gives other last digits.
    software
        Versions of what reads, decodes and resizes the patches.
    level, read_px, patch_px, black_outside
        How they are read; see `clam_core.patches.PatchPlan`.
    """

    slide: str
    encoder: str
    weights: str
    numerics: str
    software: str
    level: int
    read_px: tuple[int, int]
    patch_px: int
    black_outside: bool

    @classmethod
    def of(cls, slide: str, encoder: Encoder, plan: PatchPlan) -> FeatureKey:
        """Name the features that an encoder gives for a slide whose patches are read as planned."""
        return cls(
            slide=slide,
            encoder=encoder.name,
            weights=encoder.sha256,
            numerics=encoder.numerics,
            software=_software(),
            level=plan.level,
            read_px=plan.read_px,
            patch_px=plan.patch_px,
            black_outside=plan.black_outside,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, in hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def _software() -> str:
    """Name everything that pixels go through: one that decoded wrongly must not outlive its correction."""
    own = {"clam_core": clam_core.__version__, "reading": str(_READING)}
    return json.dumps({**own, **versions(DECODERS)}, sort_keys=True)


def fingerprint_of_files(path: Path) -> str:
    """Return the SHA-256 over the content of a slide's file and those that belong to it, or of its folder's.

    The pixels of MIRAX and of Hamamatsu's VMS and VMU lie beside the file that such a slide is opened by.

    Raises
    ------
    OSError
        If one of them cannot be read.
    """
    digest = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        return [path, *_files(path.with_suffix(""))] if path.with_suffix("").is_dir() else [path]
    return [path, *_named_in(path)] if suffix in {".vms", ".vmu"} else [path]


def _named_in(index: Path) -> Iterator[Path]:
    """Yield the files that an index of ``name = value`` lines names."""
    for line in index.read_text("latin-1").splitlines():
        named = line.partition("=")[2].strip()
        if named and (index.parent / named).is_file():
            yield index.parent / named
