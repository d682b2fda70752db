#!/usr/bin/env python3
"""Write xenfast/cpu/threaded.pxi: the threaded handlers, specialised copies of the hot exec functions.

    python tools/gen_threaded.py > xenfast/cpu/threaded.pxi

A handler is specialised by operand width, by register or memory operand, by the shape of the address (``B``: base + displacement, ``X``:
base + index * scale + displacement), by whether anybody reads the flags (``L`` live, ``D`` dead), and a compare is fused with the
conditional branch behind it.  All are for 64-bit mode, or for registers in any 32- or 64-bit mode.  Whatever is out of the ordinary (TLB
miss, page crossing, code page, LOCK, AH..BH) goes to T_GENERIC, which runs the exec function: the meaning is written only there.
"""

import sys

SHIFT = {1: 56, 2: 48, 4: 32, 8: 0}
CC = "o no b ae e ne be a s ns p np l ge le g".split()
FUSED_CMP = [2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15]
FUSED_TEST = [4, 5, 8, 9, 14, 15]

# The condition on the operands of CMP a, b (already cut to their width), and of TEST on r = a & b.
CMP_COND = {
    2: "{u}a < {u}b", 3: "{u}a >= {u}b", 4: "{u}a == {u}b", 5: "{u}a != {u}b", 6: "{u}a <= {u}b", 7: "{u}a > {u}b",
    8: "{i}(a - b) < 0", 9: "{i}(a - b) >= 0", 12: "{i}a < {i}b", 13: "{i}a >= {i}b", 14: "{i}a <= {i}b", 15: "{i}a > {i}b",
}
TEST_COND = {4: "{u}r == 0", 5: "{u}r != 0", 8: "{i}r < 0", 9: "{i}r >= 0", 14: "{i}r <= 0", 15: "{i}r > 0"}

out = []          # lines of handlers
table = []        # (exec function, size, memory, shape, live, handler name)
fused = []        # (first exec function, size, memory, shape, cc, live, handler name)


def u(size):
    return f"<u{8 * size}>"


def i(size):
    return f"<i{8 * size}>"


def handler(name, body):
    out.append(f"cdef void {name}(Cpu* c, Insn* o) noexcept nogil:")
    out.extend("    " + line for line in body)
    out.append("")


NEXT = ["(o + 1).fn(c, o + 1)"]


def address(shape):
    ea = "c.r[o.base] + <u64>o.disp" if shape == "B" else "c.r[o.base] + (c.r[o.index] << o.scale) + <u64>o.disp"
    return [f"cdef u64 lin = {ea}", "cdef TlbEntry* e = tlb_slot(c.tlb, lin)"]


def probe(tag, size):
    return [f"if unlikely((lin ^ e.{tag}) > {4096 - size}):", "    T_GENERIC(c, o)", "    return"]


def pointer(size):
    return f"(<u{8 * size}*>(lin + <u64>e.add))[0]"


def put(reg, size, value):
    """Store into a register: 32 bits zero-extend, 8 and 16 merge."""
    if size == 8:
        return f"c.r[o.{reg}] = {value}"
    if size == 4:
        return f"c.r[o.{reg}] = <u32>({value})"
    mask = "0xFF" if size == 1 else "0xFFFF"
    return f"c.r[o.{reg}] = (c.r[o.{reg}] & ~<u64>{mask}) | {u(size)}({value})"


def add(execs, size, mem, shape, live, name):
    for ex in execs:
        table.append((ex, size, mem, shape, live, name))


# ---- arithmetic and logic -------------------------------------------------------------------------------------------
ALU = {
    "ADD": ("a + b", "flags_add(c, {s}, a, b, r)"),
    "OR": ("a | b", "flags_logic(c, {s}, r)"),
    "ADC": ("a + b + get_cf(c)", "flags_add(c, {s}, a, b, r)"),
    "SBB": ("a - b - get_cf(c)", "flags_sub(c, {s}, a, b, r)"),
    "AND": ("a & b", "flags_logic(c, {s}, r)"),
    "SUB": ("a - b", "flags_sub(c, {s}, a, b, r)"),
    "XOR": ("a ^ b", "flags_logic(c, {s}, r)"),
}


