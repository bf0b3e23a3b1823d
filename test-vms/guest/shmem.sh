# Memory that several domains share, under SELinux: each region has a pair of its own, which its domains have besides
# theirs; neither a domain without it nor one that had it before can open or map it. Sourced by the test program.
regions=/run/svirt/shmem
view=/var/cache/svirt/view
# shared NAME [REGION]: a definition.
shared() {
    cat >"/tmp/$1.xml" <<XML
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>${2:+<shmem name='$2'><model type='ivshmem-plain'/><size unit='MiB'>1</size></shmem>}</devices>
</domain>
XML
}
context_of() { tr -d '\0' <"/proc/$(pgrep -f "guest=$1" | head -n 1)/attr/current"; }
run() {
    mark
    if svirt run --detach "/tmp/$1.xml" >/run/out 2>&1; then pass "svirt run $1${2:+, $2}"; else fail "svirt run $1${2:+, $2}" "$(head -n 6 /run/out | tr '\n' ' ')"; show_avc; fi
    is "nothing was denied to $1" "$(messages | grep 'avc:' | grep -c 'svirt_shmem\|svirt_guest')" 0
}
# reaches CONTEXT OWN OTHER: what that context gets of two regions, one of which may not be its own.
reaches() {
    mkdir -p $view; restorecon -R $view
    for name in own other; do touch $view/$name; done
    # mount(8) has a type of its own, which knows nothing of ours.
    busybox mount --bind "$regions/$2" $view/own && busybox mount --bind "$regions/$3" $view/other || fail "memory is mounted elsewhere" "it cannot be"
    # Only SELinux may refuse.
    chmod 755 $regions; chmod 666 $regions/*
    mark
    launch memory "$1" $view "$regions/$2" "$regions/$3"
    chmod 700 $regions
    busybox umount $view/own; busybox umount $view/other; rm -r $view
}
ways="memory-fd memory-fd-map memory-path memory-path-map"
probe_ways() { for way in $ways; do probe_says "$1-$way" "$2"; done; for name in memory-place memory-place-path memory-relabel; do probe_says $name no; done; }

for domain in lambda mu; do shared $domain exchange; done
shared nu results; shared xi
for domain in lambda mu nu xi; do run $domain; done
pair=$(stat -c %C $regions/exchange) others=$(stat -c %C $regions/results)
case "$pair $others" in
    system_u:object_r:svirt_shmem_t:s0:c*,c*\ system_u:object_r:svirt_shmem_t:s0:c*,c*) pass "each region has a pair" ;;
    *) fail "each region has a pair" "$pair $others" ;;
esac
if [ "$pair" != "$others" ]; then pass "two regions have two pairs"; else fail "two regions have two pairs" "$pair"; fi
is "no process of a domain comes through where regions lie" "$(type_of $regions)" svirt_shmem_store_t
first=$(context_of lambda) second=$(context_of mu) third=$(context_of nu) fourth=$(context_of xi)
echo "note contexts: $first $second $third $fourth"
for domain in lambda mu; do svirt inspect $domain >/run/out 2>&1; is "svirt inspect finds $domain as planned" "$?" 0 || tail -n 5 /run/out; done
# Those that share it reach it, each by its own context, and nothing else.
for context in "$first" "$second"; do
    reaches "$context" exchange results
    probe_ways own yes; probe_ways other no
done
avc "another domain's memory, as a descriptor" "denied .*{ read write }.*scontext=$second tcontext=$others tclass=file"
avc "another domain's memory, by path" "denied .*{ read write }.*scontext=$second tcontext=$others tclass=file"
avc "where memory lies" "denied .*scontext=$second tcontext=system_u:object_r:svirt_\(run\|shmem_store\)_t:s0 tclass=dir"
# A third domain has its own, one without any has none.
reaches "$third" results exchange
probe_ways own yes; probe_ways other no
avc "the memory of two others" "denied .*scontext=$third tcontext=$pair tclass=file"
reaches "$fourth" results exchange
probe_ways own no; probe_ways other no
# One that had it is started without it.
svirt stop --force mu >/run/out 2>&1 && pass "svirt stop mu" || fail "svirt stop mu" "$(head -n 3 /run/out)"
is "the memory stays with the domain that has it" "$(stat -c %C $regions/exchange)" "$pair"
shared mu
run mu "without the memory"
left=$(context_of mu)
reaches "$left" exchange results
probe_ways own no; probe_ways other no
avc "memory that the domain had before" "denied .*scontext=$left tcontext=$pair tclass=file"
reaches "$first" exchange results
probe_ways own yes
for domain in lambda mu nu xi; do svirt stop --force $domain >/run/out 2>&1 && pass "svirt stop $domain" || fail "svirt stop $domain" "$(head -n 3 /run/out)"; done
is "no memory is left" "$(ls $regions | wc -l)" 0
