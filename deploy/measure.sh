#!/bin/sh
# usage: measure.sh HONE [SECONDS]    start to first answer, and resident memory while serving and recording 100 samples/s (128 features)
# Fails beyond the promises of BUDGETS.md: 200 ms, the median of seven starts; 15 MB, the most in SECONDS (60 by default).
set -eu
exec perl - "$1" "${2:-60}" <<'PERL'
use strict; use warnings; use IO::Socket::INET; use Time::HiRes qw(time sleep); use File::Temp qw(tempdir); use POSIX ();
my ($hone, $seconds) = @ARGV;
my ($features, $rate, $start_ms_max, $resident_max) = (128, 100, 200, 15_000_000);
my $folder = tempdir(CLEANUP => 1);
my $probe = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1'); my $port = $probe->sockport; close $probe;
my @names = map { "f$_" } 1 .. $features;
sub row { return map { sprintf '%.3f', rand() + rand() - 1 } 1 .. $features }
open my $csv, '>', "$folder/base.csv" or die $!; print $csv join(',', @names, 'state'), "\n";
for (1 .. 400) { my @row = row(); print $csv join(',', @row, $row[0] + $row[1] > 0 ? 'high' : 'low'), "\n" } close $csv;
open my $toml, '>', "$folder/hone.toml" or die $!; print $toml "[agent]\nlisten = \"127.0.0.1:$port\"\n"; close $toml;
system($hone, 'train', '--in-process', '--data', "$folder/base.csv", '--label', 'state', '-o', "$folder/model.safetensors") == 0 or die "training failed\n";
sub start {
  my $pid = fork // die $!;
  if (!$pid) { open STDERR, '>', "$folder/log"; open STDOUT, '>', '/dev/null';
    exec $hone, 'run', '--config', "$folder/hone.toml", '--state-dir', "$folder/state", '--model', "$folder/model.safetensors" or POSIX::_exit(127) }
  return $pid;
}
sub post {
  my ($path, $body) = @_;
  my $to = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or return;
  printf $to "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", $path, length $body, $body;
  local $/; my $answer = <$to>; return defined $answer && $answer =~ m{^HTTP/1.1 200};
}
sub end { my ($pid) = @_; kill 'TERM', $pid; waitpid $pid, 0 }
sub sample { return '{"source":"s","features":{' . join(',', do { my @row = row(); map { qq("$names[$_]":$row[$_]) } 0 .. $#names }) . "}}\n" }
my @ms;
for (1 .. 7) {
  my $body = sample(); my $begun = time; my $pid = start();
  until (post('/v1/samples', $body)) { die "it does not start: see below\n" . `cat $folder/log` if waitpid($pid, POSIX::WNOHANG()) > 0 || time - $begun > 60; sleep 0.001 }
  push @ms, 1000 * (time - $begun); end($pid);
}
my $start_ms = (sort { $a <=> $b } @ms)[3];
my $pid = start(); sleep 0.01 until post('/v1/samples', sample());
my ($most, $own, $begun, $sent) = (0, 0, time, 0);
while (time - $begun < $seconds) {
  my $wait = $begun + $sent / $rate - time; sleep $wait if $wait > 0;
  post('/v1/samples', join '', map { sample() } 1 .. 10) or die "a batch was refused\n"; $sent += 10;
  open my $status, '<', "/proc/$pid/status" or die $!; while (<$status>) {
    if (/^VmRSS:\s+(\d+) kB/) { $most = $1 * 1024 if $1 * 1024 > $most }
    if (/^RssAnon:\s+(\d+) kB/) { $own = $1 * 1024 if $1 * 1024 > $own }
  }
}
my $got = $sent / (time - $begun);
end($pid);
printf "start to first answer %.0f ms (allowed %d; %s); resident at most %.2f MB (%.2f its own, the rest pages of files) at %.0f samples/s of %d features over %d s (allowed %.0f); binary %d bytes\n",
  $start_ms, $start_ms_max, join(' ', map { sprintf '%.0f', $_ } @ms), $most / 1e6, $own / 1e6, $got, $features, $seconds, $resident_max / 1e6, -s $hone;
exit($start_ms <= $start_ms_max && $most <= $resident_max ? 0 : 1);
PERL
