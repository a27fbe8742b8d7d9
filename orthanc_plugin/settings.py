# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `Pathology` section of Orthanc's configuration, checked once at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from . import setting_values as read
from .errors import SettingsError
from .setting_values import PermittedModel
from .slides.arrival import ArrivalRule
from .webhook_client import Endpoint

_SECTION = "Pathology"
_FIRST_USER_NUMBER = 1024
_LAST_USER_NUMBER = 65535
_DEFAULT_HTTP_THREADS = 50

COPY_SHARDS = 64
"""Global properties that the copies of open requests are spread over: each write rewrites one of them."""


@dataclass(frozen=True)
class Settings:
    """Everything a site can set; durations are seconds.

    Attributes
    ----------
    enabled
        False leaves Orthanc without any route of this plugin (all nodes of a database but one).
    workers, monitors
        Users that may claim and complete, and users that may only watch. Everybody else is a person.
    allowed_origins
        Origins besides Orthanc's own whose pages may change state.
    trusted_user_header
        Header in which a proxy on the same machine names the user, or None.
    allow_tokenless
        Whether older workers, which know no token, may take requests.
    models
        Permitted models, or None where any model may run.
    metadata_number, damaged_number, archive_number, first_attachment
        Numbers of the series' metadata and attachments that the plugin keeps its state in. From the last one
        on all numbers, of metadata and of attachments, are for results.
    global_property
        Number of the first of the database's global properties that the plugin keeps; this one lists the
        series with open requests, and those that follow are the properties below.
    rules
        What is submitted by itself when a slide arrives.
    audit
        ``syslog``, or the path of the audit file; None puts it into Orthanc's storage folder.
    source_url
        Where the source of the running plugin is offered (AGPL, section 13); empty: by the plugin itself.
    webhook
        Who is told when a request has ended, or None.
    """

    enabled: bool = True
    workers: tuple[str, ...] = ()
    monitors: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_user_header: str | None = None
    models: tuple[PermittedModel, ...] | None = None
    metadata_number: int = 5000
    archive_number: int = 5001
    damaged_number: int = 5002
    first_attachment: int = 5100
    global_property: int = 5000
    lease_s: float = 60.0
    heartbeat_s: float = 15.0
    confirm_s: float = 15.0
    retry_s: float = 30.0
    max_attempts: int = 3
    allow_tokenless: bool = False
    claim_waiters: int = 10
    page_waiters: int = 10
    rules: tuple[ArrivalRule, ...] = ()
    audit: str | None = None
    source_url: str = ""
    webhook: Endpoint | None = None

    @property
    def rules_property(self) -> int:
        """Number of the global property that says up to when arrivals have been looked at."""
        return self.global_property + 1

    @property
    def unpublished_property(self) -> int:
        """Number of the one that lists DICOM results which are not part of a completed request."""
        return self.global_property + 2

    @property
    def drain_property(self) -> int:
        """Number of the one that lists the workers which are to take nothing more."""
        return self.global_property + 3

    @property
    def copies_property(self) -> int:
        """Number of the first of `COPY_SHARDS` that hold copies of open requests (see `storage.copies`)."""
        return self.global_property + 4


def _runs_permitted_models(settings: Settings) -> bool:
    if settings.models is None:
        return True
    names = {model.name for model in settings.models if model.enabled}
    return all(rule.model in names for rule in settings.rules)


_number = read.whole(_FIRST_USER_NUMBER, _LAST_USER_NUMBER)
_first_property = read.whole(_FIRST_USER_NUMBER, _LAST_USER_NUMBER - 3 - COPY_SHARDS)
_KEYS: Mapping[str, tuple[str, read.Reader]] = {
    "Enabled": ("enabled", read.truth),
    "Workers": ("workers", read.names),
    "Monitors": ("monitors", read.names),
    "AllowedOrigins": ("allowed_origins", read.origins),
    "TrustedUserHeader": ("trusted_user_header", read.user_header),
    "Models": ("models", read.models),
    "MetadataNumber": ("metadata_number", _number),
    "ArchiveAttachment": ("archive_number", _number),
    "DamagedMetadataNumber": ("damaged_number", _number),
    "FirstAttachment": ("first_attachment", _number),
    "GlobalProperty": ("global_property", _first_property),
    "Rules": ("rules", read.rules),
    "LeaseSeconds": ("lease_s", read.seconds(1, 3600)),
    "HeartbeatSeconds": ("heartbeat_s", read.seconds(0.2, 1200)),
    "ConfirmSeconds": ("confirm_s", read.seconds(0.5, 600)),
    "RetrySeconds": ("retry_s", read.seconds(0, 3600)),
    "AllowTokenless": ("allow_tokenless", read.truth),
    "MaxAttempts": ("max_attempts", read.whole(1, 20)),
    "ClaimWaiters": ("claim_waiters", read.whole(0, 200)),
    "PageWaiters": ("page_waiters", read.whole(0, 200)),
    "Audit": ("audit", read.text),
    "Source": ("source_url", read.text),
    "Webhook": ("webhook", read.webhook),
}


@dataclass(frozen=True)
class _Rule:
    holds: Callable[[Settings], bool]
    sentence: str


