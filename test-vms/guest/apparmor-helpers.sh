# Supervisors and helpers under AppArmor: a profile each, which is what refuses. Sourced by the test program.
profile_of() { cat "/proc/$1/attr/apparmor/current"; }
# try_as PROFILE NAME yes|no PERL...: whether the code ends with success under the profile, having worked without one.
try_as() {
    as=$1 name=$2 wanted=$3
    shift 3
    if [ "$wanted" = no ] && ! /usr/lib/svirt-test/attack -e "$@" >/dev/null 2>&1; then fail "$name works without a profile" "it does not"; return; fi
    if aa-exec -p "$as" -- /usr/lib/svirt-test/attack -e "$@" >/run/out 2>&1; then said=yes; else said=no; fi
    if [ "$said" = "$wanted" ]; then pass "$name: $([ $wanted = yes ] && echo "works, as it must" || echo refused)"; else fail "$name" "$said, not $wanted: $(head -c 200 /run/out)"; fi
}
# passt wants an interface with a hardware address and a default route; there is no other one here.
busybox ip link set lo address 02:00:00:00:00:01
busybox ip address add 192.0.2.2/24 dev lo
busybox ip route add default via 192.0.2.1 dev lo
for domain in gamma delta; do
    define $domain
    case $domain in
        gamma) device="<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>" machine=q35 ;;
        delta) device="<interface type='user'><model type='virtio'/></interface>" machine=pc ;;
    esac
    sed -i "s|</devices>|$device</devices>|; s|machine='pc'|machine='$machine'|" /tmp/$domain.xml
    mark
    if svirt run --detach /tmp/$domain.xml >/run/out 2>&1; then pass "svirt run $domain with its helper"; else fail "svirt run $domain with its helper" "$(head -n 6 /run/out | tr '\n' ' ')"; fi
    messages | grep 'apparmor="DENIED"' | sed 's/^.*audit:/note/' | head -n 20
done
for program in swtpm passt svirt-supervis; do
    pid=$(pgrep -x $program | head -n 1)
    [ -n "$pid" ] || pid=$(pgrep "$program" | head -n 1)
    is_of=$([ -n "$pid" ] && profile_of "$pid")
    case "$is_of" in svirt-*-"${program#svirt-}"*" (enforce)") pass "$program: $is_of" ;; *) fail "$program has a profile of its own" "pid '$pid', '$is_of'" ;; esac
done
swtpm=$(profile_of "$(pgrep -x swtpm)") swtpm=${swtpm% (enforce)}
state=$(ls /var/lib/svirt/tpm/*.tpm2)
cp "$state" /var/lib/svirt/tpm/other.tpm2
chmod 666 "$state" /var/lib/svirt/tpm/other.tpm2
mark
try_as "$swtpm" "the emulator's own state" yes 'open(F, "+<", $ARGV[0]) or exit 1' "$state"
try_as "$swtpm" "another TPM's state" no 'open(F, "<", "/var/lib/svirt/tpm/other.tpm2") or exit 1'
try_as "$swtpm" "an image, by the emulator" no 'open(F, "<", "/var/lib/svirt/images/gamma.qcow2") or exit 1'
try_as "$swtpm" "/etc/passwd, by the emulator" no 'open(F, "<", "/etc/passwd") or exit 1'
try_as "$swtpm" "a shell, by the emulator" no 'exit(system("/bin/true") != 0)'
try_as "$swtpm" "a connection, by the emulator" no 'socket(S, 2, 1, 0) or exit 1'
supervisor=${swtpm%-swtpm}-supervisor
try_as "$supervisor" "an image, by the supervisor" no 'open(F, "<", "/var/lib/svirt/images/gamma.qcow2") or exit 1'
try_as "$supervisor" "/etc/passwd, by the supervisor" no 'open(F, "<", "/etc/passwd") or exit 1'
try_as "$supervisor" "a shell, by the supervisor" no 'exit(system("/bin/true") != 0)'
try_as "$supervisor" "a signal to another domain's device model" no 'exit !kill(18, $ARGV[0])' "$(pgrep -f 'guest=delta' | head -n 1)"
if messages | grep 'apparmor="DENIED"' | grep "profile=\"$swtpm\"" | grep -q 'other.tpm2'; then pass "denial in the kernel's log: another TPM's state"; else fail "denial in the kernel's log: another TPM's state" "$(messages | grep -c DENIED) others"; fi
chmod 600 "$state"
rm /var/lib/svirt/tpm/other.tpm2
# What follows one that was killed runs under the same profile.
for program in passt svirt-supervis; do
    old=$(pgrep $program | head -n 1) was=$(profile_of "$old")
    kill -KILL "$old"
    for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        new=
        for pid in $(pgrep $program); do [ "$pid" != "$old" ] && [ "$(profile_of "$pid")" = "$was" ] && new=$pid; done
        [ -z "$new" ] || break
        sleep 1
    done
    if [ -n "$new" ]; then pass "another $program follows under $was"; else fail "another $program follows" "$(pgrep $program | tr '\n' ' ')"; fi
done
for domain in gamma delta; do
    svirt inspect $domain >/run/out 2>&1; is "svirt inspect finds $domain and its helper as planned" "$?" 0 || tail -n 5 /run/out
    svirt stop --force $domain >/run/out 2>&1 && pass "svirt stop $domain" || fail "svirt stop $domain" "$(head -n 3 /run/out)"
done
is "no profile of a helper is left" "$(grep -c '^svirt-[0-9a-f]' /sys/kernel/security/apparmor/profiles)" 0
