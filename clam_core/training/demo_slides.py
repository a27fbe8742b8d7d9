# SPDX-License-Identifier: Apache-2.0
"""What the demonstration model says of real slides: reported in its card, whichever way it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clam_core.errors import ClamCoreError
from clam_core.model import LoadedModel
from clam_core.options import AnalysisOptions
from clam_core.pipeline import analyze_slide
from clam_core.slides import open_slide


@dataclass(frozen=True)
class Known:
    """A slide of which it is known what it shows; `mpp` is assumed where the file does not say it."""

    file: str
    shows: str
    mpp: float | None = None


SLIDES = (
    Known("CMU-1-Small-Region.svs", "skin, no carcinoma known"),
    Known("dicom-cmu-1-small-region", "the same as DICOM, compressed anew"),
    Known("composite_a.tiff", "pieces of the same, mirrored"),
    Known("TCGA-CR-7395-01A-01-TS1.svs", "squamous cell carcinoma of head and neck, frozen section", 0.5),
    Known("dicom-misc/camelyon_thumb_jpeg2000_tiledfull.dcm", "lymph node at 29 um/px"),
)


def said_of_slides(
    folder: Path, model: LoadedModel, slides: Sequence[Known] = SLIDES
) -> list[dict[str, Any]]:
    """Analyse those of the slides that lie in a folder; a refusal is an answer too."""
    return [_said(folder, known, model) for known in slides if (folder / known.file).exists()]


def _said(folder: Path, known: Known, model: LoadedModel) -> dict[str, Any]:
    row = {"slide": Path(known.file).name, "shows": known.shows, "assumed_mpp": known.mpp}
    try:
        with open_slide(folder / known.file) as slide:
            analysis = analyze_slide(slide, model, options=AnalysisOptions(mpp=known.mpp))
    except ClamCoreError as error:
        return row | {"refused": f"{error} [{error.code}]"}
    return row | {
        "patches": len(analysis.coordinates),
        "probabilities": [round(float(value), 3) for value in analysis.prediction.probabilities],
        "quality": analysis.quality.status,
        "reason": analysis.quality.reason,
    }
