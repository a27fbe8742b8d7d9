# SPDX-License-Identifier: AGPL-3.0-or-later
"""Byte ranges of stored slides: what is read, what is refused, and what changes in mid-read."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.http import Request
from orthanc_plugin.routes.ranges import MAX_BYTES, MAX_RANGES, RangeServer, parse_ranges, read_ranges
from orthanc_plugin.slides.stored_file import stored_path

CONTENT = b"\0" * 128 + b"DICM" + bytes(range(256)) * 4
LABEL = ("ORIGINAL", "PRIMARY", "LABEL", "NONE")


class Disk:
    """A gateway in memory whose files also lie in a folder as Orthanc's do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gateway = MemoryGateway(storage_directory=str(folder))
        self.series = self.gateway.add_slide("1.2.3", image_types=())
        self.instance = self.store(CONTENT)

    def store(self, content: bytes, *, written: bytes | None = None, **options: Any) -> str:
        instance_id = self.gateway.add_instance(self.series, "1.2.3.1", content=content, **options)
        path = self.path(instance_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if written is None else written)
        return instance_id

    def path(self, instance_id: str) -> Path:
        uuid = self.uuid(instance_id)
        return self.folder / uuid[:2] / uuid[2:4] / uuid

    def uuid(self, instance_id: str) -> str:
        instance = self.gateway.instance(instance_id)
        assert instance is not None
        return instance.uuid


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture
def server(disk: Disk) -> RangeServer:
    return RangeServer(disk.gateway)


def ask(ranges: Any, **headers: str) -> Request:
    body = json.dumps({"ranges": ranges}).encode()
    return Request(
        "POST",
        "/pathology/instances/x/ranges",
        headers={"content-type": "application/json", **headers},
        body=body,
    )


def refusal(server: RangeServer, instance: str, request: Request, **options: bool) -> ApiError:
    with pytest.raises(ApiError) as caught:
        server.serve(instance, request, **options)
    return caught.value


def test_ranges_come_one_after_the_other_in_the_order_asked_for(disk: Disk, server: RangeServer) -> None:
    response = server.serve(disk.instance, ask([[200, 8], [128, 4], [200, 8]]))
    assert response.body == CONTENT[200:208] + b"DICM" + CONTENT[200:208]
    assert response.content_type == "application/octet-stream"


def test_the_answer_names_the_file_and_its_size(disk: Disk, server: RangeServer) -> None:
    headers = server.serve(disk.instance, ask([[0, 1]])).headers
    assert headers["ETag"] == f'"{disk.uuid(disk.instance)}"'
    assert headers["X-Pathology-Size"] == str(len(CONTENT))


def test_what_lies_beyond_the_end_is_left_out(disk: Disk, server: RangeServer) -> None:
    end = len(CONTENT)
    assert server.serve(disk.instance, ask([[end - 3, 100], [end, 5], [2**40, 5]])).body == CONTENT[-3:]


def test_the_plain_file_is_read_without_orthanc(disk: Disk, server: RangeServer) -> None:
    disk.gateway.fail_next("dicom_file")
    assert server.serve(disk.instance, ask([[0, 10]])).body == CONTENT[:10]


@pytest.mark.parametrize(
    "ranges",
    [
        None,
        [],
        {},
        [[0]],
        [[0, 1, 2]],
        [["0", 1]],
        [[0, 1.0]],
        [[True, 1]],
        [[-1, 1]],
        [[0, 0]],
        [[0, -5]],
        [[2**63, 1]],
        [0, 1],
    ],
)
def test_what_is_no_range_is_refused(disk: Disk, server: RangeServer, ranges: Any) -> None:
    error = refusal(server, disk.instance, ask(ranges))
    assert (error.status, error.code) == (400, "bad_range")


