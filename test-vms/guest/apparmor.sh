#!/bin/sh
# What must hold under AppArmor on Debian 12's kernel: each device model runs under its domain's own profile, and the
# kernel refuses it the neighbour's image. The attacks run as root without any other layer, so that whatever is
# refused, AppArmor refused.
. /payload/lib.sh
grep -q apparmor /sys/kernel/security/lsm && pass "AppArmor is on" || fail "AppArmor is on" "$(cat /sys/kernel/security/lsm)"
install_programs
bridge
mkdir -p /var/lib/svirt/images /etc/svirt
only_part
# Profiles of device models; those of the processes beside them have longer names.
loaded() { grep -c '^svirt-[0-9a-f-]\{36\} ' /sys/kernel/security/apparmor/profiles; }
for domain in 'alpha*[1]' beta; do define "$domain"; done
mark
for domain in 'alpha*[1]' beta; do
    if svirt run --detach "/tmp/$domain.xml" >/run/out 2>&1; then pass "svirt run $domain"
    else fail "svirt run $domain" "$(head -n 6 /run/out | tr '\n' ' ')"; fi
done
messages | grep 'apparmor="DENIED"' | sed 's/^.*audit:/note/' | head -n 20
set -- $(pgrep qemu-system)
if [ $# = 2 ]; then
    case "$(tr '\0' ' ' </proc/$1/cmdline)" in *alpha*) : ;; *) set -- "$2" "$1" ;; esac
    one=$(cat /proc/$1/attr/apparmor/current) two=$(cat /proc/$2/attr/apparmor/current)
    echo "note profiles: $one, $two"
    case "$one $two" in svirt-*" (enforce) svirt-"*" (enforce)") pass "each device model has a profile that enforces" ;; *) fail "each device model has a profile that enforces" "$one $two" ;; esac
    if [ "$one" != "$two" ]; then pass "the profiles differ"; else fail "the profiles differ" "$one"; fi
    is "two profiles are loaded" "$(loaded)" 2
    own="$images/alpha*[1].qcow2" other="$images/beta.qcow2"
    # Root with every capability, in this root directory, under the first domain's profile.
    mark
    attack() { aa-exec -p "${one% (enforce)}" -- "/usr/lib/svirt-test/attack" "$@" >/run/out 2>&1; }
    mkdir -p /usr/lib/svirt-test
    cp /usr/bin/perl /usr/lib/svirt-test/attack
    try() { # try NAME yes|no PERL...: whether the code ends with success under the profile, having worked without one
        name=$1 wanted=$2
        shift 2
        if [ "$wanted" = no ] && ! /usr/lib/svirt-test/attack -e "$@" >/dev/null 2>&1; then fail "$name works without a profile" "it does not"; return; fi
        if attack -e "$@"; then said=yes; else said=no; fi
        if [ "$said" = "$wanted" ]; then pass "$name: $([ $wanted = yes ] && echo "works, as it must" || echo refused)"; else fail "$name" "$said, not $wanted: $(head -c 200 /run/out)"; fi
    }
    try "a library is read" yes 'open(F, "<", "/lib64/ld-linux-x86-64.so.2") or exit 1'
    try "the own image is opened by name" no 'open(F, "+<", $ARGV[0]) or exit 1' "$own"
    try "the neighbour's image is opened" no 'open(F, "<", $ARGV[0]) or exit 1' "$other"
    try "a file that only a pattern would match" no 'open(F, ">", "/var/lib/svirt/images/alphaX1.qcow2") or exit 1'
    try "the neighbour's environment" no 'open(F, "<", "/proc/$ARGV[0]/environ") or exit 1; exit !length(<F> // "x")' "$2"
    try "a signal to the neighbour" no 'exit !kill(18, $ARGV[0])' "$2"
    try "/etc/passwd" no 'open(F, "<", "/etc/passwd") or exit 1'
    try "a shell" no 'exit(system("/bin/true") != 0)'
    try "a connection" no 'socket(S, 2, 1, 0) or exit 1'
    try "a setting of the kernel" no 'open(F, ">", "/proc/sys/kernel/hostname") or exit 1'
    # What the unconfined labeller has opened is taken as given.
    if aa-exec -p "${one% (enforce)}" -- /usr/lib/svirt-test/attack -e 'read(STDIN, $b, 4) == 4 && $b eq "QFI\xfb" or exit 1' <"$own" >/run/out 2>&1
    then pass "a descriptor that was handed over works"; else fail "a descriptor that was handed over works" "$(head -c 200 /run/out)"; fi
    denied() { if messages | grep 'apparmor="DENIED"' | grep "profile=\"${one% (enforce)}\"" | grep -q "$2"; then pass "denial in the kernel's log: $1"; else fail "denial in the kernel's log: $1" "$(messages | grep -c DENIED) others"; messages | grep DENIED | tail -n 5 | sed 's/^/note /'; fi; }
    denied "the neighbour's image" 'operation="open".*name="/var/lib/svirt/images/beta.qcow2"'
    denied "the own image" 'operation="open".*name="/var/lib/svirt/images/alpha.*.qcow2"'
    denied "the signal" 'operation="\(signal\|capable\)".*\(kill\|signal\)'
    denied "the shell" 'operation="exec"'
    . /payload/apparmor-plug.sh
    # The same between the running domains, by svirt's own attacker; the neighbour runs under the other one's profile.
    . /payload/label.sh
    as_admin=
    mark
    probe_json 'alpha*[1]'
    is "svirt probe tries every layer" "$(verdict_of untried)" "" || cat /run/probe.err
    verdict_of notes | sed 's/^/note /'
    is "svirt probe: nothing gets through" "$probed" 0
    stops label neighbour-image-read neighbour-image-write neighbour-image-held neighbour-memory neighbour-ptrace \
        neighbour-proc-mem neighbour-environ neighbour-signal host-shadow host-files host-write host-block-device \
        host-loopback host-exec manager-ptrace manager-state
    # AppArmor of this kernel has no rule for a socket that has a name; other layers refuse it.
    case $(verdict_of neighbour-monitor label) in "through "*" stopped") pass "the neighbour's monitor is refused" ;; *) fail "the neighbour's monitor is refused" "$(verdict_of neighbour-monitor label)" ;; esac
    stops cgroup host-device-node
    denied "the neighbour's image, by svirt probe" 'operation="open".*name="[^"]*/open.img"'
    denied "the neighbour's process, by svirt probe" 'operation="capable".*capname="sys_ptrace"'
    svirt inspect beta >/run/out 2>&1; is "svirt inspect finds everything as planned" "$?" 0 || tail -n 5 /run/out
