# A domain that is saved and goes on from there, through svirtd and the real virsh, beside a neighbour; then what its own
# label and the neighbour's reach of the file. Sourced by the test programs of SELinux and AppArmor, as root.
# Under a name that the base policy has no domain for: its own one for virsh knows nothing of svirt's sockets.
mkdir -p /opt/t
cp /usr/bin/virsh /opt/t/virsh
virsh() { timeout 120 /opt/t/virsh -q -c 'qemu+unix:///system?socket=/run/svirt/svirt-sock' "$@" 2>&1; }
left=120
while pgrep -x svirt-labeller >/dev/null && [ $left -gt 0 ]; do left=$((left - 1)); sleep 0.5; done
cp /payload/svirtd /usr/bin/
[ ! -e /sys/fs/selinux/enforce ] || restorecon /usr/bin/svirtd
svirt-labeller </dev/null 2>&1 | cat >/run/labeller.log &
svirtd </dev/null 2>&1 | cat >/run/svirtd.log &
left=120
until virsh list >/dev/null 2>&1 || [ $left = 0 ]; do left=$((left - 1)); sleep 0.5; done
is "svirtd serves" "$(virsh list --all --name)" "" || tail -n 3 /run/svirtd.log /run/labeller.log

# Label of a process; which process a domain has.
label_of() { tr -d '\0\n' </proc/$1/attr/current | sed 's/ (enforce)$//'; }
qemu_of() { for pid in $(pgrep qemu-system); do tr '\0' ' ' </proc/$pid/cmdline | grep -q "guest=$1[, ]" && echo "$pid"; done; }
# quiet WHAT: nothing of svirt's was denied since the last mark.
# (The image probe's runtime looks for SELinux and for file systems when it starts, and does without.)
if [ -e /sys/fs/selinux/enforce ]; then denials() { messages | grep 'avc: *denied' | grep svirt_ | grep -v scontext=system_u:system_r:svirt_imageprobe_t; }
else denials() { messages | grep 'apparmor="DENIED"' | grep svirt-; }; fi
quiet() { is "nothing is denied $1" "$(denials | wc -l)" 0 || { denials | sed 's/^.*audit/note/' | head -n 20; }; }
# reaches LABEL FILE: what a device model with this label does with the file, as "held=yes|no opened=yes|no".
if [ -e /sys/fs/selinux/enforce ]; then
    reaches() { launch held "$1" "$2"; echo "held=$(sed -n 's/^probe held \([a-z]*\).*/\1/p' /run/out) opened=$(sed -n 's/^probe opened \([a-z]*\).*/\1/p' /run/out)"; }
else
    # What the unconfined labeller has opened is taken as given: only names are of interest.
    mkdir -p /usr/lib/svirt-test
    cp /usr/bin/perl /usr/lib/svirt-test/attack
    reaches() { if aa-exec -p "$1" -- /usr/lib/svirt-test/attack -e 'open(F, "<", $ARGV[0]) && sysread(F, $b, 4) or exit 1' "$2" >/run/out 2>&1; then echo opened=yes; else echo opened=no; fi; }
fi
# denied_name PROFILE FILE: AppArmor's own line about it.
denied_name() {
    if denials | grep "profile=\"$1\"" | grep 'operation="open"' | grep -q "name=\"$2\""; then pass "denial in the kernel's log: $2"
    else fail "denial in the kernel's log: $2" "$(messages | grep DENIED | tail -n 3)"; fi
}
nothing() { [ -e /sys/fs/selinux/enforce ] && echo "held=no opened=no" || echo "opened=no"; }

