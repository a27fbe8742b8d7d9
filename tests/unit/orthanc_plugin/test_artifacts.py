# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a result may bring: names, types, first bytes; and whose DICOM file it is."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from orthanc_plugin.errors import ApiError
from orthanc_plugin.results.artifacts import KINDS, check_content, kind_of
from orthanc_plugin.slides.dicom_identity import UnreadableDicomError, check_structure, read_identity
from tests.support.dicom_files import volume_file
from tests.support.tiny_dicom import nested_result, nested_sequences, tiny_result


@pytest.mark.parametrize(
    "name",
    [
        "heatmap.png",
        "thumbnail.png",
        "overlay.png",
        "patch-001.jpg",
        "attention.npz",
        "attention.h5",
        "heat-map2.dcm",
    ],
)
def test_names_of_the_contract_are_taken(name: str) -> None:
    assert kind_of(name) in KINDS


@pytest.mark.parametrize(
    "name", ["heatmap.svg", "patch-1.jpg", "../heatmap.png", "Heatmap.png", "a.html", ".dcm", "heatmap.png\n"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        kind_of(name)
    assert caught.value.status == 400


def test_the_type_may_carry_parameters() -> None:
    check_content(kind_of("heatmap.png"), "Image/PNG; q=1", b"\x89PNG\r\n\x1a\n")


def test_another_files_bytes_are_refused() -> None:
    with pytest.raises(ApiError) as caught:
        check_content(kind_of("heatmap.png"), "image/png", b"<svg onload=alert(1)>")
    assert caught.value.status == 415


def read_back(content: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(content))


def assert_same(content: bytes) -> None:
    expected, found = read_back(content), read_identity(content)
    assert found.sop_instance_uid == expected.SOPInstanceUID
    assert found.study_instance_uid == expected.StudyInstanceUID
    assert found.series_instance_uid == expected.SeriesInstanceUID
    assert found.modality == expected.Modality


def test_a_nested_series_uid_is_not_taken_for_the_files_own() -> None:
    assert_same(tiny_result("1.2.3"))


def test_implicit_transfer_syntax_is_read_as_well() -> None:
    dataset = read_back(tiny_result("1.2.3"))
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, implicit_vr=True, little_endian=True)
    assert_same(buffer.getvalue())


def test_a_real_slides_header_is_read() -> None:
    assert_same(volume_file().read_bytes())


EXPLICIT = b"UI\x14\x001.2.840.10008.1.2.1\0"


def in_syntax(value: bytes) -> bytes:
    """Return a result that is said to be in another transfer syntax than it is."""
    content = tiny_result("1.2.3")
    length = int.from_bytes(content[140:144], "little") + len(value) - len(EXPLICIT) + 4
    said = content.replace(EXPLICIT, b"UI" + len(value).to_bytes(2, "little") + value)
    return said[:140] + length.to_bytes(4, "little") + said[144:]


def test_frames_in_a_known_compression_are_let_through() -> None:
    assert_same(in_syntax(b"1.2.840.10008.1.2.4.80"))


@pytest.mark.parametrize(
    "syntax",
    [
        b"1.2.840.10008.1.2.2\0",
        b" 1.2.840.10008.1.2.2",
        b"1.2.840.10008.1.2.2\0x\0",
        b"1.2.840.10008.1.2.1.99",
        b"1.2.840.10008.1.2.4.95",
        b"",
    ],
    ids=["big endian", "after a blank", "before a zero", "deflated", "deflated by JPIP", "none"],
)
def test_a_transfer_syntax_that_orthanc_may_read_otherwise_says_what_to_send(syntax: bytes) -> None:
    with pytest.raises(UnreadableDicomError, match="little endian"):
        read_identity(in_syntax(syntax))


def test_a_second_transfer_syntax_is_refused() -> None:
    twice = b"\x02\x00\x10\x00".join([EXPLICIT, EXPLICIT])
    with pytest.raises(UnreadableDicomError, match="twice"):
        read_identity(tiny_result("1.2.3").replace(EXPLICIT, twice))


@pytest.mark.parametrize("more", [-8, 8])
def test_meta_information_of_another_length_than_it_says_is_refused(more: int) -> None:
    content = tiny_result("1.2.3")
    length = int.from_bytes(content[140:144], "little") + more
    with pytest.raises(UnreadableDicomError, match="not as long"):
        read_identity(content[:140] + length.to_bytes(4, "little") + content[144:])


def test_of_a_tag_that_comes_twice_the_first_is_taken_as_orthanc_does() -> None:
    content = tiny_result("1.2.3", series_uid="1.2.3.4")
    series = b"\x20\x00\x0e\x00UI\x08\x001.2.3.4\x00"
    assert content.endswith(series)
    assert read_identity(content + series.replace(b"3.4", b"3.5")).series_instance_uid == "1.2.3.4"


@pytest.mark.parametrize(
    "series_uid", [b" 1.2.3.4", b"1.2.3.4\0x ", b"1.2\\1.2 ", b"1.2\n34", b"1" * 66, b"a.b "]
)
def test_what_is_no_uid_is_refused(series_uid: bytes) -> None:
    content = tiny_result("1.2.3", series_uid="1.2.3.4")
    head = content[: -len(b"\x08\x001.2.3.4\x00")]
    with pytest.raises(UnreadableDicomError, match="UID"):
        read_identity(head + len(series_uid).to_bytes(2, "little") + series_uid)


def test_a_modality_that_is_none_is_refused() -> None:
    content = tiny_result("1.2.3")
    with pytest.raises(UnreadableDicomError, match="Modality"):
        read_identity(content.replace(b"CS\x02\x00SR", b"CS\x02\x00S\n"))


@pytest.mark.parametrize("length", [0, 100, 131, 132, 140, 200, 300, 400])
def test_a_file_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(UnreadableDicomError):
        read_identity(tiny_result("1.2.3")[:length])


@pytest.mark.parametrize("ends", [True, False])
def test_a_file_that_is_nested_too_deep_for_orthanc_is_told(ends: bool) -> None:
    check_structure(nested_result("1.2.3", 17, ends=ends))
    with pytest.raises(UnreadableDicomError, match="too deep"):
        check_structure(nested_result("1.2.3", 18, ends=ends))


def test_many_items_beside_each_other_are_not_deep() -> None:
    check_structure(nested_result("1.2.3", 2, ends=True) + nested_sequences(3, ends=False) * 20)


ITEM, ITEM_END, SEQUENCE_END = (bytes.fromhex(f"feff{mark}00000000") for mark in ("00e0", "0de0", "dde0"))


def element(tag: str, kind: bytes, value: bytes, length: int | None = None) -> bytes:
    """Return an element of a type with a long length, which may be another one than the value's."""
    return bytes.fromhex(tag) + kind + b"\0\0" + (length or len(value)).to_bytes(4, "little") + value


def empty_elements(count: int) -> bytes:
    """Return private elements without a value, 8 bytes each."""
    return b"".join(
        bytes.fromhex("2900") + number.to_bytes(2, "little") + b"LO\0\0" for number in range(count)
    )


def items(count: int, value: bytes = b"") -> bytes:
    """Return a sequence of items with the same value."""
    item = ITEM[:4] + len(value).to_bytes(4, "little") + value
    return element("400030a7", b"SQ", item * count)


@pytest.mark.parametrize("many", [empty_elements, items])
def test_more_beside_each_other_than_orthanc_reads_in_time_are_told(many: Callable[[int], bytes]) -> None:
    check_structure(tiny_result("1.2.3") + many(19_900))
    with pytest.raises(UnreadableDicomError, match="20,000 elements or items"):
        check_structure(tiny_result("1.2.3") + many(20_001))


def test_more_elements_in_all_than_can_be_looked_through_in_time_are_told() -> None:
    """As many frames as the largest map of the project's worker may have, 13 elements each, are no more."""
    check_structure(tiny_result("1.2.3") + items(16_384, empty_elements(12)))
    with pytest.raises(UnreadableDicomError, match="250,000 elements"):
        check_structure(tiny_result("1.2.3") + items(16_384, empty_elements(16)))


def test_elements_before_the_uids_are_counted_as_well() -> None:
    head, uids = tiny_result("1.2.3").split(b"\x08\x00\x16\x00", 1)
    before = empty_elements(20_001).replace(bytes.fromhex("2900"), bytes.fromhex("0900"))
    with pytest.raises(UnreadableDicomError, match="20,000"):
        read_identity(head + before + b"\x08\x00\x16\x00" + uids)


def test_implicit_sequences_are_counted_as_well() -> None:
    dataset = read_back(nested_result("1.2.3", 18, ends=False))
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, implicit_vr=True, little_endian=True)
    with pytest.raises(UnreadableDicomError, match="too deep"):
        check_structure(buffer.getvalue())


