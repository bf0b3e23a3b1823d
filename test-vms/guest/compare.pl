# compare.pl WHO DOMAIN DIRECTORY [DIFFERENCES]: what WHO did to each object of a domain (DIRECTORY/WHO.{before,during,after},
# lines of "object context count") against svirt's plan for it (DIRECTORY/WHO.plan, JSON with one member a line). Prints a
# verdict for each object: ok where both are the same, or where the difference is one of the list and has its reason there.
use strict;
use warnings;
my ($who, $domain, $directory, $list) = @ARGV;

sub lines { my ($path) = @_; open(my $in, '<', $path) or die "$path: $!\n"; chomp(my @all = <$in>); @all }
sub rows { my ($path) = @_; map { my @words = split / /; $words[0] => [@words[1, 2]] } lines($path) }
sub name { my ($object) = @_; $object =~ s{.*/}{}; $object }

# told CONTEXT PAIR: type and range, the domain's own pair under one name whatever was drawn.
my $pair;
sub told {
    my ($context) = @_;
    my (undef, undef, $type, $range) = split /:/, $context, 4;
    $range =~ s/^s0-s0/s0/;
    $range = 'all categories' if $range =~ /^s0:c0\.c1023$/;
    $range = defined $pair && $range eq "s0:$pair" ? 'own pair' : $range =~ /^s0:c\d+,c\d+$/ ? 'a pair' : $range =~ /,c\d+,/ ? 'own pair and others' : $range;
    "$type $range";
}
# own MODEL IMAGE: the pair of a domain whose device model and whose own image have these contexts. The device model may
# have pairs of what it shares besides.
sub own {
    my ($model, $image) = @_;
    my ($range) = map { (split /:/, $_, 4)[3] =~ /^s0:(c\d+,c\d+.*)$/ } grep { defined } $model;
    my ($first) = map { (split /:/, $_, 4)[3] =~ /^s0:(c\d+),c\d+$/ } grep { defined } $image;
    my ($second) = map { (split /:/, $_, 4)[3] =~ /^s0:c\d+,(c\d+)$/ } grep { defined } $image;
    return undef unless defined $range;
    my %has = map { $_ => 1 } split /,/, $range;
    return defined $second && $has{$first} && $has{$second} ? "$first,$second" : $range;
}

my %before = rows("$directory/$who.before");
my %during = rows("$directory/$who.during");
my %after = rows("$directory/$who.after");
my %seen;
my ($model) = grep { /^qemu-system/ } keys %during;
my ($image) = grep { m{/top\.qcow2$} } keys %during;
$pair = own($model && $during{$model}[0], $during{$image}[0]);
for my $object (keys %during) {
    my ($context, $count) = @{ $during{$object} };
    if (!$before{$object}) { $seen{ name($object) } = 'runs as ' . told($context); next }
    my $was = $before{$object}[0];
    my $restored = ($after{$object}[0] // 'gone') eq $was;
    if ($context eq $was && $restored && !$count) { $seen{ name($object) } = 'untouched'; next }
    $seen{ name($object) } = told($context) . ($count ? ", counted" : '') . ($restored ? ', restored' : ', stays');
}

my %planned;
my ($object, %row);
my %processes = ('the device model' => 'qemu-system', 'swtpm' => 'swtpm');
$pair = undef;
my @plan = lines("$directory/$who.plan");
my @all;
for (@plan) {
    %row = () if /^  \{/;
    $row{$1} = $2 if /^    "(\w+)": "?(.*?)"?,?$/;
    push @all, {%row} if /^  \}/;
}
my ($process) = grep { $_->{resource} eq 'the device model' } @all;
my ($disk) = grep { $_->{path} =~ m{/top\.qcow2$} } @all;
$pair = own($process && $process->{label}, $disk && $disk->{action} eq 'set' ? $disk->{label} : undef);
for my $row (@all) {
    my $process = $processes{ $row->{resource} } // ($row->{resource} =~ /^virtiofsd for/ ? 'virtiofsd' : undef);
    if ($row->{action} eq 'run') { $planned{$process} = 'runs as ' . told($row->{label}) if $process; next }
    next if $row->{path} eq 'null' || !$before{ $row->{path} };
    my $does = $row->{action} eq 'refused' ? 'refused' : $row->{action} ne 'set' ? 'untouched'
        : told($row->{label}) . ($row->{remember} eq 'true' ? ', counted' : '') . ($row->{restore} eq 'true' ? ', restored' : ', stays');
    $planned{ name($row->{path}) } = $does;
}

my %differences;
for ($list ? lines($list) : ()) {
    next if /^#/ || /^\s*$/;
    my ($of, $objects, $libvirt, $svirt, $reason) = map { s/^\s+|\s+$//gr } split /\|/;
    die "a difference without a reason: $_\n" unless $reason;
    next unless grep { $_ eq $domain } split / /, $of;
    $differences{$_} = [$libvirt, $svirt, $reason] for split / /, $objects;
}
# A domain has a device model and a disk at the very least: fewer objects are none that were looked at.
my $objects = keys %seen;
print "FAIL $domain: $who: only $objects objects were seen\n" if $objects < 3;
for my $object (sort { $a cmp $b } keys %{ { %seen, %planned } }) {
    my ($theirs, $ours) = ($seen{$object} // 'nothing', @all ? $planned{$object} // 'nothing' : 'the domain is refused');
    my $known = delete $differences{$object};
    if ($theirs eq $ours) {
        print $known ? "FAIL $domain $object: the same on both, and listed as a difference: $theirs\n" : "ok $domain $object: $theirs\n";
    } elsif ($known && $known->[0] eq $theirs && $known->[1] eq $ours) {
        print "ok $domain $object: $who: $theirs; planned: $ours\n";
    } else {
        print "FAIL $domain $object: $who: $theirs; planned: $ours\n";
    }
}
print "FAIL $domain $_: listed as a difference, and neither has it\n" for sort keys %differences;
