# Directories that guests mount, under SELinux: each has a pair of its own while it is served, which its servers have
# besides their domains', and one that is taken over is refused every other one. Sourced by the test program.
shares=/var/lib/svirt/shares
group=$shares/group
memory_of() { perl -e 'my ($p, $n, $b) = ("$ARGV[0]\0", "trusted.libvirt.security.selinux\0", "\0" x 200); my $l = syscall(191, $p, $n, $b, 200); print $l < 0 ? "none" : substr($b, 0, $l)' "$1"; }
range_of() { echo "$1" | cut -d: -f4-; }
# server DOMAIN ALIAS: the pid of that server, by svirt's own account in /run/DOMAIN.
server() { sed -n "s/^$2  *pid \([0-9]*\) .*/\1/p" "/run/$1" | head -n 1; }
for name in one two three both plain; do
    mkdir -p $group/$name
    echo "in $name" >$group/$name/file
    cp /bin/sh $group/$name/tool
done
for domain in eta theta; do
    case $domain in eta) own=one ;; theta) own=two ;; esac
    share="<filesystem type='mount'><driver type='virtiofs'/><source dir='$group"
    cat >/tmp/$domain.xml <<XML
<domain type='qemu'>
  <name>$domain</name>
  <memory unit='MiB'>64</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    $share/$own'/><target dir='own'/></filesystem>
    $share/both'/><target dir='both'/></filesystem>
  </devices>
</domain>
XML
done
cat >/tmp/iota.xml <<XML
<domain type='qemu'>
  <name>iota</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <filesystem type='mount' accessmode='mapped'><source dir='$group/three'/><target dir='own'/></filesystem>
  </devices>
</domain>
XML
restorecon -RF $shares
is "no process of a domain comes through where directories lie" "$(type_of $shares)" svirt_share_store_t
before=$(stat -c '%n %u:%g %a %C' $group $group/*)
for domain in eta theta; do
    mark
    if svirt run --detach /tmp/$domain.xml >/run/out 2>&1; then pass "svirt run $domain with directories"; else fail "svirt run $domain with directories" "$(head -n 6 /run/out | tr '\n' ' ')"; show_avc; fi
    is "nothing was denied to its servers" "$(messages | grep 'avc:' | grep -c 'svirt_virtiofsd_t\|svirt_share')" 0
    svirt inspect $domain >/run/$domain 2>&1; is "svirt inspect finds $domain's servers as planned" "$?" 0 || { tail -n 5 /run/$domain; show_avc; }
done
first=$(server eta fs0) second=$(server theta fs0) common=$(server eta fs1) joined=$(server theta fs1)
context() { tr -d '\0' <"/proc/$1/attr/current"; }
if [ -n "$first" ] && [ -n "$second" ] && [ -n "$common" ] && [ -n "$joined" ]; then
    one=$(context "$first") two=$(context "$second") three=$(context "$common") four=$(context "$joined")
    echo "note servers: $one $two $three $four"
    case "$one $two $three $four" in *:svirt_virtiofsd_t:s0:c*\ *:svirt_virtiofsd_t:s0:c*) pass "servers carry their type" ;; *) fail "servers carry their type" "$one $two" ;; esac
    is "each server has a range of its own" "$(printf '%s\n' "$one" "$two" "$three" "$four" | sort -u | wc -l)" 4
    pair=$(range_of "$(stat -c %C $group/two)")
    case "$(stat -c %C $group/one) $(stat -c %C $group/two) $(stat -c %C $group/both)" in
        *:svirt_share_t:s0:c*\ *:svirt_share_t:s0:c*\ *:svirt_share_t:s0:c*) pass "each directory has a pair" ;;
        *) fail "each directory has a pair" "$(stat -c '%n %C' $group/* | tr '\n' ' ')" ;;
    esac
    is "three directories have three pairs" "$(stat -c %C $group/one $group/two $group/both | sort -u | wc -l)" 3
    is "what lies in a directory keeps its label" "$(stat -c %C $group/one/file)" system_u:object_r:svirt_share_t:s0
    is "the directory remembers its label" "$(memory_of $group/one)" system_u:object_r:svirt_share_t:s0

    # The first one's context with the second one's uid, and modes that refuse nothing: only SELinux can refuse.
    chmod 777 $group $group/*; chmod 666 $group/*/file
    mark
    launch share /usr/bin/perl "$one" "$(stat -c %u /proc/$second)" "$second" $images/a.qcow2 $group/one $group/two
    for name in own-list own-file own-make plain-path own-signal; do probe_says $name yes; done
    for name in other-dir-fd other-path other-make both-path image-fd other-environ other-maps other-signal inet-socket relabel exec-share exec-shell; do probe_says $name no; done
    avc "the neighbour's directory, by path" "denied .*{ search }.*scontext=$one tcontext=system_u:object_r:svirt_share_t:$pair tclass=dir"
    avc "the neighbour's directory, as a descriptor" "denied .*{ read }.*scontext=$one tcontext=system_u:object_r:svirt_share_t:$pair tclass=dir"
    avc "the neighbour's server" "denied .*scontext=$one tcontext=$two tclass=\(dir\|file\|process\)"
    is "what a server makes has no categories" "$(stat -c %C $group/one/dir $group/one/dir/made | sort -u)" system_u:object_r:svirt_share_t:s0
    # What two domains share, the servers of both reach, and nothing beside it.
    for context in "$three" "$four"; do
        launch share /usr/bin/perl "$context" "$(stat -c %u /proc/$second)" "$second" $images/a.qcow2 $group/both $group/two
        for name in own-list own-file; do probe_says $name yes; done
        for name in other-dir-fd other-path; do probe_says $name no; done
    done
    # The device models of both have no part in any of it.
    guest=$(context "$(pgrep -f 'guest=eta' | head -n 1)")
    case $guest in *:svirt_guest_tcg_t:s0:c*) : ;; *) fail "the device model's context" "$guest" ;; esac
    launch share /opt/t/guest-perl "$guest" "$(stat -c %u /proc/$second)" "$second" $images/a.qcow2 $group/one $group/two
    probe_says own-signal yes
    for name in own-list own-file own-make plain-path other-dir-fd other-path; do probe_says $name no; done
    rm -r $group/one/dir $group/both/dir
    # Over 9p the device model itself makes files, under a type of its own.
    mark
    if svirt run --detach /tmp/iota.xml >/run/out 2>&1; then pass "svirt run iota, which serves over 9p"; else fail "svirt run iota, which serves over 9p" "$(head -n 6 /run/out | tr '\n' ' ')"; show_avc; fi
    svirt inspect iota >/run/out 2>&1; is "svirt inspect finds it as planned" "$?" 0 || { tail -n 5 /run/out; show_avc; }
    guest=$(context "$(pgrep -f 'guest=iota' | head -n 1)")
    case $guest in *:svirt_guest_tcg_share_t:s0:c*) pass "a device model that makes files has a type of its own" ;; *) fail "a device model that makes files has a type of its own" "$guest" ;; esac
    chmod 777 $group/three; chmod 666 $group/three/file
    mark
    launch share /opt/t/guest-perl "$guest" "$(stat -c %u /proc/$second)" "$second" $images/a.qcow2 $group/three $group/two
    for name in own-list own-file own-make plain-path own-signal; do probe_says $name yes; done
    for name in other-dir-fd other-path other-make both-path image-fd other-environ other-maps other-signal inet-socket relabel exec-share exec-shell; do probe_says $name no; done
    avc "the neighbour's directory, by a device model" "denied .*{ search }.*scontext=$guest tcontext=system_u:object_r:svirt_share_t:$pair tclass=dir"
    is "what a device model makes there has no categories" "$(stat -c %C $group/three/dir $group/three/dir/made | sort -u)" system_u:object_r:svirt_share_t:s0
    rm -r $group/three/dir
    svirt stop --force iota >/run/out 2>&1 && pass "svirt stop iota" || fail "svirt stop iota" "$(head -n 3 /run/out)"
    is "its directory has its label again" "$(stat -c %C $group/three)" system_u:object_r:svirt_share_t:s0
