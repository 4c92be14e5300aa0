#!/bin/sh
# usage: check-binary.sh FILE [GLIBC] [BYTES]    size, architecture, newest glibc symbol, libraries
set -eu
B=$1 G=GLIBC_${2:-2.36} MAX=${3:-12000000}; fail() { echo "$B: $*" >&2; exit 1; }
[ "$(stat -c %s "$B")" -le "$MAX" ] || fail "$(stat -c %s "$B") bytes, allowed $MAX"
readelf -h "$B" | grep -q 'Machine:.*AArch64' || fail "not AArch64"
N=$(readelf -V "$B" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n1)
[ "$(printf '%s\n%s\n' "$N" "$G" | sort -V | tail -n1)" = "$G" ] || fail "needs $N, allowed $G"
L=$(readelf -d "$B" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libm|libgcc_s|libpthread|libdl|librt|ld-linux-aarch64)\.so') && fail "links $L"
echo "$B ok, needs ${N:-no glibc}"
