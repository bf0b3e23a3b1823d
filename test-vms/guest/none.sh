#!/bin/sh
# What must hold without a label module on Debian 12's kernel: uids, namespaces and the older Landlock.
. /payload/lib.sh
is "no label module runs" "$(tr ',' '\n' </sys/kernel/security/lsm | grep -c 'selinux\|apparmor\|smack')" 0
grep -q landlock /sys/kernel/security/lsm && pass "Landlock is on" || fail "Landlock is on" "$(cat /sys/kernel/security/lsm)"
# landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)
is "Landlock's ABI is the one of Linux 6.1" "$(perl -e 'print syscall(444, 0, 0, 1)')" 2
install_programs
. /payload/domains.sh
verdict
