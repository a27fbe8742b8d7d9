# SPDX-License-Identifier: AGPL-3.0-or-later
"""The failures that a test can ask of the gateway in memory."""

from __future__ import annotations

import pytest

from orthanc_plugin.errors import StorageError
from orthanc_plugin.host.memory_gateway import MemoryGateway


@pytest.fixture
def gateway() -> MemoryGateway:
    return MemoryGateway()


def test_a_failure_before_the_write_leaves_the_old_value(gateway: MemoryGateway) -> None:
    slide = gateway.add_slide()
    gateway.put_metadata(slide, 5000, b"old")
    gateway.fail_next("put_metadata")
    with pytest.raises(StorageError):
        gateway.put_metadata(slide, 5000, b"new")
    assert gateway.get_metadata(slide, 5000) == b"old"


def test_a_failure_after_the_write_leaves_the_new_value(gateway: MemoryGateway) -> None:
    slide = gateway.add_slide()
    gateway.fail_next("put_metadata", after=True)
    with pytest.raises(StorageError):
        gateway.put_metadata(slide, 5000, b"new")
    assert gateway.get_metadata(slide, 5000) == b"new"


def test_each_failure_is_used_up_once_and_in_order(gateway: MemoryGateway) -> None:
    slide = gateway.add_slide()
    gateway.fail_next("put_metadata", after=True)
    gateway.fail_next("put_metadata")
    with pytest.raises(StorageError, match="after the write"):
        gateway.put_metadata(slide, 5000, b"1")
    with pytest.raises(StorageError):
        gateway.put_metadata(slide, 5000, b"2")
    gateway.put_metadata(slide, 5000, b"3")
    assert gateway.get_metadata(slide, 5000) == b"3"


def test_a_failure_of_an_unknown_method_is_a_mistake_of_the_test(gateway: MemoryGateway) -> None:
    with pytest.raises(ValueError, match="put_metdata"):
        gateway.fail_next("put_metdata")


def test_overwriting_an_instance_gives_it_another_uuid(gateway: MemoryGateway) -> None:
    slide = gateway.add_slide()
    before = gateway.instances(slide)[0]
    gateway.add_instance(slide, before.sop_instance_uid, content=b"\0" * 128 + b"DICM other")
    after = gateway.instances(slide)[0]
    assert (after.instance_id, after.uuid != before.uuid, after.md5 != before.md5) == (
        before.instance_id,
        True,
        True,
    )
