# SPDX-License-Identifier: Apache-2.0
"""Features of slides for training, read and encoded exactly as an analysis does it, kept for the next run."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

import clam_core
from clam_core.encoders import Encoder
from clam_core.encoding import encode_patches
from clam_core.errors import ClamCoreError, ParameterError
from clam_core.model import Model
from clam_core.options import AnalysisOptions
from clam_core.patches import Coordinates
from clam_core.reading import find_tissue, lay_patches, plan_patches, summarize
from clam_core.slides import Slide, open_slide
from clam_core.training.dataset import LabelledSlide


@dataclass(frozen=True)
class Extraction:
    """How features are made.

    Attributes
    ----------
    model
        The model in the making: its patches, spacing and tissue preset.
    encoder
        What encodes the patches.
    options
        What the user chose, the same for all slides.
    """

    model: Model
    encoder: Encoder
    options: AnalysisOptions

    def identity(self, slide: Path) -> str:
        """Name what decides the features of a slide: a change of any of it makes another file."""
        model = self.model
        said = [
            clam_core.__version__,
            self.encoder.name,
            self.encoder.sha256,
            model.patch_px,
            model.mpp,
            self.options.tissue_preset or model.tissue_preset,
            self.options.as_parameters(),
            [(file.name, file.stat().st_size) for file in _files(slide)],
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def find_slide(folder: Path, name: str) -> Path:
    """Find the file, or the folder of a DICOM series, that a table calls `name`.

    Raises
    ------
    ParameterError
        If there is none, or more than one.
    """
    found = [path for path in sorted(folder.iterdir()) if name in {path.name, path.stem}]
    if not found:
        raise ParameterError(f"{folder} has no slide {name}: there is no file or folder of that name.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ParameterError(
            f"{folder} has several slides {name} ({names}): write the whole name in the table."
        )
    return found[0]


def extracted(
    slides: Sequence[LabelledSlide],
    cache: Path,
    extraction: Extraction,
    report: Callable[[LabelledSlide], object] = lambda _: None,
) -> list[LabelledSlide]:
    """Extract the features of slides, or take them from an earlier run.

    Parameters
    ----------
    slides
        Their `path` is the slide itself.
    cache
        Folder that keeps one h5 file for each: ``features`` (N, D) and ``coords`` (N, 2), as CLAM writes it.
    extraction
        How.
    report
        Is told each slide that is done.

    Returns
    -------
    list of LabelledSlide
        The same slides; their `path` is the file of their features.

    Raises
    ------
    ParameterError
        If a slide cannot be used: the sentence names it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    done = []
    for slide in slides:
        path = cache / f"{Path(slide.slide).stem}-{extraction.identity(slide.path)}.h5"
        if not path.is_file():
            _extract(slide.path, path, extraction)
        done.append(replace(slide, path=path))
        report(slide)
    return done


def _extract(path: Path, target: Path, extraction: Extraction) -> None:
    try:
        with open_slide(path) as slide:
            coordinates, features = _features(slide, extraction)
    except ClamCoreError as error:
        raise ParameterError(f"{path.name} cannot be learnt from: {error}") from error
    _write(target, coordinates, features)


def _features(slide: Slide, extraction: Extraction) -> tuple[Coordinates, np.ndarray]:
    options = extraction.options
    summary = summarize(slide, options)
    plan = plan_patches(slide, summary, extraction.model, options)
    tissue = find_tissue(slide, summary, extraction.model, options)
    coordinates = lay_patches(slide, tissue, plan, options)
    batches = encode_patches(
        slide,
        plan,
        coordinates,
        extraction.encoder,
        batch_size=options.batch_size,
        readers=options.readers,
    )
    return coordinates, np.concatenate(list(batches))


def _write(path: Path, coordinates: Coordinates, features: np.ndarray) -> None:
    unfinished = path.with_suffix(".part")
    with h5py.File(unfinished, "w") as file:
        chunks = (min(32, len(features)), features.shape[1])
        file.create_dataset("features", data=features, chunks=chunks, maxshape=(None, features.shape[1]))
        file.create_dataset("coords", data=np.asarray(coordinates, dtype=np.int64), maxshape=(None, 2))
    unfinished.replace(path)


def _files(slide: Path) -> list[Path]:
    if slide.is_dir():
        return [path for path in sorted(slide.rglob("*")) if path.is_file()]
    return [slide]
