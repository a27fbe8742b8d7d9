# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the plugin needs of Orthanc: the same tests on the gateway in memory and on a real Orthanc's."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
import requests
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from orthanc_plugin.errors import FileRefusedError, StorageError
from orthanc_plugin.gateway import Filed, Gateway, InstanceInfo, SeriesInfo
from orthanc_plugin.host.memory_gateway import VOLUME, MemoryGateway
from orthanc_plugin.slides.eligibility import VL_WHOLE_SLIDE_MICROSCOPY
from tests.support.orthanc_server import OrthancServer
from tests.support.wait import wait_until

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "gateway_script.py"
LABEL = ("ORIGINAL", "PRIMARY", "LABEL", "NONE")
UNKNOWN = "00000000-00000000-00000000-00000000-00000000"
UNWELCOME = "a patient whom a filter keeps out"
NUMBER = 5000
ATTACHMENT = 5100
RESULT = 5101


def dicom_file(
    series_uid: str,
    study_uid: str,
    patient: str,
    instance_uid: str,
    image_type: tuple[str, ...] = VOLUME,
    sop_class: str = VL_WHOLE_SLIDE_MICROSCOPY,
    comment: str = "",
) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(instance_uid)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.ImageType = list(image_type)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = instance_uid
    dataset.Modality = "SM"
    dataset.PatientID = patient
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = series_uid
    dataset.ImageComments = comment
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


class Archive(Protocol):
    """A gateway with the few things that tests do behind its back."""

    gateway: Gateway

    def add_slide(
        self, series_uid: str, study_uid: str, patient: str, image_types: Iterable[tuple[str, ...]]
    ) -> str: ...

    def delete_instance(self, instance_id: str) -> None: ...


class MemoryArchive:
    def __init__(self) -> None:
        self.memory = MemoryGateway()
        self.gateway: Gateway = self.memory

    def add_slide(
        self, series_uid: str, study_uid: str, patient: str, image_types: Iterable[tuple[str, ...]]
    ) -> str:
        return self.memory.add_slide(series_uid, study_uid, patient_id=patient, image_types=image_types)

    def delete_instance(self, instance_id: str) -> None:
        self.memory.delete_instance(instance_id)


class RemoteGateway:
    """Calls the gateway inside Orthanc through the test script's route."""

    def __init__(self, server: OrthancServer) -> None:
        self._server = server

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> Any:
            encoded = [
                {"bytes": base64.b64encode(argument).decode()} if isinstance(argument, bytes) else argument
                for argument in arguments
            ]
            answer = self._server.post("/gateway", json={"method": method, "arguments": encoded})
            if answer.status_code == 409:
                kind = FileRefusedError if answer.json()["kind"] == "FileRefusedError" else StorageError
                raise kind(answer.json()["storage_error"])
            assert answer.status_code == 200, answer.text
            return self._decode(answer.json()["result"])

        return call

    def _decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "bytes" in value:
            return base64.b64decode(value["bytes"])
        if "tuple" in value:
            return tuple(self._decode(item) for item in value["tuple"])
        if "dataclass" in value:
            known = {"SeriesInfo": SeriesInfo, "InstanceInfo": InstanceInfo, "Filed": Filed}[
                value["dataclass"]
            ]
            return known(**{key: self._decode(item) for key, item in value["fields"].items()})
        return value


class OrthancArchive:
    def __init__(self, server: OrthancServer) -> None:
        self._server = server
        self.gateway = cast("Gateway", RemoteGateway(server))

    def add_slide(
        self, series_uid: str, study_uid: str, patient: str, image_types: Iterable[tuple[str, ...]]
    ) -> str:
        series = ""
        for number, image_type in enumerate(image_types, 1):
            content = dicom_file(series_uid, study_uid, patient, f"{series_uid}.{number}", image_type)
            series = self._server.post("/instances", data=content).json()["ParentSeries"]
        return series

    def delete_instance(self, instance_id: str) -> None:
        self._server.request("DELETE", f"/instances/{instance_id}").raise_for_status()

    def clear(self) -> None:
        self._server.delete_all()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    lua = tmp_path_factory.mktemp("lua") / "filter.lua"
    lua.write_text(
        f"function ReceivedInstanceFilter(dicom, origin) return dicom.PatientID ~= '{UNWELCOME}' end\n"
    )
    with OrthancServer(script=SCRIPT, overrides={"LuaScripts": [str(lua)]}) as running:
        yield running


@pytest.fixture(params=["memory", pytest.param("orthanc", marks=pytest.mark.server)])
def archive(request: pytest.FixtureRequest) -> Archive:
    if request.param == "memory":
        return MemoryArchive()
    real = OrthancArchive(request.getfixturevalue("server"))
    real.clear()
    return real


