# SPDX-License-Identifier: AGPL-3.0-or-later
"""How fast the queue of a real Orthanc is: cycles, click to claim, start-up, memory.

``python bench/bench_queue.py [--series 10000] [--seconds 10]``: prints a table and one line of JSON. The
clients share the machine with the server, so the share of the bare route's rate, measured in the same run,
says more than the rate itself.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import itertools
import json
import multiprocessing
import os
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.load import Answer, Ask, Exchange, drive
from bench.queue_memory import REMEMBERED, memory_mb
from tests.support.orthanc_server import ROOT, OrthancServer
from tests.support.tiny_dicom import tiny_slide

CONNECTIONS = 4
CYCLES_AT = (1, 2, 4, 8)
"""Connections that cycles are measured with: all of the plugin's work is one line, whoever stands in it."""
POOL = 10
SLIDES = 4000
"""Three requests each: a slide with many requests takes longer to write than most are. Enough for all."""
STABLE_S = 2.5
"""After so long slides are complete for Orthanc, as the tests configure it."""
MODEL = "bench"
RESULT: dict[str, Any] = {"predicted_class": "a", "probabilities": {"a": 1.0}}
_PATCH = {"x": 10240, "y": 20992, "width": 512, "height": 512, "attention": 0.00412345, "percentile": 99.98}
LARGE_RESULT = {**RESULT, "top_patches": [_PATCH] * 100}
"""As much as a worker sends of a slide: a hundred patches, 10 KB."""
SITE_SCRIPT = """
import json
import sys
import orthanc
sys.path.insert(0, {root!r})
def bare(output, uri, **request):
    output.AnswerBuffer('{{}}', 'application/json')
def calls(output, uri, **request):
    for path, value in json.loads(request['body']):
        if value is None:
            orthanc.RestApiGet(path)
        else:
            orthanc.RestApiPut(path, value.encode())
    output.AnswerBuffer('{{}}', 'application/json')
orthanc.RegisterRestCallback('/bare', bare)
orthanc.RegisterRestCallback('/calls', calls)
from orthanc_plugin.registration import register
register()
"""


