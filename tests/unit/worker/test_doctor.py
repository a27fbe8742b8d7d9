# SPDX-License-Identifier: Apache-2.0
"""The doctor: each thing that can be wrong is found and comes with its fix."""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

from clam_core.errors import EncoderWeightsError
from tests.unit.worker.conftest import PASSWORD, ScriptedAnalyzer, good_analysis
from worker.api.transport import passwords_in_clear, sends_password_in_clear
from worker.doctor.checks import Doctor
from worker.doctor.findings import Finding, Verdict
from worker.doctor.server import judge_certificate
from worker.errors import ModelError
from worker.jobs.job import Analyzer
from worker.settings import Settings
from worker.settings_reading import load_settings

URL = "http://127.0.0.1:8042"
NOW = dt.datetime(2026, 11, 22, 12, 0, 0, tzinfo=dt.UTC)


class Patient:
    """A worker in good health, of which a test spoils one thing."""

    def __init__(self, http: responses.RequestsMock, folder: Path) -> None:
        self.http = http
        self.environment = {
            "ORTHANC_URL": URL,
            "ORTHANC_USER": "lab",
            "ORTHANC_PASSWORD": PASSWORD,
            "SUBMIT_USER": "alice",
            "SUBMIT_PASSWORD": PASSWORD,
            "SPOOL_DIR": str(folder),
            "DEVICE": "cpu",
        }
        self.system: dict[str, Any] = {"json": {"Version": "1.12.11"}}
        self.now: dict[str, Any] = {"body": "20261122T120001"}
        self.health: dict[str, Any] = {"json": {"success": True, "api": 1, "version": "0.1.0"}}
        self.roles = {"lab": 404, "alice": 403}
        self.origin: dict[str, Any] = {"status": 400, "json": {"code": "bad_request"}}
        self.workers: dict[str, Any] = {"json": {"success": True, "workers": []}}
        self.env_file: Path | None = None
        self.gpu: tuple[int, int] | None = None
        self.analyzer: Analyzer | Exception = ScriptedAnalyzer(good_analysis)

    def findings(self) -> dict[str, Finding]:
        self.http.get(f"{URL}/system", **self.system)
        self.http.get(f"{URL}/tools/now", **self.now)
        self.http.get(f"{URL}/pathology/health", **self.health)
        self.http.add_callback("POST", f"{URL}/pathology/update-status/{'0' * 32}/", self._role)
        self.http.post(f"{URL}/pathology/analyze", **self.origin)
        self.http.get(f"{URL}/pathology/workers", **self.workers)
        doctor = Doctor(
            load_settings(self.environment),
            self._load,
            self.env_file,
            gpu_memory=lambda _device: self.gpu,
            now=lambda: NOW,
        )
        return {finding.check: finding for finding in doctor.examine()}

    def _role(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        import base64

        user = base64.b64decode(str(request.headers["Authorization"]).split()[1]).decode().split(":")[0]
        return self.roles[user], {}, "{}"

    def _load(self, settings: Settings) -> Analyzer:
        if isinstance(self.analyzer, Exception):
            raise self.analyzer
        return self.analyzer


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as http:
        yield Patient(http, tmp_path)


def test_a_healthy_worker_has_no_failure_and_no_warning(patient: Patient) -> None:
    verdicts = {check: finding.verdict for check, finding in patient.findings().items()}
    assert set(verdicts.values()) <= {Verdict.OK, Verdict.SKIPPED}
    assert verdicts["worker's role"] is verdicts["person's role"] is verdicts["clock"] is Verdict.OK


def assert_failed(finding: Finding, *words: str) -> None:
    assert finding.verdict is Verdict.FAILED
    for word in words:
        assert word in finding.message


def test_orthanc_that_cannot_be_reached(patient: Patient) -> None:
    patient.system = {"body": requests.exceptions.ConnectionError("refused")}
    findings = patient.findings()
    assert_failed(findings["Orthanc"], URL, "check that Orthanc runs", "ORTHANC_URL")
    assert findings["plugin"].verdict is Verdict.SKIPPED


def test_a_wrong_password(patient: Patient) -> None:
    patient.system = {"status": 401}
    assert_failed(patient.findings()["Orthanc"], "user or password", "ORTHANC_PASSWORD", "RegisteredUsers")


@pytest.mark.parametrize(
    "system", [{"body": "<html>"}, {"json": {"name": "other"}}, {"status": 404, "json": {}}]
)
def test_something_that_is_no_orthanc(patient: Patient, system: dict[str, Any]) -> None:
    patient.system = system
    assert_failed(patient.findings()["Orthanc"], "is no Orthanc", "ORTHANC_URL")


@pytest.mark.parametrize("health", [{"status": 404}, {"body": "<html>"}, {"json": []}])
def test_a_missing_plugin(patient: Patient, health: dict[str, Any]) -> None:
    patient.health = health
    assert_failed(patient.findings()["plugin"], "pathology plugin", "PythonScript", "PATHOLOGY_API_URL")


def test_a_plugin_of_another_contract(patient: Patient) -> None:
    patient.health = {"json": {"api": 2}}
    assert_failed(patient.findings()["plugin"], "version 2", "this worker 1", "upgrade the older one")


def test_a_plugin_that_is_starting_is_no_failure(patient: Patient) -> None:
    patient.health = {"status": 503, "json": {"code": "starting"}}
    assert patient.findings()["plugin"].verdict is Verdict.WARNING


def test_a_worker_that_is_none(patient: Patient) -> None:
    patient.roles["lab"] = 403
    assert_failed(patient.findings()["worker's role"], "lab is no worker", "Pathology.Workers")


def test_a_person_that_is_a_worker(patient: Patient) -> None:
    patient.roles["alice"] = 404
    assert_failed(patient.findings()["person's role"], "alice is a worker", "SUBMIT_USER")


def test_no_user(patient: Patient) -> None:
    del patient.environment["ORTHANC_USER"], patient.environment["ORTHANC_PASSWORD"]
    assert_failed(patient.findings()["settings"], "ORTHANC_USER")


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("http://localhost:8042", False),
        ("http://127.0.0.1:8042", False),
        ("http://[::1]:8042", False),
        ("https://orthanc.example.org", False),
        ("http://orthanc.example.org", True),
        ("http://10.0.0.5:8042", True),
        ("http://localhost.example.org", True),
    ],
)
def test_a_password_over_plain_http_to_another_machine(url: str, in_clear: bool) -> None:
    assert sends_password_in_clear(url) is in_clear


