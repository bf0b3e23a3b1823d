#!/bin/sh
# What Debian's own libvirtd sets on the resources of a domain under SELinux, held against what svirt plans and does for the
# same definition. compare.differences lists what is different on purpose; anything else fails.
. /payload/lib.sh
images=/var/lib/libvirt/images
shares=/var/lib/svirt/shares
out=/run/compare
mkdir -p $out $shares /run/dbus /run/libvirt /etc/svirt

is "SELinux enforces" "$(getenforce)" Enforcing
install_programs
. /payload/compare.domains.sh
make_files
restorecon -RF /var/lib/libvirt /var/lib/svirt /run/libvirt /run/dbus /usr/bin/svirt /usr/bin/svirt-* /usr/bin/svirtd

# Debian has no type for emulation without KVM in libvirt's list of contexts: this is its policy's own switch.
setsebool virt_use_execmem 1 && pass "the switch for emulation is on" || fail "the switch for emulation is on" "$(getsebool virt_use_execmem)"
dbus-daemon --system --fork
virtlogd -d
libvirtd -d
# virsh has a type of its own, which may read no definition of ours: a copy has none.
mkdir -p /opt/t
cp /usr/bin/virsh /opt/t/virsh
chcon system_u:object_r:bin_t:s0 /opt/t/virsh
virsh() { timeout 200 /opt/t/virsh -q -c qemu:///system "$@" 2>&1; }
left=100
until virsh version >/run/out; do
    left=$((left - 1))
    [ $left -gt 0 ] || { fail "libvirtd answers" "$(tail -n 3 /run/out)"; show_avc; verdict; }
    sleep 1
done
echo "note $(grep -m1 library /run/out)"
is "libvirtd uses SELinux" "$(virsh capabilities | sed -n 's/.*<model>\(.*\)<\/model>.*/\1/p' | sed -n '/selinux/p')" selinux

# counts FILE: how many users libvirt's memory on the file tells of, if any.
counts() { getfattr --only-values -n trusted.libvirt.security.ref_selinux "$1" 2>/dev/null || echo 0; }
# record FILE: context and count of every file of $domain, one a line.
record() { for file in $(files_of_domain); do echo "$file $(stat -c %C "$file" 2>/dev/null || echo gone) $(counts "$file")"; done >"$1"; }
# processes: context of each process of the domain, under the name of its program.
processes() {
    for pid in $(pgrep 'qemu-system|swtpm|virtiofsd'); do
        echo "$(cut -c1-11 /proc/$pid/comm) $(tr -d '\0' </proc/$pid/attr/current) 0"
    done | sort -u
}
# compare WHO [DIFFERENCES]: counts what fails.
compare() {
    perl /payload/compare.pl "$1" $domain $out $2 >/run/verdicts 2>&1 || echo "FAIL $domain: not compared" >>/run/verdicts
    while read -r line; do
        case $line in FAIL*) failures=$((failures + 1)) ;; esac
        echo "$line"
    done </run/verdicts
}
# is_refused FILE WHAT: whether the one refusal that is meant is in it, and not some other failure.
is_refused() {
    refusal=$(grep -o 'a device model without a context.*' "$1")
    if [ -n "$refusal" ]; then pass "$2: $refusal"; else fail "$2" "$(head -n 4 "$1" | tr '\n' ' ')"; fi
}
told() { head -n 4 /run/out | tr '\n' ' '; }
# works WHAT COMMAND...: and why not, if it does not.
works() {
    what=$1
    shift
    if "$@" >/run/out 2>&1; then pass "$what"; else fail "$what" "$(told)"; show_avc; fi
}

for domain in $domains; do
    definition svirt_t svirt_image_t virt_content_t >/tmp/$domain.xml
    label_before svirt_image_t virt_content_t
    record $out/libvirtd.before
    mark
    # Debian's policy lets its libvirtd not take away what its private /dev replaces; what it sets does not depend on that.
    virsh create --paused /tmp/$domain.xml >/run/out || {
        echo "note libvirtd cannot start $domain where SELinux enforces: $(told)"
        setenforce 0
    }
    if [ "$(getenforce)" = Enforcing ] || virsh create --paused /tmp/$domain.xml >/run/out; then
        pass "libvirtd starts $domain ($(getenforce))"
        record $out/libvirtd.during
        processes >>$out/libvirtd.during
        virsh destroy $domain >/run/out || fail "libvirtd ends $domain" "$(told)"
        record $out/libvirtd.after
        svirt --config /payload/compare.toml label plan --json --model selinux /tmp/$domain.xml >$out/libvirtd.plan 2>$out/plan.err || {
            : >$out/libvirtd.plan
            if [ $domain = none ]; then is_refused $out/plan.err "svirt plans no $domain"; else fail "svirt plans $domain" "$(tail -n 3 $out/plan.err)"; fi
        }
        compare libvirtd /payload/compare.differences
    else
        fail "libvirtd starts $domain" "$(told)"
        show_avc
        tail -n 3 /var/log/libvirt/qemu/$domain.log | sed 's/^/note /'
    fi
    setenforce 1
done

# labeller_left: waits for the labeller that an earlier command started, under that one's configuration. It leaves some
# seconds after the last that there was to do.
labeller_left() {
    left=300
    while pgrep -x svirt-labeller >/dev/null && [ $left -gt 0 ]; do left=$((left - 1)); sleep 1; done
    is "no labeller is left" "$(pgrep -x svirt-labeller)" ""
}
labeller_left

# svirt itself, with its own types: it does what it plans. (The other VM with SELinux starts what the first domain has besides.)
for domain in static unlabelled based; do
    definition svirt_guest_tcg_t svirt_guest_image_t svirt_guest_content_t >/tmp/$domain.xml
    label_before svirt_guest_image_t svirt_guest_content_t
    record $out/svirt.before
    mark
    if svirt run --detach /tmp/$domain.xml >/run/out 2>&1; then
        pass "svirt starts $domain"
        record $out/svirt.during
        processes >>$out/svirt.during
        svirt stop --force $domain >/run/out 2>&1 || fail "svirt ends $domain" "$(told)"
        record $out/svirt.after
        svirt label plan --json --model selinux /tmp/$domain.xml >$out/svirt.plan 2>$out/plan.err || fail "svirt plans $domain" "$(tail -n 3 $out/plan.err)"
        compare svirt
    else
        fail "svirt starts $domain" "$(told)"
        show_avc
    fi
done
domain=none
definition svirt_guest_tcg_t svirt_guest_image_t svirt_guest_content_t >/tmp/$domain.xml
if svirt run --detach /tmp/none.xml >/run/out 2>&1; then fail "svirt refuses a guest without a context" "it runs"; else is_refused /run/out "svirt refuses a guest without a context"; fi

. /payload/compare.memory.sh
. /payload/compare.virsh.sh
verdict