class Client:
    """One kept connection; connects again where Orthanc has closed it."""

    def __init__(self, port: int, user: tuple[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        secret = base64.b64encode(":".join(user).encode()).decode()
        self._headers = {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        for attempt in (1, 2):
            try:
                self._connection.request(method, path, data, self._headers)
                answer = self._connection.getresponse()
                content = answer.read()
                return answer.status, json.loads(content) if content else {}
            except (ConnectionError, http.client.HTTPException):
                self._connection.close()
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def must(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of an answer that has to be a success."""
        status, value = self.ask(method, path, body)
        assert status < 300, (status, value)
        return value


def claim_body(worker_id: str, wait: float, model: str = MODEL) -> dict[str, Any]:
    token = secrets.token_hex(16)
    return {"worker_id": worker_id, "token": token, "api": 1, "wait": wait, "models": [{"name": model}]}


def cycle(worker_id: str, result: dict[str, Any]) -> Generator[Ask, Answer, bool]:
    """Claim, report once, complete; False where there is nothing left."""
    body = claim_body(worker_id, 0)
    claimed = yield posted("/pathology/claim", body)
    if claimed.status != 200:
        return False
    value = json.loads(claimed.body)
    request = value["request"]
    proof = {"worker_id": worker_id, "token": body["token"], "fence": value["lease"]["fence"]}
    path = request["request_id"]
    yield from must(posted(f"/pathology/update-status/{path}/", {**proof, "status": "processing"}))
    outcome = {"fingerprint": request["fingerprint"], "artifacts": [], "result": result}
    yield from must(posted(f"/pathology/complete-request/{path}/", {**proof, **outcome}))
    return True


def posted(path: str, body: Any) -> Ask:
    return Ask("POST", path, json.dumps(body).encode())


def must(ask: Ask) -> Exchange:
    """Ask for what has to be a success."""
    answer = yield ask
    assert answer.status < 300, (ask, answer)


def cycles(result: dict[str, Any], number: int, done: list[int], until: float) -> Exchange:
    while time.monotonic() < until:
        has_done = yield from cycle(f"bench-{number}", result)
        assert has_done, "nothing is left to do: SLIDES is too small for this machine"
        done.append(number)


def bare_requests(number: int, done: list[int], until: float) -> Exchange:
    while time.monotonic() < until:
        yield from must(Ask("GET", "/bare"))
        done.append(number)


SCRATCH = 4999
"""Metadata that the plugin does not use: what a state weighs is written there."""
FRESH = 20_000
"""Numbers that the plugin does not reach here: each result is a new one."""


def calls_of_cycle(series: str, state: str, number: int) -> list[list[tuple[str, str | None]]]:
    """Return what Orthanc is asked for by a cycle's three requests: path, and text where it is a write.

    Counted inside the plugin; a claim of a slide's first request reads each of its files once besides.
    """
    write = (f"/series/{series}/metadata/{SCRATCH}", state)
    record = (f"/series/{series}/metadata/{FRESH + number}", json.dumps({"schema": 1, "result": RESULT}))
    slide = (f"/series/{series}/instances", None)
    return [[(f"/series/{series}", None), slide, write], [], [slide, record, write]]


def calls_of_cycles(series: list[str], state: str, number: int, done: list[int], until: float) -> Exchange:
    own = series[number::CONNECTIONS]
    for count in itertools.count():
        for calls in calls_of_cycle(own[count % len(own)], state, count):
            yield from must(posted("/calls", calls))
        done.append(number)
        if time.monotonic() >= until:
            return


Work = Callable[[int, list[int], float], Exchange]
"""What one of several connections does until a time: its number, and a list that grows by what is done."""


def _run(work: Work, port: int, user: tuple[str, str], seconds: float, connections: int) -> float:
    done: list[int] = []
    until = time.monotonic() + seconds
    elapsed = drive(port, user, [work(number, done, until) for number in range(connections)])
    return len(done) / elapsed


def rate(
    work: Work,
    server: OrthancServer,
    user: tuple[str, str],
    seconds: float,
    connections: int = CONNECTIONS,
) -> float:
    """Return how often several connections together get something done in a second."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, work, server.port, user, seconds, connections).result()


def calls_rate(server: OrthancServer, series: list[str], seconds: float) -> float:
    """Return how often a second Orthanc does what a cycle asks of it, the plugin's own work left out."""
    answer = server.get(f"/series/{series[0]}/metadata/5000")
    return rate(partial(calls_of_cycles, series, answer.text), server, server.person, seconds)


def store_slides(server: OrthancServer, number: int) -> list[str]:
    """Store tiny slides; return the ids of their series."""
    root = "1.2.826.0.1.3680043.8.498"
    template = tiny_slide(f"{root}.10000000", f"{root}.20000000", sop_uid=f"{root}.30000000")

    def store(numbers: range) -> list[str]:
        client = Client(server.port, server.person)
        found = []
        for n in numbers:
            content = template
            for kind in (b"1", b"2", b"3"):
                content = content.replace(kind + b"0000000", kind + b"%07d" % (n + 1))
            found.append(str(client.must("POST", "/instances", content)["ParentSeries"]))
        return found

    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(store, [range(start, number, 8) for start in range(8)])
        return sorted(series for part in parts for series in part)


def submit_cohorts(server: OrthancServer, series: list[str], repeats: int, model: str = MODEL) -> None:
    client = Client(server.port, server.person)
    for repeat in range(repeats):
        for start in range(0, len(series), 1000):
            cohort = {"series": series[start : start + 1000]}
            client.must(
                "POST", "/pathology/analyze", {"cohort": cohort, "model": model, "parameters": {"n": repeat}}
            )


def click_to_claim(server: OrthancServer, series: list[str], waiters: int, samples: int) -> list[float]:
    """Return the seconds from a submit to its claim's answer, with so many workers waiting."""
    model = f"click-{waiters}"
    claimed: dict[str, float] = {}
    stopped = threading.Event()

    def wait(number: int) -> None:
        client = Client(server.port, server.worker)
        worker_id = f"{model}-{number}"
        while not stopped.is_set():
            status, answer = client.ask("POST", "/pathology/claim", claim_body(worker_id, 5, model))
            if status != 200:
                stopped.wait(1.0)  # what the pool has no room for is told to come again
                continue
            claimed[answer["request"]["request_id"]] = time.monotonic()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(waiters)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    clicks = {}
    person = Client(server.port, server.person)
    for number in range(samples):
        at = time.monotonic()
        body = {"series": series[number % len(series)], "model": model, "parameters": {"n": number}}
        clicks[person.must("POST", "/pathology/analyze", body)["request_id"]] = at
        time.sleep(0.05)
    deadline = time.monotonic() + 15
    while len(claimed) < samples and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped.set()
    for thread in threads:
        thread.join()
    return sorted(claimed.get(request_id, deadline) - at for request_id, at in clicks.items())


def others_meanwhile(server: OrthancServer, samples: int) -> list[float]:
    """Return the seconds that ``/system`` takes while both pools of long polls are full."""
    with _full_pools(server):
        person = Client(server.port, server.person)
        taken = []
        for _ in range(samples):
            at = time.monotonic()
            person.must("GET", "/system")
            taken.append(time.monotonic() - at)
            time.sleep(0.02)
    return sorted(taken)


def stop_later(server: OrthancServer) -> float:
    """Return how many seconds longer Orthanc takes to stop while long polls are held than without."""
    bare = _seconds_to_stop(server)
    with _full_pools(server):
        held = _seconds_to_stop(server)
    return held - bare


def _seconds_to_stop(server: OrthancServer) -> float:
    at = time.monotonic()
    server.stop()
    seconds = time.monotonic() - at
    server.start()
    person = Client(server.port, server.person)
    while not person.must("GET", "/pathology/health")["complete"]:
        time.sleep(0.05)
    return seconds


@contextmanager
def _full_pools(server: OrthancServer) -> Iterator[None]:
    """Hold as many long polls of workers and of pages as there is room for."""

    def hold(method: str, path: str, user: tuple[str, str], body: Any = None) -> None:
        with suppress(OSError, http.client.HTTPException):
            Client(server.port, user).ask(method, path, body)

    person = Client(server.port, server.person)
    one = person.must("GET", "/pathology/requests/?limit=1")["requests"][0]
    path = f"/pathology/requests/{one['request_id']}?wait=12&version={one['version']}"
    pages = [("GET", path, server.person, None)] * POOL
    claims = [
        ("POST", "/pathology/claim", server.worker, claim_body(f"held-{number}", 12, "held"))
        for number in range(POOL)
    ]
    with ThreadPoolExecutor(2 * POOL) as pool:
        for call in (*pages, *claims):
            pool.submit(hold, *call)
        wanted, deadline = {"claims": POOL, "pages": POOL}, time.monotonic() + 10
        while person.must("GET", "/pathology/health")["waiting"] != wanted:
            assert time.monotonic() < deadline, "the pools of long polls do not fill"
            time.sleep(0.02)
        yield


def processor_seconds(pid: int) -> float:
    """Return what a process has taken of the processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processor_times() -> tuple[int, int]:
    """Return the ticks of all processors so far, and those of them that the host gave to other machines."""
    with Path("/proc/stat").open() as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return sum(ticks), ticks[7]


def stolen_between(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the share of the processors' time that other machines of the host had in between."""
    return (after[1] - before[1]) / max(1, after[0] - before[0])


def start_up(server: OrthancServer) -> tuple[float, float]:
    """Restart; return the seconds from the first answer until open requests are known, and until all are."""
    server.stop()
    server.start(wait=False)
    client = Client(server.port, server.person)
    while True:
        try:
            client.ask("GET", "/system")
            break
        except OSError:
            time.sleep(0.002)
    answered = time.monotonic()
    open_at = None
    while True:
        _, health = client.ask("GET", "/pathology/health")
        if open_at is None and health.get("status") == "ok":
            open_at = time.monotonic() - answered
        if health.get("complete"):
            assert open_at is not None
            return open_at, time.monotonic() - answered
        time.sleep(0.002)


def quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def throughput(server: OrthancServer, some: list[str], seconds: float) -> dict[str, float]:
    """Measure cycles, beside the bare route and the calls that a cycle makes."""
    bare = rate(bare_requests, server, server.person, seconds / 2)
    submit_cohorts(server, some, 3)
    before = processor_times()
    each = {number: _cycles_with(server, number, seconds / 2) for number in CYCLES_AT}
    stolen_share = stolen_between(before, processor_times())
    done, spent = max(each.values())
    bare = (bare + rate(bare_requests, server, server.person, seconds / 2)) / 2
    calls = calls_rate(server, some, seconds / 2)
    large = rate(partial(cycles, LARGE_RESULT), server, server.worker, seconds / 2)
    print(f"bare route        {bare:8.0f} requests/s over {CONNECTIONS} connections")
    print(
        f"cycles            {done:8.0f} a second (claim, heartbeat, complete), "
        f"{spent:.1f} ms of Orthanc's processor time each"
    )
    for number, (per_second, milliseconds) in each.items():
        print(f"  over {number}          {per_second:8.0f} a second, {milliseconds:.1f} ms each")
    print(f"                  {stolen_share:8.1%} of the processors' time went to other machines meanwhile")
    print(
        f"its calls alone   {calls:8.0f} a second: all that a cycle asks of Orthanc, "
        "by a route that does nothing else"
    )
    print(f"the same          {large:8.0f} with results of 100 patches")
    return {
        "cycles_per_s": done,
        "processor_ms_per_cycle": spent,
        "stolen_share": stolen_share,
        "share_of_ceiling": 3 * done / bare,
        "calls_per_s": calls,
        "share_of_calls": done / calls,
        "large_cycles_per_s": large,
        **{f"cycles_per_s_{number}": per_second for number, (per_second, _) in each.items()},
    }


def _cycles_with(server: OrthancServer, connections: int, seconds: float) -> tuple[float, float]:
    """Return cycles a second, and the milliseconds of Orthanc's processor time that one takes."""
    before = processor_seconds(server.pid)
    done = rate(partial(cycles, RESULT), server, server.worker, seconds, connections)
    return done, 1000 * (processor_seconds(server.pid) - before) / (done * seconds)


def full_pools(server: OrthancServer, samples: int) -> dict[str, float]:
    """Measure what everybody else notices of long polls."""
    others = quantile(others_meanwhile(server, samples), 0.99)
    later = stop_later(server)
    print(f"pools full        others p99 {others * 1000:6.1f} ms, Orthanc stops {later:+.2f} s later")
    return {"others_p99_s": others, "stop_later_s": later}


def clicks(server: OrthancServer, some: list[str], samples: int) -> dict[str, float]:
    """Measure click to claim with ever more workers waiting, on fresh slides."""
    fresh = sorted(set(store_slides(server, SLIDES + 300)) - set(some))
    time.sleep(STABLE_S)
    p99s = {}
    for waiters in (10, 50, 100):
        taken = click_to_claim(server, fresh, waiters, samples)
        p50, p99s[waiters] = statistics.median(taken), quantile(taken, 0.99)
        milliseconds = f"p50 {p50 * 1000:6.1f} ms, p99 {p99s[waiters] * 1000:7.1f} ms"
        print(f"click to claim    {milliseconds}, {waiters} workers")
    return {"claim_p99_s": p99s[10]}


def starts(server: OrthancServer, number: int) -> dict[str, float]:
    """Measure starts of an Orthanc that holds nothing but so many series, 1,000 of them with a request."""
    series = store_slides(server, number)
    submit_cohorts(server, series[-1000:], 1, "nobody")
    ready, complete = (
        statistics.median(taken) for taken in zip(*(start_up(server) for _ in range(3)), strict=True)
    )
    print(
        f"start-up          open requests {ready:.2f} s, all {complete:.2f} s after the first answer, "
        f"{number} series, 1,000 open"
    )
    return {"open_requests_ready_s": ready, "index_ready_s": complete}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--series", type=int, default=10_000, help="series in Orthanc at the start-up")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each rate's measurement")
    parser.add_argument("--samples", type=int, default=100, help="clicks for each number of waiting workers")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    script = ROOT / ".cache" / "bench_queue_site.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SITE_SCRIPT.format(root=str(ROOT)))
    with OrthancServer(script=script) as server:
        some = store_slides(server, SLIDES)
        time.sleep(STABLE_S)
        figures |= throughput(server, some, options.seconds)
        figures |= full_pools(server, options.samples)
        figures |= clicks(server, some, options.samples)
    with OrthancServer(script=script) as server:  # what the cycles left behind is no part of this
        figures |= starts(server, options.series)
    figures["memory_mb"] = memory_mb()
    print(f"memory            {figures['memory_mb']:8.0f} MB for {REMEMBERED} requests")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