def alu():
    for op, (expr, flags) in ALU.items():
        for size in (1, 2, 4, 8):
            if size < 4 and op in ("ADC", "SBB"):
                continue
            for live in "LD":
                tail = [flags.format(s=size)] if live == "L" else []
                forms = {
                    "E_G": ("rm", "c.r[o.reg]", [f"{op}_E_G"]),
                    "G_E": ("reg", "c.r[o.rm]", [f"{op}_G_E"]),
                    "E_I": ("rm", "<u64>o.imm", [f"{op}_E_I", f"{op}_A_I"]),
                }
                for form, (dest, b, execs) in forms.items():
                    name = f"H_{op}_{form}_{size}{live}"
                    handler(name, [f"cdef u64 a = c.r[o.{dest}], b = {b}", f"cdef u64 r = {expr}", put(dest, size, "r"), *tail, *NEXT])
                    add(execs, size, 0, "", live, name)
            for shape in "BX":
                flag = flags.format(s=size)
                name = f"H_{op}_G_M_{size}{shape}"
                handler(name, address(shape) + probe("rtag", size) + [
                    f"cdef u64 a = c.r[o.reg], b = {pointer(size)}", f"cdef u64 r = {expr}", put("reg", size, "r"), flag, *NEXT])
                add([f"{op}_G_E"], size, 1, shape, "L", name)
                for form, b in (("M_G", "c.r[o.reg]"), ("M_I", "<u64>o.imm")):
                    name = f"H_{op}_{form}_{size}{shape}"
                    handler(name, address(shape) + probe("wtag", size) + [
                        f"cdef u64 a = {pointer(size)}, b = {b}", f"cdef u64 r = {expr}", f"{pointer(size)} = {u(size)}r", flag, *NEXT])
                    add([f"{op}_E_{form[-1]}"], size, 1, shape, "L", name)


def operands_ab(size):
    """The forms of CMP and TEST: name, memory?, declarations of a and b, exec functions' suffixes."""
    yield "E_G", "", ["cdef u64 a = c.r[o.rm], b = c.r[o.reg]"], ["E_G"]
    yield "G_E", "", ["cdef u64 a = c.r[o.reg], b = c.r[o.rm]"], ["G_E"]
    yield "E_I", "", ["cdef u64 a = c.r[o.rm], b = <u64>o.imm"], ["E_I", "A_I"]
    for shape in "BX":
        load = address(shape) + probe("rtag", size)
        yield "M_G", shape, load + [f"cdef u64 a = {pointer(size)}, b = c.r[o.reg]"], ["E_G"]
        yield "G_M", shape, load + [f"cdef u64 a = c.r[o.reg], b = {pointer(size)}"], ["G_E"]
        yield "M_I", shape, load + [f"cdef u64 a = {pointer(size)}, b = <u64>o.imm"], ["E_I"]


def branch(cond):
    return [f"if {cond}:", "    go(c, o + 1)", "    return", "(o + 2).fn(c, o + 2)"]


def compare():
    for size in (1, 2, 4, 8):
        for form, shape, load, suffixes in operands_ab(size):
            for op in ("CMP", "TEST"):
                if op == "TEST" and "G_E" in suffixes:
                    continue
                execs = [f"{op}_{s}" for s in suffixes]
                mem = int(bool(shape))
                r = ["cdef u64 r = a - b"] if op == "CMP" else ["cdef u64 r = a & b"]
                flags = f"flags_sub(c, {size}, a, b, r)" if op == "CMP" else f"flags_logic(c, {size}, r)"
                name = f"H_{op}_{form}_{size}{shape}"
                handler(name, load + r + [flags, *NEXT])
                add(execs, size, mem, shape, "L", name)
                if size == 2:
                    continue
                for cc in FUSED_CMP if op == "CMP" else FUSED_TEST:
                    cond = (CMP_COND if op == "CMP" else TEST_COND)[cc].format(u=u(size), i=i(size))
                    for live in "LD":
                        name = f"H_{op}_{form}_{size}{shape}_J{CC[cc]}{live}"
                        handler(name, load + r + ([flags] if live == "L" else []) + branch(cond))
                        for ex in execs:
                            fused.append((ex, size, mem, shape, cc, live, name))


