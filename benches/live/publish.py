"""Publishes a clip in real time over RTMP and prints, for each picture, when its last byte was handed to the socket.

    publish.py CLIP.mp4 RTMP_URL

One line a picture: its number and the wall clock in seconds.
"""

import sys
import time

import av


def main(clip: str, url: str) -> None:
    source = av.open(clip)
    video = source.streams.video[0]
    target = av.open(url, "w", format="flv", options={"flush_packets": "1"})
    out = target.add_stream_from_template(video)
    began = time.time()
    for number, packet in enumerate(p for p in source.demux(video) if p.dts is not None):
        due = began + float(packet.dts * packet.time_base)
        time.sleep(max(0.0, due - time.time()))
        packet.stream = out
        target.mux(packet)
        print(number, time.time(), flush=True)
    target.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