def test_a_password_in_clear_is_a_failure_with_its_fix(patient: Patient) -> None:
    patient.environment["PATHOLOGY_API_URL"] = "http://orthanc.example.org/pathology"
    assert_failed(patient.findings()["transport"], "PATHOLOGY_API_URL", "plain http", "https://")


def test_a_password_in_clear_is_told_once_by_the_setting_that_is_there() -> None:
    (sentence,) = passwords_in_clear(load_settings({"ORTHANC_URL": "http://orthanc.example.org"}))
    assert sentence.startswith("ORTHANC_URL sends")


def test_no_model(patient: Patient) -> None:
    patient.analyzer = ModelError("No model is set: name one in MODEL_PATH or MODELS_DIR.")
    assert_failed(patient.findings()["models"], "MODEL_PATH", "MODELS_DIR")


def test_missing_encoder_weights(patient: Patient) -> None:
    patient.analyzer = EncoderWeightsError("The weights of uni are missing: ask for access.")
    assert_failed(patient.findings()["models"], "weights of uni are missing")


def test_no_gpu_is_a_warning_unless_the_cpu_is_meant(patient: Patient) -> None:
    patient.environment["DEVICE"] = "auto"
    finding = patient.findings()["models"]
    assert finding.verdict is Verdict.WARNING
    assert "DEVICE=cpu" in finding.message


