#!/bin/sh
# usage: test-install.sh ARCHIVE    install.sh of ARCHIVE into a folder: install, upgrade, remove, purge, refusals
set -eu
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT; tar -C "$T" -xzf "$1"; S=$(echo "$T"/hone-*/install.sh); R=$T/root
fail() { echo "FAIL $*" >&2; exit 1; }
sh "$S" --root "$R" --prefix /opt/hone >/dev/null
cmp -s "$T"/hone-*/hone "$R/opt/hone/bin/hone" || fail "the binary"
grep -q '^ExecStart=/opt/hone/bin/hone run' "$R/etc/systemd/system/hone.service" || fail "the unit's program"
grep -q '/usr/bin/hone' "$R"/etc/systemd/system/hone* && fail "a unit names another program"
cmp -s "$T"/hone-*/hone.toml "$R/etc/hone/hone.toml" || fail "the configuration"
[ "$(stat -c %a "$R/etc/hone/credentials")" = 700 ] || fail "credentials"
[ "$(cat "$R/etc/systemd/system/multi-user.target.wants/hone.service")" = "$(cat "$R/etc/systemd/system/hone.service")" ] || fail "enabled"
echo "ok install"
echo 'mine = true' > "$R/etc/hone/hone.toml"; mkdir -p "$R/var/lib/hone"; echo kept > "$R/var/lib/hone/control.db"
sh "$S" --root "$R" --prefix /opt/hone | grep -q 'is kept' || fail "an upgrade says nothing of the configuration"
[ "$(cat "$R/etc/hone/hone.toml")" = 'mine = true' ] && [ -e "$R/etc/hone/hone.toml.new" ] && [ -e "$R/var/lib/hone/control.db" ] || fail "an upgrade loses something"
echo "ok upgrade keeps configuration and state"
sh "$S" --root "$R" --prefix /opt/hone --remove >/dev/null
[ ! -e "$R/opt/hone/bin/hone" ] && [ -e "$R/etc/hone/hone.toml" ] && [ -e "$R/var/lib/hone/control.db" ] || fail "remove"
[ -z "$(find "$R/etc/systemd" "$R/etc/sysusers.d" "$R/etc/tmpfiles.d" -name 'hone*')" ] || fail "remove leaves units"
echo "ok remove keeps configuration and state"
sh "$S" --root "$R" --remove --purge >/dev/null
[ ! -e "$R/etc/hone" ] && [ ! -e "$R/var/lib/hone" ] || fail "purge"
if sh "$S" --purge --root "$R" >/dev/null 2>&1 || sh "$S" --prefix here --root "$R" >/dev/null 2>&1 || sh "$S" --nonsense >/dev/null 2>&1; then fail "nonsense is accepted"; fi
echo "ok purge leaves nothing, nonsense is refused"
