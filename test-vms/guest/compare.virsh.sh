# svirtd in its own type, driven by the real virsh: what libvirt's conformance kit asks of a driver on an SELinux host.
# Sourced.
cp /payload/svirtd /usr/bin/
restorecon /usr/bin/svirtd
labeller_left
svirt-labeller 2>&1 | cat >/run/labeller.out &
svirtd 2>&1 | cat >/run/svirtd.out &
v() { timeout 200 /opt/t/virsh -q -c 'qemu+unix:///system?socket=/run/svirt/svirt-sock' "$@" 2>&1; }
mark
left=120
until v version >/run/out; do
    left=$((left - 1))
    [ $left -gt 0 ] || { fail "svirtd answers" "$(told) $(tail -n 2 /run/svirtd.out)"; show_avc; break; }
    sleep 1
done
is "svirtd has a type of its own" "$(tr -d '\0' </proc/$(pgrep -x svirtd)/attr/current | cut -d: -f3)" svirt_front_t
is "and is not root" "$(awk '/^Uid/{print ($2 != 0) ($3 != 0)} /^CapPrm/{print $2}' /proc/$(pgrep -x svirtd)/status | tr '\n' ' ')" "11 0000000000000000 "
v capabilities >/run/capabilities
is "SELinux is the first model" "$(sed -n '/<secmodel>/,/<.secmodel>/s/.*<model>\(.*\)<.model>.*/\1/p' /run/capabilities | head -n 1)" selinux
is "with a context for emulation" "$(sed -n "s/.*<baselabel type='qemu'>\(system_u.*\)<.baselabel>.*/\1/p" /run/capabilities)" system_u:system_r:svirt_guest_tcg_t:s0

# seclabel MEMBER: of the first <seclabel> of the running domain.
seclabel() { v dumpxml $domain | sed -n '/<seclabel.*selinux/,/<.seclabel>/p' | sed -n "s/.*<$1>\(.*\)<.$1>.*/\1/p"; }
range_of() { echo "$1" | cut -d: -f5; }
kind_of() { echo "$1" | cut -d: -f3; }
qemu-img create -q -f raw $images/one.raw 1M
context() { stat -c %C $images/$1; }
fresh() { restorecon -F $images/one.raw; original=$(context one.raw); }
# tck NAME SECLABEL: the definition of such a domain with one disk.
tck() {
    domain=$1
    cat >/tmp/$1.xml <<XML
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file'><driver name='qemu' type='raw'/><source file='$images/one.raw'/><target dev='vda' bus='virtio'/></disk>
    <video><model type='none'/></video>
    <memballoon model='none'/>
  </devices>
  $2
</domain>
XML
}
G=system_u:system_r:svirt_guest_tcg_t:s0
I=system_u:object_r:svirt_guest_image_t:s0

fresh
tck relabelled "<seclabel model='selinux' type='dynamic' relabel='yes'/>"
works "virsh creates a domain with a dynamic label" v create /tmp/relabelled.xml
label=$(seclabel label) image=$(seclabel imagelabel)
is "its live label has the guests' type" "$(kind_of "$label")" svirt_guest_tcg_t
is "its image label the images'" "$(kind_of "$image")" svirt_guest_image_t
is "both have the same pair" "$(range_of "$label")" "$(range_of "$image")"
is "the disk has the image label" "$(context one.raw)" "$image"
is "the process has the live label" "$(tr -d '\0' </proc/$(pgrep qemu-system)/attr/current)" "$label"
is "dominfo tells so" "$(v dominfo relabelled | sed -n 's/^Security label: *//p' | head -n 1)" "$label (enforcing)"
v destroy relabelled >/run/out
is "the disk is as it was" "$(context one.raw)" "$original"

fresh
tck based "<seclabel model='selinux' type='dynamic' relabel='yes'><baselabel>$G</baselabel></seclabel>"
v define /tmp/based.xml >/run/out
works "virsh starts one with a base label" v start based
label=$(seclabel label) image=$(seclabel imagelabel)
is "its label has the base label's type" "$(kind_of "$label")" svirt_guest_tcg_t
is "and the image label's pair" "$(range_of "$label")" "$(range_of "$image")"
is "which the disk has" "$(context one.raw)" "$image"
v destroy based >/run/out
is "stopped, it has no label" "$(seclabel label)$(seclabel imagelabel)" ""
is "and the base label still" "$(seclabel baselabel)" "$G"
is "the disk is as it was" "$(context one.raw)" "$original"
v undefine based >/run/out

fresh
chcon $I:c1,c2 $images/one.raw
tck still "<seclabel model='selinux' type='static' relabel='no'><label>$G:c1,c2</label></seclabel>"
works "virsh creates one with a static label that relabels nothing" v create /tmp/still.xml
is "its label is the definition's" "$(seclabel label)" "$G:c1,c2"
is "it tells of no image label" "$(seclabel imagelabel)" ""
is "the disk is untouched" "$(context one.raw)" "$I:c1,c2"
v destroy still >/run/out
is "and stays so" "$(context one.raw)" "$I:c1,c2"

fresh
if v create /tmp/still.xml >/run/out; then fail "a disk that has another label is refused" "it runs"; v destroy still >/run/out
else pass "a disk that has another label is refused: $(told)"; fi
is "and has it still" "$(context one.raw)" "$original"

fresh
tck moved "<seclabel model='selinux' type='static' relabel='yes'><label>$G:c1,c2</label></seclabel>"
works "virsh creates one with a static label that relabels" v create /tmp/moved.xml
is "its label is the definition's" "$(seclabel label)" "$G:c1,c2"
is "its image label has that pair" "$(seclabel imagelabel)" "$I:c1,c2"
is "which the disk has" "$(context one.raw)" "$I:c1,c2"
v destroy moved >/run/out
is "the disk is as it was" "$(context one.raw)" "$original"

# A picture of its display: QEMU writes it into a file of the supervisor's.
fresh
tck seen "<seclabel model='selinux' type='dynamic' relabel='yes'/>"
sed -i "s,<model type='none'/>,<model type='vga'/>," /tmp/seen.xml
works "virsh creates a domain with a display" v create /tmp/seen.xml
works "and takes a picture of it" v screenshot seen /tmp/seen.png
is "which is one" "$(head -c 4 /tmp/seen.png | tail -c 3)" PNG
is "nothing of the picture's was denied" "$(messages | grep 'avc:' | grep -c 'svirt_picture_t')" 0 || show_avc
v destroy seen >/run/out

is "nothing of svirtd's was denied" "$(messages | grep 'avc:' | grep -c 'svirt_front_t')" 0 || show_avc
