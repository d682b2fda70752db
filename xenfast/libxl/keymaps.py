"""Keyboards: which key makes a character in each layout, the names of keys, and the keysyms of RFB.

A key is a number as in devices/ps2_keyboard.py: its code in set 1, with bit 7 for those with the prefix E0h.  A layout (``keymap`` in
xl.cfg(5)) is what the guest believes its keyboard to be; rows stand as on the keyboard, so a layout can be checked by looking.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass

from xenfast.errors import XenfastError

LEFT_CTRL, LEFT_SHIFT, RIGHT_SHIFT, LEFT_ALT, CAPS_LOCK, RIGHT_CTRL, ALT_GR = 0x1D, 0x2A, 0x36, 0x38, 0x3A, 0x9D, 0xB8
ENTER, TAB, BACKSPACE, ESCAPE, SPACE = 0x1C, 0x0F, 0x0E, 0x01, 0x39

# The keys of the rows: digits, upper, middle, lower letters
ROWS = (
    (0x29, *range(0x02, 0x0E)),
    tuple(range(0x10, 0x1C)),
    (*range(0x1E, 0x29), 0x2B),
    (0x56, *range(0x2C, 0x36)),
)
# layout -> plain rows, shifted rows, characters with AltGr in front of the plain character of their key, dead keys
LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str]] = {
    "en-us": (("`1234567890-=", "qwertyuiop[]", "asdfghjkl;'\\", "\0zxcvbnm,./"),
              ("~!@#$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:\"|", "\0ZXCVBNM<>?"), "", ""),
    "en-gb": (("`1234567890-=", "qwertyuiop[]", "asdfghjkl;'#", "\\zxcvbnm,./"),
              ("¬!\"£$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:@~", "|ZXCVBNM<>?"), "¦`€4", ""),
    "de": (("^1234567890ß´", "qwertzuiopü+", "asdfghjklöä#", "<yxcvbnm,.-"),
           ("°!\"§$%&/()=?`", "QWERTZUIOPÜ*", "ASDFGHJKLÖÄ'", ">YXCVBNM;:_"), "²2³3{7[8]9}0\\ß@q€e~+|<µm", "^´`"),
    "de-ch": (("§1234567890'^", "qwertzuiopü¨", "asdfghjklöä$", "<yxcvbnm,.-"),
              ("°+\"*ç%&/()=?`", "QWERTZUIOPè!", "ASDFGHJKLéà£", ">YXCVBNM;:_"), "¦1@2#3¬7|8¢9€e[ü]¨{ä}$\\<~^´'", "^¨`~´"),
    "fr": (("²&é\"'(-è_çà)=", "azertyuiop^$", "qsdfghjklmù*", "<wxcvbn,;:!"),
           ("\0" "1234567890°+", "AZERTYUIOP¨£", "QSDFGHJKLM%µ", ">WXCVBN?./§"), "~é#\"{'[(|-`è\\_^ç@à])}=€e¤$", "^¨"),
    "fr-be": (("²&é\"'(§è!çà)-", "azertyuiop^$", "qsdfghjklmùµ", "<wxcvbn,;:="),
              ("³1234567890°_", "AZERTYUIOP¨*", "QSDFGHJKLM%£", ">WXCVBN?./+"), "|&@é#\"{ç}à[^]$´ù`µ\\<~=€e", "^¨´`~"),
    "fr-ch": (("§1234567890'^", "qwertzuiopè¨", "asdfghjkléà$", "<yxcvbnm,.-"),
              ("°+\"*ç%&/()=?`", "QWERTZUIOPü!", "ASDFGHJKLöä£", ">YXCVBNM;:_"), "¦1@2#3¬7|8¢9€e[è]¨{à}$\\<~^´'", "^¨`~´"),
    "es": (("º1234567890'¡", "qwertyuiop`+", "asdfghjklñ´ç", "<zxcvbnm,.-"),
           ("ª!\"·$%&/()=?¿", "QWERTYUIOP^*", "ASDFGHJKLÑ¨Ç", ">ZXCVBNM;:_"), "\\º|1@2#3~4€e¬6[`]+{´}ç", "`´^¨~"),
    "it": (("\\1234567890'ì", "qwertyuiopè+", "asdfghjklòàù", "<zxcvbnm,.-"),
           ("|!\"£$%&/()=?^", "QWERTYUIOPé*", "ASDFGHJKLç°§", ">ZXCVBNM;:_"), "€e[è]+@ò#à~ì`'", ""),
    "pt": (("\\1234567890'«", "qwertyuiop+´", "asdfghjklçº~", "<zxcvbnm,.-"),
           ("|!\"#$%&/()=?»", "QWERTYUIOP*`", "ASDFGHJKLÇª^", ">ZXCVBNM;:_"), "@2£3§4{7[8]9}0€e¨+", "´`~^¨"),
    "pt-br": (("'1234567890-=", "qwertyuiop´[", "asdfghjklç~]", "\\zxcvbnm,.;"),
              ("\"!@#$%¨&*()_+", "QWERTYUIOP`{", "ASDFGHJKLÇ^}", "|ZXCVBNM<>:"), "¹1²2³3£4¢5¬6", "´`~^¨"),
    "da": (("½1234567890+´", "qwertyuiopå¨", "asdfghjklæø'", "<zxcvbnm,.-"),
           ("§!\"#¤%&/()=?`", "QWERTYUIOPÅ^", "ASDFGHJKLÆØ*", ">ZXCVBNM;:_"), "@2£3$4{7[8]9}0|´€e~¨\\<", "´`¨^~"),
    "no": (("|1234567890+\\", "qwertyuiopå¨", "asdfghjkløæ'", "<zxcvbnm,.-"),
           ("§!\"#¤%&/()=?`", "QWERTYUIOPÅ^", "ASDFGHJKLØÆ*", ">ZXCVBNM;:_"), "@2£3$4{7[8]9}0´\\€e~¨", "¨^`´~"),
    "sv": (("§1234567890+´", "qwertyuiopå¨", "asdfghjklöä'", "<zxcvbnm,.-"),
           ("½!\"#¤%&/()=?`", "QWERTYUIOPÅ^", "ASDFGHJKLÖÄ*", ">ZXCVBNM;:_"), "@2£3$4{7[8]9}0\\+€e~¨|<", "´`¨^~"),
    "pl": (("`1234567890-=", "qwertyuiop[]", "asdfghjkl;'\\", "\0zxcvbnm,./"),
           ("~!@#$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:\"|", "\0ZXCVBNM<>?"), "ęeóoąaśsłlżzźxćcńn€u", ""),
    "ja": (("\0" "1234567890-^", "qwertyuiop@[", "asdfghjkl;:]", "\0zxcvbnm,./"),
           ("\0!\"#$%&'()\0=~", "QWERTYUIOP`{", "ASDFGHJKL+*}", "\0ZXCVBNM<>?"), "", ""),
    "dvorak": (("`1234567890[]", "',.pyfgcrl/=", "aoeuidhtns-\\", "\0;qjkxbmwvz"),
               ("~!@#$%^&*(){}", "\"<>PYFGCRL?+", "AOEUIDHTNS_|", "\0:QJKXBMWVZ"), "", ""),
}
# keys beyond the rows
EXTRA_KEYS = {"ja": (("\\", 0x7D, False), ("|", 0x7D, True), ("_", 0x73, True)), "pt-br": (("/", 0x73, False), ("?", 0x73, True))}
SAME_AS = {"": "en-us", "us": "en-us", "uk": "en-gb", "gb": "en-gb", "fi": "sv", "ch": "de-ch", "be": "fr-be", "br": "pt-br", "jp": "ja",
           "dk": "da", "se": "sv"}
COMBINING = {"\u0302": "^", "\u0301": "´", "\u0300": "`", "\u0308": "¨", "\u0303": "~"}


@dataclass(frozen=True)
class Stroke:
    """One press of a key, with the modifiers it takes."""

    key: int
    shift: bool = False
    alt_gr: bool = False


@functools.cache
def layout(name: str) -> dict[str, tuple[Stroke, ...]]:
    """Character -> the strokes that make it."""
    name = SAME_AS.get(name, name)
    if name not in LAYOUTS:
        known = ", ".join(sorted({*LAYOUTS, *SAME_AS} - {""}))
        raise XenfastError(f"there is no keymap {name!r}; there are {known}")
    plain, shifted, alt_gr, dead = LAYOUTS[name]
    strokes: dict[str, Stroke] = {}
    for characters, shift in ((plain, False), (shifted, True)):
        for keys, row in zip(ROWS, characters):
            for key, character in zip(keys, row, strict=True):
                if character != "\0":
                    strokes.setdefault(character, Stroke(key, shift))
    for i in range(0, len(alt_gr), 2):
        strokes[alt_gr[i]] = Stroke(strokes[alt_gr[i + 1]].key, alt_gr=True)
    for character, key, shift in EXTRA_KEYS.get(name, ()):
        strokes[character] = Stroke(key, shift)
    if name == "en-us":
        strokes.setdefault("\\", Stroke(0x2B))
    space = Stroke(SPACE)
    out: dict[str, tuple[Stroke, ...]] = {
        character: (stroke, space) if character in dead else (stroke,) for character, stroke in strokes.items()
    }
    out |= {" ": (space,), "\n": (Stroke(ENTER),), "\r": (Stroke(ENTER),), "\t": (Stroke(TAB),), "\b": (Stroke(BACKSPACE),),
            "\x1b": (Stroke(ESCAPE),), "\x7f": (Stroke(0xD3),)}
    for mark, accent in COMBINING.items():
        if accent in dead:
            for base in "aeiouyAEIOUYnN":
                composed = unicodedata.normalize("NFC", base + mark)
                if len(composed) == 1:
                    out.setdefault(composed, (strokes[accent], strokes[base]))
    return out


def strokes(text: str, name: str) -> list[Stroke]:
    """What to press to type a text."""
    table = layout(name)
    out: list[Stroke] = []
    for character in text.replace("\r\n", "\n"):
        if character not in table:
            raise XenfastError(f"the keymap {name or 'en-us'} has no key for {character!r}")
        out += table[character]
    return out


# --- names of keys ------------------------------------------------------------------------------------------------------------
NAMES = {
    "esc": 0x01, "escape": 0x01, "backspace": 0x0E, "tab": 0x0F, "enter": 0x1C, "return": 0x1C, "ctrl": 0x1D, "control": 0x1D,
    "lctrl": 0x1D, "rctrl": 0x9D, "shift": 0x2A, "lshift": 0x2A, "rshift": 0x36, "alt": 0x38, "lalt": 0x38, "altgr": 0xB8, "ralt": 0xB8,
    "space": 0x39, "spacebar": 0x39, "capslock": 0x3A, "caps": 0x3A, "numlock": 0x45, "scrolllock": 0x46, "sysrq": 0x54,
    "print": 0xB7, "printscreen": 0xB7, "pause": 0xC6, "break": 0xC6, "home": 0xC7, "up": 0xC8, "pageup": 0xC9, "pgup": 0xC9,
    "left": 0xCB, "right": 0xCD, "end": 0xCF, "down": 0xD0, "pagedown": 0xD1, "pgdn": 0xD1, "insert": 0xD2, "ins": 0xD2,
    "delete": 0xD3, "del": 0xD3, "super": 0xDB, "win": 0xDB, "meta": 0xDB, "rwin": 0xDC, "menu": 0xDD, "power": 0xDE, "sleep": 0xDF,
    "wake": 0xE3, "minus": 0x0C, "plus": 0x4E,
    "kp0": 0x52, "kp1": 0x4F, "kp2": 0x50, "kp3": 0x51, "kp4": 0x4B, "kp5": 0x4C, "kp6": 0x4D, "kp7": 0x47, "kp8": 0x48, "kp9": 0x49,
    "kpdot": 0x53, "kpplus": 0x4E, "kpminus": 0x4A, "kpmultiply": 0x37, "kpdivide": 0xB5, "kpenter": 0x9C,
}   # fmt: skip
NAMES |= {f"f{n}": 0x3A + n for n in range(1, 11)} | {"f11": 0x57, "f12": 0x58}


def chord(text: str, keymap: str = "") -> list[int]:
    """The keys of ``ctrl-alt-delete``, ``f12``, ``alt-+`` or ``q``, in the order of pressing."""
    parts = text.split("-") if len(text) > 1 else [text]
    if text.endswith("--"):
        parts = [*text[:-2].split("-"), "-"]
    keys: list[int] = []
    for part in parts:
        if len(part) == 1:
            made = layout(keymap).get(part)
            if made is None or len(made) != 1:
                raise XenfastError(f"the keymap {keymap or 'en-us'} has no key for {part!r}")
            keys += [LEFT_SHIFT] * made[0].shift + [ALT_GR] * made[0].alt_gr + [made[0].key]
        elif part.lower() in NAMES:
            keys.append(NAMES[part.lower()])
        else:
            raise XenfastError(f"there is no key {part!r} in {text!r}")
    return keys


# --- keysyms (X11's keysymdef.h, which RFB uses) ------------------------------------------------------------------------------
KEYSYMS = {
    0xFF08: 0x0E, 0xFF09: 0x0F, 0xFF0A: 0x1C, 0xFF0D: 0x1C, 0xFF13: 0xC6, 0xFF14: 0x46, 0xFF15: 0x54, 0xFF1B: 0x01, 0xFFFF: 0xD3,
    0xFF50: 0xC7, 0xFF51: 0xCB, 0xFF52: 0xC8, 0xFF53: 0xCD, 0xFF54: 0xD0, 0xFF55: 0xC9, 0xFF56: 0xD1, 0xFF57: 0xCF, 0xFF61: 0xB7,
    0xFF63: 0xD2, 0xFF67: 0xDD, 0xFF6B: 0xC6, 0xFF7E: 0xB8, 0xFF7F: 0x45, 0xFE03: 0xB8, 0xFE20: 0x0F,
    0xFF8D: 0x9C, 0xFF95: 0x47, 0xFF96: 0x4B, 0xFF97: 0x48, 0xFF98: 0x4D, 0xFF99: 0x50, 0xFF9A: 0x49, 0xFF9B: 0x51, 0xFF9C: 0x4F,
    0xFF9D: 0x4C, 0xFF9E: 0x52, 0xFF9F: 0x53, 0xFFAA: 0x37, 0xFFAB: 0x4E, 0xFFAC: 0x53, 0xFFAD: 0x4A, 0xFFAE: 0x53, 0xFFAF: 0xB5,
    0xFFB0: 0x52, 0xFFB1: 0x4F, 0xFFB2: 0x50, 0xFFB3: 0x51, 0xFFB4: 0x4B, 0xFFB5: 0x4C, 0xFFB6: 0x4D, 0xFFB7: 0x47, 0xFFB8: 0x48,
    0xFFB9: 0x49, 0xFFC8: 0x57, 0xFFC9: 0x58, 0xFFE1: 0x2A, 0xFFE2: 0x36, 0xFFE3: 0x1D, 0xFFE4: 0x9D, 0xFFE5: 0x3A, 0xFFE7: 0xDB,
    0xFFE8: 0xDC, 0xFFE9: 0x38, 0xFFEA: 0xB8, 0xFFEB: 0xDB, 0xFFEC: 0xDC,
}   # fmt: skip
KEYSYMS |= {0xFFBE + n: 0x3B + n for n in range(10)}
# keysyms of characters that are neither Latin-1 nor 01000000h + Unicode
OLD_KEYSYMS = {0x20AC: "€", 0xFE50: "`", 0xFE51: "´", 0xFE52: "^", 0xFE53: "~", 0xFE57: "¨", 0x13BC: "Œ", 0x13BD: "œ"}


def character_of(keysym: int) -> str | None:
    """The character of a keysym, if it is one."""
    if 0x20 <= keysym <= 0x7E or 0xA0 <= keysym <= 0xFF:
        return chr(keysym)
    if 0x01000100 <= keysym <= 0x0110FFFF:
        return chr(keysym - 0x01000000)
    return OLD_KEYSYMS.get(keysym)


def stroke_of(keysym: int, keymap: str) -> Stroke | None:
    """The key that makes a keysym, with the modifiers it needs; None: no key does."""
    if keysym in KEYSYMS:
        return Stroke(KEYSYMS[keysym])
    character = character_of(keysym)
    made = layout(keymap).get(character) if character is not None else None
    return made[0] if made is not None else None
