#!/bin/sh
# usage: story.sh WORLD HONE...    the whole loop of a `hone` that may need an emulator in front; port 8600 must be free
# A foreign worker cannot be started by a foreign agent without binfmt, so workers are started here, behind a socket, as the
# trainer's unit does.
set -eu
WORLD=$1; shift; T=$(mktemp -d); PIDS=''
trap 'for p in $PIDS; do kill "$p" 2>/dev/null || true; done; rm -rf "$T"' EXIT
fail() { echo "FAIL $*" >&2; tail -n 20 "$T/log" >&2 || true; exit 1; }
hone() { "$@" --config "$T/hone.toml" --state-dir "$T/state"; }
champion() { hone "$@" status --json 2>/dev/null | grep -o '"champion":"[0-9a-f]*"'; }
await() { n=$1; shift; while [ "$n" -gt 0 ]; do "$@" && return 0; n=$((n - 1)); sleep 0.5; done; return 1; }
V=$(dirname "$WORLD"); cat "$V/quick.toml" "$V/emulated.toml" > "$T/hone.toml"
"$@" --version
"$@" init --broker mqtt://localhost:1883 --device press-1 > "$T/init.toml" && grep -q '^device = "press-1"' "$T/init.toml" || fail "init"
perl "$WORLD" csv 400 > "$T/base.csv"
"$@" train --in-process --data "$T/base.csv" --label state --seed 1 -o "$T/base.safetensors" >/dev/null || fail "train"
echo "ok a base model is trained"
perl -MIO::Socket::UNIX -e '$SIG{CHLD} = "IGNORE"; my $path = shift; my $at = IO::Socket::UNIX->new(Listen => 4, Local => $path) or die $!;
  while (my $to = $at->accept) { next if fork; open STDIN, "<&", $to; open STDOUT, ">&", $to; exec @ARGV, "train-worker" }' "$T/trainer" "$@" 2>"$T/workers" &
PIDS="$PIDS $!"
# So is the process that tries a model before it serves.
printf '#!/bin/sh\nexec %s "$@"\n' "$*" > "$T/vet"; chmod 755 "$T/vet"
HONE_TRAINER_SOCKET=$T/trainer "$@" run --vetting-program "$T/vet" --config "$T/hone.toml" --state-dir "$T/state" --model "$T/base.safetensors" --sensors-root "$T" 2>"$T/log" &
PIDS="$PIDS $!"
await 120 champion "$@" >/dev/null || fail "it does not answer"
BASE=$(champion "$@")
perl "$WORLD" live old 400 2 || fail "samples and labels"
echo "ok it serves and records"
# For as long as it takes: an emulator trains slowly, and a trial needs samples.
seed=2; swapped() { [ "$(champion "$@")" != "$BASE" ]; }
until swapped "$@"; do
  seed=$((seed + 1)); [ "$seed" -lt 90 ] || fail "no swap: $(hone "$@" status)"
  perl "$WORLD" live new 120 "$seed" > "$T/right" || fail "samples and labels"; sleep 2
done
echo "ok drift, retrain in a worker behind its socket, shadow, canary, swap"
perl "$WORLD" live new 200 100 | tee "$T/after"; awk '{exit !($1 > 160)}' "$T/after" || fail "the new model is wrong"
hone "$@" doctor --root "$T" --json > "$T/doctor" || [ $? = 9 ] || fail "doctor"
grep -q '"findings":\[{' "$T/doctor" || fail "doctor"
echo "ok the story ends well"
