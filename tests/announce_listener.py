"""Says on standard output, a JSON object a line, which services of spotter's come, change and go, as python-zeroconf hears them."""

import json
import sys
import time

from zeroconf import AddressResolver, ServiceBrowser, ServiceListener, Zeroconf

KINDS = [f"{kind}._tcp.local." for kind in ("_spotter", "_rtmp", "_mqtt", "_secure-mqtt", "_http")]


def say(**what):
    # In one piece: the browser and the resolver speak from threads of their own.
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Listener(ServiceListener):
    def add_service(self, zc, kind, name):
        self.tell(zc, "added", kind, name)

    def update_service(self, zc, kind, name):
        self.tell(zc, "updated", kind, name)

    def remove_service(self, zc, kind, name):
        say(what="removed", kind=kind, name=name)

    def tell(self, zc, what, kind, name):
        # A busy machine may let a question go unanswered.
        asked = (zc.get_service_info(kind, name, 5000) for _ in range(6))
        info = next(filter(None, asked), None)
        if info is None:
            say(what="unresolved", kind=kind, name=name)
            return
        properties = {k.decode(): v.decode() for k, v in info.properties.items() if v is not None}
        say(what=what, kind=kind, name=name, server=info.server, port=info.port,
            addresses=sorted(info.parsed_addresses()), properties=properties)


address, host = sys.argv[1:]
zeroconf = Zeroconf(interfaces=[address])
ServiceBrowser(zeroconf, KINDS, Listener())
while True:
    resolver = AddressResolver(host)
    if resolver.request(zeroconf, 2000):
        say(what="host", name=host, addresses=sorted(resolver.parsed_addresses()))
    time.sleep(1)
