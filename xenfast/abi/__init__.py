"""Xen's public ABI as constants and layouts, name for name after xen/include/public."""
