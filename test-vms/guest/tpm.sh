# Two domains with a TPM each, under SELinux: their emulators have a context and a pair, and one that is taken over is
# refused the other one and its state. Sourced by the test program.
tpms=/var/lib/svirt/tpm
# state_of CONTEXT: the state that an emulator of this context may open.
state_of() {
    for file in $tpms/*.tpm2; do
        [ "$(stat -c %C "$file")" = "system_u:object_r:svirt_tpm_state_t:$(echo "$1" | cut -d: -f4-)" ] && echo "$file"
    done
}
for domain in epsilon zeta; do
    firmware=
    [ $domain = epsilon ] && firmware=" firmware='efi'"
    cat >/tmp/$domain.xml <<XML
<domain type='qemu'>
  <name>$domain</name>
  <memory unit='MiB'>64</memory>
  <os$firmware><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>
</domain>
XML
done
for round in new kept; do
    for domain in epsilon zeta; do
        mark
        if svirt run --detach /tmp/$domain.xml >/run/out 2>&1; then pass "svirt run $domain with a TPM ($round)"; else fail "svirt run $domain with a TPM ($round)" "$(head -n 6 /run/out | tr '\n' ' ')"; show_avc; fi
    done
    set -- $(pgrep -x swtpm)
    if [ $# != 2 ]; then fail "two TPM emulators run ($round)" "$*"; show_avc; fi
    if [ $# = 2 ]; then
        one=$(tr -d '\0' </proc/$1/attr/current) two=$(tr -d '\0' </proc/$2/attr/current)
        echo "note TPM emulators: $one $two"
        case "$one $two" in *:svirt_swtpm_t:s0:c*\ *:svirt_swtpm_t:s0:c*) pass "TPM emulators carry their type" ;; *) fail "TPM emulators carry their type" "$one $two" ;; esac
        if [ "$one" != "$two" ]; then pass "their pairs differ"; else fail "their pairs differ" "$one"; fi
        own=$(state_of "$one") other=$(state_of "$two")
        if [ -n "$own" ] && [ -n "$other" ] && [ "$own" != "$other" ]; then pass "each state has its emulator's pair ($round)"; else fail "each state has its emulator's pair ($round)" "'$own' '$other' $(ls -Z $tpms | tr '\n' ' ')"; fi
    fi
    if [ $# = 2 ] && [ $round = kept ]; then
        # The first one's context with the second one's uid, and modes that refuse nothing: only SELinux can refuse.
        mark
        chmod 755 $tpms; chmod 666 "$own" "$other"
        launch helper "$one" "$(stat -c %u "$other")" "$2" "$own" "$other" $images/a.qcow2
        chmod 700 $tpms; chmod 600 "$own" "$other"
        for name in own-state own-signal; do probe_says $name yes; done
        for name in other-state-fd other-state-path image-fd other-environ other-maps other-signal inet-socket exec-shell; do probe_says $name no; done
        avc "the neighbour's state" "denied .*scontext=$one tcontext=system_u:object_r:svirt_tpm_state_t:$(echo "$two" | cut -d: -f4-) tclass=file"
        avc "the neighbour's emulator" "denied .*scontext=$one tcontext=$two tclass=\(dir\|file\|process\)"
    fi
    svirt inspect zeta >/run/out 2>&1; is "svirt inspect finds the TPM as planned" "$?" 0 || { tail -n 5 /run/out; show_avc; }
    for domain in epsilon zeta; do svirt stop --force $domain >/run/out 2>&1 && pass "svirt stop $domain" || fail "svirt stop $domain" "$(head -n 3 /run/out)"; done
    for second in 1 2 3 4 5 6 7 8 9 10; do pgrep -x swtpm >/dev/null || break; sleep 1; done
    is "no TPM emulator is left" "$(pgrep -c -x swtpm)" 0
    is "states are root's again, with the label of rest" "$(stat -c '%u %a %C' $tpms/*.tpm2 | sort -u)" "0 600 system_u:object_r:svirt_tpm_store_t:s0"
    is "the variables too" "$(stat -c '%u %C' /var/lib/svirt/nvram/*.fd | sort -u)" "0 system_u:object_r:svirt_store_t:s0"
done
# The emulator's socket is one that the device model made: a domain with more pairs than its own has them on it.
mkdir -p /var/lib/svirt/shares/omicron
qemu-img create -q -f raw $images/omicron.raw 1M
restorecon -RF /var/lib/svirt/shares $images/omicron.raw
cat >/tmp/omicron.xml <<XML
<domain type='qemu'>
  <name>omicron</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$images/omicron.raw'/><target dev='vda' bus='virtio'/><shareable/></disk>
    <filesystem type='mount' accessmode='mapped'><source dir='/var/lib/svirt/shares/omicron'/><target dir='own'/></filesystem>
    <shmem name='omicron'><model type='ivshmem-plain'/><size unit='MiB'>1</size></shmem>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
  </devices>
</domain>
XML
mark
if svirt run --detach /tmp/omicron.xml >/run/out 2>&1; then pass "svirt run omicron, with a TPM and three shares"; else fail "svirt run omicron, with a TPM and three shares" "$(head -n 6 /run/out | tr '\n' ' ')"; show_avc; fi
is "its emulator may use the socket that the device model made" "$(messages | grep 'avc:' | grep 'svirt_swtpm_t' | grep -c '{ read write }.*tclass=unix_stream_socket')" 0
messages | grep 'avc:' | grep 'svirt_swtpm_t' | sed 's/^.*avc:/note avc:/'
echo "note its emulator: $(tr -d '\0' </proc/$(pgrep -x swtpm)/attr/current)"
svirt inspect omicron >/run/out 2>&1; is "svirt inspect finds omicron as planned" "$?" 0 || tail -n 5 /run/out
svirt stop --force omicron >/run/out 2>&1 && pass "svirt stop omicron" || fail "svirt stop omicron" "$(head -n 3 /run/out)"
for second in 1 2 3 4 5 6 7 8 9 10; do pgrep -x swtpm >/dev/null || break; sleep 1; done