def test_too_many_ranges_or_bytes_are_refused_and_the_limit_is_not() -> None:
    assert len(parse_ranges({"ranges": [[0, 1]] * MAX_RANGES})) == MAX_RANGES
    assert parse_ranges({"ranges": [[0, MAX_BYTES]]}) == ((0, MAX_BYTES),)
    for ranges in ([[0, 1]] * (MAX_RANGES + 1), [[0, MAX_BYTES], [0, 1]], [[0, 2**80]]):
        with pytest.raises(ApiError) as caught:
            parse_ranges({"ranges": ranges})
        assert (caught.value.status, caught.value.code) == (413, "range_too_large")


def test_an_unknown_instance_is_404(server: RangeServer) -> None:
    assert refusal(server, "unknown", ask([[0, 1]])).status == 404


def test_only_slide_images_are_served(disk: Disk, server: RangeServer) -> None:
    instance = disk.store(CONTENT, sop_class_uid="1.2.840.10008.5.1.4.1.1.2")
    assert refusal(server, instance, ask([[0, 1]])).code == "not_a_slide"


def test_a_worker_gets_no_label(disk: Disk, server: RangeServer) -> None:
    instance = disk.store(CONTENT, image_type=LABEL)
    assert refusal(server, instance, ask([[0, 1]]), volume_only=True).code == "forbidden_role"
    assert server.serve(instance, ask([[0, 1]])).status == 200


def test_a_file_that_was_overwritten_since_is_409(disk: Disk, server: RangeServer) -> None:
    before = f'"{disk.uuid(disk.instance)}"'
    assert server.serve(disk.instance, ask([[0, 1]], **{"if-match": before})).status == 200
    disk.store(CONTENT + b"new")
    error = refusal(server, disk.instance, ask([[0, 1]], **{"if-match": before}))
    assert (error.status, error.code) == (409, "changed_in_mid_read")


def test_after_an_overwrite_the_new_file_is_read(disk: Disk, server: RangeServer) -> None:
    server.serve(disk.instance, ask([[0, 1]]))
    new = CONTENT[:200] + b"new!" + CONTENT[204:]
    disk.store(new)
    assert server.serve(disk.instance, ask([[200, 4]])).body == b"new!"


@pytest.mark.parametrize("written", [b"", b"compressed", b"x" * len(CONTENT), CONTENT + b"longer"])
def test_a_file_that_is_not_the_plain_dicom_comes_from_orthanc(
    disk: Disk, server: RangeServer, written: bytes
) -> None:
    instance = disk.store(CONTENT, written=written)
    assert server.serve(instance, ask([[128, 8]])).body == CONTENT[128:136]


def test_a_missing_file_comes_from_orthanc_once(disk: Disk, server: RangeServer) -> None:
    disk.path(disk.instance).unlink()
    server.serve(disk.instance, ask([[0, 8]]))
    disk.gateway.fail_next("dicom_file")
    assert server.serve(disk.instance, ask([[128, 8]])).body == CONTENT[128:136]


def test_links_in_the_storage_folder_are_not_followed(
    disk: Disk, server: RangeServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 128 + b"DICM" + b"s" * (len(CONTENT) - 132))
    path = disk.path(disk.instance)
    path.unlink()
    path.symlink_to(secret)
    assert server.serve(disk.instance, ask([[132, 4]])).body == CONTENT[132:136]


def test_a_pipe_in_a_files_place_does_not_hold_the_thread(disk: Disk, server: RangeServer) -> None:
    path = disk.path(disk.instance)
    path.unlink()
    os.mkfifo(path)
    assert server.serve(disk.instance, ask([[132, 4]])).body == CONTENT[132:136]


