"""How a vcpu with a p2m is started: struct vcpu_hvm_context.  Specified in xen/include/public/hvm/hvm_vcpu.h."""

from xenfast.abi.layout import Layout

VCPU_HVM_MODE_32B = 0           # 32-bit, paging disabled or enabled
VCPU_HVM_MODE_64B = 1           # 64-bit, paging enabled

vcpu_hvm_x86_32 = Layout(
    "vcpu_hvm_x86_32",
    ("eax", "I"), ("ecx", "I"), ("edx", "I"), ("ebx", "I"), ("esp", "I"), ("ebp", "I"), ("esi", "I"), ("edi", "I"),
    ("eip", "I"), ("eflags", "I"), ("cr0", "I"), ("cr3", "I"), ("cr4", "I"), ("pad1", "4x"), ("efer", "Q"),
    ("cs_base", "I"), ("ds_base", "I"), ("ss_base", "I"), ("es_base", "I"), ("tr_base", "I"),
    ("cs_limit", "I"), ("ds_limit", "I"), ("ss_limit", "I"), ("es_limit", "I"), ("tr_limit", "I"),
    ("cs_ar", "H"), ("ds_ar", "H"), ("ss_ar", "H"), ("es_ar", "H"), ("tr_ar", "H"), ("pad2", "6x"),
)  # fmt: skip

vcpu_hvm_x86_64 = Layout(
    "vcpu_hvm_x86_64",
    ("rax", "Q"), ("rcx", "Q"), ("rdx", "Q"), ("rbx", "Q"), ("rsp", "Q"), ("rbp", "Q"), ("rsi", "Q"), ("rdi", "Q"),
    ("rip", "Q"), ("rflags", "Q"), ("cr0", "Q"), ("cr3", "Q"), ("cr4", "Q"), ("efer", "Q"),
)  # fmt: skip

vcpu_hvm_context = Layout("vcpu_hvm_context", ("mode", "I"), ("pad", "I"), ("cpu_regs", f"{vcpu_hvm_x86_32.size}s"))