@pytest.fixture
def slide(archive: Archive) -> str:
    return archive.add_slide("1.2.3.4", "1.2.3", "patient", (VOLUME, LABEL))


def test_a_series_carries_its_uids_modality_and_instances(archive: Archive, slide: str) -> None:
    series = archive.gateway.series(slide)
    assert series is not None
    assert (series.series_id, series.series_instance_uid, series.study_instance_uid, series.modality) == (
        slide,
        "1.2.3.4",
        "1.2.3",
        "SM",
    )
    assert len(series.instance_ids) == 2


def test_an_unknown_series_is_none_and_has_no_instances(archive: Archive) -> None:
    assert archive.gateway.series(UNKNOWN) is None
    assert archive.gateway.instances(UNKNOWN) == ()
    assert archive.gateway.study_series(UNKNOWN) == ()


def test_instances_come_sorted_with_image_type_class_uuid_size_and_md5(archive: Archive, slide: str) -> None:
    instances = archive.gateway.instances(slide)
    assert [instance.sop_instance_uid for instance in instances] == ["1.2.3.4.1", "1.2.3.4.2"]
    assert [instance.image_type for instance in instances] == [VOLUME, LABEL]
    assert {instance.sop_class_uid for instance in instances} == {VL_WHOLE_SLIDE_MICROSCOPY}
    for instance in instances:
        assert (len(instance.uuid), len(instance.md5)) == (36, 32)
        assert instance.size == len(archive.gateway.dicom_file(instance.instance_id))


def test_an_instance_that_is_stored_again_is_another_file(archive: Archive, slide: str) -> None:
    before = archive.gateway.instances(slide)
    archive.delete_instance(before[1].instance_id)
    archive.add_slide("1.2.3.4", "1.2.3", "patient", (VOLUME, LABEL))
    after = archive.gateway.instances(slide)
    assert after[1].instance_id == before[1].instance_id
    assert after[1].uuid != before[1].uuid
    assert archive.gateway.instance(after[1].instance_id) == after[1]


def test_one_instance_is_the_same_value_as_in_its_series(archive: Archive, slide: str) -> None:
    first = archive.gateway.instances(slide)[0]
    assert archive.gateway.instance(first.instance_id) == first
    assert archive.gateway.instance(UNKNOWN) is None


def test_an_instance_knows_its_series(archive: Archive, slide: str) -> None:
    first = archive.gateway.instances(slide)[0]
    assert archive.gateway.parent_series(first.instance_id) == slide
    assert archive.gateway.parent_series(UNKNOWN) is None


def test_an_instance_without_an_image_type_has_an_empty_one(archive: Archive) -> None:
    series = archive.add_slide("1.2.3.5", "1.2.3", "patient", ((),))
    assert [instance.image_type for instance in archive.gateway.instances(series)] == [()]


def test_deleting_the_only_instance_takes_the_series_along(archive: Archive) -> None:
    series = archive.add_slide("1.2.3.5", "1.2.3", "patient", (VOLUME,))
    archive.delete_instance(archive.gateway.instances(series)[0].instance_id)
    assert archive.gateway.series(series) is None


def test_a_study_lists_its_series(archive: Archive, slide: str) -> None:
    other = archive.add_slide("1.2.3.5", "1.2.3", "patient", (VOLUME,))
    series = archive.gateway.series(slide)
    assert series is not None
    assert set(archive.gateway.study_series(series.study_id)) == {slide, other}
    assert set(archive.gateway.list_series()) == {slide, other}


def test_two_patients_may_share_a_series_uid(archive: Archive, slide: str) -> None:
    other = archive.add_slide("1.2.3.4", "1.2.9", "somebody else", (VOLUME,))
    assert archive.gateway.lookup_series("1.2.3.4", None) == tuple(sorted((slide, other)))
    assert archive.gateway.lookup_series("1.2.3.4", "1.2.9") == (other,)
    assert archive.gateway.lookup_series("1.2.3.4", "9.9.9") == ()


def test_a_lookup_finds_neither_parts_nor_patterns_nor_other_levels(archive: Archive, slide: str) -> None:
    for text in ("1.2.3", "1.2.3.*", "1.2.3.4.1", "", "é", "\\"):
        assert archive.gateway.lookup_series(text, None) == ()


def test_metadata_round_trips_byte_for_byte(archive: Archive, slide: str) -> None:
    for value in (b"{}", bytes(range(256)), b""):
        archive.gateway.put_metadata(slide, NUMBER, value)
        assert archive.gateway.get_metadata(slide, NUMBER) == value


def test_writing_to_a_series_that_is_gone_is_a_storage_error(archive: Archive) -> None:
    with pytest.raises(StorageError, match="Unknown resource"):
        archive.gateway.put_metadata(UNKNOWN, NUMBER, b"x")
    with pytest.raises(StorageError, match="Unknown resource"):
        archive.gateway.put_attachment(UNKNOWN, ATTACHMENT, b"x")