def test_a_full_disk(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = type(shutil.disk_usage("."))(100, 99, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    finding = patient.findings()["disk"]
    assert finding.verdict is Verdict.WARNING
    assert "SPOOL_DIR" in finding.message


def test_free_space_is_told_for_the_folder_that_is_set_though_it_is_not_made_yet(
    patient: Patient, tmp_path: Path
) -> None:
    for name in ("SPOOL_DIR", "FEATURE_CACHE_DIR"):
        patient.environment[name] = str(tmp_path / "later" / name)
    assert f"free for {tmp_path / 'later' / 'SPOOL_DIR'}" in patient.findings()["disk"].message


def test_a_missing_folder_of_slide_files(patient: Patient) -> None:
    patient.environment["SVS_STORAGE_DIR"] = "/nowhere/slides"
    assert_failed(patient.findings()["slide files"], "/nowhere/slides")


def test_a_clock_that_differs(patient: Patient) -> None:
    patient.now = {"body": "20261122T115000"}
    finding = patient.findings()["clock"]
    assert finding.verdict is Verdict.WARNING
    assert "+600 s" in finding.message
    assert "NTP" in finding.message


def assert_warned(finding: Finding, *words: str) -> None:
    assert finding.verdict is Verdict.WARNING
    for word in words:
        assert word in finding.message


def test_an_orthanc_with_known_holes_is_named(patient: Patient) -> None:
    patient.system = {"json": {"Version": "1.12.10"}}
    assert_warned(patient.findings()["server versions"], "1.12.10", "CVE-2026-5437", "upgrade")


def test_a_name_that_two_workers_have(patient: Patient) -> None:
    patient.environment["WORKER_ID"] = "lab-1"
    patient.workers = {"json": {"workers": [{"worker_id": "lab-1", "shared_name": True}]}}
    assert_warned(patient.findings()["worker's name"], "lab-1", "WORKER_ID of its own")


def test_a_plugin_of_another_version_is_named(patient: Patient) -> None:
    patient.health = {"json": {"success": True, "api": 1, "version": "0.0.9"}}
    assert_warned(patient.findings()["server versions"], "0.0.9", "upgrade the older one")


def test_a_proxy_that_makes_orthancs_own_pages_foreign(patient: Patient) -> None:
    patient.origin = {"status": 403, "json": {"code": "forbidden_origin"}}
    assert_failed(patient.findings()["origin"], URL, "proxy_set_header Host $http_host", "AllowedOrigins")


def test_the_origin_is_asked_about_as_a_page_would(patient: Patient) -> None:
    assert patient.findings()["origin"].verdict is Verdict.OK
    asked = [call.request for call in patient.http.calls if (call.request.url or "").endswith("/analyze")]
    assert asked[0].headers["Origin"] == URL


def test_a_file_of_settings_that_others_may_read(patient: Patient, tmp_path: Path) -> None:
    patient.env_file = tmp_path / ".env"
    patient.env_file.write_text("", "utf-8")
    patient.env_file.chmod(0o640)
    assert_warned(patient.findings()["settings file"], "chmod 600", "ORTHANC_PASSWORD_FILE")


def test_a_file_of_settings_of_ones_own(patient: Patient, tmp_path: Path) -> None:
    patient.env_file = tmp_path / ".env"
    patient.env_file.write_text("", "utf-8")
    patient.env_file.chmod(0o600)
    assert patient.findings()["settings file"].verdict is Verdict.OK


def test_no_settings_at_all(patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.environment = {"ORTHANC_URL": URL, "SPOOL_DIR": str(tmp_path)}
    monkeypatch.chdir(tmp_path)
    finding = patient.findings()["settings file"]
    assert_warned(finding, f"no .env in {tmp_path}", "--env-file", "worker/env.example")


def test_settings_of_the_environment_need_no_file(patient: Patient) -> None:
    assert patient.findings()["settings file"].verdict is Verdict.SKIPPED


def test_a_private_ca_that_is_not_there(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    assert_failed(patient.findings()["private CA"], "REQUESTS_CA_BUNDLE=/nowhere/ca.pem", "not there")


def test_a_spool_or_a_feature_cache_that_cannot_be_written(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    findings = patient.findings()
    assert_failed(findings["spool"], "cannot be written", "SPOOL_DIR")
    assert findings["feature cache"].verdict is Verdict.WARNING
    assert "set FEATURE_CACHE_DIR elsewhere" in findings["feature cache"].message


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
@pytest.mark.parametrize(("above", "verdict"), [(0o711, Verdict.WARNING), (0o700, Verdict.OK)])
def test_a_spool_is_open_to_others_only_where_they_come_to_it(
    patient: Patient, above: int, verdict: Verdict
) -> None:
    # pytest's own folders are closed to others
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        spool = Path(home) / "spool"
        spool.mkdir()
        spool.chmod(0o755)
        Path(home).chmod(above)
        patient.environment["SPOOL_DIR"] = str(spool)
        assert patient.findings()["spool"].verdict is verdict


def test_a_feature_cache_that_is_turned_off_needs_no_folder(patient: Patient) -> None:
    patient.environment["FEATURE_CACHE_MAX_MB"] = "0"
    assert patient.findings()["feature cache"].verdict is Verdict.SKIPPED


def test_a_gpu_that_is_nearly_full(patient: Patient) -> None:
    patient.gpu = (1024**3, 80 * 1024**3)
    assert_warned(patient.findings()["GPU memory"], "1.0 of 80.0 GB", "nvidia-smi")


def test_a_gpu_with_room(patient: Patient) -> None:
    patient.gpu = (60 * 1024**3, 80 * 1024**3)
    assert patient.findings()["GPU memory"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("ends", "protocol", "words"),
    [
        ("Dec  1 12:00:00 2026 GMT", "TLSv1.3", ("2026-12-01", "in 9 days", "renew")),
        ("Nov 20 12:00:00 2027 GMT", "TLSv1.1", ("TLSv1.1", "ssl_protocols")),
    ],
)
def test_a_certificate_or_protocol_that_is_near_its_end(
    ends: str, protocol: str, words: tuple[str, ...]
) -> None:
    assert_warned(judge_certificate({"notAfter": ends}, protocol, NOW), *words)


def test_a_certificate_with_a_year_to_go() -> None:
    finding = judge_certificate({"notAfter": "Nov 20 12:00:00 2027 GMT"}, "TLSv1.3", NOW)
    assert (finding.verdict, "2027-11-20" in finding.message) == (Verdict.OK, True)


def test_no_finding_repeats_the_password(patient: Patient) -> None:
    patient.roles = {"lab": 401, "alice": 401}
    assert PASSWORD not in "".join(finding.message for finding in patient.findings().values())
