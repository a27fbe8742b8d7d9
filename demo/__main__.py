# SPDX-License-Identifier: Apache-2.0
"""Run the demo: ``python -m demo [--slide FILE] [--mpp 0.5] [--force]``; `make demo` sets up before."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import requests

from worker.demo_slide import DemoSlide, demo_slide
from worker.errors import WorkerError

from .errors import DemoError
from .ohif import VERSION as OHIF
from .ohif import ohif_beside, ohif_dist
from .server import REPOSITORY, RunningOrthanc, last_lines, running_orthanc, started
from .slide import checked, micrometres_of

FOLDER = REPOSITORY / ".demo"
WORKER_LOG = FOLDER / "worker.log"
PERSON = FOLDER / "person.env"
WORKER_START_SECONDS = 120.0
WATCH_SECONDS = 1.0
STANDARD_OUTPUT = 1
STOPPED = threading.Event()


def main() -> int:
    """Run the demo and return the exit code: 0 for a result, 1 for a failed analysis, 2 for a broken demo."""
    arguments = _parse_arguments()
    # SIGHUP too: a terminal that is closed must not leave Orthanc and worker behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    _reach_this_machine_directly()
    try:
        return _run(arguments)
    except (DemoError, WorkerError) as error:
        sys.stderr.write(f"\nThe demo stopped: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if STOPPED.is_set():
            _say("Ended.")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--slide", type=Path, help="your own slide (SVS, NDPI, TIFF, DICOM); else the demo's")
    parser.add_argument("--mpp", help="micrometres per pixel, where the slide's file does not say")
    parser.add_argument("--force", action="store_true", help="analyse again although there is a result")
    parser.add_argument(
        "--ohif",
        nargs="?",
        const=OHIF,
        metavar="VERSION",
        help=f"show it in OHIF too ({OHIF})",
    )
    return parser.parse_args()


def _stop(_number: int, _frame: FrameType | None) -> None:
    # Only the first one: a second must not break into the ending of Orthanc and worker, which takes seconds.
    if not STOPPED.is_set():
        STOPPED.set()
        os.write(STANDARD_OUTPUT, b"\nEnding, which takes some seconds ...\n")
        raise KeyboardInterrupt


def _reach_this_machine_directly() -> None:
    """Keep the calls to the demo's own Orthanc, ours and the worker's, away from the user's HTTP proxy."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))


