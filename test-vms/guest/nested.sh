# Guests that run: a Linux, emulated inside this VM, mounts what its domain shares over virtiofs and 9p, uses memory that
# it shares with another, a bridge of the host and a vsock. Nothing of that may be denied. Sourced by the test programs
# that define denials (what the module refused to processes of
# domains since mark) and attack_net (what another domain's device model tries on a tap and a vsock).
mounted=/var/lib/svirt/shares/mounted
log=/var/log/svirt/nested
# nested NAME ARGUMENTS DEVICES MORE: a definition of the guest.
nested() {
    cat >"/tmp/$1.xml" <<XML
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>160</memory>
  $4
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/var/lib/svirt/boot/nested.kernel</kernel>
    <initrd>/var/lib/svirt/boot/nested.initrd</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 nokaslr mitigations=off rdinit=/nested $2</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <serial type='file'><source path='$log-$1.log'/></serial>
    $3
  </devices>
</domain>
XML
}
start_nested() {
    if svirt run --detach "/tmp/$1.xml" >/run/out 2>&1; then pass "svirt run $1"; else fail "svirt run $1" "$(head -n 6 /run/out | tr '\n' ' ')"; denials | sed 's/^/note /'; fi
}
# ended NAME: waits until the guest has said that it is done.
ended() {
    tries=0
    until grep -q "nested: done" "$log-$1.log" 2>/dev/null || [ $tries -ge 600 ]; do sleep 1; tries=$((tries + 1)); done
    echo "note $1 took about $tries s"
    sed 's/\r//; s/^/note /' "$log-$1.log" | grep -a 'nested: \|anic\|rror' | head -n 20
}
said() { if grep -aq "nested: $2" "$log-$1.log"; then pass "$1: $2"; else fail "$1: $2" "it did not say so"; fi; }

# knock CID: how a connection to a port ends that nobody listens on. 104 (ECONNRESET) is the other side's own word.
knock() {
    perl -e 'socket(S, 40, 1, 0) or die "socket: $!\n"; setsockopt(S, 40, 6, pack("qq", 60, 0)) or die "timeout: $!\n";
        connect(S, pack("SSLLL", 40, 0, 1024, $ARGV[0], 0)) ? print "connected\n" : print $! + 0, "\n"' "$1" 2>&1
}

if [ -e /payload/nested.kernel ]; then
    mkdir -p /var/lib/svirt/boot /var/log/svirt
    cp /payload/nested.kernel /payload/nested.initrd /var/lib/svirt/boot/
    for place in virtiofs 9p; do mkdir -p $mounted/$place; echo "what the host wrote for $place" >$mounted/$place/file; done
    [ -e /sys/fs/selinux/enforce ] && restorecon -RF /var/lib/svirt/boot /var/lib/svirt/shares /var/log/svirt
    memory="<shmem name='between'><model type='ivshmem-plain'/><size unit='MiB'>1</size></shmem>"
    nested omega "nested.virtiofs nested.9p nested.shmem=0x5eed1234 nested.net=198.51.100.2/24 nested.vsock" \
        "$memory
         <filesystem type='mount'><driver type='virtiofs'/><source dir='$mounted/virtiofs'/><target dir='vfs'/></filesystem>
         <filesystem type='mount' accessmode='mapped'><source dir='$mounted/9p'/><target dir='plan9'/></filesystem>
         <interface type='bridge'><source bridge='svirtbr0'/><model type='virtio'/></interface>
         <vsock model='virtio'><cid auto='no' address='4242'/></vsock>" \
        "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    # One that only has the memory, so that it is there when the guest has ended.
    sed '/<cmdline>/d; /<kernel>/d; /<initrd>/d; /<serial/d; /<name>/s/omega/psi/; /<filesystem/d; /<interface/d; /<vsock/d; /<memoryBacking>/d' /tmp/omega.xml >/tmp/psi.xml
    mark
    start_nested omega
    ended omega
    is "omega's kernel answers over its vsock" "$(knock 4242)" 104
    is "nobody answers for another number" "$(knock 4243)" 19
    start_nested psi
    denied=$(denials)
    echo "$denied" | head -n 20 | sed 's/^/note /'
    is "omega's tap is the bridge's only port" "$(ls /sys/class/net/svirtbr0/brif | wc -l)" 1
    for what in "virtiofs: reads what the host wrote for virtiofs" "virtiofs: made and renamed a file" "virtiofs: wrote and read 1 MiB" \
        "virtiofs: removed a file and listed the directory" "virtiofs: unmounted" \
        "9p: reads what the host wrote for 9p" "9p: made and renamed a file" "9p: wrote and read 1 MiB" \
        "9p: removed a file and listed the directory" "9p: unmounted" "shared memory: was 0x00000000" \
        "network: the bridge answers" "vsock: the device has its driver" "done"; do said omega "$what"; done
    for place in virtiofs 9p; do is "the host reads what the guest wrote over $place" "$(cat $mounted/$place/made/second)" "from the guest over $place"; done
    is "nothing was denied while it ran" "$denied" ""
    mark
    attack_net "$(ls /sys/class/net/svirtbr0/brif)"
    svirt inspect omega >/run/out 2>&1; is "svirt inspect finds omega as planned" "$?" 0 || tail -n 5 /run/out
    svirt stop --force omega >/run/out 2>&1 && pass "svirt stop omega" || fail "svirt stop omega" "$(head -n 3 /run/out)"
    is "the memory has what the guest wrote" "$(od -An -tx4 -N4 /run/svirt/shmem/between | tr -d ' ')" 5eed1234
    svirt stop --force psi >/run/out 2>&1 && pass "svirt stop psi" || fail "svirt stop psi" "$(head -n 3 /run/out)"
    is "the bridge has no port left" "$(ls /sys/class/net/svirtbr0/brif | wc -l)" 0
    rm -r $mounted
else
    fail "a guest runs inside the VM" "its kernel could not be had: see what test-vms/run said before it started the VM"
fi
