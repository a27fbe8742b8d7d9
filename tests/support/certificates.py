# SPDX-License-Identifier: Apache-2.0
"""A private certificate authority, and a server's certificate that it signed."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificates(folder: Path, name: str) -> None:
    """Write ``ca.pem``, and for a server of that name ``fullchain.pem`` and ``key.pem``."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes")
    # What Python 3.13 and newer look for besides: identifiers of the keys, and what a key may be used for.
    ca = ("-keyout", "ca.key", "-out", "ca.pem", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-x509", *key, "-subj", "/CN=Hospital CA", "-days", "30", *ca)
    openssl("req", *key, "-subj", f"/CN={name}", "-keyout", "key.pem", "-out", "server.csr")
    identifiers = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    (folder / "names").write_text(f"subjectAltName=DNS:{name}\n{identifiers}", "utf-8")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "fullchain.pem")
