"""The network of domain 0: switches, and what is plugged into them.

    switch = Switch("xenbr0", hypervisor)
    port = switch.port("vif1.0", "00:16:3e:00:00:01")       # for parts of domain 0, which run in its event loop
    port = switch.device_port("tap1.0", mac)                # for devices, which hold the hypervisor's lock
    port.receiver = take                                    # take(frame): what the network has for us
    port.send(frame)                                        # what we have for the network
    port.close()

A frame is bytes from the destination address on, without FCS.  Between ports that can take them (``port.accepts``),
frames go unfinished: with a blank checksum, or larger than the MTU, as ``offload`` says (frame.py); other ports get
them finished.  ``pcap.py`` records.
"""

from xenfast.dom0.net.frame import Offload
from xenfast.dom0.net.switch import Port, Switch

__all__ = ["Offload", "Port", "Switch"]
