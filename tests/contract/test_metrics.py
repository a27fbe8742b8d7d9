# SPDX-License-Identifier: AGPL-3.0-or-later
"""GET /pathology/metrics: what a monitor sees of the queue."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from orthanc_plugin.queue.tallies import EVENTS
from tests.support.queue_client import Queue
from tests.support.sites import MONITOR, Site


def metrics_of(site: Site) -> dict[str, float]:
    """Return every sample by its name and labels."""
    answer = site.call("GET", "/pathology/metrics", user=MONITOR)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_depth_and_age_are_told_by_model_and_state(queue: Queue, site: Site) -> None:
    queue.submitted()
    queue.submitted()
    queue.claim().heartbeat()
    site.pass_time(0.5)

    found = metrics_of(site)
    assert found[f'pathology_requests{{model="{queue.model}",status="pending"}}'] == 1
    assert found[f'pathology_requests{{model="{queue.model}",status="processing"}}'] == 1
    assert found[f'pathology_oldest_request_age_seconds{{model="{queue.model}",status="pending"}}'] >= 0.5


def test_every_transition_is_counted_from_nothing(fresh_site: Site) -> None:
    """Of a counter that begins with its first event `increase()` takes the first for nothing."""
    found = metrics_of(fresh_site)
    assert [found[f'pathology_transitions_total{{event="{event}"}}'] for event in EVENTS] == [0.0] * len(
        EVENTS
    )


def test_a_lease_that_ran_out_is_counted(queue: Queue, site: Site) -> None:
    before = metrics_of(site)
    queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    site.pass_time(2.5)
    after = metrics_of(site)

    expired = 'pathology_lease_expiries_total{outcome="expired"}'
    assert after[expired] > before[expired]


def test_the_stages_of_a_result_are_added_up(queue: Queue, site: Site) -> None:
    result = {
        "predicted_class": "a",
        "probabilities": {"a": 1.0},
        "timings_s": {"encode": 41.5, "No!": 1, "open": True},
    }
    queue.submitted()
    before = metrics_of(site)
    assert queue.claim().complete(result=result).status == 200
    after = metrics_of(site)

    total, number = (
        'pathology_stage_seconds_sum{stage="encode"}',
        'pathology_stage_seconds_count{stage="encode"}',
    )
    assert after[total] - before.get(total, 0) == pytest.approx(41.5)
    assert after[number] - before.get(number, 0) == 1
    assert not [name for name in after if "No!" in name]


def test_workers_are_told_with_what_they_do(queue: Queue, site: Site) -> None:
    queue.submitted()
    queue.claim("lab-metrics")
    found = metrics_of(site)
    assert found['pathology_worker_up{worker="lab-metrics"}'] == 1
    assert found['pathology_worker_busy{worker="lab-metrics"}'] == 1
    assert found['pathology_worker_last_seen_timestamp_seconds{worker="lab-metrics"}'] > 1e9


def test_a_drained_worker_is_told_also_where_nothing_was_heard_of_it(queue: Queue, site: Site) -> None:
    queue.try_claim("lab-drained")
    drain = "/pathology/workers/lab-drained/drain"
    assert site.call("POST", drain, body={}).status == 200
    site.restart()
    found = metrics_of(site)
    assert found['pathology_worker_draining{worker="lab-drained"}'] == 1
    assert 'pathology_worker_up{worker="lab-drained"}' not in found
    assert site.call("POST", drain, body={"drain": False}).status == 200
    assert 'pathology_worker_draining{worker="lab-drained"}' not in metrics_of(site)


def test_what_a_worker_counts_is_told_with_its_name(queue: Queue, site: Site) -> None:
    queue.submitted()
    lease = queue.claim("lab-counts", counters={"tiles": 100, "encode_s": 2.5})
    assert metrics_of(site)['pathology_worker_tiles_total{worker="lab-counts"}'] == 100
    lease.heartbeat(counters={"tiles": 4100, "encode_s": 41.5, "memory_bytes": 2**30})
    found = metrics_of(site)
    assert found['pathology_worker_tiles_total{worker="lab-counts"}'] == 4100
    assert found['pathology_worker_encode_seconds_total{worker="lab-counts"}'] == 41.5
    assert found['pathology_worker_memory_bytes{worker="lab-counts"}'] == 2**30
    assert not [name for name in found if name.startswith("pathology_worker_gpu_memory_bytes")]

    lease.heartbeat()
    assert metrics_of(site)['pathology_worker_tiles_total{worker="lab-counts"}'] == 4100
    workers = site.call("GET", "/pathology/workers").json["workers"]
    counters = {item["worker_id"]: item["counters"] for item in workers}["lab-counts"]
    assert counters == {"tiles": 4100, "encode_s": 41.5, "memory_bytes": 2**30}


def test_a_counter_of_a_newer_worker_is_passed_over_and_one_that_is_no_number_refused(
    queue: Queue, site: Site
) -> None:
    queue.submitted()
    lease = queue.claim("lab-newer", counters={"tiles": 1, "photons": 7})
    assert not [name for name in metrics_of(site) if "photons" in name]
    for bad in ("many", -1, True):
        answer = lease.heartbeat(counters={"tiles": bad})
        assert (answer.status, answer.json["field"]) == (400, "tiles")


def test_a_hostile_model_name_stays_within_its_quotes(queue: Queue, site: Site) -> None:
    queue.model = f'{queue.model}" \\ '
    queue.submitted()
    answer = site.call("GET", "/pathology/metrics", user=MONITOR)
    assert f'model="{queue.model[:-4]}\\" \\\\ "' in answer.body.decode()


def test_promtool_finds_nothing_to_complain_about(queue: Queue, site: Site) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    queue.completed()
    text = site.call("GET", "/pathology/metrics", user=MONITOR).body
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
