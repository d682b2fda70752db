"""THE TABLE of configuration keys: every key that xl.cfg(5) describes or xl reads, in the order of that page.

A key is one of four things here: *supported* (it does what the page says), *ignored* (accepted, because it changes
nothing that a guest of ours could notice), *missing* (accepted with a warning that says why: the guest runs without),
or *unsupported* (a domain that sets it is refused, and told why).
"""

from __future__ import annotations

from dataclasses import dataclass

from xenfast.libxl.cfgfile import Number, number_value

SUPPORTED, IGNORED, MISSING, UNSUPPORTED = "supported", "ignored", "missing", "unsupported"

# what a value may be
STRING, NUMBER, BOOLEAN, LIST = "a string", "a number", "a boolean", "a list"
STRING_OR_LIST, STRING_OR_NUMBER = "a string or a list", "a string or a number"
STRING_OR_BOOLEAN, LIST_OR_BOOLEAN = "a string or a boolean", "a list or a boolean"


@dataclass(frozen=True)
class Key:
    name: str
    kind: str
    status: str
    why: str = ""           # what a user is told when the key does not do what the page says


def _keys(kind: str, status: str, names: str, why: str = "") -> list[Key]:
    return [Key(name, kind, status, why) for name in names.split()]


# reasons
POLICY = "it is policy of a host with several kinds of processors or memory, and there is one here"
TOOLSTACK = "it is about Xen's own programs, and xenfast is one process"
PAGING = "page tables are walked by the emulator"
HARDWARE = "there is no hardware behind it to hand on"
ARM = "it is for Arm"
NO_XSM = "there is no security module"
SPICE = "there is no SPICE server; the screen is on VNC"

