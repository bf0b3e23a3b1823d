#!/bin/sh
# A libvirtd of the test's own, below the directory $1: the first process of its own process, mount, network and IPC
# namespaces. What libvirtd keeps stands in that directory and nowhere else; its sockets are in $1/sock. All of it ends
# when standard input does. A $1/etc/qemu.conf that is there already is the one that holds.
set -eu
exec 3<&0
dir=$1
mkdir -p "$dir/etc" "$dir/lib" "$dir/run" "$dir/log" "$dir/cache" "$dir/sock"
cat >"$dir/libvirtd.conf" <<CONF
unix_sock_dir = "$dir/sock"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:stderr"
CONF
# No security driver and no mount namespaces: neither is what is compared.
[ -e "$dir/etc/qemu.conf" ] || cat >"$dir/etc/qemu.conf" <<CONF
security_driver = "none"
user = "root"
group = "root"
stdio_handler = "file"
namespaces = []
CONF
mount --make-rprivate /
# What the host does not have is made where the host does not see it.
for place in /var/lib /var/log /var/cache; do
    [ -d "$place/libvirt" ] || { mount -t tmpfs none "$place" && mkdir "$place/libvirt"; }
done
mount --bind "$dir/etc" /etc/libvirt
mount --bind "$dir/lib" /var/lib/libvirt
# All of it: neither the host's service manager nor its bus is to hear of this.
mount --bind "$dir/run" /run
mount --bind "$dir/log" /var/log/libvirt
mount --bind "$dir/cache" /var/cache/libvirt
# Debian makes this user together with the service, which need not be installed here.
if ! grep -q '^libvirt-qemu:' /etc/passwd; then
    { cat /etc/passwd; echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin'; } >"$dir/passwd"
    { cat /etc/group; echo 'libvirt-qemu:x:64055:'; } >"$dir/group"
    mount --bind "$dir/passwd" /etc/passwd
    mount --bind "$dir/group" /etc/group
fi
/usr/sbin/libvirtd --config "$dir/libvirtd.conf" --pid-file "$dir/libvirtd.pid" 3<&- &
daemon=$!
{ cat <&3 >/dev/null; kill -9 "$daemon"; } &
# This shell reaps what libvirtd puts into the background; the kernel ends the rest when it leaves.
wait "$daemon"
