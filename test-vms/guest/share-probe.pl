# What a taken-over server of a shared directory tries, or a device model that was handed one; runs in its context, prints
# "probe NAME yes|no DETAIL". Argument: pid of the neighbour's server. Descriptors 3, 4 and 5: own directory, the neighbour's, an image.
# Beside the own directory lie `two`, the neighbour's, `both`, which another server of each domain serves, and `plain`,
# which nobody serves: what is refused of the first two and works for the last is refused by their categories alone.
$| = 1;
my ($pid) = @ARGV;
my $at = '/proc/self/fd/3';
sub say_it { my ($name, $got, $why) = @_; print "probe $name ", ($got ? "yes" : "no"), " $why\n" }
my ($d, $f, $b, $e, $m, $s, $i);
say_it('own-list', opendir($d, $at) && grep({ $_ eq 'file' } readdir $d), $!);
say_it('own-file', open($f, '<', "$at/file") && sysread($f, $b, 1), $!);
say_it('own-make', open($f, '>', "$at/made") && syswrite($f, 'x') && mkdir("$at/dir") && rename("$at/made", "$at/dir/made"), $!);
say_it('plain-path', open($f, '<', "$at/../plain/file") && sysread($f, $b, 1), $!);
say_it('other-dir-fd', opendir($d, '/proc/self/fd/4') && scalar(readdir $d), $!);
say_it('other-path', open($f, '<', "$at/../two/file") && sysread($f, $b, 1), $!);
say_it('other-make', open($f, '>', "$at/../two/made"), $!);
say_it('both-path', open($f, '<', "$at/../both/file") && sysread($f, $b, 1), $!);
say_it('image-fd', open($i, '+<&=', 5) && !-c $i && sysread($i, $b, 1), 'replaced by the kernel');
say_it('other-environ', open($e, '<', "/proc/$pid/environ") && sysread($e, $b, 1), $!);
say_it('other-maps', open($m, '<', "/proc/$pid/maps") && sysread($m, $b, 1), $!);
say_it('other-signal', kill('CONT', $pid), $!);
say_it('own-signal', kill('CONT', $$), $!);
say_it('inet-socket', socket($s, 2, 1, 0), $!);
# setxattr(2): its own file under the neighbour's categories, and without any type of a share.
my ($path, $name, $label) = ("$at/dir/made\0", "security.selinux\0", "system_u:object_r:etc_t:s0\0");
say_it('relabel', syscall(188, $path, $name, $label, length $label, 0) == 0, $!);
for my $program ("$at/tool", '/bin/sh') {
    my $child = fork;
    if (!$child) { open(STDERR, '>', '/dev/null'); exec { $program } 'sh', '-c', 'exit 42'; exit 1 }
    waitpid($child, 0);
    say_it($program eq '/bin/sh' ? 'exec-shell' : 'exec-share', ($? >> 8) == 42, 'execve');
}
