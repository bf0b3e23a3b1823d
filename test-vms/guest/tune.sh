# Limits and pins of a domain that runs, by svirtd and the real virsh: what the kernel then says of its control group (version 2)
# and its threads. Sourced, where virsh, does and quiet are there: $tuned is the domain, $process its device model.
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$process/cgroup)
echo "note control group: $group"
mark
does "shares and a quota are set" schedinfo $tuned --live --set cpu_shares=700 --set global_period=100000 --set global_quota=90000
is "by the kernel's own account" "$(cat $group/cpu.weight $group/cpu.max | tr '\n' ' ')" "700 90000 100000 "
is "and virsh shows them" "$(virsh schedinfo $tuned | sed -n 's/^\(cpu_shares\|global_quota\) *: //p' | tr '\n' ' ')" "700 90000 "
does "a limit on memory is set" memtune $tuned --live --hard-limit 524288 --soft-limit 262144
is "by the kernel's own account, too" "$(cat $group/memory.max $group/memory.high | tr '\n' ' ')" "536870912 268435456 "
is "and shown" "$(virsh memtune $tuned | sed -n 's/^hard_limit *: //p')" 524288
# cpus_of NAME: what threads of this name may run on.
cpus_of() { for task in /proc/$process/task/*; do [ "$(cat $task/comm)" != "$1" ] || sed -n 's/^Cpus_allowed_list:\t//p' $task/status; done; }
does "a virtual CPU is pinned" vcpupin $tuned 0 1 --live
is "its thread runs there alone" "$(cpus_of 'CPU 0/TCG')" 1
does "so is the emulator" emulatorpin $tuned 0 --live
is "and its own thread there" "$(sed -n 's/^Cpus_allowed_list:\t//p' /proc/$process/status)" 0
is "virsh shows both" "$(virsh vcpupin $tuned | sed -n 's/^ *0 *//p') $(virsh emulatorpin $tuned | sed 's/.*: *//')" "1 0"
does "the nodes of its memory are kept for the next start" numatune $tuned --mode strict --nodeset 0 --config
quiet "while it is tuned"
