# Two real domains through `svirt run`, side by side. Sourced by the test program of each VM.
if svirt run --help >/dev/null 2>&1; then
    mkdir -p /var/lib/svirt/images /etc/svirt
    for domain in alpha beta; do define "$domain"; done
    truncate -s 1M /var/lib/svirt/images/plugged.raw
    [ -e /sys/fs/selinux/enforce ] && restorecon -RF /var/lib/svirt
    labels_and_owners() { stat -c '%n %u:%g %a %C' /var/lib/svirt/images /var/lib/svirt/images/* | sed 's/^.*images//' | tr '\n' ' '; }
    before=$(labels_and_owners)
    mark
    for domain in alpha beta; do
        if svirt run --detach /tmp/$domain.xml >/run/out 2>&1; then pass "svirt run $domain"; cat /run/out >/run/degraded
        else fail "svirt run $domain" "$(head -n 6 /run/out | tr '\n' ' ')"; show_avc; fi
    done
    pids=$(pgrep qemu-system)
    set -- $pids
    if [ $# = 2 ]; then
        for fact in Uid CapPrm CapBnd NoNewPrivs Seccomp; do echo "note $fact: $(grep -h "^$fact:" /proc/$1/status /proc/$2/status | cut -f2 | tr '\n' ' ')"; done
        first=$(awk '/^Uid/{print $2}' /proc/$1/status) second=$(awk '/^Uid/{print $2}' /proc/$2/status)
        if [ "$first" != "$second" ] && [ "$first" != 0 ] && [ "$second" != 0 ]; then pass "each device model has a uid of its own"; else fail "each device model has a uid of its own" "$first $second"; fi
        for pid; do
            is "pid $pid holds no capability" "$(awk '/^Cap(Prm|Eff|Bnd|Amb)/{print $2}' /proc/$pid/status | sort -u)" 0000000000000000
            is "pid $pid has no_new_privs" "$(awk '/^NoNewPrivs/{print $2}' /proc/$pid/status)" 1
            is "pid $pid is filtered" "$(awk '/^Seccomp:/{print $2}' /proc/$pid/status)" 2
        done
        if [ -e /sys/fs/selinux/enforce ]; then
            one=$(tr -d '\0' </proc/$1/attr/current) two=$(tr -d '\0' </proc/$2/attr/current)
            echo "note contexts: $one $two"
            case "$one $two" in *:svirt_guest_tcg_t:s0:c*\ *:svirt_guest_tcg_t:s0:c*) pass "device models carry svirt's type";; *) fail "device models carry svirt's type" "$one $two";; esac
            if [ "$one" != "$two" ]; then pass "the pairs differ"; else fail "the pairs differ" "$one"; fi
            for domain in alpha beta; do is "the image of $domain is labelled" "$(type_of /var/lib/svirt/images/$domain.qcow2)" svirt_guest_image_t; done
        fi
        if [ -e /sys/fs/selinux/enforce ]; then
            # The first domain's context, as root, against the running second one: only SELinux can refuse.
            case "$(tr '\0' ' ' </proc/$1/cmdline)" in *alpha*) own=alpha other=beta ;; *) own=beta other=alpha ;; esac
            [ "$(stat -c %C /var/lib/svirt/images/$own.qcow2 | cut -d: -f4-)" = "$(echo "$one" | cut -d: -f4-)" ] || { swap=$own own=$other other=$swap; }
            socket=$(find /run/svirt -type s -path "*$other*" | head -n 1)
            [ -n "$socket" ] || socket=$(find /run/svirt -type s ! -name labeller.sock | head -n 1)
            echo "note attacking pid $2 and $socket"
            launch attack "$one" "$2" /var/lib/svirt/images/$own.qcow2 /var/lib/svirt/images/$other.qcow2 "$socket"
            for name in own-image-fd own-maps own-signal; do probe_says $name yes; done
            for name in other-image-fd other-image-path other-environ other-maps other-signal other-socket; do probe_says $name no; done
            avc "the running neighbour's image" "denied .*scontext=$one tcontext=system_u:object_r:svirt_guest_image_t:$(echo "$two" | cut -d: -f4-) tclass=file"
            # Another uid's process: the capability is asked for before the signal itself, and SELinux refuses that.
            avc "the signal to the running neighbour" "denied .*{ kill }.*scontext=$one tcontext=$one tclass=capability"
            . /payload/plug.sh
            . /payload/staging.sh
        fi
        # What a taken-over device model could reach without a label module: its uid against the neighbour.
        if setpriv --reuid "$first" --regid "$first" --clear-groups cat "/proc/$2/environ" >/dev/null 2>&1; then fail "the neighbour's environ is refused" "read"; else pass "the neighbour's environ is refused"; fi
        if setpriv --reuid "$first" --regid "$first" --clear-groups kill -CONT "$2" 2>/dev/null; then fail "a signal to the neighbour is refused" "sent"; else pass "a signal to the neighbour is refused"; fi
        if setpriv --reuid "$first" --regid "$first" --clear-groups kill -CONT "$1" 2>/dev/null; then pass "a signal to itself is not"; else echo "note a signal to itself needs the same label"; fi
        if setpriv --reuid "$first" --regid "$first" --clear-groups cat /var/lib/svirt/images/beta.qcow2 >/dev/null 2>&1; then echo "note the neighbour's image is readable by mode bits"; fi
    else
        fail "two device models run" "pids: $pids"
    fi
    if [ -e /sys/fs/selinux/enforce ]; then
        svirt inspect alpha >/run/out 2>&1; is "svirt inspect finds everything as planned" "$?" 0 || { tail -n 5 /run/out; show_avc; }
    fi
    if [ ! -e /sys/fs/selinux/enforce ]; then
        grep -q 'degraded: .*andlock' /run/degraded && pass "the older Landlock is degraded by name" || fail "the older Landlock is degraded by name" "$(tr '\n' ' ' </run/degraded)"
        svirt inspect alpha >/run/out 2>&1; is "svirt inspect finds everything as planned" "$?" 0 || tail -n 5 /run/out
        # An attacker where alpha's device model is, each attack proven by its control.
        . /payload/label.sh
        as_admin=
        probe_json alpha
        is "svirt probe tries every layer" "$(verdict_of untried)" ""
        case " $(verdict_of layers) " in *" cgroup "*) pass "the domain has a cgroup" ;; *) fail "the domain has a cgroup" "$(verdict_of layers); $(verdict_of notes)" ;; esac
        stops cgroup host-device-node
        svirt probe alpha >/run/out 2>&1; is "svirt probe: nothing got through" "$?" 0 || cat /run/out
        stopped=$(sed -n 's/^alpha: \([0-9]*\) of .* attacks stopped.*/\1/p' /run/out)
        if [ "${stopped:-0}" -ge 25 ]; then pass "svirt probe: $stopped attacks are proven stopped"; else fail "svirt probe proves too little" "$(tail -n 3 /run/out | tr '\n' ' ')"; fi
    fi
    for domain in alpha beta; do svirt stop --force $domain >/run/out 2>&1 && pass "svirt stop $domain" || fail "svirt stop $domain" "$(head -n 3 /run/out)"; done
    is "no device model is left" "$(pgrep -c 'qemu-system')" 0
    is "owners, modes and labels are as before" "$(labels_and_owners)" "$before"
    is "no mount is left" "$(grep -c svirt /proc/mounts)" 0
else
    echo "note svirt run is not in this build: no real domains were started"
fi
