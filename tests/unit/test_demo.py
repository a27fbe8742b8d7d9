# SPDX-License-Identifier: Apache-2.0
"""The demo, as far as it needs no Orthanc."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import responses
from responses import matchers

import demo.__main__ as demonstration
from demo.__main__ import _make_folder, _require_alive, _shown, _wait_for_ctrl_c, _write_person
from demo.errors import DemoError
from demo.server import Credentials as DemoCredentials
from demo.server import RunningOrthanc
from tests.support.wait import wait_until
from worker.demo_slide import DemoSlide
from worker.settings import Credentials
from worker.settings_reading import load_settings

ROOT = Path(__file__).resolve().parents[2]


def test_a_slide_that_is_not_there_is_one_sentence_and_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--slide", "/nowhere/slide.svs"],
        cwd=ROOT,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "There is no slide /nowhere/slide.svs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("mpp", "sentence"),
    [
        ("0,5", "MPP=0,5: '0,5' is not a number of micrometres: write it with a point, 0.5."),
        ("it's half", "MPP=it's half: \"it's half\" is not a number of micrometres."),
        ("-1", "MPP=-1: '-1' must be more than 0 micrometres."),
    ],
)
def test_a_bad_resolution_is_one_sentence_about_MPP(mpp: str, sentence: str) -> None:  # noqa: N802 - its name
    done = subprocess.run(
        ["make", "-s", "-o", ".venv/.ready", "demo", f"MPP={mpp}", f"RUN={sys.executable}"],
        cwd=ROOT,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert sentence in done.stderr
    assert "--mpp" not in done.stderr


def test_a_slide_with_a_quote_in_its_name_reaches_the_demo_whole() -> None:
    done = subprocess.run(
        ["make", "-s", "-o", ".venv/.ready", "demo", "SLIDE=/nowhere/o'brien 1.svs", f"RUN={sys.executable}"],
        cwd=ROOT,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "There is no slide /nowhere/o'brien 1.svs" in done.stderr


def test_a_project_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "project").write_text("no folder")
    with pytest.raises(
        DemoError, match=r"keeps its data in .*project.*cannot be written .*: copy the project"
    ):
        _make_folder(tmp_path / "project" / ".demo")


def test_the_settings_of_a_person_are_kept_for_the_next_slide_and_from_other_eyes(tmp_path: Path) -> None:
    person = tmp_path / "person.env"
    person.write_text("of an earlier run")
    orthanc = SimpleNamespace(url="http://127.0.0.1:8142", person=("admin", "a#b"))
    _write_person(person, orthanc)  # type: ignore[arg-type]
    settings = load_settings({}, person)
    assert (settings.orthanc_url, settings.person) == (orthanc.url, Credentials("admin", "a#b"))
    assert person.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_says_at_once_that_the_demo_ends_and_only_then_that_it_has(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setattr(demonstration, "STOPPED", threading.Event())

    def run(_: object) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            sys.stdout.write("(Orthanc ends)\n")
        return 0

    monkeypatch.setattr(demonstration, "_run", run)
    try:
        assert demonstration.main() == 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = capfd.readouterr().out.split("\n")
    assert [line[:6] for line in said if line] == ["Ending", "(Ortha", "Ended."]


def command_of(process: int) -> bytes:
    """Return a process' command; nothing where it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux's setpriv")
def test_a_demo_that_is_killed_leaves_no_server_behind(tmp_path: Path) -> None:
    script = (
        "import os, time\nfrom pathlib import Path\nfrom demo.server import started\n"
        f"with started(['sleep', '600'], os.environ, Path({str(tmp_path / 'log')!r})) as process:\n"
        "    print(process.pid, flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        child = int(demo.stdout.readline())
        command = Path(f"/proc/{child}/cmdline")
        wait_until(lambda: b"sleep" in command.read_bytes())
        demo.kill()
        wait_until(lambda: not command.exists() or not command.read_bytes())


@pytest.mark.parametrize(
    ("results_afterwards", "code", "is_said"),
    [(["r1"], 0, True), (["r2", "r1"], 0, False), (["r1"], 1, False)],
    ids=["known", "new", "failed"],
)
def test_a_result_of_an_earlier_run_is_called_that_with_the_way_to_another(
    capsys: pytest.CaptureFixture[str], results_afterwards: list[str], code: int, is_said: bool
) -> None:
    orthanc = SimpleNamespace(url="http://127.0.0.1:8142", person=("admin", "a#b"))
    query = {"series": "s1", "status": "completed", "order": "newest"}
    with responses.RequestsMock(assert_all_requests_are_fired=False) as http:
        for found in (["r1"], results_afterwards):
            http.get(
                f"{orthanc.url}/pathology/requests/",
                match=[matchers.query_param_matcher(query)],
                json={"success": True, "requests": [{"request_id": name} for name in found]},
            )
        slide = DemoSlide(Path("slide.svs"), "a slide", expectation="It abstains.")
        assert _shown(orthanc, "s1", slide, lambda: code) == code  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert ("It abstains." in said) == (code == 0)
    assert ("Nothing was analysed now" in said and "FORCE=1" in said) == is_said


def ended_process() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process


@pytest.mark.parametrize(("orthanc_ends", "sentence"), [(True, "Orthanc ended"), (False, "the worker ended")])
def test_a_demo_whose_orthanc_or_worker_has_ended_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orthanc_ends: bool, sentence: str
) -> None:
    log = tmp_path / "log"
    log.write_text("its last words")
    monkeypatch.setattr(demonstration, "WORKER_LOG", log)
    monkeypatch.setattr(demonstration, "WATCH_SECONDS", 0.01)
    ended, running = ended_process(), subprocess.Popen(["sleep", "60"])
    orthanc, worker = (ended, running) if orthanc_ends else (running, ended)
    server = RunningOrthanc("http://127.0.0.1:1", DemoCredentials("a", "b", "c", "d"), log, orthanc)
    try:
        with pytest.raises(DemoError, match=f"{sentence}.*\nits last words"):
            _wait_for_ctrl_c(lambda: _require_alive(server, worker))
    finally:
        running.kill()
        running.wait()
