"""What is almost right: the same with some of it changed, by dice whose seed a failure prints."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

ROUNDS = int(os.environ.get("MCRD_FUZZ", "1"))
OTHERS = (
    *("-1", "0", "65536", "239.1.1.1/33", "ff15::1", "eth0", "''", '"', "[", "]", "{", "}", "="),
    *(",", "#", "\\", "\0", "ü", "1e400", "nan"),
)


def wrong(data: bytes, dice: random.Random) -> bytes:
    """Some bytes are others, more, or missing."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(len(changed) + 1)
        match dice.randrange(4):
            case 0:
                changed[at : at + 1] = dice.randbytes(1)
            case 1:
                changed[at : at + 2] = dice.choice((0, 1, 255, 256, 65535)).to_bytes(2)
            case 2:
                del changed[at : at + dice.choice((1, 4, 1000))]
            case _:
                changed[at:at] = dice.randbytes(dice.choice((1, 4, 16)))
    return bytes(changed)


def wrong_text(text: str, dice: random.Random) -> str:
    """Some words are others, more, or missing; sometimes a character."""
    words = text.replace("\n", " \n ").split(" ")
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(words))
        match dice.randrange(5):
            case 0:
                words[at] = dice.choice(OTHERS)
            case 1:
                words[at] = dice.choice(words)
            case 2:
                del words[at : at + dice.choice((1, 1, 3))]
                words = words or [""]
            case 3:
                words[at:at] = dice.choices(words, k=dice.choice((1, 3)))
            case _:
                place = dice.randrange(len(words[at]) + 1)
                words[at] = words[at][:place] + dice.choice("0:=[\"'.é") + words[at][place + 1 :]
    return " ".join(words)
