# What a taken-over TPM emulator tries; runs in its context, prints "probe NAME yes|no DETAIL".
# Arguments: pid of the neighbour's emulator, own state, neighbour's state. Descriptors 3, 4 and 5: own state,
# neighbour's state, own image.
$| = 1;
my ($pid, $own, $other) = @ARGV;
sub say_it { my ($name, $got, $why) = @_; print "probe $name ", ($got ? "yes" : "no"), " $why\n" }
my ($b, $o, $f, $e, $m, $s);
say_it('own-state', open($o, '+<', '/proc/self/fd/3') && sysread($o, $b, 4), $!);
my $have = open(my $theirs, '+<&=', 4);
say_it('other-state-fd', $have && !-c $theirs && sysread($theirs, $b, 1), 'replaced by the kernel');
say_it('other-state-path', open($f, '<', $other), $!);
$have = open(my $image, '+<&=', 5);
say_it('image-fd', $have && !-c $image && sysread($image, $b, 1), 'replaced by the kernel');
say_it('other-environ', open($e, '<', "/proc/$pid/environ") && sysread($e, $b, 1), $!);
say_it('other-maps', open($m, '<', "/proc/$pid/maps") && sysread($m, $b, 1), $!);
say_it('other-signal', kill('CONT', $pid), $!);
say_it('own-signal', kill('CONT', $$), $!);
say_it('inet-socket', socket($s, 2, 1, 0), $!);
my $child = fork; if (!$child) { open(STDERR, '>', '/dev/null'); exec { '/bin/sh' } 'sh', '-c', 'exit 42'; exit 1 }
waitpid($child, 0); say_it('exec-shell', ($? >> 8) == 42, 'execve');
