#!/bin/sh
# usage: prepare.sh amd64|arm64 DIR    makes DIR/root and DIR/boot/vmlinuz-* from Debian's archive; leaves dpkg of this machine alone
# Needs root, debootstrap and cpio. arm64 is only unpacked here: it is configured inside the machine at its first boot, so that no
# foreign interpreter has to be registered with this machine's kernel.
set -eu
A=$1 URI=${DEBIAN:-http://deb.debian.org/debian}
mkdir -p "$2/apt/lists/partial" "$2/apt/cache/archives/partial"; cd "$2"; : > apt/status
O="-o APT::Sandbox::User=root -o APT::Architecture=$A -o APT::Architectures::= -o APT::Architectures::=$A -o Dir::State::lists=$PWD/apt/lists -o Dir::State::status=$PWD/apt/status -o Dir::Cache=$PWD/apt/cache"
# shellcheck disable=SC2086 # several words on purpose
if [ -z "$(ls boot/vmlinuz-* 2>/dev/null)" ]; then
  apt-get -qq $O update
  K=$(apt-cache $O depends "linux-image-cloud-$A" | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | tail -n1)
  apt-get -qq $O download "$K"; dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --wildcards './boot/vmlinuz-*'; rm -f linux-image-*.deb
fi
[ -e root/etc/debian_version ] || {
  F=; [ "$A" = "$(dpkg --print-architecture)" ] || F=--foreign
  debootstrap $F --arch="$A" --variant=minbase --include=systemd,systemd-sysv,dbus,perl bookworm root "$URI"
}
# In a container debootstrap makes /proc a link to the host's, which in a machine would lead to itself.
[ ! -L root/proc ] || { rm root/proc; mkdir root/proc; }
