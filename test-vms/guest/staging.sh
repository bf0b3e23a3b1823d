# `svirt probe` against the running domains $own and $other under SELinux, as the administrator: first on a host like those
# in production, then with the module for staging hosts. Sourced by domains.sh.
. /payload/label.sh
as_admin="runcon unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
is "an administrator is unconfined" "$($as_admin id -Z)" unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023

$as_admin svirt probe $own >/run/out 2>&1
if grep -q '^NOT TRIED  label: .*permission denied.*svirt-probe.cil' /run/out; then pass "without the module, svirt probe says that it did not try the label"
else fail "without the module, svirt probe says that it did not try the label" "$(tail -n 4 /run/out | tr '\n' ' ')"; fi
if grep -q 'stopped by.*label\|, label\| label,' /run/out; then fail "and calls nothing stopped by it" "$(grep -c label /run/out)"; else pass "and calls nothing stopped by it"; fi

cp /etc/selinux/staging/policy.* /etc/selinux/default/policy/
load_policy && pass "the policy of staging hosts is loaded" || fail "the policy of staging hosts is loaded" "load_policy"
mark
probe_json $own
is "with it, svirt probe tries every layer" "$(verdict_of untried)" "" || cat /run/probe.err
verdict_of notes | sed 's/^/note /'
is "nothing gets through" "$probed" 0
stops label neighbour-image-read neighbour-image-write neighbour-image-held neighbour-memory neighbour-ptrace neighbour-proc-mem \
    neighbour-environ neighbour-signal neighbour-monitor manager-socket manager-control manager-ptrace manager-state \
    host-shadow host-files host-write host-block-device host-device-node host-loopback host-exec
stops cgroup host-device-node
pair=$(echo "$two" | cut -d: -f4-)
avc "the neighbour's image" "denied .*scontext=$one tcontext=system_u:object_r:svirt_guest_image_t:$pair tclass=file"
avc "the neighbour's process" "denied .*{ search }.*scontext=$one tcontext=$two tclass=dir"
avc "the neighbour's memory" "denied .*{ sys_ptrace }.*scontext=$one tcontext=$one tclass=capability"
avc "the neighbour's monitor" "denied .*scontext=$one tcontext=system_u:\(object_r:svirt_run_t\|system_r:svirt_labeller_t\):s0 tclass=\(dir\|sock_file\|unix_stream_socket\)"