def test_reading_from_a_series_that_is_gone_is_none(archive: Archive) -> None:
    assert archive.gateway.get_metadata(UNKNOWN, NUMBER) is None
    assert archive.gateway.get_attachment(UNKNOWN, ATTACHMENT) is None
    assert archive.gateway.list_attachments(UNKNOWN) == ()
    assert archive.gateway.list_metadata(UNKNOWN) == ()


def test_an_attachment_is_replaced_listed_and_deleted(archive: Archive, slide: str) -> None:
    archive.gateway.put_attachment(slide, ATTACHMENT, b"first")
    archive.gateway.put_attachment(slide, ATTACHMENT, bytes(range(256)))
    archive.gateway.put_attachment(slide, ATTACHMENT + 1, b"")
    assert archive.gateway.get_attachment(slide, ATTACHMENT) == bytes(range(256))
    assert archive.gateway.list_attachments(slide) == (ATTACHMENT, ATTACHMENT + 1)
    archive.gateway.delete_attachment(slide, ATTACHMENT)
    archive.gateway.delete_attachment(slide, ATTACHMENT)
    assert archive.gateway.get_attachment(slide, ATTACHMENT) is None
    assert archive.gateway.list_attachments(slide) == (ATTACHMENT + 1,)


def test_metadata_is_replaced_listed_and_deleted(archive: Archive, slide: str) -> None:
    archive.gateway.put_metadata(slide, RESULT, b"first")
    archive.gateway.put_metadata(slide, RESULT, b"second")
    archive.gateway.put_metadata(slide, NUMBER, b"a state")
    assert archive.gateway.get_metadata(slide, RESULT) == b"second"
    assert archive.gateway.list_metadata(slide) == (NUMBER, RESULT)
    archive.gateway.delete_metadata(slide, RESULT)
    archive.gateway.delete_metadata(slide, RESULT)
    assert archive.gateway.get_metadata(slide, RESULT) is None
    assert archive.gateway.list_metadata(slide) == (NUMBER,)


def test_metadata_and_attachments_go_with_their_series(archive: Archive, slide: str) -> None:
    archive.gateway.put_metadata(slide, NUMBER, b"x")
    archive.gateway.delete_series(slide)
    archive.gateway.delete_series(slide)
    assert archive.gateway.get_metadata(slide, NUMBER) is None
    assert (
        archive.gateway.get_metadata(archive.add_slide("1.2.3.4", "1.2.3", "patient", (VOLUME,)), NUMBER)
        is None
    )


def test_storing_the_same_file_twice_gives_the_same_instance(archive: Archive) -> None:
    content = dicom_file("1.2.7", "1.2.3", "patient", "1.2.7.1")
    first = archive.gateway.store_instance(content)
    assert archive.gateway.store_instance(content) == first
    assert archive.gateway.dicom_file(first) == content


def test_a_stored_file_lies_in_the_series_that_it_names(archive: Archive, slide: str) -> None:
    instance = archive.gateway.store_instance(dicom_file("1.2.7", "1.2.3", "patient", "1.2.7.1"))
    (series,) = archive.gateway.lookup_series("1.2.7", "1.2.3")
    assert archive.gateway.parent_series(instance) == series
    assert series != slide


def test_a_stored_file_takes_the_place_of_another_of_its_uids(archive: Archive) -> None:
    forged = dicom_file("1.2.7", "1.2.3", "patient", "1.2.7.1", comment="forged")
    content = dicom_file("1.2.7", "1.2.3", "patient", "1.2.7.1")
    first = archive.gateway.store_instance(forged)
    assert archive.gateway.store_instance(content) == first
    assert archive.gateway.dicom_file(first) == content


@pytest.mark.parametrize(("series_uid", "patient"), [("1.2.7", "patient"), ("1.2.8", "  0042 ")])
def test_it_is_known_beforehand_where_a_file_will_lie(
    archive: Archive, series_uid: str, patient: str
) -> None:
    """Blanks before a PatientID are of it, as in one that is set to the right."""
    content = dicom_file(series_uid, "1.2.3", patient, f"{series_uid}.1")
    filed = archive.gateway.filed_as(content)
    archive.gateway.store_instance(content)
    (series_id,) = archive.gateway.lookup_series(series_uid, "1.2.3")
    series = archive.gateway.series(series_id)
    assert series is not None
    assert filed == Filed(series.study_id, series.series_instance_uid, f"{series_uid}.1")


def test_what_is_no_dicom_is_refused_for_good(archive: Archive) -> None:
    for take in (archive.gateway.filed_as, archive.gateway.store_instance):
        with pytest.raises(FileRefusedError, match="Bad file format"):
            take(b"no DICOM at all")


