#!/usr/bin/python3
"""A twin of the glasses: shows a clip to a camera and publishes it by librtmp, as their firmware was read to do. It judges nothing.

Commands come as lines of JSON on standard input, news goes out as lines of JSON:

    {"do": "start", "url": "rtmp://...", "width": 640, "height": 360, "bitrate": 1000000}
    {"do": "stop"}        {"do": "quirk", "on": true}        {"do": "break"}        {"do": "count"}

What it has of the glasses: librtmp (GStreamer's rtmpsink) with their connect string; H.264 and AAC-LC, mono, 44.1 kHz; 15 to 24 pictures
a second as they come, whatever was asked; an IDR every two seconds; a writer that, once a packet waited for half a second, drops two of
three pictures whatever their type ("quirk" makes it do so without a reason); reconnecting after 1 s x 1.5^n, ten times in a row at most,
with new sequence headers and a clock that begins at 0 ("break" makes it lose the connection); giving up for good when refused as unauthorized, as far as librtmp tells.

Each picture carries, in an SEI message, its number, the moment of the clip that it shows, and when it was taken: so whoever gets it,
by whatever way, can tell whether pictures before it are missing, what must be seen in it, and how old it is.
"""

import collections
import json
import os
import random
import re
import select
import socket
import struct
import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

PICTURES_A_SECOND = (15, 24)
IDR_EVERY_S = 2.0
STALL_S = 0.5
CONNECT = "live=1 flashver=FMLE/3.0"
FIRST_PAUSE_S, PAUSE_GROWS, MOST_TRIES = 1.0, 1.5, 10
# Of packets that wait to be written; more do not fit into the glasses.
MOST_WAITING = 300
STATUS_EVERY_S = 3.0
# Packets handed to librtmp's thread before it asks, so that this one may be late.
AHEAD = 4
# A machine that leaves no time for this program makes faults of its own.
LATE_S = 0.25
# Without zeros, so that nothing in the message wants escaping.
MARK = b"spotter-twin-mrk"


def say(**news):
    print(json.dumps(news), flush=True)


def now_ms():
    return int(time.time() * 1000)


class Camera:
    """Pictures of the clip, in its own time, and a sound, encoded. It does not know where they go."""

    def __init__(self, clip, run, width, height, bitrate):
        self.run = run
        self.begin = time.monotonic()
        self.number = 0
        self.due = self.key_due = 0.0
        self.film_ms = -1
        self.laps_ms = 0
        self.film = Gst.parse_launch(
            "filesrc name=file ! qtdemux name=demux demux.video_0 ! h264parse ! avdec_h264 max-threads=1 "
            "! appsink name=out sync=false max-buffers=4"
        )
        self.film.get_by_name("file").set_property("location", clip)
        self.encoder = Gst.parse_launch(
            f"appsrc name=in format=time ! videoscale ! video/x-raw,width={width},height={height},pixel-aspect-ratio=1/1 "
            f"! x264enc bitrate={bitrate // 1000} speed-preset=ultrafast tune=zerolatency threads=1 key-int-max=10000 "
            "byte-stream=false aud=false ! video/x-h264,stream-format=avc,alignment=au ! appsink name=out sync=false"
        )
        self.sound = Gst.parse_launch(
            "audiotestsrc is-live=true wave=ticks ! audio/x-raw,rate=44100,channels=1 ! avenc_aac bitrate=64000 "
            "! audio/mpeg,mpegversion=4,stream-format=raw ! appsink name=out sync=false"
        )
        self.marks = collections.deque()
        self.avc = self.aac = None
        for part in (self.film, self.encoder, self.sound):
            part.set_state(Gst.State.PLAYING)

    def close(self):
        for part in (self.film, self.encoder, self.sound):
            part.set_state(Gst.State.NULL)

    def look(self):
        """Takes a picture if it is time for one; gives what is encoded by now: (kind, seconds, key, bytes)."""
        at = time.monotonic() - self.begin
        if at >= self.due:
            self.due = at + random.uniform(1 / PICTURES_A_SECOND[1], 1 / PICTURES_A_SECOND[0])
            self.take(at)
        packets = [self.picture(sample) for sample in pull_all(self.encoder)]
        return packets + [self.tone(sample) for sample in pull_all(self.sound)]

    def take(self, at):
        sample = self.film_at(at * 1000)
        source = self.encoder.get_by_name("in")
        if self.number == 0:
            # What the encoder shares its bits out by.
            pace = f"framerate=(fraction){sum(PICTURES_A_SECOND) // 2}/1"
            source.set_property("caps", Gst.Caps.from_string(re.sub(r"framerate=\(fraction\)\d+/\d+", pace, sample.get_caps().to_string())))
        if at >= self.key_due:
            self.key_due = at + IDR_EVERY_S
            key = Gst.Structure.new_from_string("GstForceKeyUnit, all-headers=(boolean)true")
            self.encoder.get_by_name("in").get_static_pad("src").push_event(Gst.Event.new_custom(Gst.EventType.CUSTOM_DOWNSTREAM, key))
        picture = sample.get_buffer().copy()
        picture.pts = int(at * Gst.SECOND)
        picture.dts = picture.duration = Gst.CLOCK_TIME_NONE
        self.number += 1
        mark = {"run": self.run, "n": self.number, "clip": round(self.film_ms), "at": now_ms()}
        self.marks.append((at, mark))
        source.emit("push-buffer", picture)

    def film_at(self, want_ms):
        """The clip's picture of that time; the clip begins again when it is over."""
        out = self.film.get_by_name("out")
        while True:
            sample = out.emit("try-pull-sample", 2 * Gst.SECOND)
            if sample is None and not out.get_property("eos"):
                continue
            if sample is None:
                self.laps_ms += self.film_ms + 33
                self.film.seek_simple(Gst.Format.TIME, Gst.SeekFlags.FLUSH, 0)
                continue
            self.film_ms = sample.get_buffer().pts / Gst.MSECOND
            if self.laps_ms + self.film_ms >= want_ms - 33:
                return sample

    def picture(self, sample):
        if self.avc is None:
            self.avc = codec_data(sample)
        data = bytes_of(sample)
        key = not sample.get_buffer().has_flags(Gst.BufferFlags.DELTA_UNIT)
        at, mark = self.marks.popleft()
        return "picture", at, key, sei(mark) + data

    def tone(self, sample):
        if self.aac is None:
            self.aac = codec_data(sample)
        return "sound", sample.get_buffer().pts / Gst.SECOND, True, bytes_of(sample)


