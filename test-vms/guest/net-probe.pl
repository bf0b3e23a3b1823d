# What a taken-over device model tries on taps and vsocks of others; runs in its context, prints "probe NAME yes|no DETAIL".
# Descriptors 3 and 4, where there are any: /dev/net/tun and /dev/vhost-vsock, open, as it has them for its own devices.
# Arguments: the vsock number of the neighbour, and the name of its tap.
$| = 1;
my ($cid, $tap) = @ARGV;
sub say_it { my ($name, $got, $why) = @_; print "probe $name ", ($got ? "yes" : "no"), " $why\n" }
sub held { my ($number, $path) = @_; my $fd; (open($fd, '+<&=', $number) && -c $fd && (stat _)[6] != (stat '/dev/null')[6]) || sysopen($fd, $path, 2); return $fd }
my ($f, $s);
say_it('tap-open', sysopen($f, '/dev/net/tun', 2), $!);
say_it('vsock-open', sysopen($f, '/dev/vhost-vsock', 2), $!);
# TUNSETIFF of a tap without packet information: a new one, and the neighbour's.
my ($tun, $vsock) = (held(3, '/dev/net/tun'), held(4, '/dev/vhost-vsock'));
for my $try (['tap-make', 'probe0'], ['tap-attach', $tap]) {
    my ($name, $interface) = @$try;
    my $request = pack('a16Sx22', $interface, 0x1002);
    say_it($name, ioctl($tun, 0x400454ca, $request), $!);
}
# VHOST_SET_OWNER, VHOST_VSOCK_SET_GUEST_CID: the device that it has, under another number and under the neighbour's.
ioctl($vsock, 0xaf01, 0);
for my $try (['vsock-number', 5555], ['vsock-others-number', $cid]) {
    my ($name, $number) = @$try;
    my $packed = pack('Q', $number);
    say_it($name, ioctl($vsock, 0x4008af60, $packed), $!);
}
say_it('vsock-socket', socket($s, 40, 1, 0), $!);
say_it('packet-socket', socket($s, 17, 3, 0), $!);
