"""Prints the animals that spotter reports through MQTT and WebSocket, one line a change; it judges nothing but whether any came.

Ends after --seconds with 0 when animals came both ways, with 1 and the reason when they did not. With 0 seconds it goes on until it
is told to end.
"""

import argparse
import asyncio
import json
import signal
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

# A label that is missing for less than this is still shown as in view: a detector misses single frames.
LINGER_S = 1.0


class Door:
    """What one way out has shown so far."""

    def __init__(self, name, started):
        self.name = name
        self.started = started
        self.messages = 0
        self.animals = 0
        self.problem = ""
        self.last_seen = {}
        self.shown = {}

    def take(self, text):
        """Takes one JSON message in; prints a line when what is in view has changed."""
        try:
            message = json.loads(text)
        except ValueError:
            self.problem = f"a message was not JSON: {text[:80]!r}"
            return
        if not isinstance(message, dict) or message.get("type") != "detections":
            return
        now = time.monotonic()
        self.messages += 1
        found = message["detections"]
        self.animals += len(found)
        best, count = {}, {}
        for one in found:
            label = one["label"]
            count[label] = count.get(label, 0) + 1
            best[label] = max(best.get(label, 0.0), one["confidence"])
            self.last_seen[label] = now
        in_view = {label for label, at in self.last_seen.items() if now - at < LINGER_S}
        if in_view == set(self.shown):
            return
        self.shown = {label: (count.get(label, 0), best.get(label, 0.0)) for label in sorted(in_view)}
        self.line(message)

    def line(self, message):
        parts = []
        for label, (count, confidence) in self.shown.items():
            parts.append(f"{count} x {label} {confidence:.2f}" if count > 1 else f"{label} {confidence:.2f}" if count else label)
        latency = message.get("latency_ms", {}).get("total")
        tail = f"  ({latency:.0f} ms)" if latency is not None and parts else ""
        stream = message.get("stream", "?")
        print(f"{time.monotonic() - self.started:6.1f} s  {self.name:9}  {stream}: {', '.join(parts) or '-'}{tail}", flush=True)

    def verdict(self):
        """None when animals came, else why not."""
        if self.animals:
            return None
        if self.messages:
            return f"{self.name}: {self.messages} frames were reported and none had an animal"
        return f"{self.name}: no detections came" + (f"; {self.problem}" if self.problem else "")


async def read_mqtt(door, port, token):
    """Reads detections with mosquitto_sub, which is started again when it ends."""
    login = ["-u", "owner", "-P", token] if token else []
    while True:
        try:
            child = await asyncio.create_subprocess_exec(
                "mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-t", "+/+/+/detections", *login,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 20)
        except FileNotFoundError:
            door.problem = "mosquitto_sub is missing; run ./setup.sh"
            return
        try:
            async for line in child.stdout:
                door.take(line)
            door.problem = (await child.stderr.read()).decode(errors="replace").strip() or "mosquitto_sub ended"
        finally:
            if child.returncode is None:
                child.terminate()
                await child.wait()
        await asyncio.sleep(1)


async def read_websocket(door, port, token):
    """Reads detections from the WebSocket that is subscribed from the start."""
    query = f"?token={token}" if token else ""
    while True:
        try:
            async with connect(f"ws://127.0.0.1:{port}/live{query}", proxy=None) as socket:
                async for text in socket:
                    door.take(text)
            door.problem = "the connection was closed"
        except (OSError, WebSocketException) as error:
            door.problem = str(error)
        await asyncio.sleep(1)


async def watch(arguments):
    started = time.monotonic()
    doors = [Door("mqtt", started), Door("websocket", started)]
    readers = [
        asyncio.create_task(read_mqtt(doors[0], arguments.mqtt_port, arguments.token)),
        asyncio.create_task(read_websocket(doors[1], arguments.websocket_port, arguments.token)),
    ]
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    try:
        await asyncio.wait_for(told.wait(), arguments.seconds or None)
    except asyncio.TimeoutError:
        pass
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    if told.is_set():
        return 0
    problems = [door.verdict() for door in doors if door.verdict()]
    for problem in problems:
        print(f"demo: FAILED: {problem}", file=sys.stderr)
    if not problems:
        print(f"demo: animals came through MQTT ({doors[0].animals}) and WebSocket ({doors[1].animals})")
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--mqtt-port", type=int, default=1883)
    parser.add_argument("--websocket-port", type=int, default=8765)
    parser.add_argument("--token", default="", help="the owner's token, where spotter takes this machine for another")
    sys.exit(asyncio.run(watch(parser.parse_args())))


if __name__ == "__main__":
    main()
