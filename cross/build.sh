#!/bin/sh
# usage: build.sh TOOLCHAIN build|test|run [cargo arguments]    PROFILE=smoke for the quick one; release otherwise
set -eu
PATH=$1/bin:$PATH; CMD=$2; shift 2
export PATH CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target-aarch64}" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu" \
  CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar
exec cargo "$CMD" --profile "${PROFILE:-release}" --locked --target aarch64-unknown-linux-gnu "$@"
