# A disk that is plugged into the running domain $own under SELinux, whose context is $one and whose device model is $1.
uuid=$(tr '\0' '\n' </proc/$1/cmdline | grep -oE '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' | head -n 1)
plugged=/var/lib/svirt/images/plugged.raw
as_image() { echo "system_u:object_r:svirt_guest_image_t:$(echo "$1" | cut -d: -f4-)"; }
mark
perl /payload/plug.pl "$uuid" $plugged "$(as_image "$two")" >/run/out 2>&1
if grep -q '"refused"' /run/out && [ "$(type_of $plugged)" = svirt_store_t ]; then pass "a neighbour's pair is no label for a plug"
else fail "a neighbour's pair is no label for a plug" "$(head -n 3 /run/out)"; fi
perl /payload/plug.pl "$uuid" $plugged "$(as_image "$one")" >/run/out 2>&1
if grep -q '"done"' /run/out; then pass "a disk is plugged into $own"; else fail "a disk is plugged into $own" "$(head -n 3 /run/out)"; show_avc; fi
is "it carries the domain's pair" "$(stat -c %C $plugged)" "$(as_image "$one")"
is "nothing was denied on the way" "$(messages | grep 'avc:' | grep -c 'svirt_supervisor_t\|plugged')" 0