def unary():
    for size in (1, 2, 4, 8):
        for op, expr, flags in (("INC", "a + 1", "flags_inc(c, {s}, a, r)"), ("DEC", "a - 1", "flags_dec(c, {s}, a, r)"),
                                ("NEG", "0 - a", "flags_sub(c, {s}, 0, a, r)"), ("NOT", "~a", "")):
            flag = [flags.format(s=size)] if flags else []
            for live in "LD" if flags else "L":
                name = f"H_{op}_E_{size}{live}"
                handler(name, ["cdef u64 a = c.r[o.rm]", f"cdef u64 r = {expr}", put("rm", size, "r"),
                               *(flag if live == "L" else []), *NEXT])
                add([f"{op}_E"] + ([f"{op}_Z"] if op in ("INC", "DEC") and size > 1 else []), size, 0, "", live, name)
            for shape in "BX":
                name = f"H_{op}_M_{size}{shape}"
                handler(name, address(shape) + probe("wtag", size) + [
                    f"cdef u64 a = {pointer(size)}", f"cdef u64 r = {expr}", f"{pointer(size)} = {u(size)}r", *flag, *NEXT])
                add([f"{op}_E"], size, 1, shape, "L", name)


SHIFTS = {
    "SHL": ("a << n", "(a >> ({bits} - n)) & 1", "((r >> {top}) & 1) ^ cf"),
    "SHR": ("a >> n", "(a >> (n - 1)) & 1", "((r >> {top}) ^ (r >> ({top} - 1))) & 1"),
    "SAR": ("<u64>({i}a >> n)", "<u64>({i}a >> (n - 1)) & 1", "0"),
}


def shifts():
    for op, (expr, cf, of) in SHIFTS.items():
        for size in (4, 8):
            bits, top = 8 * size, 8 * size - 1
            fmt = {"bits": bits, "top": top, "i": i(size)}
            for count, mask in (("E_1", "1"), ("E_I", f"<u32>o.imm & {bits - 1}"), ("E_CL", f"<u32>c.r[RCX] & {bits - 1}")):
                for live in "LD":
                    name = f"H_{op}_{count}_{size}{live}"
                    body = [f"cdef u64 a = {u(size)}c.r[o.rm], r", f"cdef u32 n = {mask}"]
                    if count != "E_1":
                        body += ["if unlikely(n == 0):", "    T_GENERIC(c, o)", "    return"]
                    body += [f"r = {u(size)}({expr.format(**fmt)})", put("rm", size, "r")]
                    if live == "L":
                        body += [f"cdef bint cf = {cf.format(**fmt)}", f"flags_shift(c, {size}, r, cf, {of.format(**fmt)})"]
                    handler(name, body + NEXT)
                    add([f"{op}_{count}"], size, 0, "", live, name)
    for op, expr, cf, of in (("ROL", "(a << n) | (a >> ({bits} - n))", "r & 1", "((r >> {top}) & 1) ^ cf"),
                             ("ROR", "(a >> n) | (a << ({bits} - n))", "(r >> {top}) & 1", "cf ^ ((r >> ({top} - 1)) & 1)")):
        for size in (4, 8):
            bits, top = 8 * size, 8 * size - 1
            for live in "LD":
                name = f"H_{op}_E_I_{size}{live}"
                body = [f"cdef u64 a = {u(size)}c.r[o.rm], r", f"cdef u32 n = <u32>o.imm & {bits - 1}",
                        "if unlikely(n == 0):", "    T_GENERIC(c, o)", "    return",
                        f"r = {u(size)}({expr.format(bits=bits)})", put("rm", size, "r")]
                if live == "L":
                    body += [f"cdef bint cf = {cf.format(top=top)}", f"set_cf_of(c, cf, {of.format(top=top)})"]
                handler(name, body + NEXT)
                add([f"{op}_E_I"], size, 0, "", live, name)


def multiply():
    for size in (4, 8):
        for form, shape in (("E", ""), ("M", "B"), ("M", "X")):
            load = [f"cdef u64 a = {u(size)}c.r[o.rm]"] if not shape else address(shape) + probe("rtag", size) + [
                f"cdef u64 a = {pointer(size)}"]
            for ex, b in (("IMUL_G_E", "c.r[o.reg]"), ("IMUL_G_E_I", "<u64>o.imm")):
                for live in "L" if shape else "LD":
                    name = f"H_{ex[:-2] if ex.endswith('_I') else ex}{'_I' if ex.endswith('_I') else ''}_{form}_{size}{shape}{live}"
                    if live == "D":
                        body = [put("reg", size, f"a * ({b})")]
                    else:
                        body = ["cdef u64 lo, hi", f"cdef bint over = signed_product({size}, a, {u(size)}({b}), &lo, &hi)",
                                put("reg", size, "lo"), f"flags_shift(c, {size}, lo, over, over)"]
                    handler(name, load + body + NEXT)
                    add([ex], size, int(bool(shape)), shape, live, name)


