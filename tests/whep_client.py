"""A WHEP viewer by aiortc: prints one JSON line a decoded picture, with its size, its RTP time and how much its pixels vary.

usage: whep_client.py URL [--frames N] [--seconds S] [--delete]

What the server answers to the offer comes first: {"status":201,"location":"..."}. Exits with 0 after N pictures.
"""

import argparse
import asyncio
import json
import sys
import urllib.error
import urllib.request

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc import rtcrtpreceiver


def say(**what):
    print(json.dumps(what), flush=True)


def request(method, url, body=None, kind="application/sdp"):
    asked = urllib.request.Request(url, body, {"Content-Type": kind} if body else {}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


class Times(rtcrtpreceiver.TimestampMapper):
    """aiortc counts from the first picture; the test wants the times on the wire."""

    def map(self, timestamp):
        return timestamp


async def view(args):
    rtcrtpreceiver.TimestampMapper = Times
    pc = RTCPeerConnection()
    pc.addTransceiver("video", direction="recvonly")
    pc.addTransceiver("audio", direction="recvonly")
    tracks = asyncio.Queue()
    pc.on("track", lambda track: tracks.put_nowait(track) if track.kind == "video" else None)
    await pc.setLocalDescription(await pc.createOffer())
    status, headers, text = await asyncio.to_thread(
        request, "POST", args.url, pc.localDescription.sdp.encode()
    )
    say(status=status, location=headers.get("Location"), body=text)
    if status != 201:
        return 1
    await pc.setRemoteDescription(RTCSessionDescription(text, "answer"))
    track = await tracks.get()
    for _ in range(args.frames):
        frame = await track.recv()
        luma = frame.reformat(width=64, height=36, format="gray").to_ndarray()
        say(rtp=frame.pts, width=frame.width, height=frame.height, spread=float(luma.std()))
    if args.delete:
        root = args.url.split("/whep/")[0]
        status, _, _ = await asyncio.to_thread(request, "DELETE", root + headers["Location"])
        say(deleted=status)
    await pc.close()
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--delete", action="store_true")
    args = parser.parse_args()
    sys.exit(asyncio.run(asyncio.wait_for(view(args), args.seconds)))


main()
