"""The hypervisor: domains, vcpus, event channels, grant tables, memory, time.  Named after the files of xen/common."""
