# SPDX-License-Identifier: Apache-2.0
"""What both structured reports share: who observed what on which slide, and the document around it."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    LanguageOfContentItemAndDescendants,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    SubjectContext,
    SubjectContextSpecimen,
    TrackingIdentifier,
)
from highdicom.sr.coding import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian

from worker.result_kinds import ResultKind

from .codes import ENGLISH, HISTOPATHOLOGY_TEST, scheme_identification
from .header import CHARACTER_SET, MANUFACTURER, SERIES_NUMBERS, finish
from .identity import Run, derived_uid, instance_uid, series_uid
from .prediction import Model, Prediction
from .source import SourceSlide, to_build_from
from .texts import long_text

_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")

Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations


def algorithm(model: Model, run: Run) -> AlgorithmIdentification:
    """Return the model's name, version and hashes (TID 4019)."""
    return AlgorithmIdentification(
        name=model.name,
        version=model.version,
        parameters=[*model.parameters, f"Request: {run.request_id}"],
    )


def tracking(run: Run, kind: ResultKind, identifier: str) -> TrackingIdentifier:
    """Return a name for a finding that stays the same whenever the report is written again."""
    return TrackingIdentifier(
        uid=derived_uid(run.request_id, kind.value, identifier),
        identifier=identifier,
    )


def report(
    kind: ResultKind, source: SourceSlide, prediction: Prediction, run: Run, groups: Sequence[Group]
) -> Dataset:
    """Return a Comprehensive 3D SR with one measurement report (TID 1500).

    highdicom copies and searches all of the content several times while it makes the document, which takes
    half of the time: it gets the first group; the others, which refer to no further image, are added after.
    """
    content = MeasurementReport(
        observation_context=_observation_context(source.base, prediction, run),
        procedure_reported=HISTOPATHOLOGY_TEST,
        imaging_measurements=groups[:1],
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(ENGLISH),
        referenced_images=[source.base],
    )
    document = Comprehensive3DSR(
        evidence=[to_build_from(source.base)],
        content=content,
        series_instance_uid=series_uid(run.request_id, kind),
        series_number=SERIES_NUMBERS[kind],
        sop_instance_uid=instance_uid(run.request_id, kind),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=_previous_versions(source.base, kind, run),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=CHARACTER_SET,
        coding_schemes=[scheme_identification()],
    )
    _imaging_measurements(document).ContentSequence.extend(item for group in groups[1:] for item in group)
    return finish(document, kind, source.base, prediction, run)


def _imaging_measurements(document: Dataset) -> Dataset:
    """Return the container of the groups."""
    containers = (item for item in document.ContentSequence if item.ValueType == "CONTAINER")
    wanted = codes.DCM.ImagingMeasurements
    found: Dataset = next(
        item for item in containers if item.ConceptNameCodeSequence[0].CodeValue == wanted.value
    )
    return found


def _observation_context(header: Dataset, prediction: Prediction, run: Run) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid(run.request_id, "device"),
        name=long_text(f"{MANUFACTURER} worker {prediction.worker_version}"),
        manufacturer_name=MANUFACTURER,
        model_name=long_text(prediction.model.name),
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        ),
        subject_context=_specimen(header),
    )


def _specimen(header: Dataset) -> SubjectContext | None:
    """Return the only specimen on the slide; with several (or none) the slide's header has to do."""
    specimens = header.get("SpecimenDescriptionSequence") or []
    if len(specimens) != 1 or not specimens[0].get("SpecimenUID"):
        return None
    specimen = specimens[0]
    return SubjectContext(
        subject_class=codes.DCM.Specimen,
        subject_class_specific_context=SubjectContextSpecimen(
            uid=specimen.SpecimenUID,
            identifier=specimen.get("SpecimenIdentifier") or None,
            container_identifier=header.get("ContainerIdentifier") or None,
            specimen_type=_specimen_type(specimen),
        ),
    )


def _specimen_type(specimen: Dataset) -> CodedConcept | None:
    types = specimen.get("SpecimenTypeCodeSequence") or []
    complete = [code for code in types if all(code.get(name) for name in _CODE)]
    return CodedConcept.from_dataset(complete[0]) if complete else None


def _previous_versions(header: Dataset, kind: ResultKind, run: Run) -> list[Dataset] | None:
    if run.predecessor is None:
        return None
    previous = Dataset()
    previous.StudyInstanceUID = header.StudyInstanceUID
    previous.SeriesInstanceUID = series_uid(run.predecessor, kind)
    previous.SOPInstanceUID = instance_uid(run.predecessor, kind)
    previous.SOPClassUID = Comprehensive3DSRStorage
    return [previous]