else
    fail "each directory has a server" "'$first' '$second' '$common' '$joined'"
fi
chmod 755 $group $group/*; chmod 644 $group/*/file
svirt stop --force eta >/run/out 2>&1 && pass "svirt stop eta" || fail "svirt stop eta" "$(head -n 3 /run/out)"
is "its directory has its label again" "$(stat -c %C $group/one)" system_u:object_r:svirt_share_t:s0
is "and nothing is remembered on it" "$(memory_of $group/one)" none
case "$(stat -c %C $group/both)" in *:svirt_share_t:s0:c*) pass "what another domain serves keeps its pair" ;; *) fail "what another domain serves keeps its pair" "$(stat -c %C $group/both)" ;; esac
# One that is killed with everything that it started: the next one puts the labels back.
kill -KILL $(pgrep -x svirt-labeller) $(pgrep qemu-system) $(pgrep -x virtiofsd)
svirt run --detach /tmp/eta.xml >/run/out 2>&1 && pass "svirt run eta after a kill" || fail "svirt run eta after a kill" "$(head -n 3 /run/out)"
is "the dead domain's directory has its label again" "$(stat -c %C $group/two)" system_u:object_r:svirt_share_t:s0
svirt stop --force eta >/run/out 2>&1 && pass "svirt stop eta" || fail "svirt stop eta" "$(head -n 3 /run/out)"
is "owners, modes and labels of directories are as before" "$(stat -c '%n %u:%g %a %C' $group $group/*)" "$before"
for second in 1 2 3 4 5 6 7 8 9 10; do pgrep -x virtiofsd >/dev/null || break; sleep 1; done
is "no server is left" "$(pgrep -c -x virtiofsd)" 0
