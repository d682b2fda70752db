"""A small VNC client for tests: it decodes every encoding of the server by the book (RFC 6143, rfbproto)."""

import socket
import struct
import zlib

import numpy as np

from xenfast.libxl import des


class Stream:
    """Bytes to be taken one after the other."""

    def __init__(self, take):
        self.take = take

    def u8(self):
        return self.take(1)[0]

    def u16(self):
        return int.from_bytes(self.take(2), "big")

    def u32(self):
        return int.from_bytes(self.take(4), "big")

    def s32(self):
        return struct.unpack(">i", self.take(4))[0]


def of(data):
    at = 0

    def take(n):
        nonlocal at
        part = data[at:at + n]
        assert len(part) == n
        at += n
        return part

    return Stream(take)


class Client:
    """``pump()`` lets the server work; pixels are 32 bits, little endian, 0x00RRGGBB."""

    def __init__(self, port, pump, encodings=(0,), *, version=b"RFB 003.008\n", password=None, shared=1):
        self.pump, self.password = pump, password
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.stream = Stream(self.take)
        self.data = bytearray()
        self.inflaters = {}
        self.seen, self.rects, self.leds, self.mode, self.cursor = set(), 0, None, None, None
        self.status = None
        self.reason = b""
        assert self.take(12) == b"RFB 003.008\n"
        self.send(version)
        if not self.authenticate(version):
            return
        self.send(bytes((shared,)))
        width, height = self.stream.u16(), self.stream.u16()
        self.format = self.take(16)
        self.name = self.take(self.stream.u32()).decode()
        self.screen = np.zeros((height, width), np.uint32)
        self.set_encodings(encodings)

    def authenticate(self, version):
        if version >= b"RFB 003.007\n":
            count = self.stream.u8()
            if not count:
                self.status, self.reason = 1, self.take(self.stream.u32())
                return False
            (kind,) = self.take(count)
            self.send(bytes((kind,)))
        else:
            kind = self.stream.u32()
        self.security = kind
        if kind == 2:
            self.send(des.vnc_response(self.password or "", self.take(16)))
        if kind == 2 or version == b"RFB 003.008\n":
            self.status = self.stream.u32()
            if self.status and version == b"RFB 003.008\n":
                self.reason = self.take(self.stream.u32())
        return not self.status

    def send(self, data):
        self.sock.setblocking(True)
        self.sock.sendall(data)
        self.sock.setblocking(False)

    def take(self, n):
        for _ in range(20000):
            if len(self.data) >= n:
                part = bytes(self.data[:n])
                del self.data[:n]
                return part
            self.pump()
            try:
                more = self.sock.recv(1 << 20)
                if not more:
                    raise ConnectionError("closed")
                self.data += more
            except BlockingIOError:
                pass
        raise TimeoutError(f"{n} bytes have not come")

    def closed(self):
        try:
            self.take(1 << 30)
        except (ConnectionError, TimeoutError) as error:
            return isinstance(error, ConnectionError)

    def set_encodings(self, encodings):
        self.send(struct.pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings))

    def request(self, incremental=1):
        height, width = self.screen.shape
        self.send(struct.pack(">BBHHHH", 3, incremental, 0, 0, width, height))

    def key(self, keysym, down=1):
        self.send(struct.pack(">BBxxI", 4, down, keysym))

    def pointer(self, x, y, mask=0):
        self.send(struct.pack(">BBHH", 5, mask, x, y))

    def update(self, incremental=1):
        """Ask, and take messages up to the end of one update."""
        self.request(incremental)
        while True:
            kind = self.stream.u8()
            if kind == 0:
                break
            assert kind == 1
            self.take(3)
            self.map = self.take(6 * self.stream.u16())
        self.take(1)
        self.rects = self.stream.u16()
        for _ in range(self.rects):
            self.rectangle()
        return self.screen

    def rectangle(self):
        s = self.stream
        x, y, w, h = (s.u16() for _ in range(4))
        kind = s.s32()
        self.seen.add(kind)
        if kind in (-223, -308):
            if kind == -308:
                screens = s.u8()
                self.take(3 + 16 * screens)
                self.resize_status = (x, y)
            if (h, w) != self.screen.shape:
                self.screen = np.zeros((h, w), np.uint32)
        elif kind == -239:
            self.cursor = self.take(w * h * 4), self.take((w + 7) // 8 * h)
        elif kind == -257:
            self.mode = x
        elif kind == -261:
            self.leds = s.u8()
        elif kind == 1:
            from_x, from_y = s.u16(), s.u16()
            self.screen[y:y + h, x:x + w] = self.screen[from_y:from_y + h, from_x:from_x + w].copy()
        elif kind != -258:
            part = {0: self.raw, 2: self.rre, 5: self.hextile, 6: self.zlib, 7: self.tight, 16: self.zrle}[kind](w, h)
            self.screen[y:y + h, x:x + w] = part

    # --- encodings ---------------------------------------------------------------------------------------------------
    def raw(self, w, h):
        return np.frombuffer(self.take(w * h * 4), "<u4").reshape(h, w)

    def rre(self, w, h):
        s = self.stream
        count = s.u32()
        out = np.full((h, w), int.from_bytes(self.take(4), "little"), np.uint32)
        for _ in range(count):
            colour = int.from_bytes(self.take(4), "little")
            x, y, rw, rh = (s.u16() for _ in range(4))
            out[y:y + rh, x:x + rw] = colour
        return out

    def hextile(self, w, h):
        s = self.stream
        out = np.zeros((h, w), np.uint32)
        background = foreground = 0
        for y in range(0, h, 16):
            for x in range(0, w, 16):
                tile = out[y:y + 16, x:x + 16]
                flags = s.u8()
                if flags & 1:
                    tile[:] = np.frombuffer(self.take(tile.size * 4), "<u4").reshape(tile.shape)
                    continue
                if flags & 2:
                    background = int.from_bytes(self.take(4), "little")
                if flags & 4:
                    foreground = int.from_bytes(self.take(4), "little")
                tile[:] = background
                for _ in range(s.u8() if flags & 8 else 0):
                    colour = int.from_bytes(self.take(4), "little") if flags & 16 else foreground
                    xy, wh = self.take(2)
                    tile[xy & 15:(xy & 15) + (wh & 15) + 1, xy >> 4:(xy >> 4) + (wh >> 4) + 1] = colour
        return out

    def inflate(self, name, data):
        return self.inflaters.setdefault(name, zlib.decompressobj()).decompress(data)

    def zlib(self, w, h):
        data = self.inflate("zlib", self.take(self.stream.u32()))
        return np.frombuffer(data, "<u4").reshape(h, w)

    def zrle(self, w, h):
        s = of(self.inflate("zrle", self.take(self.stream.u32())))
        out = np.zeros((h, w), np.uint32)
        for y in range(0, h, 64):
            for x in range(0, w, 64):
                tile = out[y:y + 64, x:x + 64]
                self.zrle_tile(s, tile)
        return out

    def zrle_tile(self, s, tile):
        kind = s.u8()
        if kind == 0:
            raw = np.frombuffer(s.take(3 * tile.size), np.uint8).reshape(*tile.shape, 3).astype(np.uint32)
            tile[:] = raw[:, :, 0] | raw[:, :, 1] << 8 | raw[:, :, 2] << 16
        elif kind == 1:
            tile[:] = int.from_bytes(s.take(3), "little")
        else:
            assert 2 <= kind <= 16
            palette = [int.from_bytes(s.take(3), "little") for _ in range(kind)]
            bits = 1 if kind == 2 else 2 if kind <= 4 else 4
            for line in tile:
                packed = int.from_bytes(s.take((len(line) * bits + 7) // 8), "big")
                total = (len(line) * bits + 7) // 8 * 8
                for i in range(len(line)):
                    line[i] = palette[packed >> total - bits * (i + 1) & (1 << bits) - 1]

    def tight(self, w, h):
        s = self.stream
        control = s.u8()
        if control >> 4 == 8:
            return np.full((h, w), int.from_bytes(self.take(3), "little"), np.uint32)
        stream, filter_ = control >> 4 & 3, s.u8() if control & 0x40 else 0
        if filter_ == 1:
            palette = np.array([int.from_bytes(self.take(3), "little") for _ in range(s.u8() + 1)], np.uint32)
            if len(palette) == 2:
                data = self.tight_data(stream, (w + 7) // 8 * h)
                index = np.unpackbits(np.frombuffer(data, np.uint8).reshape(h, -1), axis=1)[:, :w]
            else:
                index = np.frombuffer(self.tight_data(stream, w * h), np.uint8).reshape(h, w)
            return palette[index]
        raw = np.frombuffer(self.tight_data(stream, 3 * w * h), np.uint8).reshape(h, w, 3).astype(np.uint32)
        return raw[:, :, 0] | raw[:, :, 1] << 8 | raw[:, :, 2] << 16

    def tight_data(self, stream, size):
        if size < 12:
            return self.take(size)
        length = 0
        for shift in (0, 7, 14):
            byte = self.stream.u8()
            length |= (byte & 0x7F if shift < 14 else byte) << shift
            if not byte & 0x80:
                break
        return self.inflate(f"tight{stream}", self.take(length))