def wide():
    """MUL and DIV on rDX:rAX; a quotient that does not fit is the exec function's business."""
    for size in (4, 8):
        bits = 8 * size
        for form, shape in (("E", ""), ("M", "B"), ("M", "X")):
            load = [f"cdef u64 a = {u(size)}c.r[o.rm]"] if not shape else address(shape) + probe("rtag", size) + [
                f"cdef u64 a = {pointer(size)}"]
            if size == 8:
                product = ["cdef u64 hi = 0", "cdef u64 lo = xf_umul(a, c.r[RAX], &hi)"]
            else:
                product = ["cdef u64 lo = a * <u32>c.r[RAX]", "cdef u64 hi = lo >> 32"]
            name = f"H_MUL_{form}_{size}{shape}"
            handler(name, load + product + [f"c.r[RAX] = {u(size)}lo", f"c.r[RDX] = {u(size)}hi",
                                            f"flags_shift(c, {size}, lo, hi != 0, hi != 0)", *NEXT])
            add(["MUL_E"], size, int(bool(shape)), shape, "L", name)
            quotient = (["cdef u64 rem = 0", "cdef u64 q = xf_udiv(c.r[RDX], c.r[RAX], a, &rem)"] if size == 8 else
                        [f"cdef u64 n = (c.r[RDX] << {bits}) | <u32>c.r[RAX]", "cdef u64 q = n / a", "cdef u64 rem = n % a"])
            name = f"H_DIV_{form}_{size}{shape}"
            handler(name, load + [f"if unlikely({u(size)}c.r[RDX] >= a):", "    T_GENERIC(c, o)", "    return"] + quotient + [
                "c.r[RAX] = q", "c.r[RDX] = rem", *NEXT])
            add(["DIV_E"], size, int(bool(shape)), shape, "L", name)


def alu_branch():
    """The common arithmetic in front of JE and JNE."""
    flags = {op: f for op, (_, f) in ALU.items()} | {"DEC": "flags_dec(c, {s}, a, r)"}
    forms = {"E_G": "c.r[o.reg]", "E_I": "<u64>o.imm", "E": "1"}
    for op, form in (("DEC", "E"), ("SUB", "E_I"), ("SUB", "E_G"), ("AND", "E_I"), ("AND", "E_G"), ("ADD", "E_I"), ("OR", "E_G")):
        for size in (4, 8):
            for cc in (4, 5):
                for live in "LD":
                    expr = "a - b" if op == "DEC" else ALU[op][0]
                    name = f"H_{op}_{form}_{size}_J{CC[cc]}{live}"
                    handler(name, [f"cdef u64 a = c.r[o.rm], b = {forms[form]}", f"cdef u64 r = {expr}", put("rm", size, "r"),
                                   *([flags[op].format(s=size)] if live == "L" else []),
                                   *branch(TEST_COND[cc].format(u=u(size), i=i(size)))])
                    fused.append((f"{op}_{form}", size, 0, "", cc, live, name))


