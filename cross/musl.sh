#!/bin/sh
# usage: musl.sh TOOLCHAIN TARGET [cargo arguments]    TARGET: aarch64-unknown-linux-musl, x86_64-unknown-linux-musl, armv7-unknown-linux-gnueabihf
# TOOLCHAIN is a folder of setup-aarch64.sh. `std` is built from Debian's source package, zig links; zig comes from PyPI.
set -eu
D=$(cd "$1" && pwd) TARGET=$2; shift 2
W=$D/musl; mkdir -p "$W/src"
if [ ! -d "$D/lib/rustlib/src/rust/library" ]; then
  V=$(apt-cache policy rustc-web | sed -n 's/^ *Candidate: //p')
  ( cd "$W/src"; apt-get -qq -o APT::Sandbox::User=root download "rust-web-src=$V"; dpkg -x rust-web-src_*.deb x )
  mkdir -p "$D/lib/rustlib/src/rust"; cp -a "$W"/src/x/usr/src/rustc-*/library "$D/lib/rustlib/src/rust/"; rm -rf "$W/src"
fi
[ -x "$W/zig/bin/cargo-zigbuild" ] || { python3 -m venv "$W/zig"; "$W/zig/bin/pip" install -q ziglang==0.17.0 cargo-zigbuild==0.24.0; }
PATH="$D/bin:$W/zig/bin:$PATH"
case $TARGET in
  *-musl) # A std built from source has no start files; zig brings them.
    export "CARGO_TARGET_$(echo "$TARGET" | tr 'a-z-' 'A-Z_')_RUSTFLAGS=-C link-self-contained=no" ;;
esac
# Opens `-Z` on a stable compiler; for this one call only, as crates look for it.
RUSTC_BOOTSTRAP=1; CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target-$TARGET}; CARGO_ZIGBUILD_ZIG_PATH=$W/zig/bin/python-zig
export PATH RUSTC_BOOTSTRAP CARGO_TARGET_DIR CARGO_ZIGBUILD_ZIG_PATH
exec cargo-zigbuild zigbuild --release --locked --target "$TARGET" -Zbuild-std=std,panic_unwind -p hone-agent "$@"
