# SPDX-License-Identifier: Apache-2.0
"""Submitting and following as a person, and what is printed at the end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from responses import matchers

from worker import cli
from worker.api.client import PluginClient
from worker.commands.status import row
from worker.errors import SubmitError
from worker.person.following import follow, position_of, whole_id
from worker.person.report import Addresses, describe
from worker.person.submission import (
    Submission,
    Target,
    find_of,
    parse_parameters,
    series_of,
    submitted_requests,
)
from worker.settings_reading import load_settings
from worker.stages import Position

URL = "http://127.0.0.1:8042"
ENVIRONMENT = {"ORTHANC_URL": URL, "SUBMIT_USER": "alice", "SUBMIT_PASSWORD": "person-password-canary"}

ID = "6f1c0a5e5b0d4f0e8a3c9d2f7b1e4a60"

RESULT: dict[str, Any] = {
    "predicted_class": "oscc",
    "probabilities": {"normal": 0.08, "oscc": 0.92},
    "patches": {"count": 5321, "size_px": 256, "level_mpp": 0.5, "tissue_mm2": 61.3},
    "top_patches": [
        {"x": 10240, "y": 20992, "width": 512, "height": 512, "attention": 0.0041, "percentile": 99.98}
    ],
    "slide": {"width": 98304, "height": 81920, "mpp": [0.25, 0.25]},
    "model": {
        "name": "oral-scc-demo",
        "version": "1",
        "intended_use": "Demonstration, not for clinical use.",
    },
    "quality": {
        "status": "abstained",
        "flags": ["unlike_training"],
        "reason": "The slide is unlike all others.",
    },
    "timings_s": {"queue": 0.2, "encode": 41.0},
}


class Screen:
    """Keeps what would be shown."""

    def __init__(self) -> None:
        self.shown: list[Position] = []

    def show(self, position: Position) -> None:
        self.shown.append(position)

    def close(self) -> None:
        """Nothing to take away."""


def request(status: str, version: str, **fields: Any) -> dict[str, Any]:
    return {
        "request_id": "r1",
        "status": status,
        "version": version,
        "series": "s1",
        "series_instance_uid": "1.2",
        **fields,
    }


def know_slides(http: responses.RequestsMock, **descriptions: str) -> None:
    """Let Orthanc tell the descriptions of series."""
    found = [
        {"ID": name, "MainDicomTags": {"SeriesDescription": text}} for name, text in descriptions.items()
    ]
    http.post(f"{URL}/tools/find", json=found)


@pytest.fixture
def http() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def client() -> PluginClient:
    settings = load_settings(ENVIRONMENT)
    return PluginClient(settings, settings.person)


def then(http: responses.RequestsMock, after_version: str, answer: dict[str, Any]) -> None:
    """Answer a wait for another version than the given one."""
    http.get(
        f"{URL}/pathology/requests/r1",
        json={"success": True, "request": answer},
        match=[matchers.query_param_matcher({"wait": "25", "version": after_version})],
    )


def test_only_what_was_chosen_is_submitted() -> None:
    assert Submission(Target(series="s1")).as_json() == {"series": "s1"}
    full = Submission(Target(series_instance_uid="1.2"), "m", "2", {"mpp": 0.25}, 5, force=True)
    assert full.as_json() == {
        "series_instance_uid": "1.2",
        "model": "m",
        "model_version": "2",
        "parameters": {"mpp": 0.25},
        "priority": 5,
        "force": True,
    }


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (['{"mpp": 0.25}'], {"mpp": 0.25}),
        (["mpp=0.25", "tissue_preset=tcga"], {"mpp": 0.25, "tissue_preset": "tcga"}),
    ],
)
def test_parameters_are_json_or_names_with_values(texts: list[str], expected: dict[str, Any]) -> None:
    assert parse_parameters(texts) == expected


@pytest.mark.parametrize("text", ["mpp", "=1", "{mpp}", "{"])
def test_parameters_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(SubmitError, match="--parameters"):
        parse_parameters([text])


def test_a_decimal_comma_is_named() -> None:
    with pytest.raises(SubmitError, match=r"write the number with a point, mpp=0\.5\."):
        parse_parameters(["mpp=0,5"])


def test_a_study_gives_a_request_for_each_slide() -> None:
    one, two = request("pending", "1"), request("pending", "1")
    assert submitted_requests({"request": one}) == [one]
    assert submitted_requests({"request": one, "requests": [one, two]}) == [one, two]


def test_a_request_is_followed_from_version_to_version_to_its_end(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    then(http, "v1", request("processing", "v2", stage="encode", progress=0.42, detail="512 of 1220 tiles"))
    then(http, "v2", request("completed", "v3", result=RESULT))
    screen = Screen()
    end = follow(client, request("pending", "v1"), screen)
    assert end["status"] == "completed"
    assert screen.shown == [Position("waiting for a worker"), Position("encode", 0.42, "512 of 1220 tiles")]


def test_a_server_whose_waiting_places_are_taken_is_not_hammered(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    then(http, "v1", request("pending", "v1"))
    then(http, "v1", request("completed", "v2", result=RESULT))
    slept: list[float] = []
    follow(client, request("pending", "v1"), Screen(), sleep=slept.append)
    assert len(slept) == 1
    assert slept[0] >= 0.5


def test_following_ends_in_time_and_says_that_the_request_goes_on(client: PluginClient) -> None:
    times = iter([0.0, 100.0])
    with pytest.raises(SubmitError, match="still pending and goes on: see `pathology-worker status r1`"):
        follow(client, request("pending", "v1"), Screen(), timeout_s=10, clock=lambda: next(times))


def test_a_request_whose_slide_still_arrives_says_so() -> None:
    waiting = request("pending", "v1", waits_for="slide")
    assert position_of(waiting).stage == "waiting for the rest of the slide"
    assert position_of(request("pending", "v1", waits_for="worker")).stage == "waiting for a worker"


def test_a_request_that_is_tried_again_later_says_so() -> None:
    waiting = request("pending", "v1", waits_for="retry")
    assert position_of(waiting).stage == "waiting for the next attempt"


def test_a_request_that_is_being_published_is_nearly_done() -> None:
    assert position_of(request("publishing", "v1")).progress == pytest.approx(1.0)


ADDRESSES = Addresses("http://o", "http://o/pathology")


def described(**fields: Any) -> str:
    return describe(request("completed", "v1", **fields), ADDRESSES)


def test_a_result_shows_probabilities_patches_timings_and_addresses() -> None:
    text = described(result=RESULT, artifacts=[{"name": "heatmap.png"}, {"name": "overlay.png"}])
    assert "oscc     92.0%  ############################" in text
    assert "1.  x   10240  y   20992  512 x 512  attention 0.0041" in text
    assert "encode      41.00 s" in text
    identifier = request("completed", "v1")["request_id"]
    assert f"Heatmap  http://o/pathology/requests/{identifier}/artifacts/heatmap.png" in text
    assert f"Page     http://o/pathology/app/result.html?request={identifier}" in text
    assert "Explorer http://o/app/explorer.html#series?uuid=" in text
    assert "overlay.png" not in text, "by itself it is colour on nothing"


def test_a_result_shows_what_its_model_may_not_be_used_for() -> None:
    assert "Demonstration, not for clinical use." in described(result=RESULT)


def test_a_patch_has_its_side_as_the_encoder_saw_it_and_on_the_slide() -> None:
    assert "Patches  5321 of 256 px at 0.5 um a pixel (512 px of the slide's level 0)" in described(
        result=RESULT
    )
    patches = {"count": 7, "size_px": 512}
    assert "Patches  7 of 512 px\n" in described(result={**RESULT, "patches": patches})


def test_a_result_that_the_model_does_not_stand_for_says_why() -> None:
    text = described(result=RESULT)
    assert "Result   none: the model abstains (it leans to oscc)" in text
    assert "abstained (unlike_training): The slide is unlike all others." in text


def test_a_result_that_the_model_stands_for_names_its_class() -> None:
    assert "Result   oscc\n" in described(result={**RESULT, "quality": {"status": "ok", "flags": []}})


def test_a_failed_request_shows_code_and_reason() -> None:
    error = {"code": "no_tissue", "message": "No tissue was found.", "retryable": False}
    text = describe(request("failed", "v1", error=error), ADDRESSES)
    assert "failed (no_tissue): No tissue was found." in text


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(str(tmp_path))


@pytest.mark.usefixtures("command_line")
def test_submit_prints_the_result_and_ends_with_0(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    http.post(
        f"{URL}/pathology/analyze",
        status=201,
        json={
            "success": True,
            "created": True,
            "request": request("pending", "v1"),
            "warnings": ["no worker"],
        },
    )
    then(http, "v1", request("completed", "v2", result=RESULT))
    assert cli.main(["submit", "--series", "s1", "--wait"]) == 0
    printed = capsys.readouterr().out
    assert "Request r1 is pending, waiting for a worker." in printed
    assert "Note: no worker" in printed
    assert "oscc     92.0%" in printed


@pytest.mark.usefixtures("command_line")
def test_submit_ends_with_1_where_there_is_no_result(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "no_tissue", "message": "No tissue was found.", "retryable": False}
    failed = request("failed", "v1", error=error, result=None)
    http.post(f"{URL}/pathology/analyze", json={"success": True, "created": False, "request": failed})
    assert cli.main(["submit", "--series", "s1", "--wait"]) == 1
    assert "No tissue was found." in capsys.readouterr().out


@pytest.mark.usefixtures("command_line")
@pytest.mark.parametrize(
    ("parameter", "sentence"), [("nope=3", "There is no parameter 'nope'"), ("mpp=0", "mpp must be")]
)
def test_parameters_that_the_worker_would_refuse_are_not_submitted(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str], parameter: str, sentence: str
) -> None:
    assert cli.main(["submit", "--series", "s1", "--parameters", parameter]) == 2
    assert sentence in capsys.readouterr().err
    assert len(http.calls) == 0


def cohort_answer(http: responses.RequestsMock, cohort: dict[str, Any]) -> None:
    http.post(
        f"{URL}/pathology/analyze",
        status=201,
        json={
            "success": True,
            "created": True,
            "request": request("pending", "v1"),
            "requests": [request("pending", "v1"), request("pending", "v1")],
            "summary": {"created": 1, "existing": 1, "skipped": 1},
            "skipped": [{"series": "s3", "code": "not_a_slide", "error": "Choose a slide."}],
        },
        match=[matchers.json_params_matcher({"cohort": cohort})],
    )


@pytest.mark.usefixtures("command_line")
def test_a_cohort_out_of_a_file_is_one_submission_with_one_summary(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "series.txt").write_text("s1\n\n s2 # the second\ns3\n")
    cohort_answer(http, {"series": ["s1", "s2", "s3"]})
    assert cli.main(["submit", "--cohort", str(tmp_path / "series.txt")]) == 0
    printed = capsys.readouterr().out
    assert "1 submitted, 1 submitted before, 1 skipped." in printed
    assert "Series s3 was skipped: Choose a slide." in printed


@pytest.mark.usefixtures("command_line")
def test_a_cohort_may_come_by_the_standard_input(
    http: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("s1\ns2\ns3\n"))
    cohort_answer(http, {"series": ["s1", "s2", "s3"]})
    assert cli.main(["submit", "--cohort", "-"]) == 0


@pytest.mark.usefixtures("command_line")
def test_a_cohorts_file_that_is_not_there_or_no_text_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    absent, binary = tmp_path / "absent.txt", tmp_path / "slide.svs"
    binary.write_bytes(b"II*\x00\xff\xfe")
    for path, sentence in (
        (absent, f"There is no file {absent}: correct --cohort."),
        (binary, f"{binary} cannot be read as text: check the path and its rights."),
    ):
        assert cli.main(["submit", "--cohort", str(path)]) == 2
        assert capsys.readouterr().err == f"pathology-worker: {sentence}\n"


@pytest.mark.usefixtures("command_line")
def test_a_cohort_in_which_nothing_can_be_analysed_says_why_for_each(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    skipped = [{"series": name, "code": "not_a_slide", "error": f"{name} is CT."} for name in ("s1", "s2")]
    http.post(
        f"{URL}/pathology/analyze",
        status=422,
        json={"success": False, "code": "nothing_to_analyse", "error": "None.", "skipped": skipped},
    )
    assert cli.main(["submit", "--study", "p1"]) == 2
    printed = capsys.readouterr().err
    assert "None of these series can be analysed." in printed
    assert "Series s1 was skipped: s1 is CT." in printed
    assert "Series s2 was skipped: s2 is CT." in printed


@pytest.mark.usefixtures("command_line")
def test_a_cohort_can_be_found_by_dicom_tags(http: responses.RequestsMock) -> None:
    cohort_answer(http, {"find": {"BodyPartExamined": "MOUTH", "StudyDate": "20260101-"}})
    assert cli.main(["submit", "--find", "BodyPartExamined=MOUTH", "--find", "StudyDate=20260101-"]) == 0


def test_an_empty_cohort_and_a_tag_without_a_value_are_refused() -> None:
    with pytest.raises(SubmitError, match="one a line"):
        series_of("# nothing\n")
    with pytest.raises(SubmitError, match="--find StudyDate"):
        find_of(["StudyDate"])


@pytest.mark.usefixtures("command_line")
def test_a_refused_submission_is_the_servers_sentence_and_2(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    http.post(
        f"{URL}/pathology/analyze",
        status=422,
        json={"success": False, "code": "not_a_slide", "error": "This series is CT: choose a slide."},
    )
    assert cli.main(["submit", "--series", "s1"]) == 2
    assert "This series is CT: choose a slide." in capsys.readouterr().err


@pytest.mark.usefixtures("command_line")
@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (["--series", "nope"], "Orthanc has no series with the id nope: copy it from Orthanc Explorer"),
        (["--study", "nope"], "Orthanc has no study with the id nope"),
        (["--series-uid", "1.2.3"], "Orthanc has no series with the SeriesInstanceUID 1.2.3"),
        (["--find", "StudyDate=19000101"], "Orthanc has no such series: check the keywords"),
    ],
)
def test_what_orthanc_does_not_have_is_named(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str], named: list[str], sentence: str
) -> None:
    http.post(
        f"{URL}/pathology/analyze",
        status=404,
        json={"success": False, "code": "unknown_resource", "error": "Orthanc has no such resource."},
    )
    assert cli.main(["submit", *named]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("command_line")
def test_the_list_shows_state_and_reason(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        request("processing", "v1", stage="encode", progress=0.42, worker_id="lab-1", model="m"),
        request("failed", "v1", error={"message": "No tissue was found."}),
        request("pending", "v1", waits_for="slide"),
    ]
    http.get(f"{URL}/pathology/requests/", json={"success": True, "count": 2, "requests": rows})
    assert cli.main(["status"]) == 0
    printed = capsys.readouterr().out
    assert "42% encoding patches on lab-1" in printed
    assert "waiting for the rest of the slide" in printed
    assert "No tissue was found." in printed


@pytest.mark.usefixtures("command_line")
def test_the_list_has_the_latest_requests_and_says_that_there_are_older_ones(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = [{**request("completed", "v1"), "request_id": name} for name in ("r9", "r8")]
    http.get(
        f"{URL}/pathology/requests/",
        json={"success": True, "count": 2, "requests": newest, "next": "r8"},
        match=[matchers.query_param_matcher({"limit": "2", "order": "newest"})],
    )
    assert cli.main(["status", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["r8", "r9", "Older"]


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SUBMIT_USER": "alice", "SUBMIT_PASSWORD": "x"}, "check SUBMIT_USER (alice) and SUBMIT_PASSWORD."),
        ({"ORTHANC_USER": "lab", "ORTHANC_PASSWORD": "x"}, "check ORTHANC_USER (lab) and ORTHANC_PASSWORD."),
    ],
)
def test_a_password_that_is_not_accepted_is_named_with_its_user(
    http: responses.RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    sentence: str,
) -> None:
    for name, value in {"ORTHANC_URL": URL, **environment}.items():
        monkeypatch.setenv(name, value)
    http.get(f"{URL}/pathology/requests/", status=401)
    assert cli.main(["status"]) == 2
    assert sentence in capsys.readouterr().err


def test_without_a_user_a_persons_settings_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 2
    assert "Set SUBMIT_USER and SUBMIT_PASSWORD to a user of Orthanc." in capsys.readouterr().err


@pytest.mark.usefixtures("command_line")
def test_lists_and_results_name_the_slide_or_else_its_series(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    know_slides(http, s1="S26-1")
    rows = [request("completed", "v1"), request("completed", "v1", series="s2")]
    http.get(f"{URL}/pathology/requests/", json={"success": True, "count": 2, "requests": rows})
    http.get(f"{URL}/pathology/requests/{ID}", json={"success": True, "request": request("failed", "v1")})
    assert cli.main(["status"]) == 0
    assert cli.main(["status", ID]) == 0
    listed, *described = capsys.readouterr().out.split("Request")
    assert [line.split()[2] for line in listed.splitlines()] == ["s2", "S26-1"]
    assert "Slide    S26-1" in described[0]


def test_a_request_that_nobody_will_take_says_why_in_the_list() -> None:
    note = {"code": "model_not_offered", "message": "No worker offers this model.", "offered": ["m"]}
    waiting = request("pending", "v1", model="nope", waits_for="worker", notes=[note])
    assert row(waiting, "S26-1").endswith("S26-1  nope  waiting for a worker  No worker offers this model.")


def test_a_request_that_a_person_ended_gives_no_reason_that_there_is_not() -> None:
    assert describe(request("cancelled", "v1"), ADDRESSES).endswith("Status   cancelled")


def event(name: str, by: str, detail: str = "") -> dict[str, str]:
    return {"at": f"2026-01-01 {name}", "event": name, "by": by, "detail": detail}


@pytest.mark.parametrize(
    ("status", "history", "line"),
    [
        ("cancelled", [event("cancelled", "alice")], "2026-01-01 cancelled by alice"),
        (
            "cancelled",
            [event("cancel_requested", "alice"), event("cancelled", "lab-1", "handed_back")],
            "2026-01-01 cancelled by alice",
        ),
        (
            "cancelled",
            [event("cancel_requested", "bob"), event("retried", "bob"), event("cancelled", "alice")],
            "2026-01-01 cancelled by alice",
        ),
        (
            "cancelled",
            [event("cancel_requested", "bob"), event("delivered", "lab-1"), event("cancelled", "alice")],
            "2026-01-01 cancelled by alice",
        ),
        (
            "withdrawn",
            [
                event("completed", "lab-1"),
                event("withdrawn", "alice", "Wrong slide."),
                event("reviewed", "bob"),
            ],
            "2026-01-01 withdrawn by alice: Wrong slide.",
        ),
        ("failed", [event("failed", "lab-1", "x: y")], "2026-01-01 failed by lab-1"),
    ],
)
def test_a_request_without_a_result_says_who_ended_it_when_and_why(
    status: str, history: list[dict[str, str]], line: str
) -> None:
    ended = request(status, "v1", history=[event("created", "carol"), *history])
    assert describe(ended, ADDRESSES).splitlines()[-1] == f"Ended    {line}"


def test_a_request_in_work_whose_cancel_is_asked_for_says_by_whom() -> None:
    asked = {"progress": 0.09, "stage": "tissue", "worker_id": "lab-1", "cancel_requested": True}
    working = request("processing", "v1", **asked)
    assert row(working, "S26-1").endswith("on lab-1, cancel asked for")
    working["history"] = [event("begun", "lab-1"), event("cancel_requested", "alice")]
    assert row(working, "S26-1").endswith("on lab-1, cancel asked for by alice")


@pytest.mark.usefixtures("command_line")
def test_whom_orthanc_does_not_let_look_slides_up_gets_the_list_all_the_same(
    http: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    http.post(f"{URL}/tools/find", status=403)
    http.get(
        f"{URL}/pathology/requests/",
        json={"success": True, "count": 1, "requests": [request("completed", "v1")]},
    )
    assert cli.main(["status"]) == 0
    assert "  s1  " in capsys.readouterr().out


@pytest.mark.usefixtures("command_line")
@pytest.mark.parametrize(
    ("decision", "fields", "sentence"),
    [
        ("cancel", {"status": "cancelled"}, "Request r1 is cancelled.\n"),
        (
            "cancel",
            {"status": "processing", "cancel_requested": True},
            "Request r1 is processing, and its worker is asked to stop.\n",
        ),
        ("retry", {"status": "pending"}, "Request r1 is pending.\n"),
        (
            "retry",
            {
                "status": "pending",
                "notes": [{"code": "no_worker", "message": "No worker is alive.", "offered": []}],
            },
            "Request r1 is pending.\nNote: No worker is alive.\n",
        ),
    ],
)
def test_a_person_decides_about_a_request(
    http: responses.RequestsMock,
    capsys: pytest.CaptureFixture[str],
    decision: str,
    fields: dict[str, Any],
    sentence: str,
) -> None:
    answer = {**request("pending", "v2"), **fields}
    http.post(f"{URL}/pathology/requests/{ID}/{decision}", json={"success": True, "request": answer})
    assert cli.main([decision, ID]) == 0
    assert capsys.readouterr().out == sentence


def test_a_request_is_known_by_the_beginning_of_its_id(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    found = [{"request_id": name} for name in ("92090ec1aa", "92090eff", "77")]
    http.get(f"{URL}/pathology/requests/", json={"success": True, "count": 3, "requests": found})
    assert whole_id(client, "92090ec1") == "92090ec1aa"
    with pytest.raises(SubmitError, match=r"Several requests begin with 92090e.*92090ec1aa, 92090eff"):
        whole_id(client, "92090e")
    with pytest.raises(SubmitError, match=r"None of the latest requests .* begins with 5"):
        whole_id(client, "5")
    assert whole_id(client, ID) == ID


@pytest.mark.usefixtures("command_line")
def test_a_series_is_named_with_or_without_its_option(http: responses.RequestsMock) -> None:
    for arguments in (["s1"], ["--series", "s1"]):
        http.post(
            f"{URL}/pathology/analyze",
            json={"success": True, "created": True, "request": request("pending", "v1")},
            match=[matchers.json_params_matcher({"series": "s1"})],
        )
        assert cli.main(["submit", *arguments]) == 0


def test_a_bad_setting_ends_every_command_with_2_and_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLL_INTERVAL", "soon")
    assert cli.main(["status"]) == 2
    assert "POLL_INTERVAL=soon must be a number" in capsys.readouterr().err


def test_following_never_waits_longer_than_it_was_told(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    http.get(
        f"{URL}/pathology/requests/r1",
        json={"success": True, "request": request("completed", "v2", result=RESULT)},
        match=[matchers.query_param_matcher({"wait": "3", "version": "v1"})],
    )
    end = follow(client, request("pending", "v1"), Screen(), timeout_s=3, clock=lambda: 0.0)
    assert end["status"] == "completed"


def test_whoever_follows_a_request_sees_that_orthanc_does_not_answer(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    http.get(f"{URL}/pathology/requests/r1", body=requests.exceptions.ConnectionError("x"))
    for _ in range(3):
        http.get(f"{URL}/pathology/requests/r1", body=requests.exceptions.ConnectionError("x"))
    http.get(
        f"{URL}/pathology/requests/r1",
        json={"success": True, "request": request("failed", "v2", result=None)},
    )
    screen = Screen()
    impatient = PluginClient(load_settings(ENVIRONMENT), None, wait=lambda _seconds: False)
    follow(impatient, request("pending", "v1"), screen, sleep=lambda _seconds: None)
    assert "waiting for Orthanc to answer again" in [position.stage for position in screen.shown]