@pytest.mark.server
def test_storing_what_the_sites_filter_keeps_out_is_refused_for_good(server: OrthancServer) -> None:
    gateway = OrthancArchive(server).gateway
    with pytest.raises(FileRefusedError, match="filter"):
        gateway.store_instance(dicom_file("1.2.7", "1.2.3", UNWELCOME, "1.2.7.1"))


def test_the_file_of_an_unknown_instance_is_a_storage_error(archive: Archive) -> None:
    with pytest.raises(StorageError, match="Unknown resource"):
        archive.gateway.dicom_file(UNKNOWN)


def test_a_global_property_is_none_until_it_is_written(archive: Archive) -> None:
    number = 5077
    if archive.gateway.get_global_property(number) is not None:
        pytest.fail("the property was written before")
    for value in ("", '["é"]'):
        archive.gateway.set_global_property(number, value)
        assert archive.gateway.get_global_property(number) == value


def test_the_configuration_says_whether_passwords_are_asked_for(archive: Archive) -> None:
    assert archive.gateway.configuration()["AuthenticationEnabled"] is True
    assert archive.gateway.orthanc_version().count(".") == 2


# What the real gateway does with Orthanc's callbacks.


def answer(server: OrthancServer, status: int, body: bytes = b"{}", **headers: str) -> requests.Response:
    wanted = {
        "status": status,
        "body": base64.b64encode(body).decode(),
        "content_type": "application/json",
        "headers": headers,
    }
    return server.post("/answer", json=wanted)


@pytest.mark.server
@pytest.mark.parametrize("status", [200, 201, 400, 403, 404, 409, 410, 413, 415, 422, 503])
def test_every_status_of_the_contract_leaves_orthanc_with_body_and_type(
    server: OrthancServer, status: int
) -> None:
    response = answer(server, status, b'{"success":false}', ETag='"x"')
    assert (response.status_code, response.content) == (status, b'{"success":false}')
    # Orthanc 1.12 adds a second one, text/plain, which nothing can stop.
    assert response.headers["Content-Type"].split(",")[0] == "application/json"
    assert response.headers["ETag"] == '"x"'


@pytest.mark.server
def test_too_busy_leaves_orthanc_as_503_because_it_knows_no_429(server: OrthancServer) -> None:
    response = answer(server, 429, b'{"code":"too_busy"}', **{"Retry-After": "2"})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert response.json()["code"] == "too_busy"


@pytest.mark.server
def test_a_wrong_method_is_405_with_allow(server: OrthancServer) -> None:
    response = answer(server, 405, b"{}", Allow="GET,POST")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET,POST")


@pytest.mark.server
@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_keep_their_headers(server: OrthancServer, status: int) -> None:
    response = answer(server, status, b"", **{"Retry-After": "3"})
    assert (response.status_code, response.content, response.headers["Retry-After"]) == (status, b"", "3")


@pytest.mark.server
def test_binary_answers_are_not_touched(server: OrthancServer) -> None:
    assert answer(server, 200, bytes(range(256))).content == bytes(range(256))


@pytest.mark.server
def test_an_error_in_a_route_is_an_answer_in_the_contracts_shape_and_a_trace_in_the_log(
    server: OrthancServer,
) -> None:
    response = server.get("/fail")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "as a test wished" not in response.text
    assert "as a test wished" in server.log()


@pytest.mark.server
def test_the_filter_can_refuse_and_what_it_cannot_judge_is_refused(server: OrthancServer) -> None:
    assert server.get("/judge/refused").status_code == 403
    assert server.get("/judge/broken").status_code == 403
    assert server.get("/judge/else").status_code == 404


@pytest.mark.server
def test_the_filter_sees_the_path_decoded_and_the_method_that_counts(server: OrthancServer) -> None:
    server.get("/judge//%61bc?_method=delete")
    assert '{"method": "DELETE", "uri": "/judge/abc", "peer": "127.0.0.1"' in server.log()


@pytest.mark.server
def test_the_filter_does_not_see_who_has_no_password(server: OrthancServer) -> None:
    assert server.get("/judge/stranger", auth=("admin", "guess")).status_code == 401
    assert "/judge/stranger" not in server.log()


@pytest.mark.server
def test_new_and_deleted_series_are_heard_of_by_name(server: OrthancServer) -> None:
    archive = OrthancArchive(server)
    series = archive.add_slide("1.2.88", "1.2.3", "heard", (VOLUME,))
    archive.gateway.delete_series(series)
    wait_until(lambda: f"CHANGED NEW_SERIES series {series}" in server.log())
    wait_until(lambda: f"CHANGED DELETED series {series}" in server.log())
    assert "CHANGED ORTHANC_STARTED" in server.log()
