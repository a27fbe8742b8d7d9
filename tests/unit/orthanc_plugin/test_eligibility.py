# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which series may be analysed, and what their content is known by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orthanc_plugin.errors import ApiError
from orthanc_plugin.gateway import InstanceInfo, SeriesInfo
from orthanc_plugin.slides.eligibility import check_eligible, fingerprint

WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
SERIES = SeriesInfo("id", "study", "1.2.3.4", "1.2.3", "SM", ("a",), True, "20260101T000000")
LEVEL = InstanceInfo(
    instance_id="a",
    sop_instance_uid="1.2.3.4.1",
    sop_class_uid=WSI,
    image_type=("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
    uuid="11111111-1111-4111-8111-111111111111",
    size=1000,
    md5="0" * 32,
)
LOWER_LEVEL = replace(
    LEVEL, sop_instance_uid="1.2.3.4.2", image_type=("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED")
)
LABEL = replace(LEVEL, sop_instance_uid="1.2.3.4.3", image_type=("ORIGINAL", "PRIMARY", "LABEL", "NONE"))


def refusal(
    instances: tuple[InstanceInfo, ...], *, ours: bool = False, series: SeriesInfo = SERIES
) -> ApiError:
    with pytest.raises(ApiError) as caught:
        check_eligible(series, instances, ours)
    return caught.value


def test_a_pyramid_with_an_original_level_may_be_analysed() -> None:
    check_eligible(SERIES, (LABEL, LOWER_LEVEL, LEVEL), produced_by_us=False)


def test_a_radiology_series_is_not_a_slide_and_the_sentence_names_its_modality() -> None:
    slice_of_ct = replace(
        LEVEL, sop_class_uid="1.2.840.10008.5.1.4.1.1.2", image_type=("ORIGINAL", "PRIMARY", "AXIAL")
    )
    error = refusal((slice_of_ct,), series=replace(SERIES, modality="CT"))
    assert (error.status, error.code) == (422, "not_a_slide")
    assert "CT" in error.message


def test_a_series_without_instances_is_not_a_slide() -> None:
    assert refusal(()).code == "not_a_slide"


@pytest.mark.parametrize(
    "instances",
    [
        (LABEL,),
        (LOWER_LEVEL, LABEL),
        (replace(LEVEL, image_type=()),),
        (replace(LEVEL, image_type=("ORIGINAL",)),),
        (replace(LEVEL, image_type=("ORIGINAL", "VOLUME", "LABEL", "NONE")),),
    ],
    ids=["label", "derived", "no ImageType", "short ImageType", "the word elsewhere"],
)
def test_without_an_original_volume_there_is_nothing_to_read(instances: tuple[InstanceInfo, ...]) -> None:
    error = refusal(instances)
    assert (error.status, error.code) == (422, "no_volume")


def test_a_volume_of_another_class_does_not_make_a_label_a_slide() -> None:
    other = replace(LEVEL, sop_class_uid="1.2.840.10008.5.1.4.1.1.77.1.3")
    assert refusal((LABEL, other)).code == "no_volume"


def test_our_own_results_are_never_analysed() -> None:
    assert refusal((LEVEL,), ours=True).code == "derived_series"


def test_the_fingerprint_does_not_depend_on_the_order() -> None:
    assert fingerprint((LEVEL, LABEL)) == fingerprint((LABEL, LEVEL))


def test_the_fingerprint_changes_with_content_and_with_instances() -> None:
    known = {
        fingerprint((LEVEL, LABEL)),
        fingerprint((LEVEL,)),
        fingerprint((replace(LEVEL, md5="1" * 32), LABEL)),
        fingerprint(()),
    }
    assert len(known) == 4


def test_the_fingerprint_is_of_the_content_not_of_the_upload() -> None:
    assert fingerprint((replace(LEVEL, uuid="another"),)) == fingerprint((LEVEL,))


def test_without_md5_every_upload_has_a_fingerprint_of_its_own() -> None:
    bare = replace(LEVEL, md5="")
    assert fingerprint((replace(bare, uuid="another"),)) != fingerprint((bare,))
