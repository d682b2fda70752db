"""The drivers of domain 0: what serves the guests' paravirtual devices."""
