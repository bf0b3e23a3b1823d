# Directories that guests mount, under AppArmor: what serves one has a profile of its own, which names no path of the host.
# Sourced by the test program; try_as and profile_of are apparmor-helpers.sh's.
shares=/var/lib/svirt/shares
for domain in eta theta; do
    mkdir -p $shares/$domain $shares/mapped-$domain
    echo "of $domain" >$shares/$domain/file
    cat >/tmp/$domain.xml <<XML
<domain type='qemu'>
  <name>$domain</name>
  <memory unit='MiB'>64</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <filesystem type='mount'><driver type='virtiofs'/><source dir='$shares/$domain'/><target dir='own'/></filesystem>
    <filesystem type='mount' accessmode='mapped'><source dir='$shares/mapped-$domain'/><target dir='mapped'/></filesystem>
  </devices>
</domain>
XML
    mark
    if svirt run --detach /tmp/$domain.xml >/run/out 2>&1; then pass "svirt run $domain with directories"; else fail "svirt run $domain with directories" "$(head -n 6 /run/out | tr '\n' ' ')"; fi
    messages | grep 'apparmor="DENIED"' | sed 's/^.*audit:/note/' | head -n 20
    svirt inspect $domain >/run/out 2>&1; is "svirt inspect finds $domain and its server as planned" "$?" 0 || tail -n 5 /run/out
done
set -- $(pgrep virtiofsd)
servers=$(for pid; do profile_of "$pid"; done | sort -u)
case "$servers" in
    svirt-*-"virtiofsd (enforce)
"svirt-*-"virtiofsd (enforce)") pass "each server has a profile of its own" ;;
    *) fail "each server has a profile of its own" "$servers" ;;
esac
server=$(profile_of "$1") server=${server% (enforce)}
for other; do [ "$(profile_of "$other")" = "$server (enforce)" ] || break; done
# In the root of a server its directory is /svirt/share, and in the device model's /svirt/fs/N; the same names here.
mkdir -p /svirt/share /svirt/fs/1
for place in share fs/1; do echo x >/svirt/$place/file; done
mark
try_as "$server" "a file of its directory" yes 'open(F, "+<", "/svirt/share/file") or exit 1; mkdir("/svirt/share/d") or exit 2; rename("/svirt/share/d", "/svirt/share/e") or exit 3; rmdir("/svirt/share/e") or exit 4'
try_as "$server" "a directory by its name on the host" no 'open(F, "<", "/var/lib/svirt/shares/theta/file") or exit 1'
try_as "$server" "a directory of a device model" no 'open(F, "<", "/svirt/fs/1/file") or exit 1'
try_as "$server" "an image, by a server" no 'open(F, "<", "/var/lib/svirt/images/beta.qcow2") or exit 1'
try_as "$server" "/etc/passwd, by a server" no 'open(F, "<", "/etc/passwd") or exit 1'
try_as "$server" "a shell, by a server" no 'exit(system("/bin/true") != 0)'
cp /bin/true /svirt/share/tool
try_as "$server" "a program in its directory" no 'exit(system("/svirt/share/tool") != 0)'
try_as "$server" "a connection, by a server" no 'socket(S, 2, 1, 0) or exit 1'
try_as "$server" "a mount" no 'my ($s, $t, $f) = ("none\0", "/svirt/fs\0", "tmpfs\0"); exit !(syscall(165, $s, $t, $f, 0, 0) == 0)'
umount /svirt/fs
try_as "$server" "another server's environment" no 'open(F, "<", "/proc/$ARGV[0]/environ") or exit 1; exit !length(<F> // "x")' "$other"
try_as "$server" "a signal to another server" no 'exit !kill(18, $ARGV[0])' "$other"
if messages | grep 'apparmor="DENIED"' | grep "profile=\"$server\"" | grep -q 'shares/theta/file'; then pass "denial in the kernel's log: a directory by its name on the host"; else fail "denial in the kernel's log: a directory by its name on the host" "$(messages | grep -c DENIED) others"; fi
model=$(profile_of "$(pgrep -f 'guest=eta' | head -n 1)") model=${model% (enforce)}
try_as "$model" "a file of its 9p directory" yes 'open(F, "+<", "/svirt/fs/1/file") or exit 1; mkdir("/svirt/fs/1/d") && rmdir("/svirt/fs/1/d") or exit 2'
try_as "$model" "the directory of its server" no 'open(F, "<", "/svirt/share/file") or exit 1'
try_as "$model" "a 9p directory by its name on the host" no 'mkdir("/var/lib/svirt/shares/mapped-theta/d") or exit 1; rmdir("/var/lib/svirt/shares/mapped-theta/d")'
rm -r /svirt
for domain in eta theta; do svirt stop --force $domain >/run/out 2>&1 && pass "svirt stop $domain" || fail "svirt stop $domain" "$(head -n 3 /run/out)"; done
is "no profile of a server is left" "$(grep -c '^svirt-[0-9a-f]' /sys/kernel/security/apparmor/profiles)" 0
