"""xenstore: a pure tree (tree, watches), the protocol (wire), the daemon on guests' ring pages (xenstored) and dom0's
own door (client)."""
