# A disk that is plugged into the running domain whose device model is $1, under AppArmor: it comes as a descriptor, through the
# supervisor's hands, and no profile names it. Sourced by the test program.
uuid=$(tr '\0' '\n' </proc/$1/cmdline | grep -oE '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' | head -n 1)
plugged=$images/plugged.raw
truncate -s 1M $plugged
mark
perl /payload/plug.pl "$uuid" $plugged >/run/out 2>&1
if grep -q '"done"' /run/out; then pass "a disk is plugged in"; else fail "a disk is plugged in" "$(head -n 3 /run/out)"; fi
is "nothing was denied on the way" "$(messages | grep 'apparmor="DENIED"' | grep -c "svirt-$uuid")" 0
if ls -l /proc/$1/fd | grep -q "$plugged"; then pass "the device model has it open"; else fail "the device model has it open" "$(ls -l /proc/$1/fd | tail -n 5)"; fi
try "a plugged disk is opened by name" no 'open(F, "<", $ARGV[0]) or exit 1' $plugged
