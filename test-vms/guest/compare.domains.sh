# The domains that libvirtd and svirt both start, and their files. Sourced.
domains="everything static unlabelled based none"

make_files() {
    mkdir -p $shares/nine $shares/fs
    qemu-img create -q -f qcow2 $images/base.qcow2 4M
    qemu-img create -q -f qcow2 -b $images/base.qcow2 -F qcow2 $images/top.qcow2
    for file in readonly.raw shared.raw kept.raw named.raw install.iso; do truncate -s 1M $images/$file; done
    echo entry >$images/entry
    truncate -s 4096 $images/initrd
    cp /usr/share/OVMF/OVMF_VARS_4M.fd $images/vars.fd
    # The least that QEMU takes for a Linux kernel.
    perl -e 'my $k = "\0" x 8192; substr($k, 0x1f1, 1) = "\x01"; substr($k, 0x1fe, 2) = "\x55\xaa"; substr($k, 0x202, 4) = "HdrS";
        substr($k, 0x206, 2) = "\x06\x02"; substr($k, 0x211, 1) = "\x01"; substr($k, 0x22c, 4) = "\xff\x37\0\0"; print $k' >$images/kernel
}

# files_of_domain: those of $domain.
files_of_domain() {
    for file in top.qcow2 base.qcow2 readonly.raw shared.raw; do echo $images/$file; done
    [ $domain = everything ] || return 0
    for file in kept.raw named.raw install.iso kernel initrd entry vars.fd; do echo $images/$file; done
    echo /usr/share/OVMF/OVMF_CODE_4M.fd
    for share in nine fs; do echo $shares/$share; done
}

# label_before IMAGE-TYPE CONTENT-TYPE: all as it is at rest, and what an administrator labels by hand where the definition
# says that nothing is relabelled.
label_before() {
    restorecon -RF $images $shares
    chcon "system_u:object_r:$2:s0" $images/kept.raw
    [ $domain = unlabelled ] || return 0
    for file in top.qcow2 shared.raw; do chcon "system_u:object_r:$1:s0:c100,c200" $images/$file; done
    for file in base.qcow2 readonly.raw; do chcon "system_u:object_r:$2:s0" $images/$file; done
}

# own_label GUEST-TYPE: the <seclabel> of $domain.
own_label() {
    case $domain in
        static) echo "<seclabel type='static' model='selinux' relabel='yes'><label>system_u:system_r:$1:s0:c100,c200</label></seclabel>" ;;
        unlabelled) echo "<seclabel type='static' model='selinux' relabel='no'><label>system_u:system_r:$1:s0:c100,c200</label></seclabel>" ;;
        based) echo "<seclabel type='dynamic' model='selinux' relabel='yes'><baselabel>system_u:system_r:$1:s0</baselabel></seclabel>" ;;
        none) echo "<seclabel type='none' model='selinux'/>" ;;
    esac
}

# definition GUEST-TYPE IMAGE-TYPE CONTENT-TYPE: the XML of $domain.
definition() {
    cat <<XML
<domain type='qemu'>
  <name>$domain</name>
  <memory unit='MiB'>64</memory>
XML
    if [ $domain = everything ]; then cat <<XML
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram>$images/vars.fd</nvram>
    <kernel>$images/kernel</kernel>
    <initrd>$images/initrd</initrd>
  </os>
  <sysinfo type='fwcfg'><entry name='opt/org.example/entry' file='$images/entry'/></sysinfo>
XML
    else echo "  <os><type arch='x86_64' machine='q35'>hvm</type></os>"; fi
    cat <<XML
  <features><acpi/></features>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='qcow2'/>
      <source file='$images/top.qcow2'/>
      <backingStore type='file'><format type='qcow2'/><source file='$images/base.qcow2'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file'><driver name='qemu' type='raw'/><source file='$images/readonly.raw'/><target dev='vdb' bus='virtio'/><readonly/></disk>
    <disk type='file'><driver name='qemu' type='raw'/><source file='$images/shared.raw'/><target dev='vdc' bus='virtio'/><shareable/></disk>
XML
    [ $domain = everything ] && cat <<XML
    <disk type='file'>
      <driver name='qemu' type='raw'/>
      <source file='$images/kept.raw'><seclabel model='selinux' relabel='no'/></source>
      <target dev='vdd' bus='virtio'/><readonly/>
    </disk>
    <disk type='file'>
      <driver name='qemu' type='raw'/>
      <source file='$images/named.raw'><seclabel model='selinux' relabel='yes'><label>system_u:object_r:$3:s0</label></seclabel></source>
      <target dev='vde' bus='virtio'/><readonly/>
    </disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='$images/install.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
    <filesystem type='mount' accessmode='mapped'><source dir='$shares/nine'/><target dir='nine'/></filesystem>
    <filesystem type='mount'><driver type='virtiofs'/><source dir='$shares/fs'/><target dir='fs'/></filesystem>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
XML
    cat <<XML
    <video><model type='none'/></video>
    <memballoon model='none'/>
  </devices>
  $(own_label "$1")
</domain>
XML
}