def test_fragments_of_pixels_are_no_sequences() -> None:
    fragment = b"\xfe\xff\x00\xe0\x04\x00\x00\x00\xff\xff\xff\xff"
    pixels = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff" + fragment * 40
    check_structure(tiny_result("1.2.3") + pixels + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00")


def test_what_hides_how_deep_it_is_is_refused() -> None:
    hidden = nested_result("1.2.3", 40, ends=False).replace(b"SQ", b"ZZ")
    with pytest.raises(UnreadableDicomError, match="unknown kind"):
        check_structure(hidden)


@pytest.mark.parametrize("number", ["3412", "0000"])
def test_what_is_only_numbered_like_an_item_hides_no_depth(number: str) -> None:
    """Taken for an item, it would have a length of 16,975: its type, read as a number."""
    hidden = element("feff" + number, b"OB", b"") + nested_sequences(18, ends=False)
    filled = hidden + element("e17f1000", b"OB", b"\0" * 20_000)
    with pytest.raises(UnreadableDicomError, match="too deep"):
        check_structure(tiny_result("1.2.3") + filled)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (ITEM + SEQUENCE_END, "something else than items"),
        (ITEM[:4] + b"\x08\0\0\0" + ITEM_END, "where there is none"),
        (ITEM[:4] + b"\x0c\0\0\0" + element("09001000", b"OB", b"", 400), "longer than the sequence"),
    ],
    ids=["a sequence's end", "an item's end", "a value beyond the sequence"],
)
def test_a_sequence_with_a_length_ends_there_and_nowhere_else(value: bytes, reason: str) -> None:
    sequence = element("400030a7", b"SQ", value)
    with pytest.raises(UnreadableDicomError, match=reason):
        check_structure(tiny_result("1.2.3") + sequence + (ITEM + ITEM_END) * 40)


def test_a_mark_outside_of_any_sequence_is_refused() -> None:
    with pytest.raises(UnreadableDicomError, match="where there is none"):
        check_structure(tiny_result("1.2.3") + ITEM_END + ITEM * 40)


def test_endless_nesting_is_refused() -> None:
    head = tiny_result("1.2.3")[:132]
    syntax = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    sequence = b"\x08\x00\x15\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(UnreadableDicomError, match="nests"):
        read_identity(head + syntax + sequence * 50)
