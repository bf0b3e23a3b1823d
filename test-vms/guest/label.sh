# What `svirt probe` proves of one layer alone. Sourced.
cat >/run/verdict.pl <<'PERL'
# verdict.pl FILE ID LAYER: one row of a probe's JSON, as "CONTROL ANSWER stops|does-not-stop VERDICT"; or one list.
# (The VM has perl's base only, without its JSON module; svirt prints one member a line.)
my ($file, $id, $layer) = @ARGV;
local $/;
open(my $in, '<', $file) or die "$file: $!\n";
my $text = <$in>;
sub list { my ($from, $name) = @_; my ($inside) = $from =~ /"$name": \[(.*?)\]/s or die "no $name\n"; $inside }
my ($head, @rows) = split /"id": /, $text;
if ($id eq 'untried') { my ($tail) = $text =~ /\n  ("untried": \[.*?\])/s; print join(' ', list($tail, 'untried') =~ /"layer": "(.*?)"/g), "\n"; exit }
if ($id eq 'layers') { print join(' ', list($head, 'layers') =~ /"(.*?)"/g), "\n"; exit }
if ($id eq 'notes') { my ($tail) = $text =~ /\n  ("unknown": \[.*?\])/s; print list($tail, 'unknown'), "\n"; exit }
my ($row) = grep { /^"$id"/ } @rows or die "no row $id\n";
my ($control) = $row =~ /"control": \{\s*"result": "(.*?)"/s;
my ($placed) = $row =~ /"placed": \{\s*"result": "(.*?)"/s;
my ($verdict) = $row =~ /"verdict": "(.*?)"/;
my $by = grep { $_ eq $layer } list($row, 'stopped_by') =~ /"(.*?)"/g;
print "$control $placed ", ($by ? 'stops' : 'does-not-stop'), " $verdict\n";
PERL
verdict_of() { perl /run/verdict.pl /run/probe.json "$@"; }
# probe_json DOMAIN: runs the probe, its report in /run/probe.json.
probe_json() { $as_admin svirt probe "$1" --json >/run/probe.json 2>/run/probe.err; probed=$?; }
# stops LAYER ID...: the layer alone stops each attack, which works where nothing stops it, and all layers together do.
stops() {
    layer=$1
    shift
    for id; do
        said=$(verdict_of "$id" "$layer" 2>&1)
        # The filters kill at some calls, and answer others.
        case $said in "through "*" stops stopped") pass "svirt probe $id: stopped by the $layer alone, and works without any" ;; *) fail "svirt probe $id: stopped by the $layer alone" "$said" ;; esac
    done
}
