# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Pathology section: what it may say, and the sentence where it says something else."""

from __future__ import annotations

from typing import Any

import pytest

from orthanc_plugin.errors import SettingsError
from orthanc_plugin.setting_values import PermittedModel
from orthanc_plugin.settings import COPY_SHARDS, Settings, read_settings, warnings_on

WEBHOOK = {"Url": "https://lis.example.org/hook", "Secret": "whsec_" + "QUJD" * 11}


def read(section: Any = None, **configuration: Any) -> Settings:
    base = {"AuthenticationEnabled": True, **configuration}
    return read_settings(base if section is None else {**base, "Pathology": section})


def test_without_a_section_nobody_is_a_worker_and_any_model_runs() -> None:
    settings = read()
    assert settings == Settings()
    assert settings.workers == ()
    assert settings.models is None


def test_a_section_is_read() -> None:
    settings = read(
        {
            "Workers": ["lab"],
            "Monitors": ["watch"],
            "LeaseSeconds": 90,
            "Models": [
                {"Name": "oscc", "Sha256": "A" * 64, "Default": True},
                {"Name": "b", "Enabled": False},
            ],
        }
    )
    assert settings.workers == ("lab",)
    assert settings.lease_s == 90.0
    assert settings.models == (
        PermittedModel("oscc", sha256="a" * 64, is_default=True),
        PermittedModel("b", enabled=False),
    )


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"Worker": ["lab"]}, "Pathology.Worker "),
        ({"Workers": "lab"}, "Pathology.Workers"),
        ({"Workers": [""]}, "Pathology.Workers[0]"),
        ({"Enabled": "yes"}, "Pathology.Enabled"),
        ({"LeaseSeconds": 0}, "Pathology.LeaseSeconds"),
        ({"LeaseSeconds": True}, "Pathology.LeaseSeconds"),
        ({"HeartbeatSeconds": 60}, "Pathology.HeartbeatSeconds"),
        ({"MetadataNumber": 12}, "Pathology.MetadataNumber"),
        ({"MetadataNumber": 5002}, "Pathology.MetadataNumber"),
        ({"ArchiveAttachment": 5100}, "Pathology.ArchiveAttachment"),
        ({"Webhook": "https://a.example"}, "Pathology.Webhook"),
        ({"Webhook": {"Url": "https://a.example"}}, "Pathology.Webhook"),
        ({"Webhook": {**WEBHOOK, "Url": "ftp://a.example/"}}, "Pathology.Webhook.Url"),
        ({"Webhook": {**WEBHOOK, "Url": "file:///etc/passwd"}}, "Pathology.Webhook.Url"),
        ({"Webhook": {**WEBHOOK, "Url": "https://"}}, "Pathology.Webhook.Url"),
        ({"Webhook": {**WEBHOOK, "Url": "https://a..example/"}}, "Pathology.Webhook.Url"),
        ({"Webhook": {**WEBHOOK, "Url": "https://me@a.example/"}}, "Pathology.Webhook.Url"),
        ({"Webhook": {**WEBHOOK, "Url": "https://a.example:port/"}}, "Pathology.Webhook.Url"),
        ({"Webhook": {**WEBHOOK, "Url": "https://a.example/\r\nX: y"}}, "Pathology.Webhook.Url"),
        ({"Webhook": {**WEBHOOK, "Url": 7}}, "Pathology.Webhook.Url"),
        ({"Webhook": {**WEBHOOK, "Secret": ""}}, "Pathology.Webhook.Secret"),
        ({"Webhook": {**WEBHOOK, "Secret": "c2hvcnQ="}}, "Pathology.Webhook.Secret"),
        (
            {"Webhook": {**WEBHOOK, "Secret": "not Base64, whatever its length is"}},
            "Pathology.Webhook.Secret",
        ),
        ({"Webhook": {**WEBHOOK, "Secret": None}}, "Pathology.Webhook.Secret"),
        ({"Webhook": {**WEBHOOK, "Retries": 3}}, "Pathology.Webhook.Retries"),
        ({"Models": {}}, "Pathology.Models"),
        ({"Models": [{"Sha256": "a"}]}, "Pathology.Models[0]"),
        ({"Models": [{"Name": "a", "Sha256": "a"}]}, "Pathology.Models[0].Sha256"),
        ({"Models": [{"Name": "a", "Size": 1}]}, "Pathology.Models[0].Size"),
        ({"Rules": {}}, "Pathology.Rules"),
        ({"Rules": [{"Model": "a"}]}, "Pathology.Rules[0]"),
        ({"Rules": [{"Match": {}, "Model": "a"}]}, "Pathology.Rules[0].Match"),
        ({"Rules": [{"Match": {"0018,0015": "a"}, "Model": "a"}]}, "Pathology.Rules[0].Match"),
        ({"Rules": [{"Match": {"Modality": []}, "Model": "a", "Prio": 1}]}, "Pathology.Rules[0].Prio"),
        ({"Rules": [{"Match": {"Modality": 5}, "Model": "a"}]}, "Pathology.Rules[0].Match.Modality"),
        (
            {"Models": [{"Name": "b"}], "Rules": [{"Match": {"Modality": "SM"}, "Model": "a"}]},
            "Pathology.Rules",
        ),
        ({"GlobalProperty": 65_469}, "Pathology.GlobalProperty"),
        ({"Workers": ["a"], "Monitors": ["a"]}, "Pathology.Monitors"),
        ({"Workers": ["a:b"]}, "Pathology.Workers"),
        ({"Monitors": ["a:b"]}, "Pathology.Monitors"),
        ({"AllowedOrigins": ["*"]}, "Pathology.AllowedOrigins[0]"),
        ({"AllowedOrigins": ["https://a.example", "https://b.example/"]}, "Pathology.AllowedOrigins[1]"),
        ({"AllowedOrigins": ["https://a.example/viewer"]}, "Pathology.AllowedOrigins[0]"),
        ({"AllowedOrigins": ["https://A.example"]}, "Pathology.AllowedOrigins[0]"),
        ({"AllowedOrigins": ["https://a.example:443"]}, "Pathology.AllowedOrigins[0]"),
        ({"AllowedOrigins": ["a.example"]}, "Pathology.AllowedOrigins[0]"),
        ({"AllowedOrigins": ["null"]}, "Pathology.AllowedOrigins[0]"),
        ({"TrustedUserHeader": "Authorization"}, "Pathology.TrustedUserHeader"),
        ({"TrustedUserHeader": "host"}, "Pathology.TrustedUserHeader"),
        ({"TrustedUserHeader": "X-Remote-User:"}, "Pathology.TrustedUserHeader"),
        ({"ClaimWaiters": 41, "PageWaiters": 10}, "HttpThreadsCount"),
        ([], "Pathology"),
    ],
)
def test_a_mistake_is_named(section: Any, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(section)
    assert named in str(caught.value)


def test_the_properties_of_the_database_follow_one_another_up_to_the_last_number() -> None:
    settings = read({"GlobalProperty": 65_468})
    own = (settings.rules_property, settings.unpublished_property, settings.drain_property)
    assert (settings.global_property, *own, settings.copies_property) == tuple(range(65_468, 65_473))
    assert settings.copies_property + COPY_SHARDS - 1 == 65_535


def test_origins_are_taken_as_browsers_send_them() -> None:
    origins = ["https://viewer.example.org", "http://10.0.0.7:8080", "https://[::1]:3000", "app://viewer"]
    assert read({"AllowedOrigins": origins}).allowed_origins == tuple(origins)


def test_a_user_that_a_proxy_names_may_have_a_colon() -> None:
    assert read({"Workers": ["lab:a"], "TrustedUserHeader": "X-User"}).workers == ("lab:a",)


def test_more_threads_have_room_for_more_waiters() -> None:
    section = {"ClaimWaiters": 100, "PageWaiters": 50}
    assert read(section, HttpThreadsCount=200).claim_waiters == 100
    with pytest.raises(SettingsError, match="HttpThreadsCount"):
        read(HttpThreadsCount=19)


@pytest.mark.parametrize(("threads", "doubted"), [(20, True), (21, False)])
def test_waiters_that_may_hold_every_thread_are_doubted(threads: int, doubted: bool) -> None:
    settings = read(HttpThreadsCount=threads)
    said = warnings_on({"HttpThreadsCount": threads}, settings)
    assert any("HttpThreadsCount" in doubt for doubt in said) is doubted


@pytest.mark.parametrize(
    ("orthanc", "warned"),
    [
        ({"PostgreSQL": {"EnableIndex": True}}, True),
        ({"PostgreSQL": {"EnableIndex": True}, "DatabaseServerIdentifier": "pathology"}, False),
        ({}, False),
    ],
)
def test_a_database_that_knows_orthanc_by_its_port_is_warned_of(
    orthanc: dict[str, Any], warned: bool
) -> None:
    said = warnings_on(orthanc, read(**orthanc))
    assert any("DatabaseServerIdentifier" in sentence for sentence in said) is warned


def test_rules_are_read() -> None:
    match = {"BodyPartExamined": ["MOUTH", "TONGUE"], "RemoteAET": "SCANNER1"}
    (rule,) = read({"Rules": [{"Match": match, "Model": "oral", "Priority": -5}]}).rules
    assert rule.name == rule.model == "oral"
    assert rule.match == (("BodyPartExamined", ("MOUTH", "TONGUE")), ("RemoteAET", ("SCANNER1",)))
    assert rule.priority == -5


def test_two_defaults_are_refused() -> None:
    models = [{"Name": "a", "Default": True}, {"Name": "b", "Default": True}]
    with pytest.raises(SettingsError, match="Default"):
        read({"Models": models})


@pytest.mark.parametrize("enabled", [False, None, "true"])
def test_without_authentication_it_does_not_start(enabled: Any) -> None:
    with pytest.raises(SettingsError, match="AuthenticationEnabled"):
        read_settings({"AuthenticationEnabled": enabled})


def test_a_trusted_proxy_stands_in_for_authentication() -> None:
    section = {"TrustedUserHeader": "X-Remote-User"}
    settings = read_settings({"AuthenticationEnabled": False, "Pathology": section})
    assert settings.trusted_user_header == "x-remote-user"


def test_two_coordinators_on_one_database_are_refused() -> None:
    with pytest.raises(SettingsError, match="CheckRevisions"):
        read(CheckRevisions=True, PostgreSQL={"EnableIndex": True})
    assert read(CheckRevisions=True).enabled


def test_a_disabled_plugin_asks_for_nothing() -> None:
    assert not read_settings({"Pathology": {"Enabled": False}}).enabled


def test_what_is_hardly_meant_is_said() -> None:
    configuration = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "x"}}
    assert "names nobody" in warnings_on(configuration, read_settings(configuration))[0]
    configuration["Pathology"] = {"Workers": ["lab"]}
    assert "'lab'" in warnings_on(configuration, read_settings(configuration))[0]
    configuration["Pathology"] = {"Workers": ["alice"]}
    assert warnings_on(configuration, read_settings(configuration)) == ()


def test_a_webhook_is_read_and_its_secret_is_in_no_text() -> None:
    webhook = read({"Webhook": WEBHOOK}).webhook
    assert webhook is not None
    assert webhook.url == WEBHOOK["Url"]
    assert webhook.key == b"ABC" * 11
    assert "ABC" not in repr(webhook)


def test_a_bad_webhook_is_named_without_its_values() -> None:
    for bad in ({"Url": "gopher://secret"}, {"Secret": "secret"}):
        with pytest.raises(SettingsError) as caught:
            read({"Webhook": {**WEBHOOK, **bad}})
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "doubted"),
    [("http://10.0.0.7/hook", True), ("http://127.0.0.1:8000/", False), ("https://a.example/", False)],
)
def test_messages_in_the_clear_over_the_network_are_doubted_aloud(url: str, doubted: bool) -> None:
    settings = read({"Workers": ["lab"], "Webhook": {**WEBHOOK, "Url": url}})
    assert any("Webhook.Url" in said for said in warnings_on({}, settings)) is doubted
