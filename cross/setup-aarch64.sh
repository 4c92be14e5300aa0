#!/bin/sh
# usage: setup-aarch64.sh DEST    Debian's rustc-web + its arm64 std + rustup's cargo as one relocatable toolchain
set -eu
export DEBIAN_FRONTEND=noninteractive
DEST=$1; [ ! -e "$DEST" ] || { echo "$DEST exists: remove it while no build uses it, or choose another" >&2; exit 1; }
CARGO=${CARGO:-$(cd / && RUSTUP_AUTO_INSTALL=0 rustup which cargo 2>/dev/null || command -v cargo)}
# In one move at the end: a setup that was cut short leaves nothing that looks whole.
WHOLE=$DEST DEST=$DEST.new; rm -rf "$DEST"
apt-get -qq update
apt-get -qq install -y --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static patchelf >/dev/null
TMP=$(mktemp -d); chmod 755 "$TMP"; trap 'rm -rf "$TMP"' EXIT
V=$(apt-cache policy rustc-web | sed -n 's/^ *Candidate: //p'); MM=$(printf %s "$V" | cut -d. -f1,2)
LLVM=$(apt-cache show "libstd-rust-web-$MM=$V" | sed -n 's/^Depends:.*\(libllvm[0-9]*\).*/\1/p' | head -n1)
S=$TMP/apt; mkdir -p "$S/lists/partial" "$S/cache/archives/partial"; : > "$S/status"
a64() { apt-get -qq -o APT::Sandbox::User=root -o APT::Architecture=arm64 -o APT::Architectures::="" -o APT::Architectures::=arm64 \
        -o Dir::State::lists="$S/lists" -o Dir::State::status="$S/status" -o Dir::Cache="$S/cache" "$@"; }; a64 update
( cd "$TMP"; apt-get -qq -o APT::Sandbox::User=root download "rustc-web=$V" "libstd-rust-web-$MM=$V" "libstd-rust-web-dev=$V" "$LLVM"
  a64 download "libstd-rust-web-dev=$V" )
for d in "$TMP"/*.deb; do dpkg -x "$d" "$TMP/x"; done
mkdir -p "$DEST/bin" "$DEST/lib"; cp -a "$TMP/x/usr/bin/rustc" "$TMP/x/usr/bin/rustdoc" "$DEST/bin/"
cp -a "$TMP/x/usr/lib/rustlib" "$DEST/lib/"; cp -a "$TMP"/x/usr/lib/x86_64-linux-gnu/*.so* "$DEST/lib/"
# what libLLVM needs beyond libc and libstdc++, so that the toolchain also runs inside a slim container
for f in $(ldd "$DEST"/lib/libLLVM.so.* | awk '/=> \//{print $3}' | grep -vE '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+)\.so' | sort -u); do
  case $f in "$DEST"/*) ;; *) cp -L "$f" "$DEST/lib/";; esac; done
for f in "$DEST"/bin/*; do patchelf --set-rpath '$ORIGIN/../lib' "$f"; done
for f in "$DEST"/lib/*.so*; do [ -L "$f" ] || patchelf --set-rpath '$ORIGIN' "$f"; done
cp "$CARGO" "$DEST/bin/cargo"
mv "$DEST" "$WHOLE"; DEST=$WHOLE
"$DEST/bin/rustc" -vV | grep release; "$DEST/bin/cargo" -V; ls "$DEST/lib/rustlib"
