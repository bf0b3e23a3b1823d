#!/bin/sh
# What must hold where systemd keeps svirt's daemons: the units start, the first client starts svirtd, and no restart and
# no kill of theirs ends a guest or loses its monitor.
. /payload/lib.sh
cp -a /payload/installed/. /
is "the units are good" "$(systemd-analyze verify /usr/lib/systemd/system/svirt*.service /usr/lib/systemd/system/svirtd.socket 2>&1)" ""
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
mkdir -p $images
define guest
virsh define /tmp/guest.xml >/run/out; is "virsh defines a domain" "$?" 0
if said=$(virsh start guest); then pass "virsh starts it"; else fail "virsh starts it" "$said"; fi
set -- $(pgrep qemu-system)
for pid; do echo "note QEMU $pid: $(tr '\0' ' ' </proc/$pid/cmdline | cut -c1-300)"; done
guest=$1
is "one device model runs" "$#" 1
case $(cat /proc/$guest/cgroup) in *svirt-labeller.service/*) pass "below the labeller's control group" ;; *) fail "below the labeller's control group" "$(cat /proc/$guest/cgroup)" ;; esac
svirt inspect guest >/run/out 2>&1; is "svirt inspect finds everything as planned" "$?" 0 || tail -n 5 /run/out

# goes_on WHAT: the same process runs, and its monitor obeys.
goes_on() {
    is "after $1 the guest runs" "$(virsh domstate guest)" running
    is "and is the same process" "$(pgrep qemu-system)" "$guest"
    virsh suspend guest >/run/out; is "and its monitor obeys" "$? $(virsh domstate guest)" "0 paused" || cat /run/out
    virsh resume guest >/run/out; is "both ways" "$? $(virsh domstate guest)" "0 running" || cat /run/out
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
svirt inspect guest >/run/out 2>&1; is "svirt inspect still finds everything as planned" "$?" 0 || tail -n 5 /run/out

virsh destroy guest >/run/out; is "virsh ends it" "$?" 0 || cat /run/out
is "no device model is left" "$(pgrep -c qemu-system)" 0
is "no mount is left" "$(grep -c 'svirt.*guest' /proc/mounts)" 0
is "no control group of a domain is left" "$(find /sys/fs/cgroup/system.slice/svirt-labeller.service -mindepth 1 -type d -name '*-*-*-*' | wc -l)" 0
is "the image is root's again" "$(stat -c %u:%g $images/guest.qcow2)" 0:0
systemctl stop svirtd.socket svirtd svirt-labeller; is "everything stops" "$?" 0
is "no socket is left" "$(find /run/svirt -type s 2>/dev/null | grep -c svirt-sock)" 0
[ $failures = 0 ] || journalctl -b -u 'svirt*' -o cat --no-pager | tail -n 60 | sed 's/^/note /'
verdict
