# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which series may be analysed, and what their content is known by."""

from __future__ import annotations

import hashlib

from orthanc_plugin.errors import ApiError
from orthanc_plugin.gateway import InstanceInfo, SeriesInfo

VL_WHOLE_SLIDE_MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage, DICOM PS3.4 table B.5-1."""


def is_slide_image(instance: InstanceInfo) -> bool:
    """Tell whether an instance is a VL Whole Slide Microscopy image of whatever kind."""
    return instance.sop_class_uid == VL_WHOLE_SLIDE_MICROSCOPY


def is_volume(instance: InstanceInfo) -> bool:
    """Tell whether an instance is a level of a pyramid rather than a label, an overview or a thumbnail.

    The kind is the third value of ImageType (DICOM PS3.3 section C.8.12.4.1.1).
    """
    return is_slide_image(instance) and instance.image_type[2:3] == ("VOLUME",)


def check_eligible(series: SeriesInfo, instances: tuple[InstanceInfo, ...], produced_by_us: bool) -> None:  # noqa: FBT001 - the answer of a look-up, not a switch
    """Refuse a series that is no slide to be analysed.

    Parameters
    ----------
    series
        The series.
    instances
        Its instances.
    produced_by_us
        True where an earlier request made the series: our own overlays must never be analysed.

    Raises
    ------
    ApiError
        422 ``derived_series``, ``not_a_slide`` or ``no_volume``.
    """
    if produced_by_us:
        raise ApiError(
            422,
            "derived_series",
            "This series is the result of an earlier analysis; choose the slide itself.",
        )
    if not any(is_slide_image(instance) for instance in instances):
        modality = f" (its modality is {series.modality})" if series.modality else ""
        raise ApiError(
            422,
            "not_a_slide",
            f"This series{modality} is no VL Whole Slide Microscopy series; choose a slide's series.",
        )
    if not any(is_volume(instance) and instance.image_type[0] == "ORIGINAL" for instance in instances):
        raise ApiError(
            422,
            "no_volume",
            "No image of this series has the ImageType ORIGINAL\\PRIMARY\\VOLUME: there are only labels, "
            "overviews or derived images, or the converter wrote no ImageType. Store the original pyramid.",
        )


def fingerprint(instances: tuple[InstanceInfo, ...]) -> str:
    """Return the SHA-256 (hexadecimal) of a series' content, whatever the order of its instances.

    It covers every instance's UID and the MD5 of its file; where Orthanc keeps no MD5, the attachment's uuid,
    which changes with every upload.
    """
    parts = sorted((instance.sop_instance_uid, instance.md5 or instance.uuid) for instance in instances)
    lines = "".join(f"{uid} {digest}\n" for uid, digest in parts)
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()
