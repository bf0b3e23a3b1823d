# Shared by the test programs of the VMs: verdict lines, AVC lines, and what both kernels are asked.
failures=0
pass() { echo "ok $*"; }
fail() { failures=$((failures + 1)); echo "FAIL $1: $2"; }
is() { if [ "$2" = "$3" ]; then pass "$1 ($3)"; else fail "$1" "is '$2', not '$3'"; fi; }
verdict() { [ "$failures" = 0 ] || exit 1; exit 0; }
type_of() { ls -Zd "$1" | cut -d: -f3; }
# mark: only kernel messages from here on count.
mark() { seen=$(dmesg | wc -l); }
messages() { dmesg | tail -n "+$((seen + 1))"; }
avc() {
    if messages | grep 'avc:' | grep -q "$2"; then pass "AVC for $1"; else fail "AVC for $1" "no kernel message matches $2"; show_avc; fi
}
show_avc() { messages | grep 'avc:' | sed 's/^.*avc:/note avc:/' | sort | uniq -c | sort -rn | head -n 40 | sed 's/^/note /'; }
probe_says() {
    if grep -q "^probe $1 $2 " /run/out; then
        pass "probe $1: $([ "$2" = yes ] && echo "works, as it must" || echo refused)"
    else
        fail "probe $1" "expected $2, got '$(grep "^probe $1 " /run/out)'"
    fi
}
install_programs() {
    for program in svirt svirt-labeller svirt-supervisor svirt-imageprobe; do
        cp "/payload/$program" /usr/bin/
        is "$program runs on this system" "$("/usr/bin/$program" --help >/dev/null 2>&1 </dev/null; [ $? -lt 126 ] && echo yes)" yes
    done
}
