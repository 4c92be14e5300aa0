#!/bin/sh
# usage: build.sh TOOLCHAIN build|test|run [cargo arguments]    PROFILE=smoke for the quick one; release otherwise
set -eu
PATH=$1/bin:$PATH; CMD=$2; shift 2
export PATH CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target-aarch64}" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu" \
  CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar
# What ends at a panic needs no tables to unwind its stack by: 6 % of the binary.
if [ "$CMD" = build ] && [ "${PROFILE:-release}" = release ]; then
  CFLAGS_aarch64_unknown_linux_gnu="${CFLAGS_aarch64_unknown_linux_gnu:-} -fno-asynchronous-unwind-tables -fno-unwind-tables"
  RUSTFLAGS="${RUSTFLAGS:-} -C force-unwind-tables=no"
  # SQLite comes with searches of text, of rectangles and of its own pages, which nobody here asks for.
  LIBSQLITE3_FLAGS="-USQLITE_ENABLE_FTS3 -USQLITE_ENABLE_FTS3_PARENTHESIS -USQLITE_ENABLE_FTS5 -USQLITE_ENABLE_RTREE -USQLITE_ENABLE_DBSTAT_VTAB"
  export CFLAGS_aarch64_unknown_linux_gnu RUSTFLAGS LIBSQLITE3_FLAGS
fi
exec cargo "$CMD" --profile "${PROFILE:-release}" --locked --target aarch64-unknown-linux-gnu "$@"
