"""A real Home Assistant with its MQTT integration on a broker, without a page or an account.

    run.py CONFIG_DIR BROKER_PORT HTTP_PORT

Prints each state of each entity as it comes, a line of JSON each, and the devices of the registry when asked. Takes services to
call as lines of JSON on the standard input: {"domain":..,"service":..,"data":{..}} or {"devices":true}. Ends with its input.
"""

import asyncio
import json
import sys

from homeassistant import bootstrap, runner
from homeassistant.const import EVENT_STATE_CHANGED
from homeassistant.core import callback
from homeassistant.helpers import device_registry


def say(**what):
    print(json.dumps(what, default=str), flush=True)


@callback  # in the loop: without it each goes to a thread, where lines run into each other and are lost
def changed(event):
    state = event.data["new_state"]
    say(entity=event.data["entity_id"], state=state and state.state, attributes=dict(state.attributes) if state else {})


async def obey(hass, order):
    if order.get("devices"):
        for device in device_registry.async_get(hass).devices.values():
            say(device=device.name, model=device.model, version=device.sw_version, maker=device.manufacturer)
        return
    try:
        await hass.services.async_call(order["domain"], order["service"], order["data"], blocking=True)
    except Exception as error:  # whatever it is, the test must see it
        say(failed=f"{order}: {error}")


async def main(config_dir, port, http):
    with open(f"{config_dir}/configuration.yaml", "w", encoding="utf-8") as file:
        file.write(f"http:\n  server_host: 127.0.0.1\n  server_port: {http}\n")
    # Its page needs much more, and nobody looks at it here.
    bootstrap.CRITICAL_INTEGRATIONS = frozenset()
    bootstrap.DEFAULT_INTEGRATIONS = frozenset()
    config = runner.RuntimeConfig(config_dir=config_dir, skip_pip=True, log_file=f"{config_dir}/log")
    hass = await bootstrap.async_setup_hass(config)
    assert hass, "Home Assistant does not start"
    hass.bus.async_listen(EVENT_STATE_CHANGED, changed)
    await hass.async_start()
    form = await hass.config_entries.flow.async_init("mqtt", context={"source": "user"})
    broker = {"broker": "127.0.0.1", "port": port}
    entry = await hass.config_entries.flow.async_configure(form["flow_id"], broker)
    assert entry["type"] == "create_entry", entry
    say(ready=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await obey(hass, json.loads(line))
    await hass.async_stop()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