def test_a_file_overwritten_while_orthanc_loads_it_is_never_mixed_up(
    disk: Disk, server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.path(disk.instance).unlink()
    load = disk.gateway.dicom_file

    def overwritten_before(instance_id: str) -> bytes:
        disk.store(CONTENT + b"new")
        return load(instance_id)

    monkeypatch.setattr(disk.gateway, "dicom_file", overwritten_before)
    assert refusal(server, disk.instance, ask([[0, 1]])).code == "changed_in_mid_read"


def test_files_that_had_to_be_loaded_are_kept_up_to_a_sum_of_bytes(disk: Disk) -> None:
    server = RangeServer(disk.gateway, kept_bytes=2 * len(CONTENT))
    others = [
        disk.gateway.add_instance(disk.series, f"1.2.3.{number}", content=CONTENT) for number in (2, 3, 4)
    ]
    for instance in others:
        server.serve(instance, ask([[0, 1]]))
    disk.gateway.fail_next("dicom_file")
    assert server.serve(others[2], ask([[0, 1]])).status == 200
    with pytest.raises(StorageError):
        server.serve(others[0], ask([[0, 1]]))


@pytest.mark.parametrize(
    "uuid",
    [
        "",
        "../../../../etc/passwd",
        "0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f\n",
        "0A1B2C3D-0a1b-0a1b-0a1b-0a1b2c3d4e5f",
        "0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5",
        "0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f/..",
    ],
)
def test_a_name_that_is_no_attachments_becomes_no_path(uuid: str) -> None:
    assert stored_path("/storage", uuid) is None


def test_an_attachment_lies_under_the_first_letters_of_its_name() -> None:
    uuid = "0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f"
    assert stored_path("/storage", uuid) == f"/storage/0a/1b/{uuid}"


def test_files_that_must_be_loaded_are_loaded_one_at_a_time(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RangeServer(disk.gateway)
    instances = [
        disk.gateway.add_instance(disk.series, f"1.2.3.{number}", content=CONTENT) for number in (2, 3, 4)
    ]
    load = disk.gateway.dicom_file
    loading, most = 0, 0
    counting = threading.Lock()

    def slow(instance_id: str) -> bytes:
        nonlocal loading, most
        with counting:
            loading += 1
            most = max(most, loading)
        time.sleep(0.05)
        with counting:
            loading -= 1
        return load(instance_id)

    monkeypatch.setattr(disk.gateway, "dicom_file", slow)
    threads = [
        threading.Thread(target=server.serve, args=(instance, ask([[0, 1]]))) for instance in instances
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_file_too_large_to_hold_says_what_to_change(disk: Disk) -> None:
    disk.path(disk.instance).unlink()
    with pytest.raises(StorageError, match="StorageCompression"):
        RangeServer(disk.gateway, kept_bytes=10).serve(disk.instance, ask([[0, 1]]))


def test_one_request_too_many_at_once_is_told_to_come_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RangeServer(disk.gateway, max_at_once=1)
    entered, leave = threading.Event(), threading.Event()
    find = disk.gateway.instance

    def slow(instance_id: str) -> Any:
        entered.set()
        leave.wait(10)
        return find(instance_id)

    monkeypatch.setattr(disk.gateway, "instance", slow)
    first = threading.Thread(target=server.serve, args=(disk.instance, ask([[0, 1]])))
    first.start()
    entered.wait(10)
    error = refusal(server, disk.instance, ask([[0, 1]]))
    leave.set()
    first.join()
    assert (error.status, error.code, error.headers["Retry-After"]) == (429, "too_busy", "1")
    assert server.serve(disk.instance, ask([[0, 1]])).status == 200


def test_a_file_whose_frames_cannot_be_told_has_no_index(disk: Disk, server: RangeServer) -> None:
    with pytest.raises(ApiError) as caught:
        server.serve_frames(disk.instance, Request("GET", "/pathology/instances/x/frames"))
    assert (caught.value.status, caught.value.code) == (422, "no_frame_index")


@given(
    content=st.binary(max_size=60),
    ranges=st.lists(st.tuples(st.integers(0, 80), st.integers(1, 80)), max_size=8),
    most=st.integers(1, 30),
)
def test_short_reads_are_put_together(content: bytes, ranges: list[tuple[int, int]], most: int) -> None:
    expected = b"".join(content[offset : offset + length] for offset, length in ranges)
    assert (
        read_ranges(lambda offset, length: content[offset : offset + min(length, most)], ranges) == expected
    )
