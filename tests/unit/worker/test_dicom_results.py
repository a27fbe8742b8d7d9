# SPDX-License-Identifier: Apache-2.0
"""What the result objects say, read back by highdicom and pydicom."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.sr import srread
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless

from clam_core.slides import WsiDicomSlide
from tests.support.dicom_files import volume_file
from tests.support.dicom_pyramid import headers_of, pyramid_folder
from tests.support.dicom_result_values import RUN, a_result, content_of, grid_attention
from tests.support.shared_data import shared_path
from worker.dicom_results import (
    Attention,
    DicomResults,
    DicomResultsError,
    SourceSlide,
    build_results,
    instance_uid,
    series_uid,
)
from worker.logs import configure
from worker.result_kinds import ResultKind
from worker.settings import LogFormat

PATCH = 256


@pytest.fixture
def header() -> Dataset:
    """Return the header of a real single-level slide."""
    return pydicom.dcmread(volume_file(), stop_before_pixels=True)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> SourceSlide:
    """Return a real slide with three levels: 2220 x 2967, 555 x 741 and 138 x 185."""
    return SourceSlide.of(headers_of(pyramid_folder(tmp_path_factory.mktemp("pyramid"))))


def build(source: SourceSlide, patch: int = PATCH, **changes: Any) -> DicomResults:
    attention = grid_attention(source.size, patch)
    return build_results(source, a_result(source.size, attention, **changes), attention, RUN)


def reread(results: DicomResults, kind: ResultKind) -> Dataset:
    return pydicom.dcmread(BytesIO(content_of(results, kind)))


def measurements(results: DicomResults, kind: ResultKind) -> hd.sr.MeasurementReport:
    """Return what a report says, by the template that it follows."""
    content = srread(BytesIO(content_of(results, kind))).content
    assert isinstance(content, hd.sr.MeasurementReport)
    return content


def slide_group(results: DicomResults) -> Any:
    (group,) = measurements(results, ResultKind.SLIDE_REPORT).get_image_measurement_groups()
    return group


def roi_groups(results: DicomResults) -> list[Any]:
    return list(measurements(results, ResultKind.ROI_REPORT).get_planar_roi_measurement_groups())


def evaluations(group: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in group.get_qualitative_evaluations():
        found.setdefault(item.name.value, []).append(item.value.value)
    return found


class TestEveryObject:
    def test_each_kind_becomes_one_artifact_in_a_series_of_its_own(self, header: Dataset) -> None:
        results = build(SourceSlide.of([header]))
        assert [artifact.name for artifact in results.artifacts] == [
            "slide-report.dcm",
            "roi-report.dcm",
            "attention-map.dcm",
        ]
        assert [artifact.modality for artifact in results.artifacts] == ["SR", "SR", "OT"]
        for artifact in results.artifacts:
            dataset = pydicom.dcmread(BytesIO(artifact.content))
            assert dataset.SeriesInstanceUID == series_uid(RUN.request_id, artifact.kind)
            assert dataset.SOPInstanceUID == instance_uid(RUN.request_id, artifact.kind)
            assert artifact.as_json() == {
                "modality": dataset.Modality,
                "series_instance_uid": dataset.SeriesInstanceUID,
            }

    def test_only_the_kinds_that_were_asked_for_are_written(self, header: Dataset) -> None:
        source = SourceSlide.of([header])
        attention = grid_attention(source.size, PATCH)
        results = build_results(
            source, a_result(source.size, attention), attention, RUN, frozenset({ResultKind.ROI_REPORT})
        )
        assert [artifact.kind for artifact in results.artifacts] == [ResultKind.ROI_REPORT]
        assert not results.skipped

    @pytest.mark.parametrize("kind", ResultKind)
    def test_it_belongs_to_the_slides_study_and_patient(self, header: Dataset, kind: ResultKind) -> None:
        header.PatientID, header.PatientName, header.PatientSex = "P-1", "Test^Patient", "F"
        header.PatientBirthDate, header.AccessionNumber, header.StudyID = "19700101", "A-1", "S-1"
        header.StudyDate, header.StudyTime, header.StudyDescription = "20260102", "101112", "Biopsy"
        dataset = reread(build(SourceSlide.of([header])), kind)
        for name in (
            "StudyInstanceUID",
            "PatientID",
            "PatientName",
            "PatientSex",
            "PatientBirthDate",
            "AccessionNumber",
            "StudyID",
            "StudyDate",
            "StudyTime",
            "StudyDescription",
        ):
            assert dataset[name].value == header[name].value, name
        assert dataset.SeriesInstanceUID != header.SeriesInstanceUID

    @pytest.mark.parametrize("kind", ResultKind)
    def test_it_names_the_specimen(self, header: Dataset, kind: ResultKind) -> None:
        text = str(reread(build(SourceSlide.of([header])), kind))
        assert header.SpecimenDescriptionSequence[0].SpecimenUID in text

    @pytest.mark.parametrize("kind", ResultKind)
    def test_it_refers_to_the_instance_that_was_analysed(self, header: Dataset, kind: ResultKind) -> None:
        text = str(reread(build(SourceSlide.of([header])), kind))
        assert header.SOPInstanceUID in text

    @pytest.mark.parametrize("kind", ResultKind)
    def test_a_demonstration_says_so_where_series_are_listed(self, header: Dataset, kind: ResultKind) -> None:
        dataset = reread(build(SourceSlide.of([header])), kind)
        assert "(demo, not for clinical use)" in dataset.SeriesDescription

    @pytest.mark.parametrize("kind", ResultKind)
    @pytest.mark.parametrize("use", ["demonstration", "non-commercial"])
    def test_runs_can_be_told_apart_where_series_are_listed(
        self, header: Dataset, kind: ResultKind, use: str
    ) -> None:
        model = {"name": "m", "version": "2", "use": use}
        description = reread(build(SourceSlide.of([header]), model=model), kind).SeriesDescription
        assert f" 2026-11-22 16:54 #{RUN.request_id[:4]} " in description
        assert description.endswith("not for clinical use)")
        assert len(description) <= 64

    def test_another_model_is_not_called_a_demonstration(self, header: Dataset) -> None:
        results = build(
            SourceSlide.of([header]), model={"name": "m", "version": "2", "use": "non-commercial"}
        )
        for kind in ResultKind:
            assert "demonstration" not in str(reread(results, kind)).lower()

    @pytest.mark.parametrize("kind", ResultKind)
    def test_it_is_dated_when_the_result_came_about(self, header: Dataset, kind: ResultKind) -> None:
        dataset = reread(build(SourceSlide.of([header])), kind)
        assert (dataset.ContentDate, dataset.ContentTime) == ("20261122", "165403")
        assert (dataset.SeriesDate, dataset.InstanceCreationDate) == ("20261122", "20261122")

    def test_the_same_values_give_the_same_bytes(self, header: Dataset) -> None:
        source = SourceSlide.of([header])
        assert build(source) == build(source)

    def test_the_slides_own_header_is_left_as_it_was(self, header: Dataset) -> None:
        before = header.to_json()
        build(SourceSlide.of([header]))
        assert header.to_json() == before


class TestForcedRerun:
    def test_reports_name_their_predecessor_document(self, header: Dataset) -> None:
        results = self.rerun(header)
        for kind in (ResultKind.SLIDE_REPORT, ResultKind.ROI_REPORT):
            (study,) = reread(results, kind).PredecessorDocumentsSequence
            (series,) = study.ReferencedSeriesSequence
            assert study.StudyInstanceUID == header.StudyInstanceUID
            assert series.SeriesInstanceUID == series_uid("earlier", kind)
            assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == instance_uid("earlier", kind)

    def test_the_map_names_the_earlier_series(self, header: Dataset) -> None:
        (related,) = reread(self.rerun(header), ResultKind.ATTENTION_MAP).RelatedSeriesSequence
        assert related.SeriesInstanceUID == series_uid("earlier", ResultKind.ATTENTION_MAP)
        assert related.PurposeOfReferenceCodeSequence[0].CodeValue == "PREDECESSOR"

    def test_a_first_run_names_none(self, header: Dataset) -> None:
        results = build(SourceSlide.of([header]))
        for kind in ResultKind:
            dataset = reread(results, kind)
            assert "PredecessorDocumentsSequence" not in dataset
            assert "RelatedSeriesSequence" not in dataset

    @staticmethod
    def rerun(header: Dataset) -> DicomResults:
        source = SourceSlide.of([header])
        attention = grid_attention(source.size, PATCH)
        run = replace(RUN, predecessor="earlier")
        return build_results(source, a_result(source.size, attention), attention, run)


class TestSlideReport:
    def test_it_gives_the_predicted_class_as_a_code(self, header: Dataset) -> None:
        group = slide_group(build(SourceSlide.of([header])))
        assert evaluations(group)["PREDICTED-CLASS"] == ["oscc"]

    def test_it_gives_the_probability_of_every_class_with_units(self, header: Dataset) -> None:
        group = slide_group(build(SourceSlide.of([header])))
        values = {item.name.meaning: (item.value, item.unit.value) for item in group.get_measurements()}
        assert values == {
            "Probability that the slide is of class normal": (0.08, "1"),
            "Probability that the slide is of class oscc": (0.92, "1"),
        }

    def test_it_identifies_the_algorithm_by_name_version_and_hash(self, header: Dataset) -> None:
        report = reread(build(SourceSlide.of([header])), ResultKind.SLIDE_REPORT)
        texts = self.algorithm_texts(report)
        assert texts["111001"] == ["oral-scc-demo"]
        assert texts["111003"] == ["1"]
        assert f"Model SHA-256: {'a' * 64}" in texts["111002"]
        assert f"Encoder SHA-256: {'b' * 64}" in texts["111002"]
        assert f"Request: {RUN.request_id}" in texts["111002"]

    @pytest.mark.parametrize("leaning", [None, "oscc"])
    def test_an_abstained_prediction_says_so_and_why_and_names_no_class(
        self, header: Dataset, leaning: str | None
    ) -> None:
        quality = {"status": "abstained", "flags": ["few_patches"], "reason": "no class is likely enough"}
        group = slide_group(build(SourceSlide.of([header]), quality=quality, predicted_class=leaning))
        found = evaluations(group)
        assert found["QUALITY"] == ["ABSTAINED"]
        assert "PREDICTED-CLASS" not in found
        meanings = [item.value.meaning for item in group.get_qualitative_evaluations()]
        assert "few_patches" in meanings
        assert "no class is likely enough" in meanings

    def test_it_holds_no_regions(self, header: Dataset) -> None:
        report = measurements(build(SourceSlide.of([header])), ResultKind.SLIDE_REPORT)
        assert not report.get_planar_roi_measurement_groups()

    def test_its_private_codes_are_declared(self, header: Dataset) -> None:
        report = reread(build(SourceSlide.of([header])), ResultKind.SLIDE_REPORT)
        (scheme,) = report.CodingSchemeIdentificationSequence
        assert scheme.CodingSchemeDesignator == "99ORTHANCPATH"

    @staticmethod
    def algorithm_texts(report: Dataset) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for element in report.iterall():
            if element.keyword == "ContentSequence":
                for item in element.value:
                    if item.ValueType == "TEXT":
                        found.setdefault(item.ConceptNameCodeSequence[0].CodeValue, []).append(item.TextValue)
        return found


class TestRoiReport:
    def test_every_top_patch_is_a_region(self, header: Dataset) -> None:
        assert len(roi_groups(build(SourceSlide.of([header]), top=7))) == 7

    def test_a_hundred_patches_are_written(self, header: Dataset) -> None:
        source = SourceSlide.of([header])
        assert len(roi_groups(build(source, patch=128, top=100))) == 100

    def test_it_says_nothing_about_the_whole_slide(self, header: Dataset) -> None:
        report = measurements(build(SourceSlide.of([header])), ResultKind.ROI_REPORT)
        assert not report.get_image_measurement_groups()

    def test_a_polygon_leads_back_to_its_patch(self, header: Dataset) -> None:
        source = SourceSlide.of([header])
        attention = grid_attention(source.size, PATCH)
        result = a_result(source.size, attention)
        groups = roi_groups(build_results(source, result, attention, RUN))
        # The formula of PS3.3, C.7.6.16.2.11.1 (and C.8.12.14.1), written out again: pixel to slide.
        for group, patch in zip(groups, result["top_patches"], strict=True):
            corners = to_pixels(group.roi.value, header)
            left, top = patch["x"], patch["y"]
            right, bottom = left + patch["width"], top + patch["height"]
            expected = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
            np.testing.assert_allclose(corners, expected, atol=1.0)

    def test_a_patch_over_the_edge_ends_at_the_edge(self, header: Dataset) -> None:
        width, height = header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows
        over = {
            "x": width - 100,
            "y": height - 50,
            "width": 256,
            "height": 256,
            "attention": 0.1,
            "percentile": 99,
        }
        (group,) = roi_groups(build(SourceSlide.of([header]), top_patches=[over]))
        to_pixels = hd.spatial.ReferenceToImageTransformer.for_image(header, for_total_pixel_matrix=True)
        corners = to_pixels(group.roi.value)[:, :2]
        assert corners.min(axis=0) == pytest.approx([width - 100, height - 50], abs=0.01)
        assert corners.max(axis=0) == pytest.approx([width, height], abs=0.01)

    def test_polygons_lie_in_the_slides_frame_of_reference(self, header: Dataset) -> None:
        for group in roi_groups(build(SourceSlide.of([header]))):
            assert group.roi.frame_of_reference_uid == header.FrameOfReferenceUID

    def test_a_rotated_slide_keeps_its_patches_in_place(self, header: Dataset) -> None:
        header.ImageOrientationSlide = [0.0, -1.0, 0.0, -1.0, 0.0, 0.0]
        origin = header.TotalPixelMatrixOriginSequence[0]
        origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = "12.5", "31.25"
        source = SourceSlide.of([header])
        attention = grid_attention(source.size, PATCH)
        result = a_result(source.size, attention)
        groups = roi_groups(build_results(source, result, attention, RUN))
        first = to_pixels(groups[0].roi.value, header)[0]
        patch = result["top_patches"][0]
        np.testing.assert_allclose(first, (patch["x"], patch["y"]), atol=1.0)

    def test_a_region_carries_its_percentile(self, header: Dataset) -> None:
        group = roi_groups(build(SourceSlide.of([header])))[0]
        percentile = group.get_measurements()[0]
        assert (percentile.value, percentile.unit.value) == (100.0, "%")

    @pytest.mark.parametrize(
        ("is_share", "code"), [(True, "ATTENTION-SCORE"), (False, "PATCH-PROB")], ids=["CLAM", "MIL_fc"]
    )
    def test_a_share_of_the_attention_and_a_probability_of_the_patch_are_not_called_the_same(
        self, header: Dataset, is_share: bool, code: str
    ) -> None:
        source = SourceSlide.of([header])
        attention = replace(grid_attention(source.size, PATCH), is_share=is_share)
        result = a_result(source.size, attention)
        weight = roi_groups(build_results(source, result, attention, RUN))[0].get_measurements()[1]
        assert weight.name.value == code
        assert weight.value == pytest.approx(result["top_patches"][0]["attention"])

    def test_without_patches_there_is_no_report_and_a_flag_says_why(self, header: Dataset) -> None:
        results = build(SourceSlide.of([header]), top_patches=[])
        assert [(skip.kind, skip.flag) for skip in results.skipped] == [
            (ResultKind.ROI_REPORT, "no_top_patches")
        ]


class TestAttentionMap:
    def test_it_lies_exactly_on_a_level_of_the_slide(self, pyramid: SourceSlide) -> None:
        dataset = reread(build(pyramid), ResultKind.ATTENTION_MAP)
        level = pyramid.levels[2]
        assert dataset.FrameOfReferenceUID == level.FrameOfReferenceUID
        for name in ("TotalPixelMatrixColumns", "TotalPixelMatrixRows", "ImageOrientationSlide"):
            assert dataset[name].value == level[name].value, name
        assert (
            dataset.TotalPixelMatrixOriginSequence[0].XOffsetInSlideCoordinateSystem
            == level.TotalPixelMatrixOriginSequence[0].XOffsetInSlideCoordinateSystem
        )
        assert spacing(dataset) == spacing(level)

    @pytest.mark.parametrize(("patch", "columns"), [(256, 138), (33, 138), (31, 555), (9, 555), (7, 2220)])
    def test_it_takes_the_smallest_level_on_which_a_patch_is_two_pixels_wide(
        self, pyramid: SourceSlide, patch: int, columns: int
    ) -> None:
        attention = Attention(np.array([[0, 0]]), (patch, patch), np.array([50.0]))
        results = build_results(pyramid, a_result(pyramid.size, attention), attention, RUN)
        assert reread(results, ResultKind.ATTENTION_MAP).TotalPixelMatrixColumns == columns

    def test_a_patch_is_one_pixel_wide_where_two_would_make_the_map_too_large(
        self, pyramid: SourceSlide
    ) -> None:
        base, _, small = map(deepcopy, pyramid.levels)
        base.TotalPixelMatrixColumns, base.TotalPixelMatrixRows = 60_000, 60_000
        small.TotalPixelMatrixColumns, small.TotalPixelMatrixRows = 60, 60
        source = SourceSlide((base, small))
        attention = Attention(np.array([[0, 0]]), (1500, 1500), np.array([50.0]))
        results = build_results(source, a_result(source.size, attention), attention, RUN)
        assert reread(results, ResultKind.ATTENTION_MAP).TotalPixelMatrixColumns == 60

    def test_a_single_level_slide_has_its_map_on_that_level(self, header: Dataset) -> None:
        dataset = reread(build(SourceSlide.of([header])), ResultKind.ATTENTION_MAP)
        assert (dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows) == (2220, 2967)
        assert dataset.NumberOfFrames == 10 * 13

    def test_viewers_can_draw_it(self, pyramid: SourceSlide) -> None:
        dataset = reread(build(pyramid), ResultKind.ATTENTION_MAP)
        assert dataset.DimensionOrganizationType == "TILED_FULL"
        assert (dataset.BitsAllocated, dataset.PixelRepresentation) == (16, 0)
        (shared,) = dataset.SharedFunctionalGroupsSequence
        (mapping,) = shared.RealWorldValueMappingSequence
        assert (mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped) == (1, 10001)
        assert mapping.RealWorldValueSlope == pytest.approx(0.01)
        assert mapping.RealWorldValueIntercept == pytest.approx(-0.01)
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "%"
        (window,) = shared.FrameVOILUTSequence
        assert (window.WindowCenter, window.WindowWidth) == (5001, 10000)

    @pytest.mark.parametrize("patch", [256, 100, 16, 6])
    def test_a_patch_shows_its_percentile(self, pyramid: SourceSlide, patch: int) -> None:
        attention = grid_attention(pyramid.size, patch)
        picture, scale = self.picture(pyramid, attention)
        for (x, y), percentile in list(zip(attention.coordinates, attention.percentiles, strict=True))[::7]:
            column, row = (np.array([x, y]) + patch / 2) * scale
            stored = picture[int(row), int(column)]
            assert stored * 0.01 - 0.01 == pytest.approx(percentile, abs=0.0051)

    @pytest.mark.parametrize("patch", [100, 33, 31, 17, 9])
    def test_a_place_in_millimetres_shows_the_percentile_of_the_patch_there(
        self, pyramid: SourceSlide, patch: int
    ) -> None:
        source = SourceSlide(tuple(map(deepcopy, pyramid.levels)))
        for level, factor in zip(source.levels, (1, 4, 16), strict=True):
            level.TotalPixelMatrixColumns, level.TotalPixelMatrixRows = 2208 // factor, 2960 // factor
        attention = grid_attention(source.size, patch)
        results = build_results(source, a_result(source.size, attention), attention, RUN)
        image = hd.imread(BytesIO(content_of(results, ResultKind.ATTENTION_MAP)))
        picture = image.get_total_pixel_matrix(apply_real_world_transform=False, dtype=np.uint16)
        to_mm = hd.spatial.ImageToReferenceTransformer.for_image(source.base, for_total_pixel_matrix=True)
        to_map = hd.spatial.ReferenceToImageTransformer.for_image(image, for_total_pixel_matrix=True)
        centres = attention.coordinates.astype(np.float64) + patch / 2
        columns, rows = np.floor(to_map(to_mm(centres))[:, :2]).astype(int).T
        np.testing.assert_allclose(picture[rows, columns] * 0.01 - 0.01, attention.percentiles, atol=0.0051)

    @pytest.mark.parametrize("patch", [17, 16, 6])
    def test_every_patch_has_a_pixel_of_its_own(self, pyramid: SourceSlide, patch: int) -> None:
        attention = grid_attention(pyramid.size, patch)
        picture, _ = self.picture(pyramid, attention)
        expected = set(np.rint(attention.percentiles / 0.01).astype(int) + 1)
        assert expected <= set(picture.ravel().tolist())

    def test_what_was_not_analysed_is_zero_and_outside_the_mapping(self, pyramid: SourceSlide) -> None:
        attention = Attention(np.array([[512, 512]]), (256, 256), np.array([0.0]))
        picture, _ = self.picture(pyramid, attention)
        assert picture[0, 0] == 0
        assert set(np.unique(picture)) == {0, 1}

    def test_where_patches_overlap_the_highest_stands(self, pyramid: SourceSlide) -> None:
        attention = Attention(np.array([[0, 0], [128, 0]]), (256, 256), np.array([90.0, 10.0]))
        picture, scale = self.picture(pyramid, attention)
        assert picture[0, int(192 * scale[0])] == 9001
        assert picture[0, int(320 * scale[0])] == 1001

    def test_patches_that_reach_over_the_edge_are_cut_there(self, pyramid: SourceSlide) -> None:
        attention = Attention(np.array([[-64, -64], [2200, 2900]]), (256, 256), np.array([1.0, 2.0]))
        picture, _ = self.picture(pyramid, attention)
        assert (picture[0, 0], picture[-1, -1]) == (101, 201)

    def test_it_refers_to_its_level_and_to_level_0(self, pyramid: SourceSlide) -> None:
        dataset = reread(build(pyramid), ResultKind.ATTENTION_MAP)
        referred = {item.ReferencedSOPInstanceUID for item in dataset.SourceImageSequence}
        assert referred == {pyramid.levels[2].SOPInstanceUID, pyramid.base.SOPInstanceUID}

    def test_a_large_map_is_compressed_without_loss(self, header: Dataset) -> None:
        header.TotalPixelMatrixColumns = header.TotalPixelMatrixRows = 6_000
        source = SourceSlide.of([header])
        attention = grid_attention(source.size, PATCH)
        results = build_results(source, a_result(source.size, attention), attention, RUN)
        image = hd.imread(BytesIO(content_of(results, ResultKind.ATTENTION_MAP)))
        assert image.file_meta.TransferSyntaxUID == JPEGLSLossless
        frame = image.get_stored_frame(1)
        assert frame[0, 0] == np.rint(attention.percentiles[0] * 100) + 1

    def test_a_map_too_large_to_draw_is_left_out_with_a_flag(self, header: Dataset) -> None:
        header.TotalPixelMatrixColumns = header.TotalPixelMatrixRows = 60_000
        source = SourceSlide.of([header])
        attention = Attention(np.array([[0, 0]]), (256, 256), np.array([50.0]))
        results = build_results(source, a_result(source.size, attention), attention, RUN)
        assert [(skip.kind, skip.flag) for skip in results.skipped] == [
            (ResultKind.ATTENTION_MAP, "attention_map_too_large")
        ]
        assert len(results.artifacts) == 2

    @staticmethod
    def picture(source: SourceSlide, attention: Attention) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored values of the whole map, and map pixels per level-0 pixel."""
        results = build_results(source, a_result(source.size, attention), attention, RUN)
        image = hd.imread(BytesIO(content_of(results, ResultKind.ATTENTION_MAP)))
        picture = image.get_total_pixel_matrix(apply_real_world_transform=False, dtype=np.uint16)
        return picture, np.array(picture.shape[::-1]) / np.array(source.size)