# ---- moves ----------------------------------------------------------------------------------------------------------
def moves():
    for size in (1, 2, 4, 8):
        for form, dest, src, execs in (("E_G", "rm", "c.r[o.reg]", ["MOV_E_G"]), ("G_E", "reg", "c.r[o.rm]", ["MOV_G_E"]),
                                       ("E_I", "rm", "<u64>o.imm", ["MOV_E_I", "MOV_Z_I"])):
            name = f"H_MOV_{form}_{size}"
            handler(name, [put(dest, size, src), *NEXT])
            add(execs, size, 0, "", "L", name)
        for shape in "BX":
            name = f"H_MOV_G_M_{size}{shape}"
            handler(name, address(shape) + probe("rtag", size) + [put("reg", size, pointer(size)), *NEXT])
            add(["MOV_G_E"], size, 1, shape, "L", name)
            for form, src in (("M_G", "c.r[o.reg]"), ("M_I", "o.imm")):
                name = f"H_MOV_{form}_{size}{shape}"
                handler(name, address(shape) + probe("wtag", size) + [f"{pointer(size)} = {u(size)}{src}", *NEXT])
                add([f"MOV_E_{form[-1]}"], size, 1, shape, "L", name)
    for op, cast in (("MOVZX", "u"), ("MOVSX", "i")):
        for code, width in (("Eb", 1), ("Ew", 2)):
            for size in (4, 8):
                value = "<u64><{k}{b}>{x}" if cast == "u" else "<u64><i64><{k}{b}>{x}"
                name = f"H_{op}_G_{code}_{size}"
                handler(name, [put("reg", size, value.format(k=cast, b=8 * width, x="c.r[o.rm]")), *NEXT])
                add([f"{op}_G_{code}"], size, 0, "", "L", name)
                for shape in "BX":
                    name = f"H_{op}_G_M{code[1]}_{size}{shape}"
                    handler(name, address(shape) + probe("rtag", width) + [
                        put("reg", size, value.format(k=cast, b=8 * width, x=pointer(width))), *NEXT])
                    add([f"{op}_G_{code}"], size, 1, shape, "L", name)
    handler("H_MOVSXD_8", ["c.r[o.reg] = <u64><i64><i32>c.r[o.rm]", *NEXT])
    add(["OPCODE_63"], 8, 0, "", "L", "H_MOVSXD_8")
    for shape in "BX":
        handler(f"H_MOVSXD_M_8{shape}", address(shape) + probe("rtag", 4) + [f"c.r[o.reg] = <u64><i64><i32>{pointer(4)}", *NEXT])
        add(["OPCODE_63"], 8, 1, shape, "L", f"H_MOVSXD_M_8{shape}")
        for size in (4, 8):
            name = f"H_LEA_{size}{shape}"
            handler(name, [address(shape)[0], put("reg", size, "lin"), *NEXT])
            add(["LEA_G_M"], size, 1, shape, "L", name)
    for size in (4, 8):
        name = f"H_XCHG_E_G_{size}"
        handler(name, ["cdef u64 a = c.r[o.rm]", put("rm", size, "c.r[o.reg]"), put("reg", size, "a"), *NEXT])
        add(["XCHG_E_G"], size, 0, "", "L", name)
    handler("H_CDQE", ["c.r[RAX] = <u64><i64><i32>c.r[RAX]", *NEXT])
    add(["CBW"], 8, 0, "", "L", "H_CDQE")
    handler("H_CWDE", ["c.r[RAX] = <u32><i32><i16>c.r[RAX]", *NEXT])
    add(["CBW"], 4, 0, "", "L", "H_CWDE")
    handler("H_CQO", ["c.r[RDX] = <u64>(<i64>c.r[RAX] >> 63)", *NEXT])
    add(["CWD"], 8, 0, "", "L", "H_CQO")
    handler("H_CDQ", ["c.r[RDX] = <u32>(<i32>c.r[RAX] >> 31)", *NEXT])
    add(["CWD"], 4, 0, "", "L", "H_CDQ")
    handler("H_NOP", NEXT)
    for size in (2, 4, 8):
        for mem in (0, 1):
            for shape in "BX" if mem else [""]:
                add(["NOP"], size, mem, shape, "L", "H_NOP")


