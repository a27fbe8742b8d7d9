# SPDX-License-Identifier: Apache-2.0
"""HTTP as every part of the worker uses it: sessions of one user, and failures as sentences."""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

import requests

from worker import __version__
from worker.errors import (
    BusyError,
    ForeignAnswerError,
    LeaseLostError,
    RefusedError,
    RequestGoneError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
)
from worker.settings import Credentials, Settings

from .timely import TimelyAdapter

_PIECE = 1 << 20
_LONGEST_PAUSE_S = 60.0
"""No answer puts off the next call for longer: a page that announces an hour's work may be gone at once."""

_REFUSED_BY_OPENSSL = re.compile(r"certificate verify failed: (.+?)\.? \(_ssl\.c")
_SPEAKS_NO_TLS = re.compile(
    r"wrong.version.number|record.layer.failure|packet.length.too.long|unknown.protocol", re.IGNORECASE
)
"""Which of them OpenSSL says of an answer in plain HTTP depends on its version."""
_UNKNOWN_ISSUER = re.compile(r"issuer certificate|self.signed certificate|verify the first certificate")


def make_session(credentials: Credentials | None, connections: int = 8) -> requests.Session:
    """Make a session that authenticates as one user; proxies and CA come from the environment.

    ``.netrc`` is not consulted: it would silently replace the user that was set.
    """
    session = requests.Session()
    session.auth = _Basic(credentials) if credentials else _Nobody()
    session.headers["User-Agent"] = f"pathology-worker/{__version__}"
    adapter = TimelyAdapter(pool_connections=2, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Nobody(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Basic(requests.auth.HTTPBasicAuth):
    """Basic authentication in UTF-8, as Orthanc compares it, and silent about itself."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__(credentials.user.encode(), credentials.password.encode())

    def __repr__(self) -> str:
        return "<Basic authentication>"


def unreachable(address: str, error: requests.RequestException) -> ServerError:
    """Turn a failure of the transport into a sentence."""
    if isinstance(error, requests.exceptions.SSLError):
        text = _tls_refused(str(error))
    elif isinstance(error, requests.exceptions.ProxyError):
        text = "the proxy does not let it through: check HTTPS_PROXY and NO_PROXY"
    elif isinstance(error, requests.exceptions.Timeout):
        text = "no answer came in time: check the network, and READ_TIMEOUT if the line is slow"
    else:
        text = "check that Orthanc runs, the address and the network"
    failure = UnreachableError(f"Cannot reach {address}: {text}.")
    failure.dropped = _was_dropped(error)
    return failure


def _tls_refused(said: str) -> str:
    """Say what to do about a certificate or a port without TLS, from OpenSSL's words in an error."""
    if _SPEAKS_NO_TLS.search(said):
        return "this port speaks no TLS: use http://, or the port of the proxy that does"
    reason = _REFUSED_BY_OPENSSL.search(said)
    if reason is None or _UNKNOWN_ISSUER.search(reason[1]):
        return "its certificate is not trusted here: set REQUESTS_CA_BUNDLE to the file of your CA"
    return (
        f"its certificate is refused ({reason[1]}): correct the address, or have the certificate issued anew"
    )


def _was_dropped(error: requests.RequestException) -> bool:
    """Whether an open connection was closed under the call (Orthanc does so after one idle second)."""
    return isinstance(error, requests.exceptions.ConnectionError) and "Connection aborted" in str(error)


def refusal(answer: requests.Response, address: str, user: Credentials | None = None) -> ServerError:
    """Turn an error answer, perhaps to a certain user, into the exception that tells what to do.

    What is not in the contract's shape comes from somewhere else and decides nothing about a request.
    """
    status = answer.status_code
    if status == 401:
        return UnauthorizedError(
            f"{address} does not accept the user or the password: {which_settings(user)}."
        )
    document = _document(answer)
    code, message = document.get("code"), document.get("error")
    if document.get("success") is not False or not isinstance(code, str) or not isinstance(message, str):
        return _foreign(answer, address)
    if code == "lease_lost":
        return LeaseLostError(status, code, message)
    if status == 410 or code == "unknown_request":
        return RequestGoneError(status, code, message)
    kind = BusyError if _is_busy(status) else RefusedError
    return kind(status, code, message, retry_after(answer), document)


def contract_document(answer: requests.Response, address: str) -> dict[str, Any]:
    """Return the document of an answer that says of itself to be a success.

    Raises
    ------
    ForeignAnswerError
        If the answer is not in the contract's shape: it comes from something else than the plugin.
    """
    document = _document(answer)
    if document.get("success") is not True:
        raise ForeignAnswerError(_who_answered(answer, address))
    return document


def is_of_orthanc(answer: requests.Response) -> bool:
    """Return whether an error answer is in Orthanc's own shape."""
    return bool(_document(answer).get("HttpStatus") == answer.status_code)


def _is_busy(status: int) -> bool:
    return status == 429 or status >= 500


def _foreign(answer: requests.Response, address: str) -> ServerError:
    status, text = answer.status_code, _who_answered(answer, address)
    if _is_busy(status):
        return BusyError(status, f"http_{status}", text, retry_after(answer))
    return ForeignAnswerError(text)


def _who_answered(answer: requests.Response, address: str) -> str:
    """Say what answered in the plugin's place, and what to do about it; nothing of the page itself."""
    status = answer.status_code
    target = urlsplit(answer.headers.get("Location", ""))
    if 300 <= status < 400:
        # Its path and query may carry a session of a sign-in.
        where = f"{target.scheme}://{target.hostname}" if target.hostname else "elsewhere"
        return f"{address} redirects to {where} ({status}): set the final address."
    if status == 404 and (is_of_orthanc(answer) or not answer.content):
        return f"{address} has no such route: check the address, and that Orthanc loads the pathology plugin."
    if is_of_orthanc(answer):
        return f"{address} answered {status}, as Orthanc itself does: its log says why."
    kind, server = answer.headers.get("Content-Type", "").partition(";")[0], answer.headers.get("Server", "")
    found = ", ".join(filter(None, (str(status), _printable(kind), _printable(server))))
    return f"Something else than the plugin answered at {address} ({found}): {_REMEDIES.get(status, _REMEDY)}"


_REMEDY = "check the address, and the proxy between this worker and Orthanc."
_REMEDIES = {
    403: "see the proxy's rules, and that the user stands in Pathology.Workers.",
    407: "the proxy wants a user: put one into HTTPS_PROXY.",
    413: "raise the size of a body that the proxy takes (nginx: client_max_body_size).",
}


def _printable(text: str) -> str:
    return "".join(sign for sign in text if sign.isprintable())[:60]


def which_settings(user: Credentials | None) -> str:
    """Return what to check where a user is not accepted, as the end of a sentence."""
    if user is None:
        return "check the settings"
    return f"check {user.prefix}_USER ({user.user}) and {user.prefix}_PASSWORD"


def passwords_in_clear(settings: Settings) -> list[str]:
    """Return a sentence for each address to which a password leaves this machine unencrypted.

    What lies below Orthanc's own address is not named: as a rule nobody has set it.
    """
    addresses = {
        "ORTHANC_URL": settings.orthanc_url,
        "PATHOLOGY_API_URL": settings.api_url,
        "DICOMWEB_URL": settings.dicomweb_url,
    }
    return [
        f"{name} sends the password over plain http to another machine, where anybody on the way can read "
        "it: put Orthanc behind TLS and use an https:// address."
        for name, url in addresses.items()
        if sends_password_in_clear(url) and not url.startswith(f"{settings.orthanc_url}/")
    ]


def sends_password_in_clear(url: str) -> bool:
    """Return whether a password would leave this machine unencrypted."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _document(answer: requests.Response) -> dict[str, Any]:
    """Return what an answer holds as JSON; nothing where it is no object."""
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def retry_after(answer: requests.Response) -> float | None:
    """Return the seconds that an answer asks to wait, a minute at most, or None where it does not."""
    try:
        return min(max(0.0, float(answer.headers["Retry-After"])), _LONGEST_PAUSE_S)
    except (KeyError, ValueError):
        return None


def body_of(answer: requests.Response, size: int) -> bytearray:
    """Return the body of a streamed answer of which so many bytes are expected.

    Put together in place: by default requests takes 10 KB at a time and joins them, which costs as much as
    decoding.
    """
    body, come = bytearray(size), 0
    for piece in answer.iter_content(_PIECE):
        body[come : come + len(piece)] = piece
        come += len(piece)
    del body[come:]
    return body
