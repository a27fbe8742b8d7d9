# SPDX-License-Identifier: Apache-2.0
"""The slide-level report: class, probabilities, how far to trust them, and what made them."""

from __future__ import annotations

from highdicom.sr import (
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
)
from pydicom import Dataset

from worker.result_kinds import ResultKind

from .codes import (
    INTENDED_USE,
    NO_UNITS,
    PREDICTED_CLASS,
    QUALITY,
    QUALITY_FLAG,
    SLIDE_CLASSIFICATION,
    class_concept,
    own_word,
    probability_concept,
)
from .document import algorithm, report, tracking
from .header import warning_text
from .identity import Run
from .prediction import Prediction
from .source import SourceSlide

_QUALITY_MEANINGS = {
    "ok": "The prediction was made as intended",
    "abstained": "The model abstained: it gives no answer",
    "limited": "The prediction is limited: see the remarks",
}


def slide_report(source: SourceSlide, prediction: Prediction, run: Run) -> Dataset:
    """Return a report with one group about the whole slide (TID 1501)."""
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking(run, ResultKind.SLIDE_REPORT, "slide"),
        finding_type=SLIDE_CLASSIFICATION,
        algorithm_id=algorithm(prediction.model, run),
        measurements=_probabilities(prediction),
        qualitative_evaluations=_evaluations(prediction),
        source_images=[
            SourceImageForMeasurementGroup(
                referenced_sop_class_uid=source.base.SOPClassUID,
                referenced_sop_instance_uid=source.base.SOPInstanceUID,
            )
        ],
    )
    return report(ResultKind.SLIDE_REPORT, source, prediction, run, [group])


def _probabilities(prediction: Prediction) -> list[Measurement]:
    return [
        Measurement(name=probability_concept(name), value=value, unit=NO_UNITS)
        for name, value in prediction.probabilities
    ]


def _evaluations(prediction: Prediction) -> list[QualitativeEvaluation]:
    status = own_word(prediction.quality, _QUALITY_MEANINGS.get(prediction.quality, prediction.quality))
    use = own_word(prediction.model.use or "unspecified", warning_text(prediction).capitalize())
    evaluations = [QualitativeEvaluation(QUALITY, status), QualitativeEvaluation(INTENDED_USE, use)]
    evaluations += [QualitativeEvaluation(QUALITY_FLAG, own_word(flag, flag)) for flag in prediction.flags]
    if prediction.predicted_class is not None and not prediction.abstained:
        predicted = QualitativeEvaluation(PREDICTED_CLASS, class_concept(prediction.predicted_class))
        evaluations.insert(0, predicted)
    return evaluations