# ---- the stack and control flow (64-bit mode: all operands 8 bytes) -------------------------------------------------
def stack():
    at = ["cdef u64 lin = c.r[RSP] - 8", "cdef TlbEntry* e = tlb_slot(c.tlb, lin)"]
    top = ["cdef u64 lin = c.r[RSP]", "cdef TlbEntry* e = tlb_slot(c.tlb, lin)"]
    for name, ex, value in (("H_PUSH_Z", "PUSH_Z", "c.r[o.rm]"), ("H_PUSH_I", "PUSH_I", "<u64>o.imm")):
        handler(name, at + probe("wtag", 8) + [f"{pointer(8)} = {value}", "c.r[RSP] = lin", *NEXT])
        add([ex], 8, 0, "", "L", name)
    handler("H_POP_Z", top + probe("rtag", 8) + ["c.r[RSP] = lin + 8", f"c.r[o.rm] = {pointer(8)}", *NEXT])
    add(["POP_Z"], 8, 0, "", "L", "H_POP_Z")
    handler("H_LEAVE", ["cdef u64 lin = c.r[RBP]", top[1]] + probe("rtag", 8) + [
        "c.r[RSP] = lin + 8", f"c.r[RBP] = {pointer(8)}", *NEXT])
    add(["LEAVE"], 8, 0, "", "L", "H_LEAVE")
    for shape in "BX":
        handler(f"H_PUSH_M{shape}", address(shape) + ["cdef u64 sp = c.r[RSP] - 8", "cdef TlbEntry* s = tlb_slot(c.tlb, sp)",
                "if unlikely((lin ^ e.rtag) > 4088 or (sp ^ s.wtag) > 4088):", "    T_GENERIC(c, o)", "    return",
                f"(<u64*>(sp + <u64>s.add))[0] = {pointer(8)}", "c.r[RSP] = sp", *NEXT])
        add(["PUSH_E"], 8, 1, shape, "L", f"H_PUSH_M{shape}")
    handler("H_CALL_J", at + probe("wtag", 8) + [f"{pointer(8)} = next_rip(c, o)", "c.r[RSP] = lin", "go(c, o)"])
    add(["CALL_J"], 8, 0, "", "L", "H_CALL_J")
    handler("H_JMP_J", ["go(c, o)"])
    add(["JMP_J"], 8, 0, "", "L", "H_JMP_J")
    jump = ["if unlikely(n.tag != (rip ^ c.jc_salt) or c.budget < o.pos or c.req != 0):", "    T_GENERIC(c, o)", "    return"]
    enter = ["c.budget -= o.pos", "c.r[R_RIPBASE] = rip", "n.first.fn(c, n.first)"]
    handler("H_RET", top + probe("rtag", 8) + [f"cdef u64 rip = {pointer(8)}", "cdef JumpEntry* n = c.jc + jc_index(rip)"] + jump + [
        "c.r[RSP] = lin + 8", *enter])
    add(["RET"], 8, 0, "", "L", "H_RET")
    for shape in ("", "B", "X"):
        load = ["cdef u64 rip = c.r[o.rm]"] if not shape else address(shape) + probe("rtag", 8) + [f"cdef u64 rip = {pointer(8)}"]
        load += ["cdef JumpEntry* n = c.jc + jc_index(rip)"]
        handler(f"H_JMP_E{shape}", load + jump + enter)
        add(["JMP_E"], 8, int(bool(shape)), shape, "L", f"H_JMP_E{shape}")
        handler(f"H_CALL_E{shape}", load + [
            "cdef u64 sp = c.r[RSP] - 8", "cdef TlbEntry* s = tlb_slot(c.tlb, sp)",
            "if unlikely(n.tag != (rip ^ c.jc_salt) or (sp ^ s.wtag) > 4088 or c.budget < o.pos or c.req != 0):",
            "    T_GENERIC(c, o)", "    return",
            "(<u64*>(sp + <u64>s.add))[0] = next_rip(c, o)", "c.r[RSP] = sp", *enter])
        add(["CALL_E"], 8, int(bool(shape)), shape, "L", f"H_CALL_E{shape}")


COND = ["flag_of(c)", "flag_cf(c)", "flag_zf(c)", "flag_cf(c) or flag_zf(c)", "flag_sf(c)", "flag_pf(c)",
        "flag_sf(c) != flag_of(c)", "flag_zf(c) or flag_sf(c) != flag_of(c)"]


def conditional():
    for cc in range(16):
        cond = COND[cc >> 1]
        cond = f"not ({cond})" if cc & 1 else cond
        handler(f"H_J{CC[cc]}", [f"if {cond}:", "    go(c, o)", "    return", *NEXT])
        handler(f"H_SET{CC[cc]}", [put("rm", 1, cond), *NEXT])
        for size in (4, 8):
            cut = "<u32>" if size == 4 else ""
            handler(f"H_CMOV{CC[cc]}_{size}", [f"c.r[o.reg] = {cut}c.r[o.rm] if {cond} else {cut}c.r[o.reg]", *NEXT])


HEAD = '''# Threaded handlers: specialised copies of the hot exec functions.
#
# Written by tools/gen_threaded.py; do not edit.  tests/test_generated.py writes it again and compares.

'''


def main():
    alu()
    compare()
    unary()
    shifts()
    multiply()
    wide()
    alu_branch()
    moves()
    stack()
    conditional()
    print(HEAD + "\n".join(out))
    print("cdef void init_threaded() noexcept:")
    for ex, size, mem, shape, live, name in table:
        print(f"    fast({ex}, {size}, {mem}, {1 if shape == 'X' else 0}, {1 if live == 'L' else 0}, {name})")
    for ex, size, mem, shape, cc, live, name in fused:
        print(f"    fast_fused({ex}, {size}, {mem}, {1 if shape == 'X' else 0}, {cc}, {1 if live == 'L' else 0}, {name})")
    for cc in range(16):
        print(f"    fast_cc({cc}, H_J{CC[cc]}, H_SET{CC[cc]}, H_CMOV{CC[cc]}_4, H_CMOV{CC[cc]}_8)")
    print(f"# {sum(line.startswith('cdef void H_') for line in out)} handlers", file=sys.stderr)


main()
