# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may do what, on every route of Orthanc."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from orthanc_plugin.access.roles import Policy, Role, check, role_of
from orthanc_plugin.access.users import is_forged, is_loopback, refuse_unsafe_users, user_name
from orthanc_plugin.errors import ApiError, SettingsError
from orthanc_plugin.settings import names_of_numbers

POLICY = Policy(
    protected_metadata={5000, 5002},
    protected_attachments=range(5100, 65536),
    metadata_names={"PathologyState": 5000, "Comment": 6000},
    attachment_names={"heatmap": 5100, "report": 5050},
    allowed_origins={"https://viewer.example"},
)
LEASED = "aaaaaaaa-aaaaaaaa-aaaaaaaa-aaaaaaaa-aaaaaaaa"
LABEL = "cccccccc-cccccccc-cccccccc-cccccccc-cccccccc"
OTHER = "bbbbbbbb-bbbbbbbb-bbbbbbbb-bbbbbbbb-bbbbbbbb"
HOST = {"host": "pacs.example:8042"}
BROWSER = {**HOST, "user-agent": "Mozilla/5.0", "accept-language": "ko"}


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def decide(
    role: Role, method: str, uri: str, headers: Mapping[str, str] = HOST, policy: Policy = POLICY
) -> ApiError | None:
    leased = {LEASED, LABEL}
    return check(
        role, method, uri, headers, policy, lambda resource: resource in leased, lambda item: item == LEASED
    )


def code(role: Role, method: str, uri: str, headers: Mapping[str, str] = HOST) -> str:
    error = decide(role, method, uri, headers)
    return "allowed" if error is None else error.code


# The name of a user.


def test_the_name_stands_before_the_first_colon() -> None:
    assert user_name(basic("alice:se:cret")) == "alice"
    assert user_name(basic("김:비밀")) == "김"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Basic"},
        {"authorization": basic("alice:x")["authorization"].replace(" ", " %")},
        {"authorization": "Basic /w=="},
        {"authorization": basic("alice:x")["authorization"].replace("Basic", "Bearer")},
        basic("no colon"),
    ],
)
def test_a_header_that_names_nobody_gives_no_name(headers: dict[str, str]) -> None:
    assert user_name(headers) == ""


def test_the_proxys_header_counts_where_it_is_configured_and_only_there() -> None:
    headers = {**basic("alice:x"), "x-remote-user": "bob"}
    assert user_name(headers) == "alice"
    assert user_name(headers, "x-remote-user") == "bob"
    assert user_name(basic("alice:x"), "x-remote-user") == "alice"


def test_without_passwords_the_authorization_header_proves_nothing() -> None:
    assert user_name(basic("alice:x"), "x-remote-user", authentication_enabled=False) == ""


@pytest.mark.parametrize(
    "name",
    [
        "lab 1",
        "LAB 1",
        "Lab  1",
        "\uff4c\uff41\uff42 \uff11",
        "l\u00e1b 1",
        "la\u0301b 1",
        "l\u00adab 1",
        "lab\u200b 1",
    ],
    ids=["itself", "case", "blanks", "width", "accent", "combined", "soft hyphen", "no width"],
)
def test_a_proxy_whose_directory_spells_loosely_makes_no_person_of_a_worker(name: str) -> None:
    assert user_name({"x-remote-user": name}, "x-remote-user", listed=("prometheus", "lab 1")) == "lab 1"


def test_names_that_differ_are_two_users() -> None:
    for name in ("lab-1", "lab1", "lab 2", "\uc5f0\uad6c\uc2e4"):
        assert user_name({"x-remote-user": name}, "x-remote-user", listed=("lab 1",)) == name


def test_a_name_that_is_listed_as_it_stands_is_that_one_and_orthancs_own_list_is_exact() -> None:
    assert user_name({"x-remote-user": "Lab"}, "x-remote-user", listed=("lab", "Lab")) == "Lab"
    assert user_name(basic("Lab:x"), "x-remote-user", listed=("lab",)) == "Lab"


def test_the_proxys_header_from_another_machine_is_forged() -> None:
    assert is_forged({"x-remote-user": "admin"}, "x-remote-user", "10.0.0.7")
    assert not is_forged({"x-remote-user": "admin"}, "x-remote-user", "127.0.0.1")
    assert not is_forged({}, "x-remote-user", "10.0.0.7")
    assert not is_forged({"x-remote-user": "admin"}, None, "10.0.0.7")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.0.9", "::1", "::ffff:127.0.0.1"])
def test_addresses_of_this_machine(peer: str) -> None:
    assert is_loopback(peer)


@pytest.mark.parametrize("peer", ["", "10.0.0.1", "1127.0.0.1", "127.0.0.1.example", "::2"])
def test_addresses_of_others(peer: str) -> None:
    assert not is_loopback(peer)


def test_whom_the_configuration_does_not_list_is_a_person() -> None:
    assert role_of("lab", ("lab",), ("prometheus",)) is Role.WORKER
    assert role_of("prometheus", ("lab",), ("prometheus",)) is Role.MONITOR
    assert role_of("Lab", ("lab",), ("prometheus",)) is Role.PERSON
    assert role_of("", ("lab",), ()) is Role.NOBODY