_RULES = (
    _Rule(
        lambda settings: settings.heartbeat_s < settings.lease_s,
        "Pathology.HeartbeatSeconds must be smaller than Pathology.LeaseSeconds.",
    ),
    _Rule(
        lambda settings: not set(settings.workers) & set(settings.monitors),
        "A user may stand in Pathology.Workers or in Pathology.Monitors, not in both.",
    ),
    _Rule(
        lambda settings: (
            settings.trusted_user_header is not None
            or not any(":" in name for name in (*settings.workers, *settings.monitors))
        ),
        "A user in Pathology.Workers or Pathology.Monitors has a colon in the name: nobody can sign in with "
        "one, because a browser or worker sends name and password with a colon between them.",
    ),
    _Rule(
        lambda settings: len({settings.metadata_number, settings.damaged_number}) == 2,
        "Pathology.MetadataNumber and Pathology.DamagedMetadataNumber must differ.",
    ),
    _Rule(
        lambda settings: settings.archive_number != settings.damaged_number,
        "Pathology.ArchiveAttachment and Pathology.DamagedMetadataNumber must differ: a damaged archive is "
        "kept as an attachment of that number.",
    ),
    _Rule(
        _runs_permitted_models,
        "Pathology.Rules names a model that Pathology.Models does not permit.",
    ),
    _Rule(
        lambda settings: (
            max(settings.metadata_number, settings.damaged_number, settings.archive_number)
            < settings.first_attachment
        ),
        "Pathology.MetadataNumber, Pathology.DamagedMetadataNumber and Pathology.ArchiveAttachment must be "
        "smaller than Pathology.FirstAttachment: all numbers from that one on are for results. Set a larger "
        "FirstAttachment; where requests lie under the others already, leave those as they are.",
    ),
)


def read_settings(configuration: Mapping[str, Any]) -> Settings:
    """Return the plugin's settings out of Orthanc's whole configuration.

    Raises
    ------
    SettingsError
        Where a key is unknown, a value is bad, or Orthanc itself is not configured safely; the sentence names
        the key.
    """
    section = configuration.get(_SECTION, {})
    if not isinstance(section, dict):
        raise SettingsError(f"{_SECTION} must be an object, not {section!r}.")
    settings = Settings(**read.checked(_SECTION, section, _KEYS))
    for rule in _RULES:
        if not rule.holds(settings):
            raise SettingsError(rule.sentence)
    if settings.enabled:
        _check_orthanc(configuration, settings)
    return settings


def _check_orthanc(configuration: Mapping[str, Any], settings: Settings) -> None:
    if configuration.get("AuthenticationEnabled") is not True and settings.trusted_user_header is None:
        raise SettingsError(
            "AuthenticationEnabled must be true and RegisteredUsers filled: the plugin must know who asks."
        )
    if configuration.get("CheckRevisions") is True and _has_foreign_index(configuration):
        raise SettingsError(
            "CheckRevisions must be false: this plugin coordinates one database from exactly one Orthanc."
        )
    _check_threads(configuration, settings)
    _check_numbers_free(configuration, settings.first_attachment)


def _check_threads(configuration: Mapping[str, Any], settings: Settings) -> None:
    if _threads_left(configuration, settings) < 0:
        raise SettingsError(
            "Pathology.ClaimWaiters and Pathology.PageWaiters are more than Orthanc has HTTP threads: "
            "lower them, or set a larger HttpThreadsCount."
        )


def _threads_left(configuration: Mapping[str, Any], settings: Settings) -> int:
    """Return how many of Orthanc's HTTP threads are free while all that may wait do."""
    threads = configuration.get("HttpThreadsCount")
    count = threads if isinstance(threads, int) else _DEFAULT_HTTP_THREADS
    return count - settings.claim_waiters - settings.page_waiters


def _check_numbers_free(configuration: Mapping[str, Any], first: int) -> None:
    for section in ("UserMetadata", "UserContentType"):
        for name, number in names_of_numbers(configuration.get(section)).items():
            if number >= first:
                raise SettingsError(
                    f"{section} gives {name} the number {number}, but from Pathology.FirstAttachment "
                    f"({first}) on all numbers are for results. Give {name} a smaller number, or set "
                    "FirstAttachment above it."
                )


def names_of_numbers(section: Any) -> dict[str, int]:
    """Return name to number out of Orthanc's `UserMetadata` or `UserContentType` section."""
    if not isinstance(section, Mapping):
        return {}
    # [number, MIME type] is the second form of UserContentType.
    entries = (
        (name, value[0] if isinstance(value, list) and value else value) for name, value in section.items()
    )
    return {name: value for name, value in entries if isinstance(value, int)}


def _has_foreign_index(configuration: Mapping[str, Any]) -> bool:
    sections = (configuration.get(name) for name in ("PostgreSQL", "MySQL", "Odbc"))
    return any(isinstance(section, dict) and section.get("EnableIndex") is True for section in sections)


def warnings_on(configuration: Mapping[str, Any], settings: Settings) -> tuple[str, ...]:
    """Return sentences about settings that are allowed and hardly meant."""
    found = []
    if not settings.workers:
        found.append("Pathology.Workers names nobody, so no request will ever be analysed.")
    if settings.webhook is not None and _is_plain_elsewhere(settings.webhook.url):
        found.append("Pathology.Webhook.Url is plain http to another machine: anybody between can read it.")
    if _threads_left(configuration, settings) == 0:
        found.append(
            "Pathology.ClaimWaiters and Pathology.PageWaiters may hold all of Orthanc's HTTP threads, and "
            "others wait for 30 s then: lower them, or set a larger HttpThreadsCount."
        )
    if _has_foreign_index(configuration) and not configuration.get("DatabaseServerIdentifier"):
        found.append(
            "DatabaseServerIdentifier is not set, so that with another host name or port Orthanc loses what "
            "the plugin keeps in its database: who is drained, and up to where rules have looked. Set it to "
            "what SELECT DISTINCT server FROM ServerProperties shows."
        )
    registered = configuration.get("RegisteredUsers")
    if settings.trusted_user_header is None and isinstance(registered, dict):
        unknown = sorted({*settings.workers, *settings.monitors} - registered.keys())
        found += [
            f"Pathology names the user {name!r}, who does not stand in RegisteredUsers." for name in unknown
        ]
    return tuple(found)


def _is_plain_elsewhere(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}