class TestOddSlides:
    @pytest.mark.parametrize(
        ("character_set", "name"),
        [
            ("ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
            ("ISO_IR 192", "김^민수"),
            ("ISO_IR 100", "Müller^Jürgen"),
            ("GB18030", "王^小东"),
        ],
    )
    def test_names_in_any_script_survive(
        self, header: Dataset, tmp_path: Path, character_set: str, name: str
    ) -> None:
        read = self.stored_with_name(header, tmp_path, character_set, name)
        results = build(SourceSlide.of([read]))
        for kind in ResultKind:
            dataset = reread(results, kind)
            assert str(dataset.PatientName) == name
            assert dataset.PatientComments == name.replace("^", " ")

    def test_texts_inside_sequences_survive_too(self, header: Dataset, tmp_path: Path) -> None:
        header.SpecimenDescriptionSequence[0].SpecimenShortDescription = "구강 점막"
        read = self.stored_with_name(header, tmp_path, "ISO 2022 IR 149", "홍^길동")
        dataset = reread(build(SourceSlide.of([read])), ResultKind.ATTENTION_MAP)
        assert dataset.SpecimenDescriptionSequence[0].SpecimenShortDescription == "구강 점막"

    def test_classes_may_be_named_in_any_script(self, header: Dataset) -> None:
        results = build(
            SourceSlide.of([header]),
            predicted_class="편평세포암종",
            probabilities={"정상": 0.1, "편평세포암종": 0.9},
        )
        meanings = [item.value.meaning for item in slide_group(results).get_qualitative_evaluations()]
        assert "The slide is of class 편평세포암종" in meanings

    def test_modules_that_converters_leave_out_are_not_needed(self, header: Dataset) -> None:
        for name in (
            "PatientBirthDate",
            "PatientSex",
            "AccessionNumber",
            "StudyID",
            "StudyDate",
            "StudyTime",
            "ReferringPhysicianName",
            "PatientName",
            "PatientID",
            "SpecimenDescriptionSequence",
            "ContainerIdentifier",
            "ContainerTypeCodeSequence",
            "IssuerOfTheContainerIdentifierSequence",
            "OpticalPathSequence",
            "PositionReferenceIndicator",
            "LossyImageCompression",
            "Manufacturer",
            "AcquisitionDateTime",
        ):
            del header[name]
        assert len(build(SourceSlide.of([header])).artifacts) == 3

    @pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
    @pytest.mark.parametrize("kind", ResultKind)
    def test_codes_and_dates_that_break_the_standard_are_kept_as_the_slide_has_them(
        self, header: Dataset, tmp_path: Path, kind: ResultKind
    ) -> None:
        header.PatientSex, header.PatientBirthDate = "UNKNOWN", "NOT KNOWN"
        header.StudyDate, header.StudyTime = "02/01/2026", "10:11 AM"
        header.save_as(tmp_path / "odd.dcm")
        dataset = reread(build(SourceSlide.of([pydicom.dcmread(tmp_path / "odd.dcm")])), kind)
        assert (dataset.PatientSex, dataset.PatientBirthDate) == ("UNKNOWN", "NOT KNOWN")
        assert (dataset.StudyDate, dataset.StudyTime) == ("02/01/2026", "10:11 AM")

    @pytest.mark.parametrize("missing", ["CodeValue", "CodingSchemeDesignator", "CodeMeaning"])
    def test_a_specimen_type_that_is_half_a_code_is_left_out(self, header: Dataset, missing: str) -> None:
        del header.SpecimenDescriptionSequence[0].SpecimenTypeCodeSequence[0][missing]
        assert len(build(SourceSlide.of([header])).artifacts) == 3

    def test_two_specimens_on_one_glass_are_fine(self, header: Dataset) -> None:
        second = deepcopy(header.SpecimenDescriptionSequence[0])
        second.SpecimenUID = "1.2.3"
        header.SpecimenDescriptionSequence.append(second)
        assert len(build(SourceSlide.of([header])).artifacts) == 3

    @pytest.mark.filterwarnings("ignore:The value length:UserWarning")
    def test_a_spacing_longer_than_the_standard_allows_is_copied_as_it_is(
        self, header: Dataset, tmp_path: Path
    ) -> None:
        measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.PixelSpacing = ["0.00025187431240123456"] * 2
        header.save_as(tmp_path / "long.dcm")
        read = pydicom.dcmread(tmp_path / "long.dcm")
        dataset = reread(build(SourceSlide.of([read])), ResultKind.ATTENTION_MAP)
        assert spacing(dataset) == pytest.approx([0.00025187431240123456] * 2, rel=1e-9)

    def test_a_jpeg_2000_slide_works_like_any_other(self) -> None:
        path = shared_path("slides/dicom-misc/camelyon_thumb_jpeg2000_tiledfull.dcm")
        header = pydicom.dcmread(path, stop_before_pixels=True)
        assert header.file_meta.TransferSyntaxUID.name.startswith("JPEG 2000")
        origin = Dataset()
        origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = "0"
        header.TotalPixelMatrixOriginSequence = [origin]
        assert len(build(SourceSlide.of([header]), patch=64).artifacts) == 3

    def test_a_sparsely_tiled_slide_works_like_any_other(self, header: Dataset) -> None:
        header.DimensionOrganizationType = "TILED_SPARSE"
        header.PerFrameFunctionalGroupsSequence = [Dataset() for _ in range(130)]
        results = build(SourceSlide.of([header]))
        assert len(results.artifacts) == 3
        assert len(reread(results, ResultKind.ATTENTION_MAP).PerFrameFunctionalGroupsSequence) == 130

    @pytest.mark.parametrize(
        "missing", ["FrameOfReferenceUID", "TotalPixelMatrixOriginSequence", "ImageOrientationSlide"]
    )
    def test_without_a_place_only_the_slide_report_is_written(self, header: Dataset, missing: str) -> None:
        del header[missing]
        results = build(SourceSlide.of([header]))
        assert [artifact.kind for artifact in results.artifacts] == [ResultKind.SLIDE_REPORT]
        assert {skip.flag for skip in results.skipped} == {"dicom_position_unknown"}
        assert all(missing in skip.reason for skip in results.skipped)

    def test_a_slide_of_another_size_than_the_analysed_gets_no_positions(self, header: Dataset) -> None:
        results = build(SourceSlide.of([header]), slide={"width": 4440, "height": 5934})
        assert [artifact.kind for artifact in results.artifacts] == [ResultKind.SLIDE_REPORT]
        assert {skip.flag for skip in results.skipped} == {"dicom_size_differs"}

    def test_a_header_that_breaks_the_standard_costs_its_object_only(self, header: Dataset) -> None:
        header.ImageOrientationSlide = [1.0, 0.0]
        header.PatientName = "Secret^Name"
        results = build(SourceSlide.of([header]))
        assert [artifact.kind for artifact in results.artifacts] == [ResultKind.SLIDE_REPORT]
        assert {skip.flag for skip in results.skipped} == {"dicom_header_unusual"}
        assert "Secret" not in str(results.skipped)

    def test_a_header_without_uids_is_refused_in_a_sentence(self, header: Dataset) -> None:
        del header.StudyInstanceUID
        with pytest.raises(DicomResultsError, match="lacks StudyInstanceUID"):
            SourceSlide.of([header])

    def test_a_header_that_cannot_be_read_is_refused_in_a_sentence(
        self, header: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(dataset: Dataset) -> None:
            raise LookupError(f"unknown encoding in {dataset.PatientName}")

        header.PatientName = "Secret^Name"
        monkeypatch.setattr(Dataset, "decode", fail)
        with pytest.raises(DicomResultsError, match=r"cannot be read .*LookupError") as caught:
            SourceSlide.of([header])
        assert "Secret" not in str(caught.value)

    def test_no_header_at_all_is_refused_in_a_sentence(self) -> None:
        with pytest.raises(DicomResultsError, match="no DICOM header"):
            SourceSlide.of([])

    def test_a_result_without_a_model_is_refused_in_a_sentence(self, header: Dataset) -> None:
        with pytest.raises(DicomResultsError, match="fault of the worker"):
            build(SourceSlide.of([header]), model={})

    @staticmethod
    def stored_with_name(header: Dataset, tmp_path: Path, character_set: str, name: str) -> Dataset:
        header.SpecificCharacterSet = character_set
        header.PatientName = name
        header.PatientComments = name.replace("^", " ")
        path = tmp_path / "named.dcm"
        header.save_as(path)
        return pydicom.dcmread(path)


class TestOpenSlide:
    def test_an_open_dicom_slide_gives_its_own_headers(self, tmp_path: Path) -> None:
        with WsiDicomSlide.open(pyramid_folder(tmp_path / "slide")) as slide:
            source = SourceSlide.of(slide.headers)
            assert source.size == (slide.levels[0].width, slide.levels[0].height)
            assert len(source.levels) == len(slide.levels)
        dataset = reread(build(source), ResultKind.ATTENTION_MAP)
        assert dataset.TotalPixelMatrixColumns == 138

    @pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
    def test_nothing_of_an_invalid_header_is_logged_or_printed(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        dataset = pydicom.dcmread(volume_file())
        dataset.PatientName, dataset.PatientID = "Secret=Name=With=Too=Many", "SECRET-ID"
        dataset.StudyDate, dataset.PatientSex = "SECRETDATE", "SECRETSEX"
        dataset.ImageOrientationSlide = [1.0, 0.0]
        dataset.save_as(tmp_path / "slide.dcm")
        log = io.StringIO()
        with WsiDicomSlide.open(tmp_path / "slide.dcm") as slide, logging_to(log):
            capfd.readouterr()
            results = build(SourceSlide.of(slide.headers))
        said = log.getvalue() + "".join(capfd.readouterr()) + str(results.skipped)
        assert {skip.flag for skip in results.skipped} == {"dicom_header_unusual"}
        assert "unusual (builtins.ValueError at" in said
        assert "secret" not in said.lower()


@contextlib.contextmanager
def logging_to(stream: io.StringIO) -> Iterator[None]:
    """Log as the worker does at its most talkative, inside the block only."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure(LogFormat.TEXT, "DEBUG", stream=stream)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def to_pixels(points_mm: np.ndarray, header: Dataset) -> np.ndarray:
    """Solve the slide's own equation for (column, row): x, y = origin + columns * right + rows * down.

    The origin is the centre of the first pixel, so the corner of that pixel is at (-0.5, -0.5) of it.
    """
    orientation = np.array(header.ImageOrientationSlide, float).reshape(2, 3)[:, :2]
    row_spacing, column_spacing = spacing(header)
    item = header.TotalPixelMatrixOriginSequence[0]
    origin = np.array([item.XOffsetInSlideCoordinateSystem, item.YOffsetInSlideCoordinateSystem], float)
    steps = np.stack([orientation[0] * column_spacing, orientation[1] * row_spacing], axis=1)
    return np.linalg.solve(steps, (points_mm[:, :2] - origin).T).T + 0.5


def spacing(dataset: Dataset) -> list[float]:
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return [float(value) for value in measures.PixelSpacing]
