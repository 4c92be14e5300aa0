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
cat > "$T/hone.toml" <<'TOML'
[agent]
commit_s = 1
[records.groups]
group_ms = 20
[cycle.watch]
run_length_rows = 1000.0
[cycle.trigger]
rows_first = 60
rows_max = 480
cooling_labels = 20
[budget]
energy_j_per_hour = 1e6
energy_j_stored = 1e6
energy_j_per_retrain = 1e5
cpu_share = 1.0
busy_cpu_share = 1.0
TOML
"$@" --version
"$@" init --broker mqtt://localhost:1883 --device press-1 > "$T/init.toml" && grep -q '^device = "press-1"' "$T/init.toml" || fail "init"
perl "$WORLD" csv 400 > "$T/base.csv"
"$@" train --in-process --data "$T/base.csv" --label state --seed 1 -o "$T/base.safetensors" >/dev/null || fail "train"
echo "ok a base model is trained"
perl -MIO::Socket::UNIX -e '$SIG{CHLD} = "IGNORE"; my $path = shift; my $at = IO::Socket::UNIX->new(Listen => 4, Local => $path) or die $!;
  while (my $to = $at->accept) { next if fork; open STDIN, "<&", $to; open STDOUT, ">&", $to; exec @ARGV, "train-worker" }' "$T/trainer" "$@" 2>"$T/workers" &
PIDS="$PIDS $!"
HONE_TRAINER_SOCKET=$T/trainer "$@" run --config "$T/hone.toml" --state-dir "$T/state" --model "$T/base.safetensors" --sensors-root "$T" 2>"$T/log" &
PIDS="$PIDS $!"
await 120 champion "$@" >/dev/null || fail "it does not answer"
BASE=$(champion "$@")
perl "$WORLD" live old 400 2 || fail "samples and labels"
echo "ok it serves and records"
for seed in 3 4 5 6 7 8; do perl "$WORLD" live new 240 $seed || fail "samples and labels"; sleep 1; [ "$(champion "$@")" = "$BASE" ] || break; done
swapped() { [ "$(champion "$@")" != "$BASE" ]; }
await 240 swapped "$@" || fail "no swap: $(hone "$@" status)"
echo "ok drift, retrain in a worker behind its socket, swap"
perl "$WORLD" live new 200 9 | tee "$T/after"; awk '{exit !($1 > 160)}' "$T/after" || fail "the new model is wrong"
hone "$@" doctor --root "$T" --json > "$T/doctor" || [ $? = 9 ] || fail "doctor"
grep -q '"findings":\[{' "$T/doctor" || fail "doctor"
echo "ok the story ends well"
