"""The demo's window: PyAV reads RTMP with its defaults, OpenCV shows each picture.

    peer_pyav.py RTMP_URL SECONDS

One line a picture: its number and the wall clock at which it was shown. Needs a display (the bench brings Xvfb).
"""

import sys
import time

import cv2
import numpy as np
from clock_reader import number

# Their wheels bring X libraries of their own: with PyAV's loaded first, OpenCV's first window hangs for ever.
cv2.imshow("demo", np.zeros((360, 640, 3), np.uint8))
cv2.waitKey(1)
import av  # noqa: E402


def main(url: str, seconds: float) -> None:
    until = time.time() + seconds
    for frame in av.open(url).decode(video=0):
        image = frame.to_ndarray(format="bgr24")
        cv2.imshow("demo", image)
        cv2.waitKey(1)
        shown = time.time()
        if (n := number(image)) is not None:
            print(n, shown, flush=True)
        if shown > until:
            return


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
