"""INT 09h and 16h: scan codes become characters in the BIOS data area's buffer, and programs take them from there.

Scan codes are those of set 1, as the keyboard controller translates them.  The table has a row a key: what INT 16h/10h returns
(scan code in the upper half, character in the lower one) without and with Shift, with Ctrl, with Alt; None where nothing comes.
IBM PS/2 BIOS Interface Technical Reference, INT 16h; IBM 101-key layout.  Other layouts are programs' business (KEYB).
"""

from xenfast.firmware.bda import BDA, KBD_BUFFER, KBD_BUFFER_END, Area
from xenfast.firmware.portio import PortIo
from xenfast.firmware.traps import Call

Row = tuple[int | None, int | None, int | None, int | None]

# scan code -> plain, Shift, Ctrl, Alt
KEYS: dict[int, Row] = {
    0x01: (0x011B, 0x011B, 0x011B, 0x0100),         # Esc
    0x02: (0x0231, 0x0221, None, 0x7800), 0x03: (0x0332, 0x0340, 0x0300, 0x7900), 0x04: (0x0433, 0x0423, None, 0x7A00),
    0x05: (0x0534, 0x0524, None, 0x7B00), 0x06: (0x0635, 0x0625, None, 0x7C00), 0x07: (0x0736, 0x075E, 0x071E, 0x7D00),
    0x08: (0x0837, 0x0826, None, 0x7E00), 0x09: (0x0938, 0x092A, None, 0x7F00), 0x0A: (0x0A39, 0x0A28, None, 0x8000),
    0x0B: (0x0B30, 0x0B29, None, 0x8100), 0x0C: (0x0C2D, 0x0C5F, 0x0C1F, 0x8200), 0x0D: (0x0D3D, 0x0D2B, None, 0x8300),
    0x0E: (0x0E08, 0x0E08, 0x0E7F, 0x0E00),         # Backspace
    0x0F: (0x0F09, 0x0F00, 0x9400, 0xA500),         # Tab
    0x1A: (0x1A5B, 0x1A7B, 0x1A1B, 0x1A00), 0x1B: (0x1B5D, 0x1B7D, 0x1B1D, 0x1B00),
    0x1C: (0x1C0D, 0x1C0D, 0x1C0A, 0x1C00),         # Enter
    0x27: (0x273B, 0x273A, None, 0x2700), 0x28: (0x2827, 0x2822, None, 0x2800), 0x29: (0x2960, 0x297E, None, 0x2900),
    0x2B: (0x2B5C, 0x2B7C, 0x2B1C, 0x2B00),
    0x33: (0x332C, 0x333C, None, 0x3300), 0x34: (0x342E, 0x343E, None, 0x3400), 0x35: (0x352F, 0x353F, None, 0x3500),
    0x37: (0x372A, 0x372A, 0x9600, 0x3700),         # keypad *
    0x39: (0x3920, 0x3920, 0x3920, 0x3920),
    0x4A: (0x4A2D, 0x4A2D, 0x8E00, 0x4A00), 0x4E: (0x4E2B, 0x4E2B, 0x9000, 0x4E00),
    0x56: (0x565C, 0x567C, None, None),             # the key of 102-key keyboards
    0x57: (0x8500, 0x8700, 0x8900, 0x8B00), 0x58: (0x8600, 0x8800, 0x8A00, 0x8C00),         # F11, F12
}   # fmt: skip
for _first, _row in ((0x10, "qwertyuiop"), (0x1E, "asdfghjkl"), (0x2C, "zxcvbnm")):
    for _i, _letter in enumerate(_row):
        _scan = _first + _i
        KEYS[_scan] = (_scan << 8 | ord(_letter), _scan << 8 | ord(_letter.upper()), _scan << 8 | ord(_letter) & 0x1F, _scan << 8)
for _i in range(10):
    KEYS[0x3B + _i] = (0x3B + _i << 8, 0x54 + _i << 8, 0x5E + _i << 8, 0x68 + _i << 8)      # F1 to F10
LETTERS = frozenset((*range(0x10, 0x1A), *range(0x1E, 0x27), *range(0x2C, 0x33)))

# keypad -> cursor key, digit, Ctrl; Alt builds a character from digits
KEYPAD: dict[int, tuple[int, int, int]] = {
    0x47: (0x4700, 0x4737, 0x7700), 0x48: (0x4800, 0x4838, 0x8D00), 0x49: (0x4900, 0x4939, 0x8400),
    0x4B: (0x4B00, 0x4B34, 0x7300), 0x4C: (0x4CF0, 0x4C35, 0x8F00), 0x4D: (0x4D00, 0x4D36, 0x7400),
    0x4F: (0x4F00, 0x4F31, 0x7500), 0x50: (0x5000, 0x5032, 0x9100), 0x51: (0x5100, 0x5133, 0x7600),
    0x52: (0x5200, 0x5230, 0x9200), 0x53: (0x5300, 0x532E, 0x9300),
}   # fmt: skip

