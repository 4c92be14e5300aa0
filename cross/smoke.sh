#!/bin/sh
# usage: smoke.sh TOOLCHAIN    the part of the suite that runs for aarch64, under qemu-user, on every run of .ci/run
#   unit      every unit test of trainer-core and fleet-protocol: kernels, training, bundles, frames, signatures
#   agent     the aarch64 `hone` itself: trains, serves, records, sees drift, retrains in a worker behind a socket, swaps
# Proves logic, never speed or memory: /proc is this machine's, and the emulator's memory is counted.
set -eu
TOOLCHAIN=$1; D=$(dirname "$0"); export PROFILE=smoke
sh "$D/build.sh" "$TOOLCHAIN" test --lib -p trainer-core -p fleet-protocol
sh "$D/build.sh" "$TOOLCHAIN" build -p hone-agent
HONE=$(cd "${CARGO_TARGET_DIR:-target-aarch64}" && pwd)/aarch64-unknown-linux-gnu/smoke/hone
# Not the shipped profile, so not the shipped size; the rest must hold.
sh "$D/check-binary.sh" "$HONE" 2.34 60000000
exec sh "$D/story.sh" "$D/../deploy/vm/world.pl" qemu-aarch64-static -L /usr/aarch64-linux-gnu "$HONE"
