"""Makes a clip with a machine-readable clock: each picture carries its own number in black and white blocks.

    clock.py OUT.mp4 SECONDS
"""

import subprocess
import sys

import numpy as np

# The readers (page.mjs, peer_*.py) know these numbers too.
WIDTH, HEIGHT, RATE = 640, 360, 30
BITS, SIDE, LEFT, TOP = 16, 32, 16, 16
GOP_S = 2


def picture(number: int, noise: np.ndarray) -> np.ndarray:
    """One RGB picture: moving noise for a real bit rate, and `number` in 16 blocks, the highest bit first."""
    image = np.roll(noise, number * 7, axis=1).copy()
    image[TOP - 8 : TOP + SIDE + 8, LEFT - 8 : LEFT + BITS * SIDE + 8] = 128
    for bit in range(BITS):
        white = number >> (BITS - 1 - bit) & 1
        x = LEFT + bit * SIDE
        image[TOP : TOP + SIDE, x : x + SIDE] = 255 * white
    return image


def main(out: str, seconds: int) -> None:
    noise = np.random.default_rng(1).integers(60, 200, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    noise = noise.repeat(8, axis=0).repeat(8, axis=1)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(RATE), "-i", "-", "-c:v", "libx264", "-profile:v", "baseline"]
    command += ["-preset", "veryfast", "-tune", "zerolatency", "-g", str(RATE * GOP_S), "-b:v", "2500k", "-pix_fmt", "yuv420p", out]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:
        for number in range(seconds * RATE):
            ffmpeg.stdin.write(picture(number, noise).tobytes())
        ffmpeg.stdin.close()
    sys.exit(ffmpeg.returncode)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
