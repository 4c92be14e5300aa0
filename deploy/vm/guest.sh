#!/bin/bash
# Runs inside the test machine. Prints "ok NAME" or "FAIL NAME: …" per promise, "GUEST done" at the end, and powers off.
U=/sys/fs/cgroup/hone.slice
check() { local n=$1; shift; if "$@" >/run/check.log 2>&1; then echo "ok $n"; else echo "FAIL $n: $(tail -n2 /run/check.log | tr '\n' ' ')"; fi; }
within() { local end=$((SECONDS + $1)); shift; until "$@"; do ((SECONDS < end)) || return 1; sleep 0.3; done; }
is() { local v; v=$(cat "$U/$1") && echo "$1: $v" && [ "$v" = "$2" ]; }
logged() { journalctl -u "$1" -o cat --no-pager | grep -q "$2"; }
restarts() { [ "$(systemctl show hone -P NRestarts)" -ge "$1" ]; }
champion() { hone status --json | grep -o '"champion":"[0-9a-f]*"'; }
changed() { [ "$(champion)" != "$1" ]; }
not_root() { local p; p=$(systemctl show hone -P MainPID); grep -q '^CapEff:.0*$' "/proc/$p/status" && ! grep -q '^Uid:.0' "/proc/$p/status"; }
# Stops single threads of the agent, by name, and lets them go when it ends: what a hung driver call looks like.
hang() { local p n=101; p=$(systemctl show hone -P MainPID); [ "$(uname -m)" = aarch64 ] && n=117
  local tids=(); for t in /proc/"$p"/task/*; do grep -qx "$1" "$t/comm" && tids+=("${t##*/}"); done
  perl -e 'my $n = shift; for my $t (@ARGV) { syscall($n, 0x4206, $t+0, 0, 0) == 0 && syscall($n, 0x4207, $t+0, 0, 0) == 0 or die "$t: $!" } sleep 300' "$n" "${tids[@]}" & }
throttled() { systemd-run -q --wait -p CPUQuota=20% bash -c 'timeout 5 bash -c "while :; do :; done"; cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/cpu.stat > /run/cpu.stat'
              awk '$1=="usage_usec"{u=$2} $1=="nr_throttled"{t=$2} END{print u, t; exit !(u < 2500000 && t > 20)}' /run/cpu.stat; }
retrained() { hone energy --json | grep -q '"cpu_s":[0-9.]*[1-9]'; }

echo "guest $(uname -rm) $(systemctl --version | head -n1) cgroup $(stat -fc %T /sys/fs/cgroup)"
mkdir -p /etc/systemd/system/hone.service.d /etc/hone/conf.d
printf '[Service]\nWatchdogSec=10s\nRestartSec=1s\n' > /etc/systemd/system/hone.service.d/test.conf
check "the package installs" dpkg -i /hone.deb
check "the agent says READY" within 60 systemctl -q is-active hone
check "the trainer's socket listens" systemctl -q is-active hone-trainer.socket
while read -r f v; do check "$f is the unit's" is "$f" "$v"; done <<< $'hone.service/memory.max 268435456\nhone.service/pids.max 64'
check "it is not root and has no capability" not_root
check "doctor finds nothing broken" hone doctor

# The whole loop: base model, old law, new law, drift, retrain in the unit, swap.
cat /quick.toml /emulated.toml > /etc/hone/conf.d/test.toml
check "a restart takes the new settings" systemctl restart hone
check "a base model is trained here" sh -c 'perl /world.pl csv 400 > /run/base.csv && hone train --data /run/base.csv --label state --seed 1 -o /run/base.safetensors'
check "it serves" hone promote /run/base.safetensors
check "the old law is answered" perl /world.pl live old 400 2; cat /run/check.log
B=$(champion)
# For as long as it takes: an emulator trains slowly, and a trial needs samples.
for seed in $(seq 3 90); do perl /world.pl live new 120 "$seed" >/run/right; sleep 2; changed "$B" && break; done
check "drift led to a retrain and a swap" within 90 changed "$B"
check "the training ran in its own unit" logged 'hone-trainer@*' 'Started\|Deactivated'
check "the journal can be asked for the verdict" sh -c 'journalctl -u hone HONE_KIND=gate -o json --no-pager | grep -q "\"HONE_REPORT\""'
check "the kernel's limits were on it" sh -c 'systemctl show hone-trainer@x.service -P MemoryMax | grep -qx 268435456'
perl /world.pl live new 200 100 | tee /run/after; check "the new model is right" awk '{exit !($1 > 160)}' /run/after
hone status | head -n 12

# A training past its unit's memory limit is killed by the kernel, told as memory, and costs nothing else.
mkdir -p /etc/systemd/system/hone-trainer@.service.d
printf '[Service]\nMemoryMax=2M\n' > /etc/systemd/system/hone-trainer@.service.d/test.conf; systemctl daemon-reload
P=$(systemctl show hone -P MainPID)
# The drift's own next training may be under way; it would be killed as well, and this one be refused.
check "a training is ordered" within 180 hone retrain --strategy head
check "the kernel kills a training past MemoryMax" within 180 logged hone 'the kernel killed it at the memory limit'
check "and the agent goes on" test "$P" = "$(systemctl show hone -P MainPID)"
rm -r /etc/systemd/system/hone-trainer@.service.d; systemctl daemon-reload
check "the kernel enforces CPUQuota" throttled

hang serve; check "hung ingest threads are named in the journal" within 40 logged hone 'the threads that answer has not moved'
check "the watchdog kills a hung agent" within 60 logged hone 'Watchdog timeout'; kill %1 2>/dev/null
check "and it is restarted" within 60 restarts 1
check "it serves again, the same model" within 60 sh -c 'hone status --json | grep -q "\"champion\":\"[0-9a-f]"'
systemctl kill -s KILL --kill-who=main hone; check "a killed agent is restarted" within 60 restarts 2
check "it serves again after the kill" within 60 systemctl -q is-active hone
# Of the machine that is emulated; how long the start takes in it says nothing.
sh /measure.sh /usr/bin/hone 60 > /run/measure 2>&1; cat /run/measure
check "resident memory stays below 15 MB" perl -0777 -ne 'exit !(/resident at most ([\d.]+) MB/ && $1 <= 15)' /run/measure
sed -i 's/^keep_bytes = 536_870_912/keep_bytes = 400_000_000/' /etc/hone/hone.toml
C=$(within 30 champion)
check "an upgrade keeps configuration and state" sh -c 'dpkg -i --force-confold /hone.deb && grep -q 400_000_000 /etc/hone/hone.toml'
check "and serves the same model" within 60 sh -c "hone status --json | grep -q '$C'"
check "stop ends within 30 s" timeout 30 systemctl stop hone
check "removal keeps state and configuration" sh -c 'dpkg -r hone && [ -e /etc/hone/hone.toml ] && ls /var/lib/hone/models/*.safetensors'
check "purging leaves nothing" sh -c 'dpkg -P hone && [ ! -e /var/lib/hone ] && [ ! -e /var/lib/private/hone ] && [ ! -e /etc/hone/hone.toml ]'
echo "GUEST done $(cut -d' ' -f1 /proc/uptime)"; systemctl poweroff
