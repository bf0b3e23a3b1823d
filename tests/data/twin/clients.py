"""What libvirt-python sees: the same calls on both daemons, one line for each result."""
import os
import re
import sys
import libvirt

uri, directory = sys.argv[1], sys.argv[2]
libvirt.registerErrorHandler(lambda _context, _error: None, None)
connection = libvirt.open(uri)

DOMAIN = """<domain type='qemu'><name>snake</name><uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c9</uuid>
<memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
<features><acpi/></features><devices><serial type='pty'/></devices></domain>"""


def say(name, call):
    """Prints what a call gives, or libvirt's code, domain and text of its error."""
    try:
        result = call()
    except libvirt.libvirtError as error:
        result = f"error {error.get_error_code()} of {error.get_error_domain()}: {error.get_error_message()}"
    print(f"{name}: {result}")
    return result


say("type", connection.getType)
say("encrypted", connection.isEncrypted)
say("secure", connection.isSecure)
say("alive", connection.isAlive)
say("version", connection.getVersion)
say("domains", connection.numOfDomains)
say("ids", connection.listDomainsID)
say("networks", connection.numOfDefinedNetworks)
say("no domain by id", lambda: connection.lookupByID(4711))
say("no domain by uuid", lambda: connection.lookupByUUIDString("00000000-0000-0000-0000-000000000001"))
say("no xml", lambda: connection.defineXML("<domain"))
say("no name", lambda: connection.defineXML("<domain type='qemu'/>"))
domain = connection.defineXML(DOMAIN)
say("persistent", domain.isPersistent)
say("updated", domain.isUpdated)
say("os", domain.OSType)
say("id", domain.ID)
say("id of what is off", lambda: domain.blockStats("vda"))
say("suspend what is off", domain.suspend)
say("shutdown what is off", domain.shutdown)
say("most vcpus", domain.maxVcpus)
say("most memory", domain.maxMemory)
say("autostart", domain.autostart)
say("start", domain.create)
say("start again", domain.create)
say("state", domain.state)
say("active", domain.isActive)
say("max vcpus", domain.maxVcpus)
say("max memory", domain.maxMemory)
say("info", lambda: domain.info()[:4])
say("memory", lambda: domain.memoryPeek(0xfffffff0, 13, libvirt.VIR_MEMORY_PHYSICAL))
say("no memory", lambda: domain.memoryPeek(0xfffffff0, 0, libvirt.VIR_MEMORY_PHYSICAL))
say("memory of no kind", lambda: domain.memoryPeek(0, 16, 0))
say("memory of both kinds", lambda: domain.memoryPeek(0, 16, 3))
say("undefine while it runs", domain.undefine)
say("persistent", domain.isPersistent)
say("destroy", domain.destroy)
say("gone", domain.isActive)
say("memory of what is off", lambda: domain.memoryPeek(0, 16, libvirt.VIR_MEMORY_VIRTUAL))
say("unknown flag", lambda: connection.listAllDomains(1 << 30))

pool = connection.storagePoolDefineXML(
    f"<pool type='dir'><name>nest</name><target><path>{directory}/images/nest</path></target></pool>")
say("build", lambda: pool.build(0))
say("start", lambda: pool.create(0))
say("info", lambda: pool.info()[0])
say("volumes", pool.numOfVolumes)
volume = pool.createXML("<volume><name>egg</name><capacity>1048576</capacity></volume>", 0)
say("egg", volume.info)
say("names", pool.listVolumes)
say("same", lambda: pool.createXML("<volume><name>egg</name><capacity>1</capacity></volume>", 0))
say("path", lambda: connection.storageVolLookupByPath(f"{directory}/images/nest/egg").name())
say("no path", lambda: connection.storageVolLookupByPath("/nosuch"))
say("pool", lambda: volume.storagePoolLookupByVolume().name())
say("delete", lambda: volume.delete(0))
say("no volume", lambda: volume.info())
say("destroy", pool.destroy)
say("delete", lambda: pool.delete(0))
say("undefine", pool.undefine)
say("no pool", lambda: pool.info())
os.mkdir(f"{directory}/images/leaf")
pool = connection.storagePoolCreateXML(
    f"<pool type='dir'><name>leaf</name><target><path>{directory}/images/leaf</path></target></pool>")
say("autostart of what is kept nowhere", lambda: pool.setAutostart(1))
say("destroy", pool.destroy)
with open(f"{directory}/images/peek.img", "wb") as image:
    image.write(bytes(range(256)) * 4096)
disk = lambda kind, name: f"""<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>
<source file='{directory}/images/peek.img'/><target dev='{name}' bus='virtio'/></disk>"""
domain = connection.defineXML(DOMAIN.replace("</devices>", disk("raw", "vda") + "</devices>"))
say("block of what is off", lambda: domain.blockPeek("vda", 250, 12))
domain.create()
say("block", lambda: domain.blockPeek("vda", 1 << 19, 5))
say("block by path", lambda: len(domain.blockPeek(f"{directory}/images/peek.img", 0, 1 << 20)))
say("block behind the end", lambda: domain.blockPeek("vda", (1 << 20) - 2, 4))
say("block of nothing", lambda: domain.blockPeek("vdb", 0, 4))
say("too much of a block", lambda: domain.blockPeek("vda", 0, (4 << 20) + 1))
domain.destroy()
domain = connection.defineXML(DOMAIN.replace("</devices>", disk("qcow2", "vda") + "</devices>"))
say("block of another format", lambda: domain.blockPeek("vda", 0, 4))
domain.undefine()
plain = connection.defineXML(DOMAIN.replace(" arch='x86_64' machine='pc-q35-7.2'", ""))
say("board", lambda: re.search("machine='(pc(?!-q35)|)", plain.XMLDesc(0)).group(1))
plain.undefine()
connection.close()
