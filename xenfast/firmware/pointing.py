"""INT 15h/C2h and 74h: the PS/2 pointing device.

A program gives a handler, which INT 74h calls with the packets of the mouse (IBM PS/2 BIOS Interface Technical Reference, C2h).
The mouse is spoken to through the keyboard controller's ports, as any driver would.
"""

from xenfast.firmware.bda import Area, ebda
from xenfast.firmware.int15 import UNSUPPORTED, System
from xenfast.firmware.keyboard import ACK, DATA, OUTPUT_FULL, POLLS, STATUS, Keyboard
from xenfast.firmware.portio import PortIo
from xenfast.firmware.traps import Call

OK, BAD_FUNCTION, BAD_INPUT, INTERFACE, NO_HANDLER = 0, 1, 2, 3, 5
READ_COMMAND, WRITE_COMMAND, ENABLE_MOUSE, TO_MOUSE = 0x20, 0x60, 0xA8, 0xD4
IRQ12, MOUSE_OFF = 0x02, 0x20               # of the controller's command byte
SET_SCALE_1, SET_SCALE_2, SET_RESOLUTION, STATUS_REQUEST = 0xE6, 0xE7, 0xE8, 0xE9
READ_ID, SET_RATE, ENABLE, DISABLE, RESET = 0xF2, 0xF3, 0xF4, 0xF5, 0xFF
RATES = (10, 20, 40, 60, 80, 100, 200)
HANDLER_SET, PACKET_SIZE = 0x80, 0x07       # of mouse_flag2; the index of the next byte is in mouse_flag1


class Pointing:
    def __init__(self, ports: PortIo, keyboard: Keyboard, system: System) -> None:
        self.ports, self.keyboard = ports, keyboard
        system.functions[0xC2] = self.c2

    def c2(self, call: Call) -> None:
        functions = (self.enable, self.reset, self.rate, self.resolution, self.type, self.initialize, self.extended, self.handler)
        if not Area(call.mem).equipment & 4:
            call.ah, call.cf = UNSUPPORTED, True
            return
        status = functions[call.al](call) if call.al < len(functions) else BAD_FUNCTION
        call.ah, call.cf = status, status != OK

    # --- functions ---------------------------------------------------------------------------------------------------
    def enable(self, call: Call) -> int:
        if call.bh > 1:
            return BAD_INPUT
        area = ebda(call.mem)
        if call.bh == 1 and not area.mouse_flag2 & HANDLER_SET:
            return NO_HANDLER
        area.mouse_flag1 = 0
        return self._send(ENABLE if call.bh else DISABLE)

    def reset(self, call: Call) -> int:
        answer = self._ask(RESET, 2)
        if len(answer) < 2 or answer[0] != 0xAA:
            return INTERFACE
        call.bl, call.bh = answer[0], answer[1]
        return OK

    def rate(self, call: Call) -> int:
        return self._send(SET_RATE, RATES[call.bh]) if call.bh < len(RATES) else BAD_INPUT

    def resolution(self, call: Call) -> int:
        return self._send(SET_RESOLUTION, call.bh) if call.bh < 4 else BAD_INPUT

    def type(self, call: Call) -> int:
        answer = self._ask(READ_ID, 1)
        if not answer:
            return INTERFACE
        call.bh = answer[0]
        return OK

    def initialize(self, call: Call) -> int:
        """Packets of BH bytes; the mouse is reset and off."""
        if not 1 <= call.bh <= 8:
            return BAD_INPUT
        area = ebda(call.mem)
        area.mouse_flag1 = 0
        area.mouse_flag2 = area.mouse_flag2 & HANDLER_SET | call.bh - 1
        bx = call.bx
        status = self.reset(call)
        call.bx = call.bx if status == OK else bx
        return status

    def extended(self, call: Call) -> int:
        if call.bh == 0:
            answer = self._ask(STATUS_REQUEST, 3)
            if len(answer) < 3:
                return INTERFACE
            call.bl, call.cl, call.dl = answer
            return OK
        if call.bh in (1, 2):
            return self._send(SET_SCALE_1 if call.bh == 1 else SET_SCALE_2)
        return BAD_INPUT

    def handler(self, call: Call) -> int:
        """ES:BX is called with packets; 0:0 is nobody."""
        area = ebda(call.mem)
        area.mouse_handler = call.es << 16 | call.bx
        if call.es or call.bx:
            area.mouse_flag2 |= HANDLER_SET
        else:
            area.mouse_flag2 &= ~HANDLER_SET
        return OK

    # --- INT 74h -----------------------------------------------------------------------------------------------------
    def mouse(self, call: Call) -> None:
        """AL is a byte of a packet; CF tells the stub to call the handler with AX, BX, CX, DX: status, X, Y, Z."""
        area = ebda(call.mem)
        flag2, index = area.mouse_flag2, area.mouse_flag1 & PACKET_SIZE
        if not flag2 & HANDLER_SET:
            return
        area.put("mouse_data", index, call.al)
        if index < flag2 & PACKET_SIZE:
            area.mouse_flag1 = index + 1
            return
        area.mouse_flag1 = 0
        data = call.mem.read(area.address("mouse_data"), 4)
        call.ax, call.bx, call.cx, call.dx = data[0], data[1], data[2], 0
        call.es = area.address("size_kib") >> 4
        call.stub_cf(True)

    # --- the mouse ---------------------------------------------------------------------------------------------------
    def present(self) -> bool:
        """At power-on: is there a mouse?  Turns its interrupt on; it stays silent until a program enables it."""
        if not self.keyboard.ready():
            return False
        self.ports.outb(STATUS, ENABLE_MOUSE)
        return self._ask(RESET, 2)[:1] == [0xAA]

    def _command_byte(self, change: int, keep: int) -> int:
        self.keyboard.ready()
        self.ports.outb(STATUS, READ_COMMAND)
        old = self.ports.inb(DATA)
        self._set_command_byte(old & keep | change)
        return old

    def _set_command_byte(self, value: int) -> None:
        self.keyboard.ready()
        self.ports.outb(STATUS, WRITE_COMMAND)
        self.keyboard.ready()
        self.ports.outb(DATA, value)

    def _send(self, *data: int) -> int:
        """Bytes to the mouse, each acknowledged."""
        return OK if all(self._ask(byte, 0) == [] and self.acknowledged for byte in data) else INTERFACE

    def _ask(self, command: int, count: int) -> list[int]:
        """What the mouse answers to a byte, behind the acknowledgement.  Its interrupt is off meanwhile."""
        old = self._command_byte(0, ~(IRQ12 | MOUSE_OFF) & 0xFF)
        answers: list[int] = []
        self.acknowledged = False
        if self.keyboard.ready():
            self.ports.outb(STATUS, TO_MOUSE)
            self.keyboard.ready()
            self.ports.outb(DATA, command)
            for _ in range(POLLS):
                if not self.ports.inb(STATUS) & OUTPUT_FULL:
                    break
                byte = self.ports.inb(DATA)
                if not self.acknowledged:
                    self.acknowledged = byte == ACK
                else:
                    answers.append(byte)
                    if len(answers) == count:
                        break
        self._set_command_byte(old & ~MOUSE_OFF | IRQ12)
        return answers if len(answers) == count else []
