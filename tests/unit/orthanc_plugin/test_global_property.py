# SPDX-License-Identifier: AGPL-3.0-or-later
"""One value in a global property: read once, written before it counts, and empty where it is damaged."""

from __future__ import annotations

import pytest

from orthanc_plugin.errors import StorageError
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.storage.global_property import Form, GlobalProperty, compact, texts_of
from tests.support.queue_client import Queue
from tests.support.sites import MemorySite

NUMBER = 5003
FORM: Form[tuple[str, ...]] = Form(encode=compact, decode=texts_of, empty=(), loss="Enter the names again.")
TOO_DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def gateway() -> MemoryGateway:
    return MemoryGateway()


def kept(gateway: MemoryGateway, warnings: list[str] | None = None) -> GlobalProperty[tuple[str, ...]]:
    return GlobalProperty(gateway, NUMBER, FORM, ([] if warnings is None else warnings).append)


def test_what_was_put_is_there_after_a_restart(gateway: MemoryGateway) -> None:
    kept(gateway).put(("one", "two"))
    assert kept(gateway).get() == ("one", "two")


@pytest.mark.parametrize("nothing", [None, ""])
def test_it_is_empty_and_no_warning_is_given_where_nothing_is_stored(
    gateway: MemoryGateway, nothing: str | None
) -> None:
    if nothing is not None:
        gateway.set_global_property(NUMBER, nothing)
    warnings: list[str] = []
    assert kept(gateway, warnings).get() == ()
    assert warnings == []


@pytest.mark.parametrize("damaged", ["[", "{}", "[1]", "null", "9" * 5000, TOO_DEEP])
def test_a_damaged_value_is_reported_once_with_what_it_means_and_empty(
    gateway: MemoryGateway, damaged: str
) -> None:
    gateway.set_global_property(NUMBER, damaged)
    warnings: list[str] = []
    names = kept(gateway, warnings)
    assert (names.get(), names.get()) == ((), ())
    (warning,) = warnings
    assert warning.startswith("Global property 5003 is damaged (")
    assert warning.endswith("). Enter the names again.")


def test_it_is_read_once_and_an_equal_value_is_not_written(
    gateway: MemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = kept(gateway)
    names.put(("one",))
    monkeypatch.setattr(gateway, "get_global_property", lambda number: pytest.fail("read again"))
    names.put(("one",))
    assert gateway.writes == [("set_global_property", "", NUMBER)]
    assert names.get() == ("one",)


def test_a_value_that_cannot_be_written_does_not_count(gateway: MemoryGateway) -> None:
    names = kept(gateway)
    names.put(("one",))
    gateway.fail_next("set_global_property")
    with pytest.raises(StorageError):
        names.put(("two",))
    assert names.get() == ("one",)


def test_a_write_in_doubt_is_read_again(gateway: MemoryGateway) -> None:
    names = kept(gateway)
    gateway.fail_next("set_global_property", after=True)
    with pytest.raises(StorageError):
        names.put(("one",))
    assert names.get() == ("one",)
    names.put(())
    assert gateway.get_global_property(NUMBER) == "[]"


@pytest.mark.parametrize("number", [5000, 5002, 5003])
@pytest.mark.parametrize("damaged", ["[", "7", '{"r": 5}', TOO_DEEP])
def test_no_damaged_property_keeps_the_plugin_from_starting(number: int, damaged: str) -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    site.gateway.set_global_property(number, damaged)
    site.restart(kill=True)
    site.pass_time(10)
    assert any(f"Global property {number} is damaged" in warning for warning in site.warnings)
    assert queue.try_claim().status == 200
