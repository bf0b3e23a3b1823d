# Shared by the test programs of the VMs: verdict lines, AVC lines, and what both kernels are asked.
failures=0
pass() { echo "ok $*"; }
# (So that what tells more can stand behind `||`.)
fail() { failures=$((failures + 1)); echo "FAIL $1: $2"; return 1; }
is() { if [ "$2" = "$3" ]; then pass "$1 ($3)"; else fail "$1" "is '$2', not '$3'"; fi; }
verdict() { [ "$failures" = 0 ] || exit 1; exit 0; }
# For writing tests: one part alone, and the verdict.
only_part() {
    part=$(sed -n 's/.*svirt.only=\([a-z]*\).*/\1/p' /proc/cmdline)
    [ -n "$part" ] || return 0
    . "/payload/$part.sh"
    verdict
}
type_of() { ls -Zd "$1" | cut -d: -f3; }
# mark: only kernel messages from here on count.
mark() { seen=$(dmesg | wc -l); }
messages() { dmesg | tail -n "+$((seen + 1))"; }
avc() {
    if messages | grep 'avc:' | grep -q "$2"; then pass "AVC for $1"; else fail "AVC for $1" "no kernel message matches $2"; show_avc; fi
}
show_avc() { messages | grep 'avc:' | sed 's/^.*avc:/note avc:/' | sort | uniq -c | sort -rn | head -n 40 | sed 's/^/note /'; }
does() { # does WHAT VIRSH-WORDS...
    what=$1
    shift
    if said=$(virsh "$@"); then pass "$what"; else fail "$what" "$said"; denials | sed 's/^.*audit/note/' | head -n 20; fi
}
probe_says() {
    if grep -q "^probe $1 $2 " /run/out; then
        pass "probe $1: $([ "$2" = yes ] && echo "works, as it must" || echo refused)"
    else
        fail "probe $1" "expected $2, got '$(grep "^probe $1 " /run/out)'"
    fi
}
install_programs() {
    for program in svirt svirt-labeller svirt-supervisor svirt-imageprobe; do
        cp "/payload/$program" /usr/bin/
        is "$program runs on this system" "$("/usr/bin/$program" --help >/dev/null 2>&1 </dev/null; [ $? -lt 126 ] && echo yes)" yes
    done
}
# A bridge that domains may be plugged into, where the kernel has them.
bridge() {
    mkdir -p /etc/svirt
    printf '[network]\nbridges = ["svirtbr0"]\n' >/etc/svirt/svirt.toml
    if busybox ip link add svirtbr0 type bridge && busybox ip address add 198.51.100.1/24 dev svirtbr0 && busybox ip link set svirtbr0 up
    then pass "there is a bridge"; else fail "there is a bridge" "its modules are not there"; fi
    for device in /dev/net/tun /dev/vhost-vsock; do is "$device is there" "$([ -c $device ] && echo yes)" yes; done
}
images=/var/lib/svirt/images
# define NAME: a qcow2 image and, as /tmp/NAME.xml, the definition of a small domain that has it as its disk.
define() {
    qemu-img create -q -f qcow2 "$images/$1.qcow2" 8M
    cat >"/tmp/$1.xml" <<XML
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='$images/$1.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
XML
}