# The configuration.


@pytest.mark.parametrize("users", [{"admin": ""}, {"": "x"}, {"a:b": "x"}])
def test_users_that_protect_nothing_stop_the_plugin(users: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="RegisteredUsers"):
        refuse_unsafe_users({"RegisteredUsers": users})


def test_users_with_names_and_passwords_are_taken() -> None:
    refuse_unsafe_users({"RegisteredUsers": {"admin": "x"}})


@pytest.mark.parametrize(
    "configuration",
    [{}, {"RegisteredUsers": {}}, {"RegisteredUsers": None}, {"RegisteredUsers": ["admin"]}],
)
def test_a_list_that_names_nobody_is_refused_for_orthanc_then_has_a_user_of_its_own(
    configuration: dict[str, Any],
) -> None:
    with pytest.raises(SettingsError, match="names nobody"):
        refuse_unsafe_users(configuration)


def test_names_of_numbers_come_in_two_forms() -> None:
    assert names_of_numbers({"a": 5000, "b": [5100, "image/png"]}) == {"a": 5000, "b": 5100}
    assert names_of_numbers(None) == {}


# Everybody.


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
@pytest.mark.parametrize(
    "uri",
    [
        f"/series/{LEASED}/metadata/5000",
        f"/series/{LEASED}/metadata/5002",
        f"/series/{LEASED}/metadata/5000/",
        f"/series/{LEASED}/metadata/05000",
        f"/series/{LEASED}/metadata/+5000",
        f"/series/{LEASED}/metadata/PathologyState",
        f"//series///{LEASED}//metadata//5000",
        f"/series/{LEASED}/metadata/%35000",
        f"/series/{LEASED}%2fmetadata/5000",
        f"/instances/{LEASED}/metadata/5000",
        f"/series/{LEASED}/attachments/5100",
        f"/series/{LEASED}/attachments/5117/compress",
        f"/series/{LEASED}/attachments/heatmap",
        f"/patients/{LEASED}/attachments/65535",
    ],
)
def test_nobody_writes_our_numbers_past_us(role: Role, method: str, uri: str) -> None:
    assert code(role, method, uri) == "forbidden_role"


@pytest.mark.parametrize(
    "uri",
    [
        f"/series/{LEASED}/metadata/Comment",
        f"/series/{LEASED}/metadata/6000",
        f"/series/{LEASED}/attachments/report",
        f"/series/{LEASED}/attachments/5050",
        f"/series/{LEASED}",
        f"/series/{LEASED}/modify",
        "/tools/bulk-delete",
        "/instances",
        "/dicom-web/studies",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_person_may_do_the_rest_of_what_orthanc_offers(method: str, uri: str) -> None:
    assert code(Role.PERSON, method, uri) == "allowed"


def test_reading_our_numbers_is_no_secret_to_people() -> None:
    assert code(Role.PERSON, "GET", f"/series/{LEASED}/metadata/5000") == "allowed"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("uri", ["/pathology/analyze", f"/series/{LEASED}", "/instances", "/tools/reset"])
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "http://pacs.example", "http://pacs.example:8042.evil.example"],
)
def test_pages_of_other_sites_change_nothing_anywhere(method: str, uri: str, origin: str) -> None:
    assert code(Role.PERSON, method, uri, {**BROWSER, "origin": origin}) == "forbidden_origin"


@pytest.mark.parametrize(
    "origin", ["http://pacs.example:8042", "https://pacs.example:8042", "https://viewer.example"]
)
def test_our_own_pages_and_the_permitted_ones_may(origin: str) -> None:
    assert code(Role.PERSON, "POST", "/pathology/analyze", {**BROWSER, "origin": origin}) == "allowed"


def test_pages_of_other_sites_may_send_a_browser_to_look() -> None:
    assert code(Role.PERSON, "GET", "/system", {**BROWSER, "origin": "https://evil.example"}) == "allowed"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"referer": "https://evil.example/page"},
        {},
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_link_whose_query_makes_it_a_delete_is_refused(method: str, headers: dict[str, str]) -> None:
    assert code(Role.PERSON, method, f"/series/{LEASED}", {**BROWSER, **headers}) == "forbidden_origin"


def test_a_delete_of_our_own_page_goes_on_with_or_without_an_origin() -> None:
    own = "http://pacs.example:8042"
    for headers in ({"origin": own}, {"referer": f"{own}/app/explorer.html"}):
        assert code(Role.PERSON, "DELETE", f"/series/{LEASED}", {**BROWSER, **headers}) == "allowed"


def test_tools_without_an_origin_may_write() -> None:
    for agent in ("curl/8", "python-requests/2", "Mozilla/5.0 (Windows NT) WindowsPowerShell/5.1"):
        assert code(Role.PERSON, "DELETE", f"/series/{LEASED}", {**HOST, "user-agent": agent}) == "allowed"


# People.


