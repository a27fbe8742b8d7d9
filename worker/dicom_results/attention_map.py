# SPDX-License-Identifier: Apache-2.0
"""The attention map: percentiles as a parametric map that lies on one of the slide's levels."""

from __future__ import annotations

from highdicom import DimensionOrganizationTypeValues, VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless

from worker.result_kinds import ResultKind

from .codes import ATTENTION_PERCENTILE, PERCENT, PREDECESSOR, scheme_identification
from .geometry import QUANTUM, STEPS, Attention, draw_map, smallest_level
from .header import CHARACTER_SET, MANUFACTURER, SERIES_NUMBERS, finish, series_description
from .identity import Run, derived_uid, instance_uid, series_uid
from .prediction import Prediction
from .source import SourceSlide, matrix_size, to_build_from

_KIND = ResultKind.ATTENTION_MAP
_BYTES_PER_PIXEL = 2

MAX_MAP_BYTES = 512 * 1024 * 1024
"""Pixels of a map while it is drawn: what a worker can spare beside its model."""

_MAX_NATIVE_BYTES = 48 * 1024 * 1024
"""Beyond this a map is compressed, for an artifact may have 64 MB. Smaller ones stay as OHIF was seen drawing
them; of a compressed one Orthanc serves uncompressed frames to whoever asks for them."""

_PIXELS_OF_A_PATCH = (2, 1)
"""Along a patch: two, or one where that map would be too large. A slide's levels have one origin, the centre
of their first pixel: in millimetres a level lies half of its pixel away from level 0, where the regions are.
With two pixels that is within the patch, whose centre shows its own value however a reader gets there."""


def map_level(source: SourceSlide, attention: Attention) -> Dataset:
    """Return the level that the map lies on: small ones are seen in viewers before anybody zooms in."""
    wanted = [
        source.levels[smallest_level(source.levels, attention.patch_size, pixels)]
        for pixels in _PIXELS_OF_A_PATCH
    ]
    return next((level for level in wanted if level_bytes(level) <= MAX_MAP_BYTES), wanted[-1])


def level_bytes(level: Dataset) -> int:
    """Return how large the pixels of a map on a level are before compression, whole tiles counted."""
    width, height = matrix_size(level)
    tiles = -(-width // level.Columns) * -(-height // level.Rows)
    return int(tiles * level.Columns * level.Rows * _BYTES_PER_PIXEL)


def attention_map(source: SourceSlide, attention: Attention, prediction: Prediction, run: Run) -> Dataset:
    """Return a parametric map with size, origin and spacing of an existing level of the slide."""
    level = map_level(source, attention)
    description = series_description(_KIND, prediction, run)
    document = ParametricMap(
        source_images=[to_build_from(level)],
        further_source_images=[] if level is source.base else [source.base],
        pixel_array=draw_map(attention, source.size, matrix_size(level)),
        series_instance_uid=series_uid(run.request_id, _KIND),
        series_number=SERIES_NUMBERS[_KIND],
        sop_instance_uid=instance_uid(run.request_id, _KIND),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=prediction.worker_version,
        device_serial_number="none",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_percentile_mapping()],
        voi_lut_transformations=[VOILUTTransformation(window_center=1 + STEPS / 2, window_width=STEPS)],
        transfer_syntax_uid=_transfer_syntax(level),
        content_label="DEMONSTRATION" if prediction.model.is_demonstration else "ATTENTION",
        content_description=description,
        content_qualification="RESEARCH",
        # Tiled sparsely it has the same tiles in the same order, and each of them says where it lies.
        dimension_organization_type=DimensionOrganizationTypeValues.TILED_SPARSE,
        tile_pixel_array=True,
        # Older releases of OHIF's microscopy viewer read the map with the tile size of the level it lies on.
        tile_size=(level.Rows, level.Columns),
        specific_character_set=CHARACTER_SET,
        coding_schemes=[scheme_identification()],
    )
    document.DimensionOrganizationType = DimensionOrganizationTypeValues.TILED_FULL.value
    _settle_dimensions(document, derived_uid(run.request_id, _KIND.value, "dimensions"))
    document.DerivationDescription = f"{prediction.model.name} {prediction.model.version}"
    if run.predecessor is not None:
        document.RelatedSeriesSequence = [_related_series(source.base, run.predecessor)]
    return finish(document, _KIND, source.base, prediction, run)


def _transfer_syntax(level: Dataset) -> UID:
    native = level_bytes(level) <= _MAX_NATIVE_BYTES
    return ExplicitVRLittleEndian if native else JPEGLSLossless


def _settle_dimensions(document: Dataset, uid: str) -> None:
    """Put a UID that follows from the request in place of a random one."""
    for item in (*document.DimensionOrganizationSequence, *document.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _related_series(slide: Dataset, predecessor: str) -> Dataset:
    """Return a reference to the map that this one repeats; images have no predecessor documents."""
    related = Dataset()
    related.StudyInstanceUID = slide.StudyInstanceUID
    related.SeriesInstanceUID = series_uid(predecessor, _KIND)
    related.PurposeOfReferenceCodeSequence = [PREDECESSOR]
    return related


def _percentile_mapping() -> RealWorldValueMapping:
    """Map stored 1 to 10001 to percentiles 0 to 100; 0 lies outside and means: not analysed."""
    return RealWorldValueMapping(
        lut_label="ATTENTION",
        lut_explanation="Percentile of the attention within the slide",
        unit=PERCENT,
        value_range=(1, STEPS + 1),
        slope=QUANTUM,
        intercept=-QUANTUM,
        quantity_definition=ATTENTION_PERCENTILE,
    )
