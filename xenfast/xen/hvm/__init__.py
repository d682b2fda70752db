"""What differs for guests with a p2m (HVM and PVH): the buses, and the interrupt and timer chips, which Xen keeps in the hypervisor."""
