# libvirtd and svirt on the same files, one after another and at the same time: counts agree, nobody takes a label from the
# other's guest, and the last one brings back what was there first. Sourced.
domain=plain
# simple NAME FILE [ELEMENT]: a definition with one disk.
simple() {
    cat <<XML
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>$images/kernel</kernel></os>
  <devices>
    <disk type='file'><driver name='qemu' type='raw'/><source file='$images/$2'/><target dev='vda' bus='virtio'/>$3</disk>
    <video><model type='none'/></video>
    <memballoon model='none'/>
  </devices>
</domain>
XML
}
restorecon -RF $images
qemu-img create -q -f raw $images/one.raw 1M
qemu-img create -q -f raw $images/two.raw 1M
restorecon -RF $images
for who in theirs ours; do simple $who one.raw >/tmp/$who.xml; done
context() { stat -c %C $images/$1; }
state() { echo "$(type_of $images/$1) $(counts $images/$1)"; }
# permitted COMMAND...: libvirtd starts no domain where Debian's policy is enforced.
permitted() {
    setenforce 0
    "$@"
    result=$?
    setenforce 1
    return $result
}
starts() { if [ "$1" = theirs ]; then permitted virsh create --paused /tmp/theirs.xml; else svirt run --detach /tmp/ours.xml; fi; }
ends() { if [ "$1" = theirs ]; then permitted virsh destroy theirs; else svirt stop --force ours; fi; }
at_rest="virt_image_t 0"
for who in theirs ours theirs ours; do
    works "$who starts on the image that the other had" starts $who
    is "and is its one user" "$(state one.raw | cut -d' ' -f2)" 1
    works "and ends" ends $who
    is "the image is as it was" "$(state one.raw)" "$at_rest"
    is "and so is the kernel" "$(state kernel)" "$at_rest"
done

works "a guest of libvirtd starts" starts theirs
held=$(context one.raw)
if starts ours >/run/out 2>&1; then fail "svirt refuses an image that a guest of libvirtd's writes" "it runs"; ends ours >/run/out
else pass "svirt refuses an image that a guest of libvirtd's writes: $(head -n 1 /run/out)"; fi
is "its label and count stay" "$(context one.raw) $(counts $images/one.raw)" "$held 1"
works "it ends" ends theirs
is "libvirtd brings it back" "$(state one.raw)" "$at_rest"

works "a guest of svirt starts" starts ours
held=$(context one.raw)
if starts theirs >/run/out 2>&1; then fail "libvirtd refuses an image that a guest of svirt's writes" "it runs"; ends theirs >/run/out
else pass "libvirtd refuses an image that a guest of svirt's writes: $(head -n 2 /run/out | tail -n 1)"; fi
is "its label stays so, too" "$(context one.raw)" "$held"
# Where no utmp tells when the host booted, libvirtd rounds it by chance, and may take the count for one of an earlier boot.
echo "note the image counts $(counts $images/one.raw) users after that"
works "svirt's guest is as planned still" svirt inspect ours
works "it ends" ends ours
is "svirt brings it back" "$(state one.raw)" "$at_rest"

# Read-only at the same time: libvirtd counts no readers and looks at no memory, so QEMU's locks are all there is to see.
for who in theirs ours; do simple $who two.raw '<readonly/>' | sed 's|<kernel>.*</kernel>||' >/tmp/$who.xml; done
works "a guest of libvirtd that reads an image starts" starts theirs
held=$(context two.raw)
is "libvirtd counts no reader" "$(counts $images/two.raw)" 0
if starts ours >/run/out 2>&1; then fail "svirt takes its label from no reader" "it runs"; ends ours >/run/out
elif grep -q "another program has it open with the label $held" /run/out; then pass "svirt takes its label from no reader: $(head -n 1 /run/out)"
else fail "svirt takes its label from no reader" "$(told)"; fi
is "the label stays" "$(context two.raw) $(counts $images/two.raw)" "$held 0"
works "it ends" ends theirs
restorecon -F $images/two.raw
works "a guest of svirt that reads it starts" starts ours
is "and svirt is its one user" "$(state two.raw)" "svirt_guest_content_t 1"
works "svirt's reader ends" ends ours
is "the image that was read is as it was" "$(state two.raw)" "$at_rest"
