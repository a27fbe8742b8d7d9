#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Install the Debian packages of the lists given as arguments that are missing, or say what is missing.
# Usage: system-packages.sh LIST...
set -eu

wanted=$(sed 's/#.*//' "$@" | tr -s ' \n' ' ')

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    cat >&2 <<EOF
This machine is not Debian or Ubuntu, so its packages cannot be installed here. Use the images in docker/ instead:
    docker compose -f docker/compose.yml up
(needed: $wanted)
EOF
    exit 3
fi

missing=""
for package in $wanted; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1; then
    as_root="sudo"
else
    echo "Missing Debian packages:$missing" >&2
    echo "Ask an administrator for: apt-get install --no-install-recommends$missing" >&2
    exit 3
fi

echo "Installing Debian packages:$missing"
$as_root apt-get update -q
# shellcheck disable=SC2086 # word splitting is what makes the list a list
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends $missing

# Debian's package starts a server of its own on port 8042. It was not there a minute ago and nobody asked for it:
# everything here runs beside it, so it is switched off again. One that was already there is never touched.
case "$missing " in
*" orthanc "*)
    if [ -d /run/systemd/system ]; then
        $as_root systemctl disable --now orthanc >/dev/null 2>&1 || true
        echo "Debian's own Orthanc service was installed switched off; 'systemctl enable --now orthanc' starts it."
    fi
    ;;
esac

# nginx likewise, on port 80.
case "$missing " in
*" nginx-light "*)
    if [ -d /run/systemd/system ]; then
        $as_root systemctl disable --now nginx >/dev/null 2>&1 || true
        echo "Debian's own nginx service was installed switched off; 'systemctl enable --now nginx' starts it."
    fi
    ;;
esac
