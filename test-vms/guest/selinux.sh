#!/bin/sh
# What must hold under SELinux enforcing with svirt's policy module. Runs in initrc_t as root, so that no refusal below
# comes from uids: whatever is refused, SELinux refused. Prints ok and FAIL lines; its exit code is the verdict.
. /payload/lib.sh
T=svirt_guest_tcg_t
export MARK_DIR=/run

is "SELinux enforces" "$(getenforce)" Enforcing
is "this script runs as an init script" "$(cut -d: -f3 /proc/self/attr/current | tr -d '\0')" initrc_t

install_programs
bridge
mkdir -p /opt/t /run/svirt /var/lib/svirt/images
cp "$(readlink -f /usr/bin/perl)" /opt/t/guest-perl
cp /opt/t/guest-perl /opt/t/labeller-perl
cp "$(readlink -f /usr/bin/qemu-system-x86_64)" /opt/t/qemu-system-x86_64
chcon system_u:object_r:svirt_guest_exec_t:s0 /opt/t/guest-perl /opt/t/qemu-system-x86_64
chcon system_u:object_r:svirt_labeller_exec_t:s0 /opt/t/labeller-perl
cp /payload/probe.pl /payload/helper-probe.pl /payload/share-probe.pl /payload/shmem-probe.pl /payload/net-probe.pl /payload/launch.pl /run/svirt/
restorecon -RF /run/svirt /etc/svirt /var/lib/svirt /usr/bin/svirt /usr/bin/svirt-*
is "the labeller's program has its type" "$(type_of /usr/bin/svirt-labeller)" svirt_labeller_exec_t
is "an image at rest has a type that no guest may read" "$(type_of /var/lib/svirt/images)" svirt_store_t

images=/var/lib/svirt/images
for domain in a b; do qemu-img create -q -f qcow2 $images/$domain.qcow2 8M; done
chcon system_u:object_r:svirt_guest_image_t:s0:c1,c2 $images/a.qcow2
chcon system_u:object_r:svirt_guest_image_t:s0:c3,c4 $images/b.qcow2

launch() { /opt/t/labeller-perl /run/svirt/launch.pl "$@" 2>&1 | cat >/run/out; }

only_part

# Two domains side by side, each executed under no_new_privs with its own pair.
mark
launch two $images $T
cat /run/out | sed 's/^/note /'
is "the neighbour carries its own pair" "$(sed -n 's/^neighbour //p' /run/out)" "system_u:system_r:$T:s0:c3,c4"
is "the attacker carries its own pair" "$(sed -n 's/^context //p' /run/out)" "system_u:system_r:$T:s0:c1,c2"
for name in own-image-fd own-maps own-signal; do probe_says $name yes; done
for name in other-image-fd other-image-path own-image-path other-environ other-maps other-signal other-socket \
    shadow make-file inet-socket exec-shell; do probe_says $name no; done
A="scontext=system_u:system_r:$T:s0:c1,c2"
avc "the image that was passed" "denied .*read.*$A tcontext=system_u:object_r:svirt_guest_image_t:s0:c3,c4 tclass=file"
avc "the process's files" "denied .*$A tcontext=system_u:system_r:$T:s0:c3,c4 tclass=\(dir\|file\)"
avc "the signal" "denied .*{ signal }.*$A tcontext=system_u:system_r:$T:s0:c3,c4 tclass=process"
avc "the control socket" "denied .*$A tcontext=system_u:\(object_r:svirt_run_t\|system_r:svirt_labeller_t\):s0 tclass=\(dir\|sock_file\|unix_stream_socket\)"

# A real device model.
mark
launch qemu $images $T:s0:c1,c2 a.qcow2
if grep -q '"inserted"' /run/out; then pass "QEMU under TCG runs as $T with its image"; else fail "QEMU under TCG runs as $T with its image" "$(tail -n 3 /run/out)"; show_avc; fi
launch qemu $images $T:s0:c1,c2 b.qcow2
if grep -q '"inserted"' /run/out || ! grep -q '/dev/fdset/1' /run/out; then
    fail "QEMU is refused the neighbour's image" "$(tail -n 3 /run/out)"
