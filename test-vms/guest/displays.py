"""The calls by which a client gets a display, by libvirt's own library: DOMAIN in (its own socket) or out (one of svirtd's)."""
import socket
import sys

import libvirt

domain = libvirt.open("qemu+unix:///system?socket=/run/svirt/svirt-sock").lookupByName(sys.argv[1])
if sys.argv[2] == "in":
    end, theirs = socket.socketpair()
    domain.openGraphics(0, theirs.fileno(), 0)
    theirs.close()
else:
    end = socket.socket(fileno=domain.openGraphicsFD(0, 0))
end.settimeout(120)
print(end.recv(12).decode().strip())
