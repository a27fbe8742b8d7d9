# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where full results lie, and that none is lost or left over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orthanc_plugin.errors import SettingsError, StorageError
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.service.record import MOST_IN_METADATA
from orthanc_plugin.settings import read_settings
from orthanc_plugin.storage.codec import encode_record
from orthanc_plugin.storage.numbering import roomiest_number
from tests.support.queue_client import PNG, RESULT, Lease, Queue
from tests.support.sites import MemorySite, settings_of

LARGE = {**RESULT, "note": "x" * MOST_IN_METADATA}


@pytest.fixture(name="site")
def fixture_site() -> MemorySite:
    return MemorySite()


@pytest.fixture(name="queue")
def fixture_queue(site: MemorySite) -> Queue:
    return Queue(site)


def stored(site: MemorySite, request_id: str) -> AnalysisRequest:
    request = site.application.core.index.get(request_id)
    assert request is not None
    assert request.record is not None
    return request


def number_of(site: MemorySite, request_id: str) -> int:
    record = stored(site, request_id).record
    assert record is not None
    return record.number


def kept(site: MemorySite, request_id: str) -> tuple[bool, bool]:
    """Tell whether a request's record is a metadata value, and whether it is an attachment."""
    series, number = stored(site, request_id).series, number_of(site, request_id)
    return (
        site.gateway.get_metadata(series, number) is not None,
        site.gateway.get_attachment(series, number) is not None,
    )


def delivered(lease: Lease, result: dict[str, Any]) -> str:
    assert lease.complete(result=result).status == 200
    return lease.request_id