# after E0h: the grey keys
EXTENDED: dict[int, Row] = {
    0x1C: (0xE00D, 0xE00D, 0xE00A, 0xA600), 0x35: (0xE02F, 0xE02F, 0x9500, 0xA400),
    0x47: (0x47E0, 0x47E0, 0x77E0, 0x9700), 0x48: (0x48E0, 0x48E0, 0x8DE0, 0x9800), 0x49: (0x49E0, 0x49E0, 0x84E0, 0x9900),
    0x4B: (0x4BE0, 0x4BE0, 0x73E0, 0x9B00), 0x4D: (0x4DE0, 0x4DE0, 0x74E0, 0x9D00), 0x4F: (0x4FE0, 0x4FE0, 0x75E0, 0x9F00),
    0x50: (0x50E0, 0x50E0, 0x91E0, 0xA000), 0x51: (0x51E0, 0x51E0, 0x76E0, 0xA100), 0x52: (0x52E0, 0x52E0, 0x92E0, 0xA200),
    0x53: (0x53E0, 0x53E0, 0x93E0, 0xA300),
}   # fmt: skip

# bits of kbd_flags (417h), kbd_flags2 (418h), kbd_flags3 (496h), kbd_leds (497h)
RIGHT_SHIFT, LEFT_SHIFT, CTRL, ALT, SCROLL, NUM, CAPS, INSERT = (1 << i for i in range(8))
LEFT_CTRL, LEFT_ALT, SYSRQ, PAUSE = 1, 2, 4, 8
E1_LAST, E0_LAST, RIGHT_CTRL, RIGHT_ALT, ENHANCED = 1, 2, 4, 8, 16
LOCKS = {0x3A: CAPS, 0x45: NUM, 0x46: SCROLL}
LED_OF = ((SCROLL, 1), (NUM, 2), (CAPS, 4))
RELEASE = 0x80

# what INT 09h is to do besides (AH for the stub)
NOTHING, PRINT, BREAK, PAUSED, REBOOT, SYSTEM_REQUEST = range(6)

STATUS, DATA, COMMAND = 0x64, 0x60, 0x64
OUTPUT_FULL, INPUT_FULL, FROM_MOUSE = 0x01, 0x02, 0x20
ACK, RESEND, OVERRUN = 0xFA, 0xFE, (0x00, 0xFF)
POLLS = 64          # of the controller's status, before it is given up


