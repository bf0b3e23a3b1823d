# Stands in for svirt-labeller, in its context: opens images, sets the exec context, sets no_new_privs, executes.
# Arguments: what, and what that needs. Prints what its children print.
$| = 1;
use strict;
my ($what, @rest) = @ARGV;
# What children say goes through a pipe made here: one made by an init script would be replaced in them.
pipe(my $from, my $to);
sub listen_to { my ($pid) = @_; close $to; print while <$from>; waitpid($pid, 0) }
# start CONTEXT, DESCRIPTORS (3 and up), COMMAND: a child; its output comes to us.
sub start {
    my ($context, $fds, @command) = @_;
    my $pid = fork;
    return $pid if $pid;
    open(STDOUT, '>&', $to); open(STDERR, '>&', $to); $| = 1;
    sysopen(my $attr, '/proc/thread-self/attr/exec', 1) or die "attr/exec: $!\n";
    syswrite($attr, $context) or die "set $context: $!\n";
    close $attr;
    my $number = 3;
    for my $fd (@$fds) { syscall(33, $fd + 0, $number++) }
    if ($start::uid) { $( = $) = $start::uid; $< = $> = $start::uid; }
    syscall(157, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!\n";
    exec { $command[0] } @command;
    print "exec-failed $!\n";
    exit 126;
}
$^F = 40;    # descriptors survive exec
my $base = 'system_u:system_r';
if ($what eq 'two') {
    my ($dir, $type) = @rest;
    open(my $pad1, '<', '/dev/null'); open(my $pad2, '<', '/dev/null'); open(my $pad3, '<', '/dev/null');
    open(my $a, '+<', "$dir/a.qcow2") or die "a: $!\n";
    open(my $b, '+<', "$dir/b.qcow2") or die "b: $!\n";
    socket(my $listen, 1, 1, 0); unlink '/run/svirt/b.sock';
    bind($listen, pack('Sa*', 1, "/run/svirt/b.sock\0")) or die "bind: $!\n"; listen($listen, 1);
    my $neighbour = start("$base:$type:s0:c3,c4", [fileno $b], '/opt/t/guest-perl', '-e', 'close STDOUT; close STDERR; sleep 100');
    sleep 1;
    open(my $label, '<', "/proc/$neighbour/attr/current"); my $is = <$label>; $is =~ s/[\0\n]//g;
    print "neighbour $is\n";
    open(my $script, '<', '/run/svirt/probe.pl') or die "probe.pl: $!\n"; my $text = join('', <$script>);
    my $attacker = start("$base:$type:s0:c1,c2", [fileno $a, fileno $b], '/opt/t/guest-perl', '-e', $text,
        $neighbour, "$dir/a.qcow2", "$dir/b.qcow2", '/run/svirt/b.sock');
    listen_to($attacker);
    kill('KILL', $neighbour); waitpid($neighbour, 0);
    unlink '/run/svirt/b.sock';
} elsif ($what eq 'attack') {
    my ($context, $pid, $own, $other, $socket) = @rest;
    open(my $pad1, '<', '/dev/null'); open(my $pad2, '<', '/dev/null'); open(my $pad3, '<', '/dev/null');
    open(my $a, '+<', $own) or die "$own: $!\n";
    open(my $b, '+<', $other) or die "$other: $!\n";
    open(my $script, '<', '/run/svirt/probe.pl') or die "probe.pl: $!\n"; my $text = join('', <$script>);
    listen_to(start($context, [fileno $a, fileno $b], '/opt/t/guest-perl', '-e', $text, $pid, $own, $other, $socket));
} elsif ($what eq 'held') {
    # A file that a device model has open, and that it tries to open.
    my ($context, $file) = @rest;
    my @pads = map { open(my $pad, '<', '/dev/null'); $pad } 1 .. 3;
    open(my $held, '<', $file) or die "$file: $!\n";
    my $text = 'open(my $h, "<&=", 3); my $got = !-c $h && sysread($h, my $b, 4); print "probe held ", ($got ? "yes" : "no"), "\n";'
        . 'my $opened = open(my $f, "<", $ARGV[0]); print "probe opened ", ($opened ? "yes" : "no"), " $!\n";';
    listen_to(start($context, [fileno $held], '/opt/t/guest-perl', '-e', $text, $file));
} elsif ($what eq 'helper') {
    my ($context, $uid, $pid, @files) = @rest;
    my @pads = map { open(my $pad, '<', '/dev/null'); $pad } 1 .. 3;
    my @open = map { open(my $file, '+<', $_) or die "$_: $!\n"; $file } @files;
    open(my $script, '<', '/run/svirt/helper-probe.pl') or die "helper-probe.pl: $!\n"; my $text = join('', <$script>);
    $start::uid = $uid;
    listen_to(start($context, [map { fileno $_ } @open], '/usr/bin/perl', '-e', $text, $pid, @files));
} elsif ($what eq 'share') {
    my ($program, $context, $uid, $pid, $image, @directories) = @rest;
    my @pads = map { open(my $pad, '<', '/dev/null'); $pad } 1 .. 3;
    my @open = map { sysopen(my $directory, $_, 0) or die "$_: $!\n"; $directory } @directories;
    open(my $file, '+<', $image) or die "$image: $!\n";
    open(my $script, '<', '/run/svirt/share-probe.pl') or die "share-probe.pl: $!\n"; my $text = join('', <$script>);
    $start::uid = $uid;
    listen_to(start($context, [map { fileno $_ } @open, $file], $program, '-e', $text, $pid));
} elsif ($what eq 'memory') {
    my ($context, $view, @regions) = @rest;
    my @pads = map { open(my $pad, '<', '/dev/null'); $pad } 1 .. 3;
    sysopen(my $directory, $view, 0) or die "$view: $!\n";
    my @open = map { open(my $file, '+<', $_) or die "$_: $!\n"; $file } @regions;
    open(my $script, '<', '/run/svirt/shmem-probe.pl') or die "shmem-probe.pl: $!\n"; my $text = join('', <$script>);
    listen_to(start($context, [fileno $directory, map { fileno $_ } @open], '/opt/t/guest-perl', '-e', $text));
} elsif ($what eq 'net') {
    my ($context, @arguments) = @rest;
    my @pads = map { open(my $pad, '<', '/dev/null'); $pad } 1 .. 3;
    my @open = map { sysopen(my $device, $_, 2) or die "$_: $!\n"; $device } '/dev/net/tun', '/dev/vhost-vsock';
    open(my $script, '<', '/run/svirt/net-probe.pl') or die "net-probe.pl: $!\n"; my $text = join('', <$script>);
    listen_to(start($context, [map { fileno $_ } @open], '/opt/t/guest-perl', '-e', $text, @arguments));
} elsif ($what eq 'qemu') {
    my ($dir, $context, $image) = @rest;
    open(my $pad1, '<', '/dev/null'); open(my $pad2, '<', '/dev/null');
    open(my $a, '+<', "$dir/$image") or die "$image: $!\n";
    pipe(my $in, my $out); syswrite($out, qq({"execute":"qmp_capabilities"}\n{"execute":"query-block"}\n{"execute":"quit"}\n));
    open(STDIN, '<&', $in);
    my $pid = start("$base:$context", [fileno $a], '/opt/t/qemu-system-x86_64', '-accel', 'tcg', '-m', '32', '-nodefaults',
        '-display', 'none', '-add-fd', 'fd=3,set=1', '-blockdev',
        'driver=qcow2,node-name=d,file.driver=file,file.filename=/dev/fdset/1,file.locking=off',
        '-device', 'virtio-blk-pci,drive=d', '-qmp', 'stdio');
    listen_to($pid);
    print "qemu-exit ", $? >> 8, " signal ", $? & 127, "\n";
}
