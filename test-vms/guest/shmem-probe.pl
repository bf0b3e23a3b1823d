# What a taken-over device model tries on memory that domains share; runs in its context, prints "probe NAME yes|no DETAIL".
# Descriptors 3, 4 and 5: a directory that it may search, in which `own` and `other` are mounts of two regions; the own
# region, open; the other one, open.
$| = 1;
sub say_it { my ($name, $got, $why) = @_; print "probe $name ", ($got ? "yes" : "no"), " $why\n" }
# mmap(2): readable and writable, shared.
sub map_of { my $number = fileno shift; my $at = syscall(9, 0, 4096, 3, 1, $number, 0); return $at != -1 }
my ($b, $f, $s);
for my $what (['own', 4], ['other', 5]) {
    my ($name, $number) = @$what;
    # The kernel replaces an inherited descriptor that is refused by the null device.
    my $have = open(my $fd, '+<&=', $number);
    say_it("$name-memory-fd", $have && !-c $fd && sysread($fd, $b, 4), $!);
    say_it("$name-memory-fd-map", $have && !-c $fd && map_of($fd), $!);
    say_it("$name-memory-path", open($f, '+<', "/proc/self/fd/3/$name"), $!);
    say_it("$name-memory-path-map", $f && defined fileno $f && map_of($f), $!);
    undef $f;
}
say_it('memory-place', opendir($s, '/run/svirt/shmem'), $!);
say_it('memory-place-path', open($f, '<', '/run/svirt/shmem/exchange'), $!);
my ($path, $name, $label) = ("/proc/self/fd/4\0", "security.selinux\0", "system_u:object_r:svirt_shmem_t:s0\0");
say_it('memory-relabel', syscall(188, $path, $name, $label, length $label, 0) == 0, $!);
