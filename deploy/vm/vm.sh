#!/bin/sh
# usage: vm.sh amd64|arm64 DIR PACKAGE    boots DIR/root (of prepare.sh) as a machine and runs guest.sh with PACKAGE in it; fails on any
# FAIL line. qemu's emulation throughout: order and limits are proven, never speed. LIMIT=SECONDS is the whole time allowed.
set -eu
A=$1 R=$2/root D=$(dirname "$0") T=$(mktemp -d); trap 'rm -rf "$T"' EXIT; P=$3; set -- "$2"/boot/vmlinuz-*
S=$R/etc/systemd/system; mkdir -p "$S/multi-user.target.wants" "$R/usr/local/bin"
cp "$P" "$R/hone.deb"; cp "$D/../measure.sh" "$D/world.pl" "$D/quick.toml" "$D/emulated.toml" "$R/"; install -m755 "$D/guest.sh" "$R/usr/local/bin/guest.sh"
cat > "$S/guest.service" <<'UNIT'
[Unit]
After=basic.target dbus.service
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/usr/local/bin/guest.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
UNIT
ln -sf /etc/systemd/system/guest.service "$S/multi-user.target.wants/"; ln -sf /dev/null "$S/console-getty.service"
# An unpacked root configures itself first.
cat > "$R/init" <<'INIT'
#!/bin/sh
if [ -x /debootstrap/debootstrap ]; then
  mount -t proc proc /proc; PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
  mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
  /debootstrap/debootstrap --second-stage >/debootstrap.log 2>&1 || tail -n 20 /debootstrap.log /debootstrap/debootstrap.log
  mkdir -p /etc/systemd/system; echo "configured"
fi
exec /lib/systemd/systemd
INIT
chmod 755 "$R/init"
# What is not configured yet looks its packages up in the lists.
LISTS=./var/lib/apt/lists; [ ! -e "$R/debootstrap" ] || LISTS=./none
( cd "$R"; find . -xdev \( -path "$LISTS" -o -path ./usr/share/locale -o -path ./var/log/journal \) -prune -o -print0 \
  | cpio -0 -o -H newc --quiet ) > "$T/cpio"
case $A in amd64) C=ttyS0 Q="qemu-system-x86_64 -cpu max" ;; arm64) C=ttyAMA0 Q="qemu-system-aarch64 -M virt -cpu cortex-a72" ;; esac
# shellcheck disable=SC2086 # several words on purpose
timeout "${LIMIT:-1200}" $Q ${QEMU:-} -accel tcg,thread=multi -smp 2 -m "${MEMORY:-3072}" -nic none -nographic -no-reboot -kernel "$1" -initrd "$T/cpio" \
  -append "console=$C quiet systemd.show_status=0 panic=-1" </dev/null | stdbuf -o0 tr -d '\r' | tee "$T/log"
grep -aq '^GUEST done' "$T/log" && ! grep -a '^FAIL' "$T/log"
