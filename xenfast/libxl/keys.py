"""THE TABLE of configuration keys: every key of xl.cfg(5), in the order of that page.

A key is one of three things here: *supported* (it does what the page says), *ignored* (accepted because it changes
nothing a guest of ours could notice: host policy, or an option of a guest type that the domain is not), or
*unsupported* (it asks for something that is not there; a domain that sets it is refused in one sentence).
"""

from __future__ import annotations

from dataclasses import dataclass

SUPPORTED, IGNORED, UNSUPPORTED = "supported", "ignored", "unsupported"

# what a value may be
STRING, NUMBER, BOOLEAN, LIST = "a string", "a number", "a boolean", "a list"
STRING_OR_LIST, STRING_OR_NUMBER = "a string or a list", "a string or a number"
STRING_OR_BOOLEAN, LIST_OR_BOOLEAN = "a string or a boolean", "a list or a boolean"


@dataclass(frozen=True)
class Key:
    name: str
    kind: str
    status: str


def _keys(kind: str, status: str, names: str) -> list[Key]:
    return [Key(name, kind, status) for name in names.split()]


_TABLE = [
    # Mandatory, and the guest type
    *_keys(STRING, SUPPORTED, "name type builder"),
    # CPU allocation and scheduling: host policy
    *_keys(STRING, IGNORED, "pool"),
    *_keys(NUMBER, SUPPORTED, "vcpus maxvcpus"),
    *_keys(STRING_OR_LIST, IGNORED, "cpus cpus_soft"),
    *_keys(NUMBER, IGNORED, "cpu_weight cap"),
    # Memory
    *_keys(NUMBER, SUPPORTED, "memory maxmem"),
    *_keys(LIST, UNSUPPORTED, "vnuma"),
    # Event actions
    *_keys(STRING, SUPPORTED, "on_poweroff on_reboot on_crash"),
    *_keys(STRING, IGNORED, "on_watchdog on_soft_reset"),
    # Direct kernel boot
    *_keys(STRING, SUPPORTED, "kernel ramdisk cmdline root extra"),
    # Other ways to boot
    *_keys(STRING, UNSUPPORTED, "firmware"),
    *_keys(BOOLEAN, UNSUPPORTED, "pvshim"),
    *_keys(STRING, IGNORED, "pvshim_path pvshim_cmdline pvshim_extra"),
    # Other options
    *_keys(STRING, SUPPORTED, "uuid"),
    *_keys(STRING, IGNORED, "seclabel init_seclabel"),
    *_keys(NUMBER, SUPPORTED, "max_grant_frames"),
    *_keys(NUMBER, IGNORED, "max_maptrack_frames"),
    *_keys(NUMBER, IGNORED, "max_grant_version"),
    *_keys(BOOLEAN, IGNORED, "nomigrate"),
    *_keys(BOOLEAN, UNSUPPORTED, "driver_domain"),
    *_keys(STRING, UNSUPPORTED, "device_tree passthrough"),
    *_keys(BOOLEAN, IGNORED, "xend_suspend_evtchn_compat"),
    *_keys(NUMBER, UNSUPPORTED, "vmtrace_buf_kb"),
    *_keys(BOOLEAN, UNSUPPORTED, "vpmu"),
    *_keys(BOOLEAN, IGNORED, "trap_unmapped_accesses"),
    *_keys(STRING, IGNORED, "llc_colors"),
    # Devices
    *_keys(LIST, SUPPORTED, "disk"),
    *_keys(LIST, UNSUPPORTED, "vif vtpm p9 pvcalls vfb channel"),
    *_keys(STRING, IGNORED, "rdm"),
    *_keys(LIST, UNSUPPORTED, "usbctrl usbdev pci"),
    *_keys(BOOLEAN, IGNORED, "pci_permissive pci_msitranslate pci_seize pci_power_mgmt"),
    *_keys(STRING_OR_BOOLEAN, UNSUPPORTED, "gfx_passthru"),
    *_keys(NUMBER, IGNORED, "rdm_mem_boundary"),
    *_keys(LIST, UNSUPPORTED, "dtdev ioports iomem irqs"),
    *_keys(NUMBER, IGNORED, "max_event_channels"),
    *_keys(LIST, UNSUPPORTED, "vdispl"),
    *_keys(BOOLEAN, IGNORED, "dm_restrict"),
    *_keys(STRING, IGNORED, "device_model_user"),
    *_keys(LIST, UNSUPPORTED, "vsnd vkb virtio"),
    *_keys(STRING, UNSUPPORTED, "tee"),
    # PV guests
    *_keys(STRING, UNSUPPORTED, "bootloader"),
    *_keys(STRING_OR_LIST, IGNORED, "bootloader_args"),
    *_keys(BOOLEAN, IGNORED, "bootloader_restrict"),
    *_keys(STRING, IGNORED, "bootloader_user"),
    *_keys(BOOLEAN, UNSUPPORTED, "e820_host"),
    # HVM guests: boot device, disk controller, paging
    *_keys(STRING, IGNORED, "boot hdtype"),
    *_keys(BOOLEAN, IGNORED, "hap oos"),
    *_keys(NUMBER, IGNORED, "shadow_memory"),
    # HVM guests: processor and platform
    *_keys(STRING, IGNORED, "bios bios_path_override"),
    *_keys(BOOLEAN, IGNORED, "pae acpi acpi_s3 acpi_s4 acpi_laptop_slate apic nx hpet"),
    *_keys(STRING_OR_NUMBER, IGNORED, "altp2m"),
    *_keys(BOOLEAN, IGNORED, "altp2mhvm"),
    *_keys(BOOLEAN, UNSUPPORTED, "nestedhvm"),
    *_keys(STRING_OR_LIST, SUPPORTED, "cpuid"),
    *_keys(STRING, IGNORED, "acpi_firmware smbios_firmware"),
    *_keys(LIST, IGNORED, "smbios"),
    *_keys(STRING, IGNORED, "ms_vm_genid"),
    *_keys(BOOLEAN, IGNORED, "assisted_xapic assisted_x2apic"),
    # HVM guests: time
    *_keys(STRING_OR_NUMBER, IGNORED, "tsc_mode"),
    *_keys(BOOLEAN, IGNORED, "localtime"),
    *_keys(NUMBER, IGNORED, "rtc_timeoffset"),
    *_keys(BOOLEAN, IGNORED, "vpt_align"),
    *_keys(STRING_OR_NUMBER, IGNORED, "timer_mode"),
    # HVM guests: memory layout, paravirtualisation
    *_keys(NUMBER, IGNORED, "mmio_hole"),
    *_keys(BOOLEAN, IGNORED, "xen_platform_pci"),
    *_keys(LIST_OR_BOOLEAN, IGNORED, "viridian"),
    *_keys(BOOLEAN, IGNORED, "hvm_pirq"),
    # HVM guests: graphics
    *_keys(NUMBER, IGNORED, "videoram"),
    *_keys(BOOLEAN, IGNORED, "stdvga"),
    *_keys(STRING, IGNORED, "vga"),
    *_keys(BOOLEAN, IGNORED, "vnc"),
    *_keys(STRING, IGNORED, "vnclisten"),
    *_keys(NUMBER, IGNORED, "vncdisplay"),
    *_keys(BOOLEAN, IGNORED, "vncunused"),
    *_keys(STRING, IGNORED, "vncpasswd keymap"),
    *_keys(BOOLEAN, IGNORED, "sdl opengl nographic spice"),
    *_keys(STRING, IGNORED, "spicehost"),
    *_keys(NUMBER, IGNORED, "spiceport spicetls_port"),
    *_keys(BOOLEAN, IGNORED, "spicedisable_ticketing"),
    *_keys(STRING, IGNORED, "spicepasswd"),
    *_keys(BOOLEAN, IGNORED, "spiceagent_mouse spicevdagent spice_clipboard_sharing"),
    *_keys(NUMBER, IGNORED, "spiceusbredirection"),
    *_keys(STRING, IGNORED, "spice_image_compression spice_streaming_video"),
    # HVM guests: other emulated hardware
    *_keys(STRING_OR_LIST, IGNORED, "serial"),
    *_keys(STRING, IGNORED, "soundhw"),
    *_keys(BOOLEAN, IGNORED, "vkb_device usb"),
    *_keys(NUMBER, IGNORED, "usbversion"),
    *_keys(STRING_OR_LIST, IGNORED, "usbdevice"),
    *_keys(STRING, IGNORED, "vendor_device"),
    # Device model
    *_keys(
        STRING,
        IGNORED,
        "device_model_version device_model_override stubdomain_kernel stubdomain_cmdline stubdomain_ramdisk"
        " device_model_stubdomain_seclabel",
    ),
    *_keys(NUMBER, IGNORED, "stubdomain_memory"),
    *_keys(BOOLEAN, IGNORED, "device_model_stubdomain_override"),
    *_keys(LIST, IGNORED, "device_model_args device_model_args_pv device_model_args_hvm"),
    # Arm, and the rest of x86
    *_keys(STRING, IGNORED, "gic_version vuart sve"),
    *_keys(NUMBER, IGNORED, "nr_spis"),
    *_keys(LIST, IGNORED, "mca_caps"),
    *_keys(BOOLEAN, IGNORED, "msr_relaxed"),
    # Not of xl.cfg(5): the CPU model, as of xenfast run --cpu
    *_keys(STRING, SUPPORTED, "cpu"),
]

KEYS: dict[str, Key] = {key.name: key for key in _TABLE}


def accepts(kind: str, value: object) -> bool:
    """Is this a value of that kind?  A boolean is a number, as in the file format."""
    number = isinstance(value, int)
    string = isinstance(value, str)
    is_list = isinstance(value, list)
    return {
        STRING: string,
        NUMBER: number,
        BOOLEAN: number,
        LIST: is_list,
        STRING_OR_LIST: string or is_list,
        STRING_OR_BOOLEAN: string or number,
        LIST_OR_BOOLEAN: is_list or number,
        STRING_OR_NUMBER: string or number,
    }[kind]
