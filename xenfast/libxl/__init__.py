"""The toolstack as a library: from a configuration to a running domain."""
