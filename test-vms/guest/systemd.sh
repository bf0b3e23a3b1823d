#!/bin/sh
# What must hold where systemd keeps svirt's daemons: the units start, the first client starts svirtd, and no restart and
# no kill of theirs ends a guest or loses its monitor.
#
# On Debian 12 that is with AppArmor, on Debian 13 with SELinux enforcing and svirt's policy module; nothing of svirt's may be denied.
# Under SELinux these lines run as the administrator does who has logged in, and not as a script of systemd's.
if [ -e /sys/fs/selinux/enforce ] && [ "$1" != admin ]; then
    exec runcon unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023 sh /payload/systemd.sh admin
fi
. /payload/lib.sh
# (Not with the labels that they have there.)
cp -rp /payload/installed/. /
if [ -e /sys/fs/selinux/enforce ]; then
    model=selinux
    ! grep -q svirt.permissive /proc/cmdline || setenforce 0
    is "SELinux enforces" "$(getenforce)" Enforcing
    is "an administrator does this" "$(id -Z)" unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023
    mkdir -p $images
    restorecon -RF /usr/bin/svirt /usr/libexec/svirt /usr/lib/systemd/system /etc/svirt /var/lib/svirt /var/cache/svirt /var/log/svirt
else
    model=apparmor
    grep -q apparmor /sys/kernel/security/lsm && pass "AppArmor is on" || fail "AppArmor is on" "$(cat /sys/kernel/security/lsm)"
fi
# What the module refused to anything of svirt's, or to anybody else because of it.
denials() { if [ $model = selinux ]; then messages | grep 'avc: *denied' | grep svirt_; else messages | grep 'apparmor="DENIED"' | grep svirt; fi; }
quiet() { is "nothing of svirt's is denied $1" "$(denials | wc -l)" 0 || denials | sed 's/^.*audit/note/; s/avc: *denied/avc:/' | head -n 40; mark; }
label_of() { tr -d '\0\n' </proc/$1/attr/current; }
mark
# (systemd before 254 does not know DelegateSubgroup=, and does without.)
is "the units are good" "$(systemd-analyze verify /usr/lib/systemd/system/svirt*.service /usr/lib/systemd/system/svirtd.socket 2>&1 | grep -v "Unknown key.*DelegateSubgroup")" ""
systemctl daemon-reload
systemctl -q enable --now svirt-labeller.service svirtd.socket && pass "the units start" || fail "the units start" "$(systemctl status svirt-labeller svirtd.socket 2>&1 | tr '\n' ' ')"
virsh() { timeout 120 virsh -q -c 'qemu+unix:///system?socket=/run/svirt/svirt-sock' "$@" 2>&1; }
main() { systemctl show -P MainPID "$1"; }
# settled UNIT OLD: waits until the unit runs as another process than OLD.
settled() {
    left=60
    until [ "$(systemctl is-active "$1")" = active ] && [ "$(main "$1")" != "$2" ] && [ "$(main "$1")" != 0 ]; do
        left=$((left - 1))
        [ $left -gt 0 ] || { fail "$1 runs again" "$(systemctl status "$1" 2>&1 | tail -n 20 | tr '\n' ' ')"; return; }
        sleep 0.5
    done
    pass "$1 runs again"
}
is "svirtd waits for a client" "$(systemctl is-active svirtd.service)" inactive
is "the first client starts it" "$(virsh list --all)" ""
is "svirtd said that it is ready" "$(systemctl is-active svirtd.service)" active
is "svirtd gave root up" "$(awk '/^Uid/{print $2 != 0, $3 != 0} /^CapEff/{print $2}' /proc/$(main svirtd)/status | tr '\n' ' ')" "1 1 0000000000000000 "
daemons() {
    [ $model = selinux ] || return 0
    is "svirtd has its type" "$(label_of $(main svirtd))" system_u:system_r:svirt_front_t:s0
    is "so has the labeller" "$(label_of $(main svirt-labeller))" system_u:system_r:svirt_labeller_t:s0
}
daemons
# (Which QEMU, asked by svirtd alone, tells of itself where it runs with its translator.)
is "svirtd knows what the emulator can do" "$(virsh domcapabilities | grep -c "<cpu>")" 1
mkdir -p $images
define guest
[ $model != selinux ] || restorecon -F $images/guest.qcow2
virsh define /tmp/guest.xml >/run/out; is "virsh defines a domain" "$?" 0
if said=$(virsh start guest); then pass "virsh starts it"; else fail "virsh starts it" "$said"; fi
set -- $(pgrep qemu-system)
for pid; do echo "note QEMU $pid: $(tr '\0' ' ' </proc/$pid/cmdline | cut -c1-300)"; done
guest=$1
is "one device model runs" "$#" 1
label=$(label_of $guest)
case $label in system_u:system_r:svirt_guest_tcg_t:s0:c*,c* | svirt-*" (enforce)") pass "under its own label: $label" ;; *) fail "under its own label" "$label" ;; esac
[ $model != selinux ] || is "its image has its categories" "$(stat -c %C $images/guest.qcow2)" "system_u:object_r:svirt_guest_image_t:$(echo "$label" | cut -d: -f4-)"
quiet "until it runs"
case $(cat /proc/$guest/cgroup) in *svirt-labeller.service/*) pass "below the labeller's control group" ;; *) fail "below the labeller's control group" "$(cat /proc/$guest/cgroup)" ;; esac
svirt inspect guest >/run/out 2>&1; is "svirt inspect finds everything as planned" "$?" 0 || tail -n 5 /run/out
define shown
sed -i "s,</devices>,<graphics type='vnc'><listen type='none'/></graphics><video><model type='vga'/></video></devices>," /tmp/shown.xml
for way in in out; do
    [ $model != selinux ] || restorecon -F $images/shown.qcow2
    does "virsh creates a domain with a display" create /tmp/shown.xml
    is "a connection to it is handed $way" "$(timeout 300 python3 /payload/displays.py shown $way 2>&1 | tail -n 1)" "RFB 003.008"
    virsh destroy shown >/run/out
done
quiet "by that"
tuned=guest process=$guest
if [ "$(systemctl --version | sed -n 's/^systemd \([0-9]*\).*/\1/p')" -ge 254 ]; then
    . /payload/tune.sh