def _run(arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    _make_folder(FOLDER)
    with _only_one(FOLDER / "lock"):
        # First of all: where it cannot be fetched, nothing else needs to start.
        dist = None if arguments.ohif is None else ohif_dist(arguments.ohif)
        slide = demo_slide(FOLDER, arguments.slide, mpp=micrometres_of(arguments.mpp))
        _say(f"Slide    {slide.description}")
        if arguments.slide is not None:
            checked(slide, _say)
        with running_orthanc(FOLDER) as orthanc:
            _say(f"Orthanc  {orthanc.url} (log: {orthanc.log})")
            environment = _worker_environment(orthanc)
            series = _ingest(slide, environment)
            command = [sys.executable, "-m", "worker", "run"]
            with started(command, environment, WORKER_LOG) as process:
                _say(f"Worker   started (log: {FOLDER / 'worker.log'})\n")
                _wait_for_worker(orthanc, process)
                alive = partial(_require_alive, orthanc, process)
                analyse = partial(_analyse, series, environment, alive, force=arguments.force)
                code = _shown(orthanc, series, slide, analyse)
                _write_person(PERSON, orthanc)
                with ohif_beside(orthanc, series, dist, FOLDER / "nginx") as viewer:
                    _print_addresses(orthanc, series, viewer, time.monotonic() - begun)
                    if os.environ.get("CI") != "true":
                        _wait_for_ctrl_c(alive)
    return code


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _make_folder(folder: Path) -> None:
    """Make the folder that everything of the demo lies in.

    Raises
    ------
    DemoError
        If this user may not write there.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        raise DemoError(
            f"The demo keeps its data in {folder}, which cannot be written ({error.strerror}): copy the "
            "project to a folder of your own and start it there."
        ) from error


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the demo's folder; the lock goes with the process, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError("Another `make demo` runs in this folder. End it with Ctrl-C first.") from error
        yield


def _worker_environment(orthanc: RunningOrthanc) -> dict[str, str]:
    """Return the settings of the demo's worker; the user's own settings of a worker do not leak into it."""
    credentials = orthanc.credentials
    inherited = {name: value for name, value in os.environ.items() if not _is_of_another_worker(name)}
    return {
        **inherited,
        "ORTHANC_URL": orthanc.url,
        "ORTHANC_USER": credentials.worker,
        "ORTHANC_PASSWORD": credentials.worker_password,
        "SUBMIT_USER": credentials.person,
        "SUBMIT_PASSWORD": credentials.person_password,
        "MODEL_PATH": os.environ.get("MODEL_PATH", "demo"),
        "WORKER_ID": "demo",
        "SPOOL_DIR": str(FOLDER / "spool"),
    }


def _is_of_another_worker(name: str) -> bool:
    """Whether a variable sets what only the user's own worker is to do; model and device may be theirs."""
    own = {"DEFAULT_MODEL", "LONG_POLL", "MODELS_DIR", "POLL_INTERVAL", "SHUTDOWN", "SVS_STORAGE_DIR"}
    return name in own or name.startswith(("DJANGO_", "LOG_", "ORTHANC_", "PATHOLOGY_", "SPOOL_", "SUBMIT_"))


def _ingest(slide: DemoSlide, environment: Mapping[str, str]) -> str:
    """Turn the slide into DICOM, store it, and return the Orthanc id of its series."""
    command = [sys.executable, "-m", "worker", "ingest", "--json", str(slide.path)]
    if slide.mpp is not None:
        command += ["--mpp", str(slide.mpp)]
    # Its progress goes to the terminal through the standard error.
    done = subprocess.run(command, env=dict(environment), cwd=FOLDER, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise DemoError("the slide could not be stored; the line above says why.")
    series: str = json.loads(done.stdout.splitlines()[-1])["series"]
    return series


def _wait_for_worker(orthanc: RunningOrthanc, process: subprocess.Popen[bytes]) -> None:
    """Wait until the worker has loaded its model and asked for work, so that nothing warns of its absence."""
    deadline = time.monotonic() + WORKER_START_SECONDS
    while time.monotonic() < deadline:
        _require_alive(orthanc, process)
        answer = requests.get(f"{orthanc.url}/pathology/workers", auth=orthanc.person, timeout=10)
        if answer.ok and answer.json()["count"]:
            return
        time.sleep(0.2)
    raise DemoError(
        f"the worker did not ask for work within {WORKER_START_SECONDS:.0f} s. Its log: {WORKER_LOG}"
    )


def _require_alive(orthanc: RunningOrthanc, worker: subprocess.Popen[bytes]) -> None:
    orthanc.require_alive()
    if worker.poll() is not None:
        raise DemoError(f"the worker ended. Its log ({WORKER_LOG}) ends:\n{last_lines(WORKER_LOG)}")


def _analyse(
    series: str, environment: Mapping[str, str], require_alive: Callable[[], None], *, force: bool
) -> int:
    """Submit, follow the progress and print the result; return the exit code."""
    command = [sys.executable, "-m", "worker", "submit", "--series", series, "--wait"]
    if force:
        command.append("--force")
    with subprocess.Popen(command, env=dict(environment), cwd=FOLDER) as submit:
        try:
            while submit.poll() is None:
                require_alive()
                time.sleep(0.1)
        finally:
            if submit.poll() is None:
                submit.terminate()
    return 0 if submit.returncode == 0 else 1


def _shown(orthanc: RunningOrthanc, series: str, slide: DemoSlide, analyse: Callable[[], int]) -> int:
    """Have a slide analysed, and say what to make of what is printed; return the exit code."""
    known = _results(orthanc, series)
    code = analyse()
    if code == 0 and slide.expectation:
        _say(f"\n{slide.expectation}")
    if code == 0 and _results(orthanc, series) == known:
        _say(
            "\nNothing was analysed now: this is the result of an earlier run, with its times.\n"
            "`make demo FORCE=1` analyses the slide again."
        )
    return code


def _results(orthanc: RunningOrthanc, series: str) -> set[str]:
    """Return the ids of the latest requests by which a slide has a result."""
    url = f"{orthanc.url}/pathology/requests/"
    query = {"series": series, "status": "completed", "order": "newest"}
    try:
        answer = requests.get(url, params=query, auth=orthanc.person, timeout=10)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise DemoError(f"Orthanc did not say which results the slide has ({error}).") from error
    return {str(one["request_id"]) for one in answer.json()["requests"]}


def _print_addresses(orthanc: RunningOrthanc, series: str, viewer: str | None, seconds: float) -> None:
    user, password = orthanc.person
    if viewer is not None:
        _say(f"\nOHIF     {viewer}")
    _say(f"""
Open     {orthanc.url}/app/explorer.html#series?uuid={series}
         user {user}, password {password}; the panel "AI analysis" there shows it, and analyses again
Worklist {orthanc.url}/pathology/app/worklist.html
More     {Path(sys.executable).with_name("pathology-worker")} --env-file {PERSON} ingest FILE.svs
         stores another slide (from a second terminal); then press the button on its page in Orthanc Explorer
         ({seconds:.0f} s from the demo's start to here; what make installed before is not counted)""")


def _write_person(path: Path, orthanc: RunningOrthanc) -> None:
    """Keep the settings with which a person ingests and submits further slides."""
    user, password = orthanc.person
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    lines = (f"ORTHANC_URL={orthanc.url}", f"SUBMIT_USER={user}", f"SUBMIT_PASSWORD={password}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _wait_for_ctrl_c(require_alive: Callable[[], None]) -> None:
    """Return once the demo is to end.

    Raises
    ------
    DemoError
        If Orthanc or the worker has ended by itself.
    """
    _say("\nOrthanc and the worker keep running. Ctrl-C ends both.")
    try:
        while not STOPPED.wait(WATCH_SECONDS):
            require_alive()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    sys.exit(main())
