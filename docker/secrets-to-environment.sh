#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Orthanc reads passwords from its environment only. This puts the content of the files that ORTHANC_*_FILE name there, so
# that a password stands neither in a compose file nor in what `docker inspect` shows, and starts the rest of its line.
set -eu

for setting in $(env | sed -n 's/^\(ORTHANC_[A-Z_]*\)_FILE=.*/\1/p'); do
    file=$(printenv "${setting}_FILE")
    [ -r "$file" ] || { echo "${setting}_FILE=$file cannot be read: check the secret and its rights." >&2; exit 2; }
    value=$(cat "$file")
    [ -n "$value" ] || { echo "${setting}_FILE=$file is empty." >&2; exit 2; }
    export "$setting=$value"
done
exec "$@"
