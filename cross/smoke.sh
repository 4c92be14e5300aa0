#!/bin/sh
# usage: smoke.sh TOOLCHAIN [whole]    the part of the suite that runs for aarch64, under qemu-user: on every run of `.ci/run`
#   unit      the unit tests of trainer-core and fleet-protocol (kernels, training, bundles, frames, signatures), and of the agent
#             what differs by architecture: formats on disk, the store, the service manager's socket; `whole` (`.ci/nightly smoke`)
#             adds the trainings that an emulator takes minutes for
#   agent     the aarch64 `hone` itself: trains, serves, records, sees drift, retrains in a worker behind a socket, swaps
# Proves logic, never speed or memory: /proc is this machine's, and the emulator's memory is counted.
set -eu
TOOLCHAIN=$1; WHOLE=${2:-}; D=$(cd "$(dirname "$0")" && pwd); cd "$D/.."; export PROFILE=smoke
EMULATOR="qemu-aarch64-static -L /usr/aarch64-linux-gnu"
# One choice of crates for everything: features are resolved once, so that no dependency is built twice.
CRATES="-p trainer-core -p fleet-protocol -p hone-agent"
# shellcheck disable=SC2086 # several words on purpose
sh "$D/build.sh" "$TOOLCHAIN" build --lib --bins --tests $CRATES
# shellcheck disable=SC2086
TESTS=$(sh "$D/build.sh" "$TOOLCHAIN" test --no-run --lib --message-format=json $CRATES | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
LONG='--skip stopped_a --skip a_restart_with_the_saved --skip brings_a_turned_world --skip features_at_the_cut'; [ -z "$WHOLE" ] || LONG=''
for t in $TESTS; do
  case ${t##*/} in
    trainer_core-*) crate=trainer-core only=$LONG ;;
    fleet_protocol-*) crate=fleet/protocol only='' ;;
    hone_agent-*) crate=agent only='shell::store shell::systemd shell::models shell::trainer::frames decide::time decide::floors' ;;
    *) continue ;;
  esac
  echo "-- $crate ${only:-all}"
  # Golden files are found from the crate's folder, which cargo would name.
  # shellcheck disable=SC2086
  ( cd "$crate" && CARGO_MANIFEST_DIR=$PWD $EMULATOR "$t" --quiet $only )
done
HONE=$(cd "${CARGO_TARGET_DIR:-target-aarch64}" && pwd)/aarch64-unknown-linux-gnu/smoke/hone
# Not the shipped profile, so not the shipped size; the rest must hold.
sh "$D/check-binary.sh" "$HONE" 2.34 60000000
# shellcheck disable=SC2086
exec sh "$D/story.sh" "$D/../deploy/vm/world.pl" $EMULATOR "$HONE"
