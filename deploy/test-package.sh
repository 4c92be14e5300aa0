#!/bin/sh
# usage: test-package.sh PACKAGE ROOT    installs, upgrades, removes and purges PACKAGE in ROOT, a Debian of vm/prepare.sh, by chroot
# Nothing is started there: what the units do is vm/vm.sh's to show. Needs root; works on a copy.
set -eu
P=$1 T=$(mktemp -d); trap 'rm -rf "$T"' EXIT; cp -a "$2" "$T/root"; R=$T/root
fail() { echo "FAIL $*" >&2; exit 1; }
ok() { echo "ok $*"; }
run() { chroot "$R" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
cp "$P" "$R/one.deb"
# The same package as a later version with another shipped configuration.
dpkg-deb -R "$P" "$T/later"; sed -i 's/^Version: .*/Version: 99.0-1/' "$T/later/DEBIAN/control"; echo "# a new setting" >> "$T/later/etc/hone/hone.toml"
dpkg-deb --root-owner-group -Zgzip -b "$T/later" "$R/two.deb" >/dev/null

run dpkg -i /one.deb >/dev/null 2>"$T/err" || { cat "$T/err" >&2; fail "install"; }
run hone --version >/dev/null || fail "the binary does not run"
run getent passwd hone >/dev/null || fail "no user hone"
[ "$(stat -c %a "$R/etc/hone/credentials")" = 700 ] || fail "credentials are not root's alone"
[ -L "$R/etc/systemd/system/multi-user.target.wants/hone.service" ] || fail "the service is not enabled"
[ -L "$R/etc/systemd/system/sockets.target.wants/hone-trainer.socket" ] || fail "the socket is not enabled"
run hone doctor --json >/dev/null || [ $? = 9 ] || fail "doctor"
ok "install"

mkdir -p "$R/var/lib/private/hone/models"; ln -s private/hone "$R/var/lib/hone"; echo kept > "$R/var/lib/hone/control.db"
echo secret > "$R/etc/hone/credentials/mqtt.key"
sed -i 's/^listen = .*/listen = "off"/' "$R/etc/hone/hone.toml"
run systemctl disable hone.service >/dev/null 2>&1
run dpkg -i --force-confold /two.deb >/dev/null 2>"$T/err" || { cat "$T/err" >&2; fail "upgrade"; }
grep -q '^listen = "off"' "$R/etc/hone/hone.toml" || fail "the upgrade lost the configuration"
grep -q 'a new setting' "$R/etc/hone/hone.toml.dpkg-dist" || fail "the new configuration is not beside the old one"
[ "$(cat "$R/var/lib/hone/control.db")" = kept ] || fail "the upgrade lost the state"
[ ! -e "$R/etc/systemd/system/multi-user.target.wants/hone.service" ] || fail "the upgrade enabled what was disabled"
ok "upgrade keeps state, configuration and what was disabled"

run dpkg -r hone >/dev/null 2>&1 || fail "remove"
[ ! -e "$R/usr/bin/hone" ] && [ -e "$R/etc/hone/hone.toml" ] && [ -e "$R/etc/hone/credentials/mqtt.key" ] && [ -e "$R/var/lib/hone/control.db" ] || fail "remove takes the wrong things"
ok "remove keeps state, configuration and secrets"
run dpkg -i --force-confold /two.deb >/dev/null 2>&1 || fail "install again"
[ "$(cat "$R/var/lib/hone/control.db")" = kept ] || fail "installing again lost the state"
run dpkg -P hone >/dev/null 2>&1 || fail "purge"
for left in /etc/hone /var/lib/hone /var/lib/private/hone /usr/bin/hone /lib/systemd/system/hone.service; do [ ! -e "$R$left" ] && [ ! -L "$R$left" ] || fail "purge leaves $left: $(ls -R "$R$left")"; done
[ -z "$(find "$R/etc/systemd" -name 'hone*')" ] || fail "purge leaves links: $(find "$R/etc/systemd" -name 'hone*')"
ok "purge leaves nothing"