# What saver boots: a multiboot kernel that writes a letter to its serial port and stays, before 8 MiB that no pipe holds.
boot=/var/lib/svirt/boot log=/var/log/svirt/saver.log
mkdir -p $boot /var/log/svirt
{
    printf '\002\260\255\033\000\000\001\000\376\117\121\344\000\000\020\000\000\000\020\000\000\000\000\000\000\000\000\000\040\000\020\000'
    printf '\272\370\003\000\000\260\041\356\353\376'
    head -c 8M /dev/urandom
} >$boot/full
[ ! -e /sys/fs/selinux/enforce ] || restorecon -RF $boot /var/log/svirt
for domain in saver bystander; do
    define $domain
    [ $domain = bystander ] || sed -i "s,</os>,<kernel>$boot/full</kernel></os>,; s,</devices>,<serial type='file'><source path='$log'/></serial></devices>," /tmp/saver.xml
    [ ! -e /sys/fs/selinux/enforce ] || restorecon -F $images/$domain.qcow2
    does "virsh defines $domain" define /tmp/$domain.xml
    does "virsh starts $domain" start $domain
done
left=240
until grep -q '!' $log || [ $left = 0 ]; do left=$((left - 1)); sleep 0.5; done
is "its guest runs" "$(cat $log)" '!'
file=/var/lib/svirt/saved/saver.save
old=$(label_of "$(qemu_of saver)") neighbour=$(label_of "$(qemu_of bystander)")
echo "note labels: $old $neighbour"
image=$(stat -c %C $images/saver.qcow2)
mark
does "a domain is saved" save saver $file
quiet "while it is saved"
dump=/var/lib/svirt/dumps/bystander.dump
does "a guest's memory is written down" dump bystander $dump --memory-only
quiet "while it is"
is "as an ELF file" "$(head -c 4 $dump | tr -d '\177')" ELF
is "and goes on" "$(virsh domstate bystander)" running
is "the dump is root's alone" "$(stat -c '%u:%g %a %h' $dump)" "0:0 600 1"
[ ! -e /sys/fs/selinux/enforce ] || is "and has the type of what is saved" "$(stat -c %C $dump)" "system_u:object_r:svirt_saved_t:s0"
mark
is "the guest itself does not reach it" "$(reaches "$neighbour" $dump)" "$(nothing)"
if [ -e /sys/fs/selinux/enforce ]; then avc "the dump" "denied .*scontext=$neighbour tcontext=system_u:object_r:svirt_saved_t:s0 tclass=file"
else denied_name "$neighbour" $dump; fi
is "it is saved" "$(virsh domstate saver --reason)" "shut off (saved)"
is "with its memory" "$([ "$(stat -c %s $file)" -gt 8388608 ] && echo yes)" yes
is "the file is root's alone" "$(stat -c '%u:%g %a %h' $file)" "0:0 600 1"
if [ -e /sys/fs/selinux/enforce ]; then
    is "a saved domain has a type of its own" "$(stat -c %C $file)" "system_u:object_r:svirt_saved_t:s0"
    is "the image is as before" "$(type_of $images/saver.qcow2)" svirt_store_t
    mark
    is "the guest that was saved does not reach it" "$(reaches "$old" $file)" "$(nothing)"
    avc "the saved domain" "denied .*scontext=$old tcontext=system_u:object_r:svirt_saved_t:s0 tclass=file"
    # What it is labelled as while it is loaded: the descriptor works for the domain alone, and no name does.
    cp $file /run/svirt/stand-in
    chcon "$(echo "$image" | sed 's/svirt_guest_image_t/svirt_guest_save_t/')" /run/svirt/stand-in
    is "while it is loaded its descriptor is the domain's" "$(reaches "$old" /run/svirt/stand-in)" "held=yes opened=no"
    is "and no neighbour's" "$(reaches "$neighbour" /run/svirt/stand-in)" "$(nothing)"
    avc "the descriptor of another domain's save" "denied .*scontext=$neighbour tcontext=system_u:object_r:svirt_guest_save_t:.* tclass=file"
    rm /run/svirt/stand-in
else
    is "its profile is gone" "$(grep -c "^$old " /sys/kernel/security/apparmor/profiles)" 0
