"""What the reference decoder, iced-x86, says about instruction bytes."""

from __future__ import annotations

import numpy as np
from iced_x86 import CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic
from numpy.typing import NDArray

from tests.conformance.codebytes import STRIDE, Bytes


def names_of(enumeration: object) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


FEATURES, MNEMONICS = names_of(CpuidFeature), names_of(Mnemonic)


def reference(records: Bytes, bits: int) -> tuple[NDArray[np.int8], list[int]]:
    """iced-x86's answer: the length (0: no instruction) and the mnemonic of each case."""
    decoder = Decoder(bits, records.tobytes(), DecoderOptions.NONE)
    instruction = Instruction()
    lengths, mnemonics = [0] * len(records), [0] * len(records)
    for i in range(len(records)):
        decoder.position = i * STRIDE
        decoder.decode_out(instruction)
        mnemonics[i] = instruction.mnemonic
        if mnemonics[i]:
            lengths[i] = instruction.len
    return np.array(lengths, "i1"), mnemonics


def describe(record: Bytes, bits: int) -> Instruction:
    return Decoder(bits, record.tobytes(), DecoderOptions.NONE).decode()


def features(instruction: Instruction) -> set[str]:
    return {FEATURES[f] for f in instruction.cpuid_features()}
