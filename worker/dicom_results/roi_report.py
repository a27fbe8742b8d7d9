# SPDX-License-Identifier: Apache-2.0
"""The report of regions: the patches with the most attention, as polygons in millimetres.

It holds nothing about the whole slide: OHIF fails on a report that mixes both.
"""

from __future__ import annotations

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    GraphicTypeValues3D,
    ImageRegion3D,
    Measurement,
    PlanarROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset

from worker.result_kinds import ResultKind

from .codes import ATTENTION, ATTENTION_REGION, NO_UNITS, PATCH_PROBABILITY, PERCENT, PERCENTILE
from .document import algorithm, report, tracking
from .geometry import Attention, rectangle_mm
from .identity import Run
from .prediction import Prediction, TopPatch
from .source import SourceSlide


def roi_report(source: SourceSlide, attention: Attention, prediction: Prediction, run: Run) -> Dataset:
    """Return a report with one region a top patch (TID 1410)."""
    made_by = algorithm(prediction.model, run)
    weight = ATTENTION if attention.is_share else PATCH_PROBABILITY
    groups = [
        _region(source.base, patch, number, weight, made_by, run)
        for number, patch in enumerate(prediction.top_patches, start=1)
    ]
    return report(ResultKind.ROI_REPORT, source, prediction, run, groups)


def _region(
    header: Dataset,
    patch: TopPatch,
    number: int,
    weight: CodedConcept,
    made_by: AlgorithmIdentification,
    run: Run,
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking(run, ResultKind.ROI_REPORT, f"patch-{number:03d}"),
        referenced_region=ImageRegion3D(
            graphic_type=GraphicTypeValues3D.POLYGON,
            graphic_data=rectangle_mm(header, patch),
            frame_of_reference_uid=header.FrameOfReferenceUID,
        ),
        finding_type=ATTENTION_REGION,
        algorithm_id=made_by,
        measurements=[
            Measurement(name=PERCENTILE, value=patch.percentile, unit=PERCENT),
            Measurement(name=weight, value=patch.attention, unit=NO_UNITS),
        ],
    )