fi
mark
is "a neighbour does not reach it" "$(reaches "$neighbour" $file)" "$(nothing)"
[ -e /sys/fs/selinux/enforce ] || denied_name "$neighbour" $file

mark
does "it is restored" restore $file
quiet "while it is restored"
is "it runs" "$(virsh domstate saver --reason)" "running (restored)"
new=$(label_of "$(qemu_of saver)")
echo "note label: $old before, $new now"
is "it does not reach the file that it goes on from" "$(reaches "$new" $file)" "$(nothing)"
if [ -e /sys/fs/selinux/enforce ]; then
    is "the file is labelled as before" "$(stat -c %C $file)" "system_u:object_r:svirt_saved_t:s0"
    is "the image has its new pair" "$(stat -c %C $images/saver.qcow2)" "system_u:object_r:svirt_guest_image_t:$(echo "$new" | cut -d: -f4-)"
    [ "$old" = "$new" ] || is "which the old one does not reach" "$(reaches "$old" $images/saver.qcow2)" "$(nothing)"
fi
svirt inspect saver >/run/out 2>&1; is "svirt inspect finds it as planned" "$?" 0 || tail -n 5 /run/out
mark
does "its next start goes on from a managed save" managedsave saver
[ ! -e /sys/fs/selinux/enforce ] || is "which has that type, too" "$(stat -c %C /var/lib/svirt/managed-save/*)" "system_u:object_r:svirt_saved_t:s0"
is "a neighbour does not reach that" "$(reaches "$neighbour" /var/lib/svirt/managed-save/*.save)" "$(nothing)"
mark
does "the next start goes on" start saver
quiet "while it goes on"
is "it runs again" "$(virsh domstate saver --reason)" "running (restored)"
is "from a file that is no more" "$(ls -A /var/lib/svirt/managed-save)" ""

# One that is given up while QEMU writes: whoever brings it to the file is stopped, so that it is certainly under way.
image=$(stat -c %C $images/saver.qcow2) there=$(ls -A /var/lib/svirt/saved)
labeller=$(pgrep -o -x svirt-labeller) qemu=$(qemu_of saver)
children() { pgrep -P "$labeller" -x svirt-labeller; }
others=$(children)
mark
kill -STOP "$qemu"
virsh save saver /var/lib/svirt/saved/never.save >/run/save.out &
save=$! left=120 pump=
until [ -n "$pump" ] || [ $left = 0 ]; do
    left=$((left - 1))
    for pid in $(children); do case " $(echo $others) " in *" $pid "*) ;; *) pump=$pid ;; esac; done
    sleep 0.5
done
kill -STOP "$pump"
kill -CONT "$qemu"
left=120
until virsh domjobinfo saver | grep -q '^Data processed: *[0-9.]* [KM]iB' || [ $left = 0 ]; do left=$((left - 1)); sleep 0.5; done
is "it stands while it is saved" "$(virsh domstate saver)" paused
does "the save is given up" domjobabort saver
kill -CONT "$pump"
if wait $save; then fail "whoever saves it hears of that" "it is saved"; else pass "whoever saves it hears of that: $(grep -v '^ *$' /run/save.out | tr '\n' ' ')"; fi
is "the guest goes on" "$(virsh domstate saver --reason)" "running (save canceled)"
is "and no file is left" "$(ls -A /var/lib/svirt/saved)" "$there"
[ ! -e /sys/fs/selinux/enforce ] || is "its image is labelled as before" "$(stat -c %C $images/saver.qcow2)" "$image"
quiet "meanwhile"
. /payload/volumes.sh
tuned=bystander process=$(qemu_of bystander)
. /payload/tune.sh
for domain in saver bystander; do does "virsh ends $domain" destroy $domain; done
[ $failures = 0 ] || tail -n 15 /run/svirtd.log /run/labeller.log | sed 's/^/note /'
kill $(pgrep -x svirtd) $(pgrep -x svirt-labeller)
wait
