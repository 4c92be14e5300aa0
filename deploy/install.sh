#!/bin/sh
# usage: install.sh [--root DIR] [--prefix DIR] [--no-start]     installs or upgrades hone from the folder this script lies in
#        install.sh --remove [--purge] [--root DIR] [--prefix DIR]
# For distributions without dpkg. Configuration, models and records are never overwritten, and kept by --remove; --purge takes
# them too. Needs systemd 250 or newer and root; --root writes below another folder, as for an image, and starts nothing.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT='' PREFIX=/usr/local START=yes DO=install PURGE=no
fail() { echo "install.sh: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --root) ROOT=${2:?--root needs a folder}; shift ;;
    --prefix) PREFIX=${2:?--prefix needs a folder}; shift ;;
    --no-start) START=no ;;
    --remove) DO=remove ;;
    --purge) PURGE=yes ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac; shift
done
case $PREFIX in /*) ;; *) fail "--prefix must be absolute" ;; esac
[ "$PURGE" = no ] || [ "$DO" = remove ] || fail "--purge goes with --remove"
UNITS=$ROOT/etc/systemd/system
# Another root is an image: nothing of it runs here.
if [ -n "$ROOT" ]; then START=no; else [ "$(id -u)" = 0 ] || fail "run it as root"; fi
LIVE=no; [ "$START" = no ] || [ ! -d /run/systemd/system ] || LIVE=yes

if [ "$DO" = remove ]; then
  if [ -z "$ROOT" ] && [ -d /run/systemd/system ]; then systemctl disable --now hone.service hone-trainer.socket || true; fi
  rm -f "$ROOT$PREFIX/bin/hone" "$UNITS/hone.service" "$UNITS/hone-trainer.socket" "$UNITS/hone-trainer@.service" \
    "$UNITS/multi-user.target.wants/hone.service" "$UNITS/sockets.target.wants/hone-trainer.socket" \
    "$ROOT/etc/sysusers.d/hone.conf" "$ROOT/etc/tmpfiles.d/hone.conf"
  if [ "$PURGE" = yes ]; then rm -rf "$ROOT/etc/hone" "$ROOT/var/lib/private/hone" "$ROOT/var/lib/hone"; fi
  if [ -z "$ROOT" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
  echo "removed; $([ "$PURGE" = yes ] && echo 'nothing is left but the user hone' || echo '/etc/hone and /var/lib/hone are kept, --purge takes them')"
  exit 0
fi

# Tried before anything is replaced: a binary of another machine, or for a newer libc, must not take the place of one that runs.
if [ -z "$ROOT" ]; then "$HERE/hone" --version >/dev/null || fail "$HERE/hone does not run on this machine ($(uname -m))"; fi
if [ "$LIVE" = yes ]; then
  SYSTEMD=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  [ "${SYSTEMD:-0}" -ge 250 ] || fail "systemd $SYSTEMD is older than 250: see LoadCredential= in hone.service, then install by hand"
fi
mkdir -p "$ROOT$PREFIX/bin" "$UNITS" "$ROOT/etc/sysusers.d" "$ROOT/etc/tmpfiles.d" "$ROOT/etc/hone/conf.d"
# Beside the old one and then over it: a power cut leaves one or the other, whole.
install -m755 "$HERE/hone" "$ROOT$PREFIX/bin/.hone.new"
sync "$ROOT$PREFIX/bin/.hone.new" 2>/dev/null || true
mv -f "$ROOT$PREFIX/bin/.hone.new" "$ROOT$PREFIX/bin/hone"
for unit in hone.service hone-trainer.socket hone-trainer@.service; do
  sed "s#/usr/bin/hone#$PREFIX/bin/hone#" "$HERE/$unit" > "$UNITS/$unit"; chmod 644 "$UNITS/$unit"
done
install -m644 "$HERE/hone.sysusers.conf" "$ROOT/etc/sysusers.d/hone.conf"
install -m644 "$HERE/hone.tmpfiles.conf" "$ROOT/etc/tmpfiles.d/hone.conf"
install -d -m700 "$ROOT/etc/hone/credentials"
if [ ! -e "$ROOT/etc/hone/hone.toml" ]; then
  install -m644 "$HERE/hone.toml" "$ROOT/etc/hone/hone.toml"
elif ! cmp -s "$HERE/hone.toml" "$ROOT/etc/hone/hone.toml"; then
  install -m644 "$HERE/hone.toml" "$ROOT/etc/hone/hone.toml.new"
  echo "your /etc/hone/hone.toml is kept; the settings of this version with their defaults are in hone.toml.new beside it"
fi
mkdir -p "$UNITS/multi-user.target.wants" "$UNITS/sockets.target.wants"
ln -sf ../hone.service "$UNITS/multi-user.target.wants/hone.service"
ln -sf ../hone-trainer.socket "$UNITS/sockets.target.wants/hone-trainer.socket"
if [ -z "$ROOT" ]; then
  systemd-sysusers hone.conf 2>/dev/null || id hone >/dev/null 2>&1 || useradd --system --home-dir /var/lib/hone --shell /usr/sbin/nologin hone
  if command -v restorecon >/dev/null; then restorecon -R "$PREFIX/bin/hone" "$UNITS" /etc/hone || true; fi
fi
if [ "$LIVE" = yes ]; then
  systemctl daemon-reload
  systemctl restart hone-trainer.socket hone.service
  echo "installed and started: \`systemctl status hone\`, \`hone doctor\`"
else
  echo "installed; it starts with the machine"
fi
