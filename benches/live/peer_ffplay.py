"""ffplay with its defaults, seen from outside: its window is looked at a hundred times a second.

    peer_ffplay.py RTMP_URL SECONDS

One line a picture: its number and the wall clock at which it was first seen. Needs a display of the clip's size.
"""

import subprocess
import sys
import time

import mss
import numpy as np
from clock import HEIGHT, WIDTH
from clock_reader import number


def main(url: str, seconds: float) -> None:
    command = ["ffplay", "-v", "error", "-an", "-noborder", "-left", "0", "-top", "0", url]
    window = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    seen = None
    until = time.time() + seconds
    try:
        with mss.MSS() as screen:
            place = {"left": 0, "top": 0, "width": WIDTH, "height": HEIGHT}
            while time.time() < until and window.poll() is None:
                image = np.asarray(screen.grab(place))[:, :, :3]
                at = time.time()
                n = number(image)
                if n is not None and n != seen:
                    seen = n
                    print(n, at, flush=True)
                time.sleep(0.005)
    finally:
        window.terminate()
        window.wait()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
