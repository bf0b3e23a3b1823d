# What volumes hold, through svirtd, whose own type may have no image: a process of the labeller's has the file. Sourced by
# saves.sh, while svirtd and the real virsh are there, two guests run, and nobody else's process comes or goes.
there=/run/there back=/run/back
head -c 2M /dev/urandom >$there
mark
does "virsh has a pool" pool-create-as p dir --target $images
does "virsh makes a volume" vol-create-as p v.raw 2M --allocation 0
does "a volume is written" vol-upload v.raw $there p
does "it is read" vol-download v.raw $back p
is "it holds what was written" "$(cmp $there $back && echo yes)" yes
does "it is copied" vol-clone v.raw w.raw --pool p
is "the copy holds the same" "$(cmp $there $images/w.raw && echo yes)" yes
does "virsh makes a qcow2 volume" vol-create-as p v.qcow2 2M --format qcow2
does "it gets larger" vol-resize v.qcow2 1G p
is "as QEMU's tool sees it" "$(qemu-img info $images/v.qcow2 | sed -n 's/^virtual size: .*(\(.*\) bytes)/\1/p')" 1073741824
does "a volume is wiped" vol-wipe w.raw p
is "and holds nothing" "$(tr -d '\0' <$images/w.raw | wc -c)" 0
does "what a guest uses is read" vol-download saver.qcow2 $back p
[ ! -e /sys/fs/selinux/enforce ] || is "they are images at rest" "$(stat -c %C $images/v.raw $images/w.raw | sort -u)" "system_u:object_r:svirt_store_t:s0"
if said=$(virsh vol-upload saver.qcow2 $there p); then fail "what a guest uses is not written" "it is"; else pass "what a guest uses is not written: $(echo $said)"; fi

# One that is under way: who has the file, and what is left to that process.
labeller=$(pgrep -o -x svirt-labeller)
children() { pgrep -P "$labeller" -x svirt-labeller; }
others=$(children)
mkfifo /run/fifo
virsh vol-upload v.raw /run/fifo p >/run/upload.out &
upload=$! left=120 carrier=
exec 9>/run/fifo
until [ -n "$carrier" ] || [ $left = 0 ]; do
    left=$((left - 1))
    for pid in $(children); do case " $(echo $others) " in *" $pid "*) ;; *) carrier=$pid ;; esac; done
    sleep 0.5
done
is "the carrier has the file and a socket" "$(for fd in /proc/$carrier/fd/*; do readlink $fd; done | sed 's/:.*//' | sort | tr '\n' ' ')" "$images/v.raw socket "
is "svirtd has no image" "$(for fd in /proc/$(pgrep -x svirtd)/fd/*; do readlink $fd; done | grep -c "^$images")" 0
is "no uid of root's, no capability, a filter" "$(sed -n 's/^Uid:\t0\t.*/root/p; s/^Cap\(Eff\|Prm\|Bnd\):\t0*$/none/p; s/^Seccomp:\t/filter /p' /proc/$carrier/status | sort | uniq | tr '\n' ' ')" "filter 2 none "
kill -9 $carrier
head -c 4M /dev/zero >&9 2>/dev/null
exec 9>&-
if wait $upload; then fail "a carrier that is killed is told of" "it worked"; else pass "a carrier that is killed is told of: $(grep -v '^ *$' /run/upload.out | tr '\n' ' ')"; fi
does "and its volume is free" vol-wipe v.raw p
for volume in v.raw w.raw v.qcow2; do does "$volume is removed" vol-delete $volume p; done
does "the pool goes" pool-destroy p
quiet "while volumes are carried"
