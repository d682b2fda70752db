"""xen_version: who we are.  Specified in xen/include/public/version.h; follows xen/common/kernel.c.

We answer as the Xen of Debian 12, whose ABI this is.
"""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import features, xen
from xenfast.abi import version as abi
from xenfast.errors import XenError
from xenfast.xen.guest import read_struct, word, write_word

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

MAJOR, MINOR = 4, 17
EXTRAVERSION = b".0-xenfast"
CAPABILITIES = b"xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 "
CHANGESET = b""
DENIED = b"<denied>"            # what Xen tells a domain that may not know

PV_FEATURES = (
    features.XENFEAT_pae_pgdir_above_4gb,
    features.XENFEAT_mmu_pt_update_preserve_ad,
    features.XENFEAT_highmem_assist,
    features.XENFEAT_gnttab_map_avail_bits,
    features.XENFEAT_memory_op_vnode_supported,
)
HVM_FEATURES = (                # without hvm_pirqs: interrupts of emulated devices come through the APICs
    features.XENFEAT_auto_translated_physmap,
    features.XENFEAT_hvm_callback_vector,
    features.XENFEAT_hvm_safe_pvclock,
    features.XENFEAT_memory_op_vnode_supported,
    features.XENFEAT_not_direct_mapped,
)


def do_xen_version(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    operation = OPERATIONS.get(cmd & 0xFFFFFFFF)
    if operation is None:
        raise XenError(errno.ENOSYS, f"XENVER {cmd & 0xFFFFFFFF}")
    return operation(domain, vcpu, arg)


def _version(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    return MAJOR << 16 | MINOR


def _text(data: bytes, size: int):
    def operation(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
        vcpu.core.copy_to_guest(arg, data.ljust(size, b"\0"))
        return 0
    return operation


def _platform_parameters(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    write_word(vcpu, arg, xen.HYPERVISOR_VIRT_START if word(vcpu) == 8 else 0)
    return 0


def _get_features(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    info = read_struct(vcpu, abi.feature_info, arg)
    if info.submap_idx != 0:
        raise XenError(errno.EINVAL, f"submap {info.submap_idx}")
    submap = sum(1 << bit for bit in (PV_FEATURES if domain.hvm is None else HVM_FEATURES))
    vcpu.core.copy_to_guest(arg, abi.feature_info.pack(submap_idx=0, submap=submap))
    return 0


def _pagesize(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    return 4096


def _guest_handle(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    vcpu.core.copy_to_guest(arg, domain.uuid)
    return 0


def _build_id(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    raise XenError(errno.ENODATA)


OPERATIONS = {
    abi.XENVER_version: _version,
    abi.XENVER_extraversion: _text(EXTRAVERSION, abi.EXTRAVERSION_LEN),
    abi.XENVER_compile_info: _text(
        abi.compile_info.pack(compiler=DENIED, compile_by=DENIED, compile_domain=DENIED, compile_date=DENIED),
        abi.compile_info.size),
    abi.XENVER_capabilities: _text(CAPABILITIES, abi.CAPABILITIES_LEN),
    abi.XENVER_changeset: _text(CHANGESET or DENIED, abi.CHANGESET_LEN),
    abi.XENVER_platform_parameters: _platform_parameters,
    abi.XENVER_get_features: _get_features,
    abi.XENVER_pagesize: _pagesize,
    abi.XENVER_guest_handle: _guest_handle,
    abi.XENVER_commandline: _text(DENIED, abi.COMMANDLINE_LEN),
    abi.XENVER_build_id: _build_id,
}
