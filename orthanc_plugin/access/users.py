# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which user a request is of, as far as somebody has checked that."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from orthanc_plugin.errors import SettingsError

_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|::1|::ffff:127(\.\d{1,3}){3}", re.ASCII)
_PASSED_OVER = frozenset({"Mn", "Cf", "Cc"})


def refuse_unsafe_users(configuration: Mapping[str, Any]) -> None:
    """Refuse a list of users that does not protect: Orthanc itself takes an empty password.

    ``${ORTHANC_PASSWORD}`` becomes an empty string where the variable is not set.

    Raises
    ------
    SettingsError
        Where it names nobody, where a password is empty, or a name is, or a name holds a colon (Basic
        authentication cuts there).
    """
    users = configuration.get("RegisteredUsers")
    if not isinstance(users, Mapping) or not users:
        raise SettingsError(
            "RegisteredUsers names nobody: Orthanc would let in orthanc with the password orthanc. Name your "
            "users there."
        )
    for name, password in users.items():
        if not name or ":" in name:
            raise SettingsError(
                f"RegisteredUsers: {name!r} is no user's name; it must hold a letter and no colon."
            )
        if not password:
            raise SettingsError(
                f"RegisteredUsers: {name} has an empty password. Give it one, or set the environment "
                "variable that the configuration takes it from."
            )


def user_name(
    headers: Mapping[str, str],
    trusted_header: str | None = None,
    *,
    authentication_enabled: bool = True,
    listed: Collection[str] = (),
) -> str:
    """Return the name in a request's headers; ``""`` where there is none that anybody has checked.

    The password beside it is dropped here. It is Orthanc that compared it.

    Parameters
    ----------
    headers
        Header names in lower case.
    trusted_header
        Header in which a proxy on this machine names the user, in lower case; see `is_forged`.
    authentication_enabled
        True where Orthanc checks passwords itself; else the Authorization header proves nothing.
    listed
        Users with a role. A proxy's directory may sign in LAB or láb where it knows lab, who is one user to
        it: in the header such a name means the one that is listed. To Orthanc's own list they are two.
    """
    named = headers.get(trusted_header, "").strip() if trusted_header is not None else ""
    if named or not authentication_enabled:
        return _as_listed(named, listed)
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    name, colon, _ = decoded.partition(":")
    return name if colon else ""


def _as_listed(name: str, listed: Collection[str]) -> str:
    if name in listed:
        return name
    compared = _compared(name)
    return next((user for user in listed if _compared(user) == compared), name)


def _compared(name: str) -> str:
    """Return a name without what directories pass over: case, width, accents, what is not seen (RFC 4518)."""
    characters = unicodedata.normalize("NFKD", name).casefold()
    seen = "".join(one for one in characters if unicodedata.category(one) not in _PASSED_OVER)
    return " ".join(seen.split())


def is_forged(headers: Mapping[str, str], trusted_header: str | None, peer: str) -> bool:
    """Tell whether a request from another machine names its user in the proxy's header."""
    return trusted_header is not None and trusted_header in headers and not is_loopback(peer)


def is_loopback(peer: str) -> bool:
    """Tell whether a peer's address is this machine's own."""
    return _LOOPBACK.fullmatch(peer) is not None