class Keyboard:
    def __init__(self, ports: PortIo) -> None:
        self.ports = ports

    # --- INT 09h -----------------------------------------------------------------------------------------------------
    def key(self, call: Call) -> None:
        """AL is a scan code; AH says what the stub is to do besides."""
        call.ah = NOTHING
        bda, code = Area(call.mem), call.al
        flags3 = bda.kbd_flags3
        if code == 0xE0:
            bda.kbd_flags3 = flags3 | E0_LAST
            return
        if code == 0xE1:
            bda.kbd_flags3 = flags3 | E1_LAST
            return
        if code in (ACK, RESEND) or code in OVERRUN:
            return
        extended, pause = bool(flags3 & E0_LAST), bool(flags3 & E1_LAST)
        if pause:                                       # E1 1D 45: Pause; E1 9D C5: nothing more
            if code & 0x7F == 0x1D:
                return
            bda.kbd_flags3 = flags3 & ~E1_LAST
            if code == 0x45:
                self._pause(call, bda)
            return
        bda.kbd_flags3 = flags3 & ~E0_LAST
        scan = code & 0x7F
        if self._modifier(call, bda, scan, bool(code & RELEASE), extended) or code & RELEASE:
            return
        if bda.kbd_flags2 & PAUSE:                      # any key ends a pause, and is lost
            bda.kbd_flags2 &= ~PAUSE
            return
        self._press(call, bda, scan, extended)

    def _pause(self, call: Call, bda: Area) -> None:
        if not bda.kbd_flags2 & PAUSE:
            bda.kbd_flags2 |= PAUSE
            call.ah = PAUSED

    def paused(self, call: Call) -> None:
        """Of the stub that waits in a pause."""
        call.stub_cf(Area(call.mem).kbd_flags2 & PAUSE)

    def _modifier(self, call: Call, bda: Area, scan: int, release: bool, extended: bool) -> bool:
        """Shift keys and locks; False for the others."""
        if scan in (0x2A, 0x36):
            if not extended:                            # E0 2A: a shift that keyboards make up around grey keys
                self._hold(bda, LEFT_SHIFT if scan == 0x2A else RIGHT_SHIFT, not release)
            return True
        if scan == 0x1D:
            self._side(bda, LEFT_CTRL, RIGHT_CTRL, CTRL, extended, release)
            return True
        if scan == 0x38:
            self._side(bda, LEFT_ALT, RIGHT_ALT, ALT, extended, release)
            if release and bda.kbd_alt:
                character, bda.kbd_alt = bda.kbd_alt, 0
                self.store(call, character)             # Alt and digits: a character without a scan code
            return True
        if scan == 0x54 or (scan == 0x37 and bda.kbd_flags & ALT and extended):        # Alt + PrtSc
            self._system_request(call, bda, release)
            return True
        lock = LOCKS.get(scan)
        if lock is None or extended:
            return False
        if release:
            bda.kbd_flags2 &= ~lock
        elif scan == 0x45 and bda.kbd_flags & CTRL:
            self._pause(call, bda)
        elif scan == 0x46 and bda.kbd_flags & CTRL:
            self._break(call, bda)
        elif not bda.kbd_flags2 & lock:                 # not its repetition
            bda.kbd_flags2 |= lock
            bda.kbd_flags ^= lock
            self.update_leds(bda)
        return True

    def _hold(self, bda: Area, bit: int, down: bool) -> None:
        bda.kbd_flags = bda.kbd_flags | bit if down else bda.kbd_flags & ~bit

    def _side(self, bda: Area, left: int, right: int, either: int, is_right: bool, release: bool) -> None:
        """Ctrl and Alt are there twice."""
        if is_right:
            bda.kbd_flags3 = bda.kbd_flags3 & ~right if release else bda.kbd_flags3 | right
        else:
            bda.kbd_flags2 = bda.kbd_flags2 & ~left if release else bda.kbd_flags2 | left
        self._hold(bda, either, bool(bda.kbd_flags2 & left or bda.kbd_flags3 & right))

    def _system_request(self, call: Call, bda: Area, release: bool) -> None:
        held = bool(bda.kbd_flags2 & SYSRQ)
        if release == held:
            bda.kbd_flags2 = bda.kbd_flags2 & ~SYSRQ if release else bda.kbd_flags2 | SYSRQ
            call.al, call.ah = int(release), SYSTEM_REQUEST

    def _break(self, call: Call, bda: Area) -> None:
        """Ctrl-Break: the buffer is emptied, and INT 1Bh is told."""
        start = bda.kbd_start or KBD_BUFFER
        bda.kbd_head = bda.kbd_tail = start
        bda.ctrl_break |= 0x80
        self.store(call, 0)
        call.ah = BREAK

    def _press(self, call: Call, bda: Area, scan: int, extended: bool) -> None:
        flags = bda.kbd_flags
        shift, ctrl, alt = bool(flags & (LEFT_SHIFT | RIGHT_SHIFT)), bool(flags & CTRL), bool(flags & ALT)
        if scan == 0x53 and ctrl and alt:
            bda.reset_flag = 0x1234
            call.ah = REBOOT
            return
        if scan == 0x46 and extended:                   # the Break half of the Pause key
            self._break(call, bda)
            return
        if scan == 0x37 and (extended or shift) and not alt:
            if ctrl:
                self.store(call, 0x7200)
            else:
                call.ah = PRINT
            return
        if scan == 0x52 and not alt and not (flags & NUM and not extended):
            bda.kbd_flags ^= INSERT
        if scan in KEYPAD and not extended:
            self._keypad(call, bda, scan, shift, ctrl, alt)
            return
        row = EXTENDED.get(scan) if extended else KEYS.get(scan)
        if row is None:
            return
        if scan in LETTERS and flags & CAPS:
            shift = not shift
        code = row[3 if alt else 2 if ctrl else 1 if shift else 0]
        if code is not None:
            self.store(call, code)

    def _keypad(self, call: Call, bda: Area, scan: int, shift: bool, ctrl: bool, alt: bool) -> None:
        cursor, digit, with_ctrl = KEYPAD[scan]
        if alt:
            if scan != 0x53:
                bda.kbd_alt = bda.kbd_alt * 10 + (digit & 15) & 0xFF
        elif ctrl:
            self.store(call, with_ctrl)
        else:
            self.store(call, digit if bool(bda.kbd_flags & NUM) != shift else cursor)

    # --- the buffer --------------------------------------------------------------------------------------------------
    def bounds(self, bda: Area) -> tuple[int, int]:
        """Where the buffer is, as offsets in segment 40h; programs may have moved it."""
        start, end = bda.kbd_start, bda.kbd_end
        return (start, end) if 0 < start < end else (KBD_BUFFER, KBD_BUFFER_END)

    def store(self, call: Call, code: int) -> bool:
        """A keystroke into the buffer; False when it is full."""
        bda = Area(call.mem)
        start, end = self.bounds(bda)
        tail = bda.kbd_tail
        following = tail + 2
        if following >= end:
            following = start
        if following == bda.kbd_head:
            return False
        call.mem.write_int(BDA + tail, 2, code)
        bda.kbd_tail = following
        return True

    def peek(self, call: Call) -> int | None:
        bda = Area(call.mem)
        head = bda.kbd_head
        return None if head == bda.kbd_tail else call.mem.read_int(BDA + head, 2)

    def drop(self, call: Call) -> None:
        """The first keystroke has been taken."""
        bda = Area(call.mem)
        start, end = self.bounds(bda)
        following = bda.kbd_head + 2
        bda.kbd_head = start if following >= end else following

    # --- INT 16h -----------------------------------------------------------------------------------------------------
    def int16(self, call: Call) -> None:
        function = call.ah
        if function in (0x00, 0x10, 0x20):
            self._read(call, function)
        elif function in (0x01, 0x11, 0x21):
            self._look(call, function)
        elif function in (0x02, 0x12, 0x22):
            self._shift_state(call, function)
        elif function == 0x03:
            self._typematic(call)
        elif function == 0x05:
            call.al = 0 if self.store(call, call.cx) else 1
        elif function == 0x09:
            call.al = 0x30                              # 0Ah, and 10h to 12h are there
        elif function == 0x0A:
            call.bx = 0x41AB                            # ID of a keyboard behind a translating controller
        # others: registers as they were

    def _read(self, call: Call, function: int) -> None:
        while (code := self.peek(call)) is not None:
            self.drop(call)
            if (seen := translate(code, function)) is not None:
                call.ax = seen
                return
        call.wait()

    def _look(self, call: Call, function: int) -> None:
        while (code := self.peek(call)) is not None:
            if (seen := translate(code, function)) is not None:
                call.ax, call.zf = seen, False
                return
            self.drop(call)                             # of no use to this function: else it would block the buffer
        call.zf = True

    def _shift_state(self, call: Call, function: int) -> None:
        bda = Area(call.mem)
        call.al = bda.kbd_flags
        if function != 0x02:
            flags2, flags3 = bda.kbd_flags2, bda.kbd_flags3
            call.ah = (flags2 & 0x73 | (0x80 if flags2 & SYSRQ else 0) | (4 if flags3 & RIGHT_CTRL else 0)
                       | (8 if flags3 & RIGHT_ALT else 0))

    def _typematic(self, call: Call) -> None:
        if call.al == 0x05:
            self.command(0xF3, (call.bh & 3) << 5 | call.bl & 0x1F)
        elif call.al == 0x06:
            call.bx = 0x010B                            # 500 ms, 10.9 characters a second

    # --- the keyboard itself -----------------------------------------------------------------------------------------
    def update_leds(self, bda: Area) -> None:
        leds = sum(led for bit, led in LED_OF if bda.kbd_flags & bit)
        if bda.kbd_leds & 7 != leds:
            bda.kbd_leds = bda.kbd_leds & ~7 | leds
            self.command(0xED, leds)

    def command(self, *data: int) -> bool:
        """Bytes to the keyboard, each acknowledged; False when it does not answer."""
        return all(self._send(byte) for byte in data)

    def _send(self, byte: int) -> bool:
        if not self.ready():
            return False
        self.ports.outb(DATA, byte)
        return any(value == ACK for value in self.answers())

    def ready(self) -> bool:
        """Does the controller take a byte?"""
        return any(not self.ports.inb(STATUS) & INPUT_FULL for _ in range(POLLS))

    def answers(self) -> list[int]:
        """Bytes that wait in the controller."""
        out: list[int] = []
        while len(out) < POLLS and self.ports.inb(STATUS) & OUTPUT_FULL:
            out.append(self.ports.inb(DATA))
        return out


def translate(code: int, function: int) -> int | None:
    """A keystroke as a function returns it; None: that function never does."""
    scan, character = code >> 8, code & 0xFF
    if function >= 0x10:                                # enhanced: all of them
        return code & 0xFF00 if character == 0xF0 and scan else code
    if character == 0xE0 and scan:
        return code & 0xFF00 if scan < 0x85 else None   # a grey key as the one on the keypad
    if scan == 0xE0:
        return {0x0D: 0x1C0D, 0x0A: 0x1C0A, 0x2F: 0x352F}.get(character)
    if (character == 0xF0 and scan) or (scan > 0x84 and not character):
        return None                                     # keys that 84-key keyboards have not
    return code