else
    fail "two device models run" "$*"
fi
for domain in 'alpha*[1]' beta; do svirt stop --force "$domain" >/run/out 2>&1 && pass "svirt stop $domain" || fail "svirt stop $domain" "$(head -n 3 /run/out)"; done
is "no profile is left" "$(loaded)" 0
is "no profile of any process is left" "$(grep -c '^svirt-[0-9a-f]' /sys/kernel/security/apparmor/profiles)" 0
. /payload/apparmor-helpers.sh
. /payload/apparmor-shares.sh
denials() { messages | grep 'apparmor="DENIED"' | grep 'profile="svirt-'; }
# Another domain's profile, with what a device model has for a tap and a vsock of its own.
attack_net() {
    model=$(profile_of "$(pgrep -f 'guest=psi' | head -n 1)") model=${model% (enforce)}
    try_as "$model" "a tap's device" no 'open(F, "+<", "/dev/net/tun") or exit 1'
    try_as "$model" "a vsock's device" no 'open(F, "+<", "/dev/vhost-vsock") or exit 1'
    try_as "$model" "a socket for vsocks" no 'socket(S, 40, 1, 0) or exit 1'
    try_as "$model" "a socket for packets" no 'socket(S, 17, 3, 0) or exit 1'
}
. /payload/nested.sh
# A labeller that is killed takes its profiles out when the next one starts.
svirt run --detach /tmp/beta.xml >/run/out 2>&1 || fail "svirt run beta again" "$(head -n 3 /run/out)"
kill -KILL $(pgrep -x svirt-labeller) $(pgrep qemu-system)
svirt run --detach '/tmp/alpha*[1].xml' >/run/out 2>&1 || fail "svirt run alpha after a kill" "$(head -n 3 /run/out)"
is "only the running domain's profile is left after a kill" "$(loaded)" 1
svirt stop --force 'alpha*[1]' >/run/out 2>&1
is "no profile is left at the end" "$(loaded)" 0
. /payload/saves.sh
. /payload/hotplug.sh
verdict
