# plug.pl UUID IMAGE [LABEL]: asks the labeller, as svirtd would, to plug a raw image into a running domain; prints its reply.
use strict;
use warnings;
use IO::Socket::UNIX;

my ($uuid, $image, $label) = @ARGV;
my ($device, $inode) = stat $image or die "$image: $!";
my $open = qq({"op":"open-image","slot":"disk:vdb:0","path":"$image","kind":"file","access":"read-write","direct":false,)
    . qq("sharing":"exclusive","identity":{"device":$device,"inode":$inode}});
my $labels = defined $label ? qq({"op":"label-selinux","slot":"disk:vdb:0","label":"$label"}) : '';
my @objects = (
    '{"driver":"file","node-name":"vdb-0-storage","filename":"/dev/fdset/9","locking":"off"}',
    '{"driver":"raw","node-name":"vdb-0-format","file":"vdb-0-storage"}',
    '{"driver":"virtio-blk-pci","id":"virtio-disk1","drive":"vdb-0-format"}',
);
my ($file, $format, $disk) = map { s/"/\\"/gr } @objects;
my $steps = qq({"alias":"virtio-disk1","sets":[{"slot":"disk:vdb:0","set":9}],"nodes":["$file","$format"],)
    . qq("top":{"top":"device","object":"$disk"}});
my $ops = defined $label ? "$open,$labels" : $open;
my $plug = qq({"alias":"virtio-disk1","ops":[$ops],"steps":$steps,"note":""});
my $request = qq({"request":"plug","uuid":"$uuid","plug":$plug});

my $socket = IO::Socket::UNIX->new(Peer => "/run/svirt/labeller.sock") or die "the labeller's socket: $!";
$socket->autoflush(1);
print $socket pack("N", length $request), $request;
read($socket, my $length, 4) == 4 or die "no reply";
read($socket, my $reply, unpack("N", $length));
print "$reply\n";