def failing_second(write: Callable[..., None]) -> Callable[..., None]:
    """Return a write whose second call fails."""
    calls = []

    def put(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise StorageError("Disk full.")
        write(*arguments)

    return put


def test_a_result_is_a_metadata_value_of_its_series(site: MemorySite, queue: Queue) -> None:
    queue.submitted()
    request_id = delivered(queue.claim(), RESULT)
    assert kept(site, request_id) == (True, False)
    assert queue.get(request_id)["result"] == RESULT


def test_a_large_result_is_an_attachment(site: MemorySite, queue: Queue) -> None:
    queue.submitted()
    request_id = delivered(queue.claim(), LARGE)
    assert kept(site, request_id) == (False, True)
    site.restart(kill=True)
    assert queue.get(request_id)["result"] == LARGE


def test_a_record_that_an_earlier_version_kept_in_an_attachment_is_read(
    site: MemorySite, queue: Queue
) -> None:
    queue.submitted()
    request_id = delivered(queue.claim(), RESULT)
    request = stored(site, request_id)
    assert request.record is not None
    content = site.gateway.get_metadata(request.series, request.record.number)
    assert content is not None
    site.gateway.put_attachment(request.series, request.record.number, content)
    site.gateway.delete_metadata(request.series, request.record.number)

    site.restart(kill=True)

    assert kept(site, request_id) == (False, True)  # nobody has taken it for a left-over
    assert queue.get(request_id)["result"] == RESULT


@pytest.mark.parametrize("left", [("metadata",), ("attachment",), ("metadata", "attachment")])
@pytest.mark.parametrize("result", [RESULT, LARGE])
def test_a_record_whose_completion_failed_goes_with_the_next_claim(
    site: MemorySite, queue: Queue, result: dict[str, Any], left: tuple[str, ...]
) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    number = number_of(site, lease.request_id)
    if "metadata" in left:
        site.gateway.put_metadata(slide.series, number, encode_record({"half": "a completion"}))
    if "attachment" in left:
        site.gateway.put_attachment(slide.series, number, b"half a completion")
    site.pass_time(61)
    again = queue.claim("other")
    assert site.gateway.get_metadata(slide.series, number) is None
    assert site.gateway.get_attachment(slide.series, number) is None
    assert queue.get(delivered(again, result))["result"] == result


def test_a_site_s_own_file_under_a_number_that_was_never_given_away_stays(
    site: MemorySite, queue: Queue
) -> None:
    queue.completed(slide := site.new_slide())
    numbers = site.gateway.list_attachments(slide.series)
    site.gateway.put_attachment(slide.series, max(numbers) + 1, b"a site's own")
    site.restart(kill=True)
    assert site.gateway.get_attachment(slide.series, max(numbers) + 1) == b"a site's own"


@pytest.mark.parametrize("number", [1024, 5100])
def test_metadata_that_is_not_the_plugins_stays(site: MemorySite, queue: Queue, number: int) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    lease.put("heatmap.png", PNG)  # its number is 5101: no request names 5100 in the end
    lease.fail()
    site.gateway.put_metadata(slide.series, number, b"a site's own")
    site.pass_time(61)
    queue.claim("other")
    site.restart()
    assert site.gateway.get_metadata(slide.series, number) == b"a site's own"


@pytest.mark.parametrize(
    "damaged", [b"\xff\xfe", b"[]", None, encode_record({**RESULT, "predicted_class": "x"})]
)
def test_a_result_that_is_not_the_one_that_was_stored_is_not_shown_and_flagged(
    site: MemorySite, queue: Queue, damaged: bytes | None
) -> None:
    slide = site.new_slide()
    request_id = queue.completed(slide).request_id
    site.gateway.delete_metadata(slide.series, number_of(site, request_id))
    if damaged is not None:
        site.gateway.put_metadata(slide.series, number_of(site, request_id), damaged)
    listed = site.call("GET", "/pathology/requests", query={"full": "1"}).json["requests"]
    for request in (queue.get(request_id), *listed):
        assert (request["status"], request["result"]) == ("completed", None)
        assert request["flags"][-1] == "result_unreadable"
    assert any(request_id in warning for warning in site.warnings)
    assert queue.submit(slide).json["request_id"] == request_id


def test_a_result_that_is_there_is_not_flagged(queue: Queue) -> None:
    assert "result_unreadable" not in queue.get(queue.completed().request_id)["flags"]


def test_the_latest_of_two_deliveries_is_shown_whatever_their_sizes(site: MemorySite, queue: Queue) -> None:
    queue.submitted()
    lease = queue.claim()
    number = number_of(site, lease.request_id)
    site.gateway.put_metadata(stored(site, lease.request_id).series, number, encode_record(RESULT))
    assert queue.get(delivered(lease, LARGE))["result"] == LARGE


@pytest.mark.parametrize("operation", ["delete_attachment", "put_metadata"])
def test_the_files_of_a_withdrawn_result_are_deleted_later_where_that_fails(
    site: MemorySite, queue: Queue, operation: str
) -> None:
    slide = site.new_slide()
    request_id = queue.completed(slide).request_id
    if operation == "put_metadata":  # the first one writes that it is withdrawn
        site.gateway.put_metadata = failing_second(site.gateway.put_metadata)  # type: ignore[method-assign]
    else:
        site.gateway.fail_next(operation)
    assert queue.decide(request_id, "withdraw", reason="wrong patient").status == 200
    site.pass_time(10)
    assert site.gateway.list_attachments(slide.series) == ()
    writes = list(site.gateway.writes)
    site.pass_time(10)
    assert (site.gateway.writes, queue.status(request_id)) == (writes, "withdrawn")


def test_the_files_of_a_withdrawn_result_go_also_where_a_damaged_value_was_set_aside(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    site.gateway.put_metadata(slide.series, 5000, b"damaged")
    site.gateway.put_attachment(slide.series, 5107, b"somebody's result")
    request_id = queue.completed(slide).request_id
    assert queue.decide(request_id, "withdraw", reason="wrong patient").status == 200
    assert site.gateway.list_attachments(slide.series) == (5107,)


def test_a_larger_first_number_holds_for_slides_that_have_results() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    queue.submitted(slide)
    first = delivered(queue.claim(), RESULT)
    site.settings = settings_of({"FirstAttachment": 5200})
    site.restart()
    site.gateway.put_metadata(slide.series, 5101, b"a site's own")
    queue.submit(slide, force=True)
    assert number_of(site, delivered(queue.claim(), RESULT)) == 5200
    assert site.gateway.get_metadata(slide.series, 5101) == b"a site's own"
    assert queue.get(first)["result"] == RESULT


def test_a_fresh_state_uses_no_number_that_a_damaged_one_may_name(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    site.gateway.put_metadata(slide.series, 5000, b"damaged")
    site.gateway.put_metadata(slide.series, 5107, encode_record(RESULT))
    queue.submitted(slide)
    assert number_of(site, queue.claim().request_id) == 5108


def test_a_site_s_own_last_number_does_not_use_up_the_numbers_of_a_fresh_state(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    site.gateway.put_metadata(slide.series, 5000, b"damaged")
    site.gateway.put_metadata(slide.series, 5107, encode_record(RESULT))
    site.gateway.put_metadata(slide.series, 65535, b"a site's own")
    queue.submitted(slide)
    assert number_of(site, queue.claim().request_id) == 5108


@pytest.mark.parametrize(
    ("taken", "begins"),
    [
        ((), 5100),
        ((1024, 5000, 70_000), 5100),
        ((5100,), 5101),
        ((65535,), 5100),
        ((5100, 5102, 40_000), 5103),
    ],
)
def test_a_fresh_state_begins_where_most_of_the_numbers_of_results_are_free(
    taken: tuple[int, ...], begins: int
) -> None:
    assert roomiest_number(5100, taken) == begins


def test_a_failed_write_does_not_forget_that_a_lease_was_confirmed(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted()
    queue.claim().heartbeat()
    site.gateway.fail_next("put_metadata")
    site.pass_time(61)
    site.pass_time(6)
    request = queue.get(request_id)
    assert (request["status"], request["attempts"]) == ("pending", 1)
    assert request["grants"][0]["outcome"] == "expired"
    assert [event["event"] for event in request["history"]][1:3] == ["claimed", "confirmed"]


def test_a_failed_write_does_not_take_an_unconfirmed_lease_for_an_attempt(
    site: MemorySite, queue: Queue
) -> None:
    request_id = queue.submitted()
    queue.claim()
    site.gateway.fail_next("put_metadata")
    assert queue.decide(request_id, "cancel").status == 503
    site.pass_time(61)
    request = queue.get(request_id)
    assert (request["status"], request["attempts"]) == ("pending", 0)
    assert request["grants"][0]["outcome"] == "unconfirmed"


@pytest.mark.parametrize("section", ["UserMetadata", "UserContentType"])
def test_a_number_of_the_results_that_a_site_has_named_is_refused(section: str) -> None:
    with pytest.raises(SettingsError, match=f"{section} gives Stain the number 5200"):
        read_settings({"AuthenticationEnabled": True, section: {"Stain": 5200}})
    read_settings({"AuthenticationEnabled": True, section: {"Stain": 5099}})


def test_a_damaged_archive_has_a_number_of_its_own() -> None:
    section = {"ArchiveAttachment": 5010, "DamagedMetadataNumber": 5010}
    with pytest.raises(SettingsError, match=r"ArchiveAttachment and Pathology\.DamagedMetadataNumber"):
        read_settings({"AuthenticationEnabled": True, "Pathology": section})


@pytest.mark.parametrize("key", ["MetadataNumber", "DamagedMetadataNumber", "ArchiveAttachment"])
def test_no_number_of_the_state_may_be_one_of_a_result(key: str) -> None:
    with pytest.raises(SettingsError, match=r"smaller than Pathology\.FirstAttachment"):
        read_settings({"AuthenticationEnabled": True, "Pathology": {key: 5100}})
