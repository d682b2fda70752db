"""The paravirtual I/O protocols, name for name after xen/include/public/io."""