else
    pass "QEMU is refused the neighbour's image: $(grep -m1 '/dev/fdset/1' /run/out | sed 's/.*\/dev\/fdset/fdset/')"
fi
mark
launch qemu $images svirt_guest_t:s0:c1,c2 a.qcow2
if grep -q '"inserted"' /run/out || ! grep -q '^qemu-exit' /run/out; then fail "the KVM type has no execmem" "$(tail -n 3 /run/out)"; else pass "the KVM type has no execmem"; fi
avc "the translator's buffer" "denied .*{ execmem }.*svirt_guest_t:s0:c1,c2"

# Nobody but the labeller enters a guest's type.
if runcon system_u:system_r:$T:s0:c1,c2 /opt/t/guest-perl -e 1 2>/dev/null; then
    fail "an init script cannot enter a guest's type" "it did"
else
    pass "an init script cannot enter a guest's type"
fi

. /payload/domains.sh

# An image that two domains write has a pair of its own, which both have besides theirs.
qemu-img create -q -f raw $images/shared.raw 1M
restorecon -F $images/shared.raw
for domain in gamma delta; do
    cat >/tmp/$domain.xml <<XML
<domain type='qemu'>
  <name>$domain</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='$images/shared.raw'/>
      <target dev='vda' bus='virtio'/>
      <shareable/>
    </disk>
  </devices>
</domain>
XML
    mark
    if svirt run --detach /tmp/$domain.xml >/run/out 2>&1; then pass "svirt run $domain"; else fail "svirt run $domain" "$(head -n 3 /run/out | tr '\n' ' ')"; show_avc; fi
done
share=$(stat -c %C $images/shared.raw | cut -d: -f5)
echo "note the shared image's pair: $share"
case $share in c*,c*) pass "the shared image has a pair" ;; *) fail "the shared image has a pair" "$share" ;; esac
ranges=
for pid in $(pgrep qemu-system); do
    range=$(tr -d '\0' </proc/$pid/attr/current | cut -d: -f5)
    ranges="$ranges $range"
    for category in $(echo "$share" | tr ',' ' '); do
        case ",$range," in *",$category,"*) ;; *) fail "pid $pid has the shared image's categories" "$range" ;; esac
    done
done
set -- $ranges
echo "note ranges: $ranges"
if [ $# = 2 ] && [ "$1" != "$2" ]; then pass "both domains have it besides a pair of their own"; else fail "both domains have it besides a pair of their own" "$ranges"; fi
for domain in gamma delta; do svirt stop --force $domain >/run/out 2>&1 && pass "svirt stop $domain" || fail "svirt stop $domain" "$(head -n 3 /run/out)"; done
is "the shared image is as before" "$(type_of $images/shared.raw)" svirt_store_t

. /payload/tpm.sh
. /payload/shares.sh
. /payload/shmem.sh
denials() { messages | grep 'avc: *denied' | grep 'svirt_'; }
# Another domain's context, with what a device model has for a tap and a vsock of its own.
attack_net() {
    perl /payload/net-probe.pl 4242 "$1" >/run/out 2>&1
    # (An init script may open the device and make no tap.)
    for name in tap-open vsock-open vsock-number vsock-socket packet-socket; do probe_says $name yes; done
    launch net "$(context_of psi)" 4242 "$1"
    probe_says vsock-number yes
    for name in tap-open vsock-open tap-make tap-attach vsock-others-number vsock-socket packet-socket; do probe_says $name no; done
    avc "a tap" "denied .*scontext=$(context_of psi) .*tclass=\(chr_file\|tun_socket\)"
    avc "a vsock" "denied .*{ create }.*scontext=$(context_of psi) .*tclass=\(vsock_\|\)socket"
}
. /payload/nested.sh
. /payload/saves.sh
verdict
