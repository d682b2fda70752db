"""The ACPI tables of HVM and PVH guests: ``aml`` writes byte code, ``dsdt`` is the machine, ``tables`` the rest, ``build`` everything."""
