#!/usr/bin/perl
# A small press line for the test machine: three sensors, two states, and a day on which everything changes.
# usage: world.pl csv ROWS > FILE          labelled rows of the old law
#        world.pl live old|new ROWS SEED   sends samples and their labels to 127.0.0.1:8600, prints how many answers were right
use strict; use warnings; use IO::Socket::INET;
my ($mode, @rest) = @ARGV;
my ($law, $rows, $seed) = $mode eq 'csv' ? ('old', $rest[0], 1) : @rest;
srand($seed);
sub normal { my $sum = -6; $sum += rand() for 1 .. 12; return $sum }
sub row {
  my ($a, $b, $c) = (normal(), normal(), normal());
  my $high = ($a + $b > 0) == ($law eq 'old');
  my $moved = $law eq 'new' ? 2 : 0;
  return (map({ sprintf '%.4f', $_ } $a + $moved, $b + $moved, $c), $high ? 'high' : 'low');
}
sub post {
  my ($path, $body) = @_;
  my $to = IO::Socket::INET->new(PeerAddr => '127.0.0.1:8600', Timeout => 10) or die "connect: $!\n";
  printf $to "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n%s", $path, length $body, $body;
  local $/; my $answer = <$to>;
  $answer =~ m{^HTTP/1.1 200} or die $answer;
  return $answer;
}
if ($mode eq 'csv') {
  print "a,b,c,state\n"; print join(',', row()), "\n" for 1 .. $rows; exit;
}
my $right = 0;
for (my $left = $rows; $left > 0; $left -= 20) {
  my @rows = map { [row()] } 1 .. 20;
  my $answer = post('/v1/samples', join '', map { sprintf qq({"source":"press-1","features":{"a":%s,"b":%s,"c":%s}}\n), @$_[0 .. 2] } @rows);
  my (@ids) = $answer =~ /"record_id":"([0-9A-Z]{26})"/g;
  my (@said) = $answer =~ /"label":"(high|low)"/g;
  @ids == 20 && @said == 20 or die "not 20 answers: $answer";
  $right += $said[$_] eq $rows[$_][3] for 0 .. 19;
  post('/v1/labels', join '', map { sprintf qq({"record_id":"%s","label":"%s"}\n), $ids[$_], $rows[$_][3] } 0 .. 19);
}
print "$right of $rows\n";
