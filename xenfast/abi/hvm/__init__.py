"""What Xen says to HVM guests, after xen/include/public/hvm."""
