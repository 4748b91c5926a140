"""Reads the clock that clock.py burns in."""

import numpy as np

from clock import BITS, LEFT, SIDE, TOP


def number(image: np.ndarray) -> int | None:
    """The number in an RGB or BGR picture of the clip's size; None when a block is neither black nor white."""
    middle = SIDE // 4
    value = 0
    for bit in range(BITS):
        x = LEFT + bit * SIDE
        block = image[TOP + middle : TOP + SIDE - middle, x + middle : x + SIDE - middle]
        light = float(block.mean())
        if 80 < light < 176:
            return None
        value = value << 1 | (light > 128)
    return value