class Line:
    """One RTMP connection; librtmp dials with the first packet and blocks in its writes, on a thread of its own."""

    def __init__(self, url):
        self.pipe = Gst.parse_launch("appsrc name=in format=time caps=video/x-flv ! rtmpsink name=out sync=false async=false")
        self.source = self.pipe.get_by_name("in")
        self.pipe.get_by_name("out").set_property("location", f"{url} {CONNECT}")
        self.zero = None
        self.written = 0
        self.pipe.set_state(Gst.State.PLAYING)

    def takes_more(self):
        return self.source.get_property("current-level-buffers") < AHEAD

    def write(self, data):
        self.source.emit("push-buffer", Gst.Buffer.new_wrapped(data))
        self.written += 1

    def failed(self):
        return self.pipe.get_bus().pop_filtered(Gst.MessageType.ERROR | Gst.MessageType.EOS) is not None

    def close(self):
        closer = threading.Thread(target=self.pipe.set_state, args=(Gst.State.NULL,))
        closer.start()
        closer.join(1.0)
        if closer.is_alive():
            # It hangs in a write that nobody will take.
            hang_up()
            closer.join()


class Glasses:
    def __init__(self, clip):
        self.clip = clip
        self.url = None
        self.camera = self.line = None
        self.runs = 0
        self.waiting = collections.deque()
        self.forced = self.refused = False
        self.turn = 0
        self.failures = 0
        self.was_live = self.live = False
        self.retry_at = None
        self.told_at = 0.0
        self.ticked = time.monotonic()
        self.counts = collections.Counter()
        self.recent = collections.deque()

    def obey(self, command):
        match command["do"]:
            case "start":
                self.stop()
                self.start(command)
            case "stop":
                if self.url:
                    say(status="stopping")
                self.stop()
                say(status="stopped")
            case "quirk":
                self.forced = command["on"]
            case "break":
                hang_up()
            case "count":
                say(counts=dict(self.counts), publishing=self.line is not None)

    def start(self, command):
        self.runs += 1
        self.url = command["url"]
        self.failures = 0
        self.was_live = False
        say(status="initializing")
        self.camera = Camera(self.clip, self.runs, command["width"], command["height"], command["bitrate"])
        self.dial()

    def stop(self):
        self.url = self.retry_at = None
        self.drop_line()
        if self.camera:
            self.camera.close()
            self.camera = None

    def dial(self):
        say(status="reconnecting" if self.was_live else "connecting")
        self.retry_at = None
        self.live = self.refused = False
        self.waiting.clear()
        self.counts["dials"] += 1
        self.line = Line(self.url)

    def drop_line(self):
        if self.line:
            self.line.close()
            self.line = None
        self.waiting.clear()

    def lost(self):
        """The connection is gone: it is tried again later, or no more."""
        self.drop_line()
        self.failures = 0 if self.live else self.failures
        self.live = False
        self.failures += 1
        if self.refused or self.failures > MOST_TRIES:
            self.stop()
            reason = "the box refuses: Unauthorized" if self.refused else None
            say(status="error" if self.refused else "reconnect_failed", reason=reason)
            return
        if self.was_live:
            say(status="disconnected")
        self.retry_at = time.monotonic() + FIRST_PAUSE_S * PAUSE_GROWS ** (self.failures - 1)

    def tick(self):
        now = time.monotonic()
        self.counts["late"] += now - self.ticked > LATE_S
        self.ticked = now
        if not self.url:
            return
        if self.retry_at is not None and now >= self.retry_at:
            self.dial()
        for packet in self.camera.look():
            if self.line:
                self.take(packet, now)
        if self.line:
            self.write(now)
            if self.line.failed():
                self.lost()

    def take(self, packet, now):
        kind = packet[0]
        stalled = bool(self.waiting) and now - self.waiting[0][0] > STALL_S
        if kind == "picture":
            self.counts["pictures"] += 1
            if self.forced or stalled:
                self.turn += 1
                if self.turn % 3 != 0:
                    self.counts["dropped"] += 1
                    return
        if len(self.waiting) >= MOST_WAITING:
            self.counts["overflowed"] += 1
            return
        self.waiting.append((now, packet))

    def write(self, now):
        camera, line = self.camera, self.line
        while self.waiting and line.takes_more():
            if line.zero is None:
                if camera.avc is None or camera.aac is None:
                    return
                line.zero = self.waiting[0][1][1]
                line.write(flv_header(camera.avc, camera.aac))
            _, (kind, at, key, data) = self.waiting.popleft()
            at_ms = max(0, round((at - line.zero) * 1000))
            line.write(tag_of(kind, at_ms, key, data))
            if kind == "picture":
                self.counts["written"] += 1
                self.recent.append((now, len(data)))
        # The header and what was queued behind it are through.
        if not self.live and line.written > AHEAD + 1 and line.takes_more():
            self.live = True
            self.failures = 0
            self.told_at = now
            say(status="reconnected" if self.was_live else "active")
            self.was_live = True
        while self.recent and self.recent[0][0] < now - STATUS_EVERY_S:
            self.recent.popleft()
        if self.live and now - self.told_at >= STATUS_EVERY_S:
            self.told_at = now
            bits = sum(size for _, size in self.recent) * 8
            say(status="active", fps=round(len(self.recent) / STATUS_EVERY_S, 1), bitrate=round(bits / STATUS_EVERY_S))

    def heard(self, text):
        """What librtmp logs: there the glasses look for the words that make them give up."""
        self.refused = self.refused or "Unauthorized" in text or "Authentication" in text