@pytest.mark.parametrize("root", ["/pathology", "/api/pathology"])
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/claim"),
        ("POST", "/update-status/1"),
        ("POST", "/complete-request/1"),
        ("PUT", "/requests/1/artifacts/heatmap.png"),
    ],
)
def test_the_routes_of_workers_are_workers_only(root: str, slash: str, method: str, path: str) -> None:
    uri = f"{root}{path}{slash}"
    assert code(Role.WORKER, method, uri) == "allowed"
    assert code(Role.PERSON, method, uri) == "forbidden_role"
    assert code(Role.MONITOR, method, uri) == "forbidden_role"
    assert code(Role.NOBODY, method, uri) == "forbidden_role"


# Workers.


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        ("GET", "/system"),
        ("GET", "/pathology/pending-requests/"),
        ("GET", "/pathology/requests"),
        ("GET", "/pathology/requests/1"),
        ("GET", "/pathology/requests/1/artifacts/heatmap.png"),
        ("GET", "/pathology/models"),
        ("GET", "/pathology/health"),
        ("GET", "/api/pathology/pending-requests/"),
    ],
)
def test_a_worker_sees_the_queue(method: str, uri: str) -> None:
    assert code(Role.WORKER, method, uri) == "allowed"


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("POST", "/pathology/instances/{}/ranges"),
        ("GET", "/pathology/instances/{}/frames"),
        ("GET", "/series/{}"),
        ("GET", "/series/{}/instances"),
        ("GET", "/instances/{}"),
        ("GET", "/instances/{}/file"),
        ("GET", "/instances/{}/attachments/dicom/data"),
        ("GET", "/instances/{}/attachments/dicom/info"),
        ("GET", "/instances/{}/simplified-tags"),
    ],
)
def test_a_worker_reads_slides_under_its_lease_only(method: str, pattern: str) -> None:
    assert code(Role.WORKER, method, pattern.format(LEASED)) == "allowed"
    assert code(Role.WORKER, method, pattern.format(OTHER)) == "forbidden_role"
    assert code(Role.PERSON, method, pattern.format(OTHER)) == "allowed"


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        ("GET", "/patients"),
        ("GET", "/series"),
        ("GET", "/instances"),
        ("GET", "/studies/x"),
        ("GET", f"/series/{LEASED}/metadata"),
        ("GET", f"/instances/{LEASED}/preview"),
        ("GET", f"/instances/{LEASED}/../patients"),
        ("GET", f"/instances/{LEASED.upper()}"),
        ("GET", "/dicom-web/studies"),
        ("GET", "/changes"),
        ("GET", "/app/explorer.html"),
        ("GET", "/SYSTEM"),
        ("GET", "/system%00"),
        ("GET", "/systemx"),
        ("GET", "/"),
        ("GET", ""),
        ("POST", "/system"),
        ("POST", "/instances"),
        ("POST", "/tools/find"),
        ("POST", "/tools/bulk-delete"),
        ("POST", "/tools/execute-script"),
        ("POST", "/tools/shutdown"),
        ("DELETE", f"/series/{LEASED}"),
        ("DELETE", f"/instances/{LEASED}"),
        ("POST", "/pathology/analyze"),
        ("POST", "/pathology/requests/1/cancel"),
        ("POST", "/pathology/requests/1/withdraw"),
        ("POST", "/pathology/workers/lab/drain"),
        ("POST", "/pathology/instances/../../instances/ranges"),
        ("HEAD", "/system"),
        ("", "/system"),
    ],
)
def test_a_worker_may_do_nothing_else(method: str, uri: str) -> None:
    assert code(Role.WORKER, method, uri) == "forbidden_role"


# Monitors, and requests without a name.


def test_a_monitor_reads_health_and_metrics_only() -> None:
    assert code(Role.MONITOR, "GET", "/pathology/health") == "allowed"
    assert code(Role.MONITOR, "GET", "/pathology/metrics/") == "allowed"
    for uri in ("/system", "/pathology/requests", "/series", "/pathology/health/x"):
        assert code(Role.MONITOR, "GET", uri) == "forbidden_role"


def test_a_token_that_orthanc_accepted_reaches_orthancs_own_routes_only() -> None:
    assert code(Role.NOBODY, "GET", "/series") == "allowed"
    assert code(Role.NOBODY, "GET", "/pathology/requests") == "forbidden_role"
    assert code(Role.NOBODY, "GET", "/api/pathology/health") == "forbidden_role"


def test_without_passwords_a_request_without_a_name_reaches_nothing() -> None:
    open_server = replace(POLICY, authentication_enabled=False)
    assert decide(Role.NOBODY, "GET", "/system", policy=open_server) is not None


@pytest.mark.parametrize("path", ["file", "file/", "attachments/dicom/data"])
def test_a_worker_gets_the_files_of_volumes_and_of_no_label(path: str) -> None:
    assert code(Role.WORKER, "GET", f"/instances/{LEASED}/{path}") == "allowed"
    assert code(Role.WORKER, "GET", f"/instances/{LABEL}/{path}") == "forbidden_role"
    assert code(Role.WORKER, "GET", f"/instances/{LABEL}/tags") == "allowed"
    assert code(Role.PERSON, "GET", f"/instances/{LABEL}/{path}") == "allowed"