else
    # A labeller that is started again could not come to a control group whose children have limits.
    said=$(virsh schedinfo guest --live --set cpu_shares=700)
    case $said in *"the cpu controller is not delegated to the labeller"*) pass "limits are refused by name" ;; *) fail "limits are refused by name" "$said" ;; esac
fi

# goes_on WHAT: the same process runs, and its monitor obeys.
goes_on() {
    is "after $1 the guest runs" "$(virsh domstate guest)" running
    is "and is the same process" "$(pgrep qemu-system)" "$guest"
    is "under the same label" "$(label_of $guest)" "$label"
    virsh suspend guest >/run/out; is "and its monitor obeys" "$? $(virsh domstate guest)" "0 paused" || cat /run/out
    virsh resume guest >/run/out; is "both ways" "$? $(virsh domstate guest)" "0 running" || cat /run/out
    daemons
    quiet "meanwhile"
}
systemctl reload svirtd; is "svirtd reads its rules again" "$?" 0
old=$(main svirtd); systemctl restart svirtd; settled svirtd "$old"; goes_on "a restart of svirtd"
old=$(main svirt-labeller); systemctl restart svirt-labeller; settled svirt-labeller "$old"; goes_on "a restart of the labeller"
old=$(main svirtd); kill -KILL "$old"; settled svirtd "$old"; goes_on "a kill of svirtd"
old=$(main svirt-labeller); kill -KILL "$old"; settled svirt-labeller "$old"; goes_on "a kill of the labeller"
old=$(main svirt-labeller); kill -KILL "$old" $(pgrep -x svirt-superviso); settled svirt-labeller "$old"
goes_on "a kill of labeller and supervisor together"
systemctl stop svirt-labeller svirtd.service
is "both stopped, the guest is the same process" "$(pgrep qemu-system)" "$guest"
systemctl start svirt-labeller; goes_on "a stop of both"
# What systemd kept is gone with the unit that was stopped: the labeller has copies from the supervisor that went on.
old=$(main svirt-labeller); kill -KILL "$old" $(pgrep -x svirt-superviso); settled svirt-labeller "$old"
goes_on "that and a kill of labeller and supervisor"
svirt inspect guest >/run/out 2>&1; is "svirt inspect still finds everything as planned" "$?" 0 || tail -n 5 /run/out
virsh destroy guest >/run/out; is "virsh ends it" "$?" 0 || cat /run/out
is "no device model is left" "$(pgrep -c qemu-system)" 0
is "no mount is left" "$(grep -c 'svirt.*guest' /proc/mounts)" 0
is "no control group of a domain is left" "$(find /sys/fs/cgroup/system.slice/svirt-labeller.service -mindepth 1 -type d -name '*-*-*-*' | wc -l)" 0
is "the image is root's again" "$(stat -c %u:%g $images/guest.qcow2)" 0:0
if [ $model = selinux ]; then is "with the label of an image at rest" "$(stat -c %C $images/guest.qcow2)" system_u:object_r:svirt_store_t:s0
else is "no profile is left" "$(grep -c '^svirt-[0-9a-f]' /sys/kernel/security/apparmor/profiles)" 0; fi
systemctl -q disable --now svirtd.socket svirtd svirt-labeller; is "everything stops" "$?" 0
is "no socket is left" "$(find /run/svirt -type s 2>/dev/null | grep -c svirt-sock)" 0
quiet "until the end"
PREFIX=/usr /payload/scripts/install --remove; is "it is uninstalled" "$?" 0
systemctl daemon-reload
is "no unit is left" "$(systemctl list-unit-files --no-legend "svirt*" | cut -d" " -f1 | tr '\n' ' ')" "svirt-test.service svirt-test.target "
[ $failures = 0 ] || dmesg | grep 'type=1326\|segfault' | sed 's/^/note /'
[ $failures = 0 ] || journalctl -b -u 'svirt*' -o cat --no-pager | tail -n 100 | sed 's/^/note /'
verdict