def hang_up():
    """Ends every TCP connection of this program, which has but one."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family == socket.AF_INET:
                    one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def pull_all(part):
    out = part.get_by_name("out")
    while (sample := out.emit("try-pull-sample", 0)) is not None:
        yield sample


def bytes_of(sample):
    buffer = sample.get_buffer()
    return buffer.extract_dup(0, buffer.get_size())


def codec_data(sample):
    data = sample.get_caps().get_structure(0).get_value("codec_data")
    return data.extract_dup(0, data.get_size())


def sei(mark):
    """user_data_unregistered (H.264 D.1.7) behind its length."""
    text = MARK + json.dumps(mark, separators=(",", ":")).encode()
    unit = b"\x06\x05" + bytes([len(text)]) + text + b"\x80"
    return struct.pack(">I", len(unit)) + unit


def tag_of(kind, at_ms, key, data):
    if kind == "picture":
        return flv_tag(9, at_ms, (b"\x17" if key else b"\x27") + b"\x01\0\0\0" + data)
    return flv_tag(8, at_ms, b"\xae\x01" + data)


def flv_tag(kind, at_ms, data):
    """FLV 10.1, E.4.1: lengths and times of 24 bits, the time's upper 8 behind its lower."""
    head = bytes([kind]) + struct.pack(">I", len(data))[1:]
    head += struct.pack(">I", at_ms)[1:] + bytes([at_ms >> 24]) + b"\0\0\0"
    return head + data + struct.pack(">I", len(head) + len(data))


def flv_header(avc, aac):
    return b"FLV\x01\x05\0\0\0\x09\0\0\0\0" + flv_tag(9, 0, b"\x17\0\0\0\0" + avc) + flv_tag(8, 0, b"\xae\0" + aac)


def main():
    Gst.init(None)
    glasses = Glasses(sys.argv[1])
    Gst.debug_set_default_threshold(Gst.DebugLevel.NONE)
    Gst.debug_set_threshold_for_name("rtmp", Gst.DebugLevel.DEBUG)
    Gst.debug_remove_log_function(None)
    Gst.debug_add_log_function(lambda *log: glasses.heard(log[6].get() or ""))
    pending = b""
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], 0.004)
        if readable:
            text = os.read(0, 65536)
            if not text:
                break
            *lines, pending = (pending + text).split(b"\n")
            for line in lines:
                glasses.obey(json.loads(line))
        glasses.tick()
    glasses.stop()


main()
