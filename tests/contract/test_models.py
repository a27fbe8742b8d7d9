# SPDX-License-Identifier: AGPL-3.0-or-later
"""GET /pathology/models: what a person can choose, by what living workers offer and the site permits."""

from __future__ import annotations

from typing import Any

from tests.contract.test_openapi import problems
from tests.support.queue_client import Queue
from tests.support.sites import MONITOR, PERSON, WORKER, MemorySite, Site

SHA256 = "a" * 64


def offered(queue: Queue, user: str = PERSON) -> list[dict[str, Any]]:
    """Return the models of one test's own name, as the answer has them."""
    answer = queue.site.call("GET", "/pathology/models", user=user)
    assert answer.status == 200
    assert answer.json["success"] is True
    return [model for model in answer.json["models"] if model["name"] == queue.model]


def offer(queue: Queue, worker_id: str, *models: dict[str, Any]) -> None:
    """Let an idle worker ask for work once."""
    assert (
        queue.try_claim(worker_id, models=[{"name": queue.model, **model} for model in models]).status == 204
    )


def test_a_model_is_listed_once_with_all_who_offer_it(queue: Queue) -> None:
    offer(queue, f"{queue.model}-b", {"version": "1", "sha256": SHA256})
    offer(queue, f"{queue.model}-a", {"version": "1", "sha256": SHA256})
    workers = [f"{queue.model}-a", f"{queue.model}-b"]
    assert offered(queue) == [{"name": queue.model, "version": "1", "sha256": SHA256, "workers": workers}]


def test_other_versions_and_other_weights_are_other_models(queue: Queue) -> None:
    offer(queue, f"{queue.model}-a", {"version": "1", "sha256": SHA256}, {"version": "2", "sha256": SHA256})
    offer(queue, f"{queue.model}-b", {"version": "1", "sha256": "b" * 64}, {})
    found = {(model["version"], model["sha256"]) for model in offered(queue)}
    assert found == {("1", SHA256), ("2", SHA256), ("1", "b" * 64), (None, None)}


def test_what_a_worker_ceases_to_offer_is_gone(queue: Queue) -> None:
    offer(queue, f"{queue.model}-a", {"version": "1"}, {"version": "2"})
    offer(queue, f"{queue.model}-a", {"version": "2"})
    assert [model["version"] for model in offered(queue)] == ["2"]


def test_a_busy_worker_offers_what_it_offered_and_a_drained_one_nothing(queue: Queue, site: Site) -> None:
    queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    assert [model["workers"] for model in offered(queue)] == [[lease.worker_id]]
    site.call("POST", f"/pathology/workers/{lease.worker_id}/drain", body={})
    assert offered(queue) == []


def test_the_answer_is_what_the_document_says(queue: Queue, site: Site) -> None:
    offer(queue, f"{queue.model}-a", {"version": "1", "sha256": SHA256}, {})
    document = site.call("GET", "/pathology/openapi.json").json
    answer = site.call("GET", "/pathology/models").json
    assert problems(document, "Models", answer) == []
    assert problems(document, "Models", {**answer, "models": [{"name": queue.model}]})
    assert problems(document, "Workers", site.call("GET", "/pathology/workers").json) == []


def test_workers_see_them_and_monitors_do_not(queue: Queue, site: Site) -> None:
    offer(queue, f"{queue.model}-a", {"version": "1"})
    assert offered(queue, WORKER) == offered(queue)
    assert site.call("GET", "/pathology/models", user=MONITOR).status == 403


def test_a_worker_that_falls_silent_offers_nothing() -> None:
    site = MemorySite()
    queue = Queue(site)
    offer(queue, "lab", {"version": "1"})
    site.pass_time(91)
    assert offered(queue) == []


def test_only_what_the_site_permits_is_listed() -> None:
    permitted = [
        {"Name": "m", "Sha256": SHA256},
        {"Name": "n", "Sha256": SHA256, "Enabled": False},
    ]
    site = MemorySite({"Models": permitted})
    queue = Queue(site, model="m")
    offer(queue, "lab", {"sha256": SHA256}, {"sha256": "b" * 64})
    assert [model["sha256"] for model in offered(queue)] == [SHA256]
    queue = Queue(site, model="n")
    offer(queue, "lab", {"sha256": SHA256})
    assert offered(queue) == []
