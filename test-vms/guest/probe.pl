# What a taken-over device model tries; runs in a guest's context, prints "probe NAME yes|no DETAIL".
# Arguments: pid of the neighbour, own image, neighbour's image, neighbour's socket. Descriptors 3 and 4: own image,
# neighbour's image, as a device model inherits them.
$| = 1;
my ($pid, $own, $other, $socket) = @ARGV;
sub say_it { my ($name, $got, $why) = @_; print "probe $name ", ($got ? "yes" : "no"), " $why\n" }
open(my $self, '<', '/proc/self/attr/current'); my $context = <$self>; $context =~ s/[\0\n]//g; close $self;
print "context $context\n";
open(my $mine, '+<&=', 3); my $got = sysread($mine, my $b, 4); sysseek($mine, 0, 0);
say_it('own-image-fd', defined $got && $got == 4 && !-c $mine && syswrite($mine, "QFI\xfb"), $!);
# A descriptor opened in a statement is named by `my` only after it: declared here, or reading would test nothing.
my ($e, $m, $s, $s2);
my $have = open(my $theirs, '+<&=', 4);
say_it('other-image-fd', $have && !-c $theirs && sysread($theirs, $b, 4), "replaced by the kernel");
say_it('other-image-path', open(my $f, '<', $other), $!);
say_it('own-image-path', open(my $f2, '<', $own), $!);
say_it('other-environ', open($e, '<', "/proc/$pid/environ") && sysread($e, $b, 1), $!);
say_it('other-maps', open($m, '<', "/proc/$pid/maps") && sysread($m, $b, 1), $!);
say_it('own-maps', open($s, '<', "/proc/$$/maps") && sysread($s, $b, 1), $!);
say_it('other-signal', kill('CONT', $pid), $!);
say_it('own-signal', kill('CONT', $$), $!);
socket(my $u, 1, 1, 0);
say_it('other-socket', connect($u, pack('Sa*', 1, $socket . "\0")), $!);
say_it('shadow', open(my $h, '<', '/etc/shadow'), $!);
say_it('make-file', open(my $n, '>', '/tmp/made'), $!);
say_it('inet-socket', socket(my $i, 2, 1, 0), $!);
my $child = fork; if (!$child) { open(STDERR, '>', '/dev/null'); exec { '/bin/sh' } 'sh', '-c', 'exit 42'; exit 1 }
waitpid($child, 0); say_it('exec-shell', ($? >> 8) == 42, 'execve');