_TABLE = [
    # Mandatory, and the guest type
    *_keys(STRING, SUPPORTED, "name type builder"),
    # CPU allocation and scheduling
    *_keys(STRING, IGNORED, "pool", "there is one pool of processors"),
    *_keys(NUMBER, SUPPORTED, "vcpus maxvcpus"),
    *_keys(STRING_OR_LIST, SUPPORTED, "cpus cpus_soft"),
    *_keys(NUMBER, SUPPORTED, "cpu_weight cap"),
    *_keys(NUMBER, IGNORED, "period slice budget extratime latency", "the scheduler is the credit scheduler"),
    # Memory
    *_keys(NUMBER, SUPPORTED, "memory maxmem"),
    *_keys(LIST, SUPPORTED, "vnuma"),
    # Event actions
    *_keys(STRING, SUPPORTED, "on_poweroff on_reboot on_crash on_watchdog on_soft_reset"),
    # Direct kernel boot
    *_keys(STRING, SUPPORTED, "kernel ramdisk cmdline root"),
    *_keys(STRING_OR_LIST, SUPPORTED, "extra"),
    # Other ways to boot
    *_keys(STRING, SUPPORTED, "firmware"),
    *_keys(BOOLEAN, UNSUPPORTED, "pvshim", "PV guests run without a shim (leave it out)"),
    *_keys(STRING, IGNORED, "pvshim_path pvshim_cmdline pvshim_extra", "PV guests run without a shim"),
    # Other options
    *_keys(STRING, SUPPORTED, "uuid"),
    *_keys(STRING, IGNORED, "seclabel init_seclabel", NO_XSM),
    *_keys(NUMBER, SUPPORTED, "max_grant_frames"),
    *_keys(NUMBER, IGNORED, "max_maptrack_frames", "maptrack grows as it is needed"),
    *_keys(NUMBER, IGNORED, "max_grant_version", "grant tables have version 1"),
    *_keys(BOOLEAN, SUPPORTED, "nomigrate"),
    *_keys(BOOLEAN, MISSING, "driver_domain", "back ends are domain 0's"),
    *_keys(STRING, IGNORED, "device_tree", ARM),
    *_keys(STRING, UNSUPPORTED, "passthrough", HARDWARE),
    *_keys(BOOLEAN, IGNORED, "xend_suspend_evtchn_compat", "it is for guests that knew xend"),
    *_keys(NUMBER, MISSING, "vmtrace_buf_kb", "there is no processor trace; xenfast run --trace shows instructions"),
    *_keys(BOOLEAN, IGNORED, "vpmu trap_unmapped_accesses", ARM),
    *_keys(STRING, IGNORED, "llc_colors", ARM),
    # Devices
    *_keys(LIST, SUPPORTED, "disk vif"),
    *_keys(LIST, UNSUPPORTED, "vif2", "it is spelt vif"),
    *_keys(LIST, UNSUPPORTED, "vtpm", "there is no vTPM"),
    *_keys(LIST, UNSUPPORTED, "p9", "there is no 9pfs back end; a disk or the network will do"),
    *_keys(LIST, UNSUPPORTED, "pvcalls", "there is no PV calls back end; use a vif"),
    *_keys(LIST, SUPPORTED, "vfb"),
    *_keys(LIST, UNSUPPORTED, "channel", "there are no PV channels"),
    *_keys(STRING, IGNORED, "rdm", HARDWARE),
    *_keys(LIST, UNSUPPORTED, "usbctrl usbdev", "there is no PV USB; usb and usbdevice give an HVM guest a tablet"),
    *_keys(LIST, UNSUPPORTED, "pci", HARDWARE),
    *_keys(BOOLEAN, IGNORED, "pci_permissive pci_msitranslate pci_seize pci_power_mgmt", HARDWARE),
    *_keys(STRING_OR_BOOLEAN, UNSUPPORTED, "gfx_passthru", HARDWARE),
    *_keys(NUMBER, IGNORED, "rdm_mem_boundary", HARDWARE),
    *_keys(LIST, UNSUPPORTED, "dtdev ioports iomem irqs", HARDWARE),
    *_keys(NUMBER, SUPPORTED, "max_event_channels"),
    *_keys(LIST, UNSUPPORTED, "vdispl", "there is no PV display; vfb is a framebuffer"),
    *_keys(BOOLEAN, IGNORED, "dm_restrict", TOOLSTACK),
    *_keys(STRING, IGNORED, "device_model_user", TOOLSTACK),
    *_keys(LIST, UNSUPPORTED, "vsnd", "there is no sound"),
    *_keys(LIST, UNSUPPORTED, "vkb", "a keyboard comes with vfb"),
    *_keys(LIST, UNSUPPORTED, "virtio", ARM),
    *_keys(STRING, IGNORED, "tee", ARM),
    # PV guests
    *_keys(STRING, UNSUPPORTED, "bootloader", "kernels are given by kernel; type = \"hvm\" boots a disk by its boot loader"),
    *_keys(STRING_OR_LIST, IGNORED, "bootloader_args", "there is no boot loader"),
    *_keys(BOOLEAN, IGNORED, "bootloader_restrict", "there is no boot loader"),
    *_keys(STRING, IGNORED, "bootloader_user", "there is no boot loader"),
    *_keys(BOOLEAN, MISSING, "e820_host", "the host's memory map means nothing to a guest here"),
    # HVM guests: boot device, disk controller, paging
    *_keys(STRING, SUPPORTED, "boot hdtype"),
    *_keys(BOOLEAN, IGNORED, "hap oos", PAGING),
    *_keys(NUMBER, IGNORED, "shadow_memory", PAGING),
    # HVM guests: processor and platform
    *_keys(STRING, SUPPORTED, "bios bios_path_override firmware_override"),
    *_keys(BOOLEAN, SUPPORTED, "pae acpi acpi_s4 acpi_laptop_slate apic nx hpet"),
    *_keys(BOOLEAN, MISSING, "acpi_s3", "guests are not offered the sleep state S3"),
    *_keys(STRING_OR_NUMBER, MISSING, "altp2m", "there are no alternate p2m tables"),
    *_keys(BOOLEAN, MISSING, "altp2mhvm", "there are no alternate p2m tables"),
    *_keys(BOOLEAN, UNSUPPORTED, "nestedhvm", "the processor has neither VMX nor SVM"),
    *_keys(STRING_OR_LIST, SUPPORTED, "cpuid"),
    *_keys(STRING, SUPPORTED, "acpi_firmware smbios_firmware"),
    *_keys(LIST, SUPPORTED, "smbios"),
    *_keys(STRING, SUPPORTED, "ms_vm_genid"),
    *_keys(BOOLEAN, IGNORED, "assisted_xapic assisted_x2apic", "the local APIC is emulated in the core"),
    # HVM guests: time
    *_keys(STRING_OR_NUMBER, IGNORED, "tsc_mode", "the TSC counts nanoseconds, the same on every vcpu"),
    *_keys(BOOLEAN, SUPPORTED, "localtime"),
    *_keys(NUMBER, SUPPORTED, "rtc_timeoffset"),
    *_keys(BOOLEAN, SUPPORTED, "vpt_align"),
    *_keys(STRING_OR_NUMBER, SUPPORTED, "timer_mode"),
    # HVM guests: memory layout, paravirtualisation
    *_keys(NUMBER, SUPPORTED, "mmio_hole"),
    *_keys(BOOLEAN, SUPPORTED, "xen_platform_pci"),
    *_keys(LIST_OR_BOOLEAN, MISSING, "viridian", "there is no Hyper-V interface"),
    *_keys(BOOLEAN, IGNORED, "hvm_pirq", "events come by the callback vector"),
    # HVM guests: graphics
    *_keys(NUMBER, SUPPORTED, "videoram"),
    *_keys(BOOLEAN, SUPPORTED, "stdvga"),
    *_keys(STRING, SUPPORTED, "vga"),
    *_keys(BOOLEAN, SUPPORTED, "vnc"),
    *_keys(STRING, SUPPORTED, "vnclisten"),
    *_keys(NUMBER, SUPPORTED, "vncdisplay"),
    *_keys(BOOLEAN, SUPPORTED, "vncunused"),
    *_keys(STRING, SUPPORTED, "vncpasswd keymap"),
    *_keys(BOOLEAN, MISSING, "sdl opengl", "there is no window; the screen is on VNC"),
    *_keys(STRING, IGNORED, "display xauthority", "there is no window; the screen is on VNC"),
    *_keys(BOOLEAN, SUPPORTED, "nographic"),
    *_keys(BOOLEAN, MISSING, "spice", SPICE),
    *_keys(STRING, IGNORED, "spicehost", SPICE),
    *_keys(NUMBER, IGNORED, "spiceport spicetls_port", SPICE),
    *_keys(BOOLEAN, IGNORED, "spicedisable_ticketing", SPICE),
    *_keys(STRING, IGNORED, "spicepasswd", SPICE),
    *_keys(BOOLEAN, IGNORED, "spiceagent_mouse spicevdagent spice_clipboard_sharing", SPICE),
    *_keys(NUMBER, IGNORED, "spiceusbredirection", SPICE),
    *_keys(STRING, IGNORED, "spice_image_compression spice_streaming_video", SPICE),
    # HVM guests: other emulated hardware
    *_keys(STRING_OR_LIST, SUPPORTED, "serial"),
    *_keys(STRING, MISSING, "soundhw", "there is no sound card"),
    *_keys(BOOLEAN, SUPPORTED, "vkb_device usb"),
    *_keys(NUMBER, SUPPORTED, "usbversion"),
    *_keys(STRING_OR_LIST, SUPPORTED, "usbdevice"),
    *_keys(STRING, MISSING, "vendor_device", "there is no device of another vendor"),
    # Device model
    *_keys(STRING, UNSUPPORTED, "device_model", "device_model_override replaces it, and the device model is part of xenfast"),
    *_keys(STRING, IGNORED, "device_model_version", "the device model is part of xenfast"),
    *_keys(STRING, MISSING, "device_model_override", "the device model is part of xenfast"),
    *_keys(STRING, IGNORED, "stubdomain_kernel stubdomain_cmdline stubdomain_ramdisk device_model_stubdomain_seclabel", TOOLSTACK),
    *_keys(NUMBER, IGNORED, "stubdomain_memory", TOOLSTACK),
    *_keys(BOOLEAN, IGNORED, "device_model_stubdomain_override", TOOLSTACK),
    *_keys(LIST, MISSING, "device_model_args device_model_args_pv device_model_args_hvm", "the device model is part of xenfast"),
    # Arm, and the rest of x86
    *_keys(STRING, IGNORED, "gic_version vuart sve", ARM),
    *_keys(NUMBER, IGNORED, "nr_spis", ARM),
    *_keys(LIST, MISSING, "mca_caps", "machine checks are never raised"),
    *_keys(BOOLEAN, IGNORED, "msr_relaxed", "unknown MSRs are #GP, as in newer Xen"),
    # Not of xl.cfg(5): the CPU model, as of xenfast run --cpu
    *_keys(STRING, SUPPORTED, "cpu"),
]

KEYS: dict[str, Key] = {key.name: key for key in _TABLE}

OFF: tuple[object, ...] = (0, "", [], "disabled", "none")       # values that ask for nothing


def converted(kind: str, value: object) -> object:
    """The value as that kind, None when it is not one.  A number is a string as well, and the other way round, as in xl."""
    if isinstance(value, list):
        return value if kind in (LIST, STRING_OR_LIST, LIST_OR_BOOLEAN) else None
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, (str, int)):
        return None
    text = value.text if isinstance(value, Number) else str(value)
    if kind in (NUMBER, BOOLEAN, LIST_OR_BOOLEAN):
        try:
            number = number_value(text)
        except ValueError:
            return None
        return int(bool(number)) if kind != NUMBER else number
    if kind in (STRING, STRING_OR_LIST):
        return text
    if kind in (STRING_OR_NUMBER, STRING_OR_BOOLEAN):
        try:
            return number_value(text)
        except ValueError:
            return text
    return None
