#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The contract's and the server's tests against the Orthanc of other Debian suites, each installed into a folder of
# its own (.cache/suites, about 700 MB each). Needs root: debootstrap, chroot, mounts that end with this process.
#     tests/orthanc-versions.sh trixie forky
set -euo pipefail
cd "$(dirname "$0")/.."
readonly MIRROR=${MIRROR:-http://deb.debian.org/debian}
readonly PACKAGES="orthanc orthanc-python orthanc-dicomweb orthanc-wsi"

install_suite() { # suite folder
    # A suite that this debootstrap does not know yet is built as sid is.
    local script=/usr/share/debootstrap/scripts/$1
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    debootstrap --variant=minbase "$1" "$2" "$MIRROR" "$script"
    chroot "$2" apt-get install --yes --no-install-recommends $PACKAGES
    touch "$2/.complete"
}

run_tests() { # folder
    mkdir -p "$1/$PWD"
    mount --bind "$PWD" "$1/$PWD"
    # What a test mounts below /tmp is to be seen by Orthanc as well.
    mount --bind /tmp /tmp
    mount --make-shared /tmp
    mount --bind /tmp "$1/tmp"
    mount -t proc proc "$1/proc"
    chroot "$1" /usr/sbin/Orthanc --version | sed -n 1p
    ORTHANC_SUITE=$1 .venv/bin/python -m pytest tests/contract tests/server -k 'not memory' -m 'not slow' -q
}

if [ "${1:-}" = --inside ]; then
    run_tests "$2"
    exit
fi
command -v debootstrap > /dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 3; }
failed=()
for suite in "${@:-trixie}"; do
    folder=$PWD/.cache/suites/$suite
    [ -e "$folder/.complete" ] || install_suite "$suite" "$folder"
    unshare --mount "$0" --inside "$folder" || failed+=("$suite")
done
[ ${#failed[@]} = 0 ] || { echo "Failed with the Orthanc of: ${failed[*]}" >&2; exit 1; }
