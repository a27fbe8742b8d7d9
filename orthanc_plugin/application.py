# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plugin without Orthanc around it: one function from request to answer, on any gateway."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from .access.native_calls import may_store
from .access.roles import Policy, Role, check, role_of
from .access.users import is_forged, user_name
from .audit import Audit
from .clock import Clock
from .errors import ApiError, StorageError
from .gateway import Gateway
from .http import Request, Response, error_response, is_form
from .routes.all_routes import Routes
from .routes.ranges import RangeServer
from .routes.router import Router
from .service.build import build_core
from .service.core import Core, audit_refusal, signed_in, unavailable
from .service.report import holds_lease_on
from .settings import Settings, names_of_numbers
from .slides.eligibility import is_volume
from .storage.numbering import LAST_NUMBER

OWN_ROUTES = re.compile(r"/(?:api/)?pathology(?:/[\s\S]*)?")
_LONGEST_HOLD_S = 10.0
_FORGED = ApiError(403, "forged_user", "Only the proxy on this machine may name the user.")
_AUDITED = frozenset({"forbidden_role", "forbidden_origin", "lease_lost", "already_completed"})


class Application:
    """Roles, routes and the queue.

    Parameters
    ----------
    settings
        What the site decided.
    gateway
        Orthanc, or its twin in memory.
    clock
        Time and chance.
    audit
        Where it is noted who did what.
    warn
        Takes a sentence for the server's log.
    """

    def __init__(
        self, settings: Settings, gateway: Gateway, clock: Clock, audit: Audit, warn: Callable[[str], None]
    ) -> None:
        self.core: Core = build_core(settings, gateway, clock, audit, warn)
        self.router = Router(Routes(self.core, RangeServer(gateway)).table())
        configuration = gateway.configuration()
        self._policy = _policy(settings, configuration)

    def handle(self, request: Request) -> Response:
        """Answer a request of a user whose password Orthanc has checked."""
        before = signed_in.set(request.user)
        try:
            refusal = self._refusal(request.user, request.method, request.path, request.headers)
            return self.router.dispatch(request) if refusal is None else error_response(refusal)
        except ApiError as error:
            if error.code in _AUDITED:
                audit_refusal(self.core, request.user, f"{request.method} {request.path}", error)
            return error_response(error)
        except StorageError as error:
            return error_response(unavailable(error))
        finally:
            signed_in.reset(before)

    def user_of(self, headers: Mapping[str, str]) -> str:
        """Return the name of the user whom Orthanc, or the trusted proxy, accepted."""
        settings = self.core.settings
        return user_name(
            headers,
            settings.trusted_user_header,
            authentication_enabled=self._policy.authentication_enabled,
            listed=(*settings.workers, *settings.monitors),
        )

    def allows(self, method: str, uri: str, peer: str, headers: Mapping[str, str]) -> bool:
        """Decide on a request to any of Orthanc's routes; our own answer with a sentence of their own.

        Where Orthanc overwrites instances, what may store waits at a start until the requests are read
        (10 s at most).
        """
        if is_forged(headers, self.core.settings.trusted_user_header, peer):
            audit_refusal(self.core, "", f"{method} {uri} from {peer}", _FORGED)
            return False
        if OWN_ROUTES.fullmatch(uri):
            return not is_form(headers)  # to be a 415, of which nobody would hear
        if self._refusal(self.user_of(headers), method, uri, headers) is not None:
            return False
        if self.core.overwrites and may_store(method, uri):
            # A slide overwritten before its requests are read would take them along.
            self.core.ready.all_known.wait(_LONGEST_HOLD_S)
        return True

    def _refusal(self, user: str, method: str, uri: str, headers: Mapping[str, str]) -> ApiError | None:
        settings = self.core.settings
        role: Role = role_of(user, settings.workers, settings.monitors)
        refusal = check(
            role,
            method,
            uri,
            headers,
            self._policy,
            lambda orthanc_id: holds_lease_on(self.core, user, orthanc_id),
            self._is_volume,
        )
        if refusal is not None:
            audit_refusal(self.core, user, f"{method} {uri}", refusal)
        return refusal

    def _is_volume(self, instance_id: str) -> bool:
        instance = self.core.gateway.instance(instance_id)
        return instance is not None and is_volume(instance)


def _policy(settings: Settings, configuration: Mapping[str, Any]) -> Policy:
    first = settings.first_attachment
    return Policy(
        protected_metadata=_numbers(first, settings.metadata_number, settings.damaged_number),
        protected_attachments=_numbers(first, settings.archive_number, settings.damaged_number),
        metadata_names=names_of_numbers(configuration.get("UserMetadata")),
        attachment_names=names_of_numbers(configuration.get("UserContentType")),
        allowed_origins=settings.allowed_origins,
        authentication_enabled=configuration.get("AuthenticationEnabled") is True,
    )


@lru_cache(maxsize=8)
def _numbers(first: int, *others: int) -> frozenset[int]:
    return frozenset({*others, *range(first, LAST_NUMBER + 1)})
