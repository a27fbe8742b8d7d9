# SPDX-License-Identifier: Apache-2.0
"""The spool: whole or not at all, bounded, aged, and readable by its owner only."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.api.contract import ArtifactRef, Lease
from worker.errors import SpoolError
from worker.jobs.delivery import Delivery
from worker.serving.spool import Spool, SpoolLimits

LIMITS = SpoolLimits(max_bytes=1000, max_age_s=3600)


def delivery(request_id: str = "r1", fence: int = 1, size: int = 10) -> Delivery:
    artifacts = {"heatmap.png": b"x" * size}
    refs = [ArtifactRef.of(name, data).as_json() for name, data in artifacts.items()]
    lease = Lease("0" * 32, fence, 60, 15, 15)
    body = {"token": lease.token, "result": {"timings_s": {}}, "artifacts": refs}
    return Delivery(request_id, lease, body, artifacts)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", LIMITS)


def test_a_delivery_comes_back_as_it_was(spool: Spool) -> None:
    spool.store(delivery())
    assert list(spool.waiting()) == [delivery()]


def test_the_oldest_comes_first(spool: Spool, tmp_path: Path) -> None:
    for age, name in enumerate(("r1", "r2", "r3")):
        spool.store(delivery(name))
        stamp = time.time() - 100 * age
        os.utime(tmp_path / "spool" / f"{name}-1", (stamp, stamp))
    assert [item.request_id for item in spool.waiting()] == ["r3", "r2", "r1"]


def test_a_discarded_delivery_is_gone_and_may_be_discarded_again(spool: Spool) -> None:
    spool.store(delivery())
    spool.discard(delivery())
    spool.discard(delivery())
    assert list(spool.waiting()) == []


def test_a_replaced_body_is_what_comes_back(spool: Spool) -> None:
    spool.store(delivery())
    body = {**delivery().body, "result": {"timings_s": {"publish": 1.0}}}
    spool.replace_body(dataclasses.replace(delivery(), body=body))
    assert next(spool.waiting()).body == body


def test_what_a_crash_left_half_written_is_never_read_and_is_removed(spool: Spool, tmp_path: Path) -> None:
    spool.store(delivery())
    partial = tmp_path / "spool" / "r2-1.partial"
    (partial / "artifacts").mkdir(parents=True)
    assert [item.request_id for item in spool.waiting()] == ["r1"]
    spool.tidy()
    assert not partial.exists()


@pytest.mark.parametrize("damage", ["", "{}", '{"schema": 99}', "[1"])
def test_a_damaged_delivery_is_set_aside_and_the_others_are_read(
    spool: Spool, tmp_path: Path, damage: str
) -> None:
    spool.store(delivery("r1"))
    spool.store(delivery("r2"))
    (tmp_path / "spool" / "r1-1" / "delivery.json").write_text(damage)
    assert [item.request_id for item in spool.waiting()] == ["r2"]
    assert (tmp_path / "spool" / "r1-1").exists()


def test_a_delivery_that_lacks_a_file_is_set_aside_like_a_damaged_one(spool: Spool, tmp_path: Path) -> None:
    spool.store(delivery("r1"))
    spool.store(delivery("r2"))
    (tmp_path / "spool" / "r1-1" / "artifacts" / "heatmap.png").unlink()
    assert [item.request_id for item in spool.waiting()] == ["r2"]


def test_a_copy_of_a_delivery_is_not_sent_for_it_would_be_at_each_replay(
    spool: Spool, tmp_path: Path
) -> None:
    spool.store(delivery())
    shutil.copytree(tmp_path / "spool" / "r1-1", tmp_path / "spool" / "r1-1.bak")
    assert list(spool.waiting()) == [delivery()]
    assert (tmp_path / "spool" / "r1-1.bak").exists()


def test_what_is_set_aside_is_passed_over_by_this_process_alone(spool: Spool, tmp_path: Path) -> None:
    for name in ("r1", "r2"):
        spool.store(delivery(name))
    spool.set_aside("r1-1")
    assert list(spool.waiting()) == [delivery("r2")]
    assert len(list(Spool(tmp_path / "spool", LIMITS).waiting())) == 2


def test_what_is_set_aside_makes_room_and_grows_too_old_like_the_others(tmp_path: Path) -> None:
    now = time.time()
    spool = Spool(tmp_path, LIMITS, clock=lambda: now)
    spool.store(delivery("r1", size=600))
    spool.set_aside(delivery("r1").name)
    spool.store(delivery("r2", size=600))
    assert not (tmp_path / "r1-1").exists()
    spool.set_aside(delivery("r2").name)
    now += 4000
    spool.tidy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../../secret", "..", ""])
def test_an_artifact_name_cannot_lead_out_of_the_spool(spool: Spool, tmp_path: Path, name: str) -> None:
    spool.store(delivery())
    document = tmp_path / "spool" / "r1-1" / "delivery.json"
    document.write_text(document.read_text().replace("heatmap.png", name))
    (tmp_path / "secret").write_bytes(b"of somebody else")
    assert list(spool.waiting()) == []


def test_the_oldest_makes_room(spool: Spool, tmp_path: Path) -> None:
    for age, name in enumerate(("r1", "r2")):
        spool.store(delivery(name, size=100))
        stamp = time.time() - 100 * age
        os.utime(tmp_path / "spool" / f"{name}-1", (stamp, stamp))
    spool.store(delivery("r3", size=300))
    assert [item.request_id for item in spool.waiting()] == ["r1", "r3"]


def test_what_is_too_old_is_removed(tmp_path: Path) -> None:
    now = time.time()
    Spool(tmp_path, LIMITS).store(delivery())
    later = Spool(tmp_path, LIMITS, clock=lambda: now + 4000)
    later.tidy()
    assert list(later.waiting()) == []


def test_a_result_larger_than_the_spool_is_a_sentence(spool: Spool) -> None:
    with pytest.raises(SpoolError, match="raise SPOOL_MAX_MB"):
        spool.store(delivery(size=2000))


def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worker.serving.spool._write_durably", full)
    with pytest.raises(SpoolError, match="is full: free space or set SPOOL_DIR"):
        spool.store(delivery())
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("use", [Spool.tidy, lambda spool: list(spool.waiting())], ids=["tidy", "waiting"])
def test_a_folder_that_cannot_be_listed_is_a_sentence(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, use: Callable[[Spool], object]
) -> None:
    def refuse(_: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    spool.store(delivery())
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SpoolError, match=r"Permission denied.*check SPOOL_DIR and its rights"):
        use(spool)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
def test_only_the_owner_may_read_the_tokens(spool: Spool, tmp_path: Path) -> None:
    spool.store(delivery())
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_no_token_shows_in_a_deliverys_text() -> None:
    assert "0" * 32 not in repr(delivery())


def with_dicom() -> Delivery:
    plain = delivery()
    refs = [*plain.body["artifacts"], ArtifactRef.of("slide-report.dcm", b"SMITH^JOHN").as_json()]
    result = {
        "artifacts": ["heatmap.png", "slide-report.dcm"],
        "dicom": [{"modality": "SR"}],
        "timings_s": {},
    }
    body = {**plain.body, "artifacts": refs, "result": result}
    artifacts = {**plain.artifacts, "slide-report.dcm": b"SMITH^JOHN"}
    return dataclasses.replace(plain, body=body, artifacts=artifacts)


def test_dicom_objects_name_the_patient_and_never_lie_in_the_spool(spool: Spool, tmp_path: Path) -> None:
    spool.store(with_dicom())
    spool.replace_body(with_dicom())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert b"SMITH" not in b"".join(path.read_bytes() for path in files)


def test_a_result_that_waits_before_its_dicom_objects_arrived_says_that_they_are_missing(
    spool: Spool,
) -> None:
    spool.store(with_dicom())
    waiting = next(spool.waiting())
    assert waiting.artifacts == delivery().artifacts
    assert waiting.body["artifacts"] == delivery().body["artifacts"], "the server asks for all that is named"
    result = waiting.body["result"]
    assert (result["dicom"], result["artifacts"]) == ([], ["heatmap.png"])
    assert result["quality"]["flags"] == ["dicom_results_not_kept"]


def test_a_result_whose_dicom_objects_arrived_waits_with_their_names(spool: Spool) -> None:
    spool.store(with_dicom())
    spool.replace_body(with_dicom())
    waiting = next(spool.waiting())
    assert waiting.body == with_dicom().body
    assert set(waiting.artifacts) == {"heatmap.png"}


def test_the_spool_knows_a_slide_by_its_uids_only(spool: Spool, tmp_path: Path) -> None:
    slide = {"series_instance_uid": "1.2.3", "container_id": "S26-1 SMITH", "name": "SMITH.svs", "width": 9}
    body = {**delivery().body, "result": {"timings_s": {}, "slide": slide}}
    named = dataclasses.replace(delivery(), body=body)
    spool.store(named)
    spool.replace_body(named)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert b"SMITH" not in b"".join(path.read_bytes() for path in files)
    assert next(spool.waiting()).body["result"]["slide"] == {"series_instance_uid": "1.2.3", "width": 9}


def test_a_file_that_cannot_be_read_now_is_kept_for_later(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.store(delivery())

    def failing(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(SpoolError, match="check SPOOL_DIR"):
            list(spool.waiting())
    assert list(spool.waiting()) == [delivery()]


def test_one_result_that_stays_unreadable_keeps_no_other_from_being_sent(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("r3", "r2", "r1")):
        spool.store(delivery(name))
        stamp = time.time() - 100 * age
        os.utime(tmp_path / "spool" / f"{name}-1", (stamp, stamp))
    read = Path.read_bytes

    def on_a_bad_block(path: Path) -> bytes:
        if "r2-1" in path.parts:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", on_a_bad_block)
    reading = spool.waiting()
    assert [next(reading).request_id, next(reading).request_id] == ["r1", "r3"]
    with pytest.raises(SpoolError, match="Input/output error"):
        next(reading)


def test_what_is_too_old_and_cannot_be_removed_is_named_once_and_keeps_no_other_from_being_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "spool", SpoolLimits(max_bytes=1 << 20, max_age_s=60))
    spool.store(delivery("r1"))
    os.utime(tmp_path / "spool" / "r1-1", (1.0, 1.0))

    def owned_by_root(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("worker.serving.spool.shutil.rmtree", owned_by_root)
    spool.store(delivery("r2"))
    spool.tidy()
    assert [waiting.request_id for waiting in spool.waiting()] == ["r2"]
    told = [record.getMessage() for record in caplog.records if "remove it by hand" in record.getMessage()]
    assert len(told) == 1
    assert f"{tmp_path / 'spool' / 'r1-1'} cannot be removed (Permission denied)" in told[0]


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_a_waiting_result_with_a_value_that_is_no_number_is_not_sent_for_no_server_takes_it(
    spool: Spool, tmp_path: Path, number: str
) -> None:
    spool.store(delivery())
    document = tmp_path / "spool" / "r1-1" / "delivery.json"
    document.write_text(document.read_text().replace('"timings_s": {}', f'"timings_s": {number}'))
    assert list(spool.waiting()) == []
