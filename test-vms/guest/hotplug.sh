# A disk that is plugged into a running domain and taken out again, by svirtd and by the libvirtd of Debian as it is installed, with
# its AppArmor driver. Both must do it; how long each takes is told (`cargo bench --bench apparmor` reads it) and not judged. Sourced.
apparmor_parser -r /etc/apparmor.d/usr.sbin.libvirtd /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper
mkdir -p /run/dbus /run/libvirt /opt/t
dbus-daemon --system --fork
virtlogd -d
libvirtd -d
# Under a name that no profile is for.
cp /usr/bin/virsh /opt/t/virsh
cp /payload/svirtd /usr/bin/
svirt-labeller </dev/null 2>&1 | cat >/run/labeller.log &
svirtd </dev/null 2>&1 | cat >/run/svirtd.log &
uri_of() { case $1 in svirtd) echo 'qemu+unix:///system?socket=/run/svirt/svirt-sock' ;; libvirtd) echo qemu:///system ;; esac; }
# on SIDE VIRSH-WORDS...: a virsh of its own, which says how long the command itself took.
on() {
    uri=$(uri_of "$1")
    shift
    timeout 200 /opt/t/virsh -t -c "$uri" "$@" 2>&1
}
for side in svirtd libvirtd; do
    left=200
    until on $side version >/run/out || [ $left = 0 ]; do left=$((left - 1)); sleep 0.5; done
    place=/var/lib/libvirt/images
    [ $side = libvirtd ] || place=$images
    for image in hotplug more; do qemu-img create -q -f qcow2 $place/$image.qcow2 8M; done
    cat >/tmp/hotplug.$side.xml <<XML
<domain type='qemu'>
  <name>hotplug</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file'><driver name='qemu' type='qcow2'/><source file='$place/hotplug.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <controller type='scsi' model='virtio-scsi'/>
    <memballoon model='none'/>
  </devices>
</domain>
XML
    # On this bus nobody waits for the guest, which has no system that would let a disk go.
    cat >/tmp/more.$side.xml <<XML
<disk type='file'><driver name='qemu' type='qcow2'/><source file='$place/more.qcow2'/><target dev='sda' bus='scsi'/></disk>
XML
    if on $side create /tmp/hotplug.$side.xml >/run/out; then pass "$side creates a domain"; else fail "$side creates a domain" "$(tail -n 3 /run/out)"; fi
done
profiles=$(for pid in $(pgrep qemu-system); do cat /proc/$pid/attr/apparmor/current; done)
is "each one's device model has a profile of its kind" "$(echo "$profiles" | sed 's/-.*(/ (/' | sort | tr '\n' ' ')" "libvirt (enforce) svirt (enforce) "
turns=2
! grep -q svirt.only=hotplug /proc/cmdline || turns=10
turn=0 done=0
while [ $turn -lt $turns ]; do
    turn=$((turn + 1))
    for side in svirtd libvirtd; do
        for what in attach detach; do
            if on $side $what-device hotplug /tmp/more.$side.xml >/run/out; then done=$((done + 1)); else sed "s/^/note $side: /" /run/out; fi
            sed -n "s/^(Time: \([0-9.]*\) ms)$/note took $what $side \1 ms/p" /run/out
        done
    done
done
is "a disk comes to both and leaves both" $done $((turns * 4))
for side in svirtd libvirtd; do on $side destroy hotplug >/run/out || fail "$side ends its domain" "$(tail -n 2 /run/out)"; done
[ $failures = 0 ] || tail -n 15 /run/svirtd.log /run/labeller.log | sed 's/^/note /'
kill $(pgrep -x svirtd) $(pgrep -x svirt-labeller) $(pgrep -x libvirtd)
