"""A device that knows only its registration: the official SDK, unmodified, asks the provisioning side, and then connects to
the hub that it was told. It must not know the emulator: whatever it expects is the SDK's own opinion."""

import json
import sys

from azure.iot.device import IoTHubDeviceClient, ProvisioningDeviceClient, ProxyOptions


def say(event, **more):
    print(json.dumps({"saw": event, **more}), flush=True)


def act(options, line):
    way = {
        "websockets": options["websockets"],
        "proxy_options": ProxyOptions("HTTP", options["proxy_host"], options["proxy_port"]),
    }
    with open(options["ca_file"], encoding="ascii") as file:
        way["server_verification_cert"] = file.read()
    client = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=options["host"],
        registration_id=line["registration"],
        id_scope=options["id_scope"],
        symmetric_key=line["key"],
        **way,
    )
    result = client.register()
    state = result.registration_state
    say("registered", status=result.status, hub=state and state.assigned_hub, device=state and state.device_id)
    if result.status == "assigned":
        device = IoTHubDeviceClient.create_from_symmetric_key(
            symmetric_key=line["key"], hostname=state.assigned_hub, device_id=state.device_id, **way
        )
        device.send_message("hello")
        device.shutdown()
        say("sent")


def main():
    options = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        try:
            act(options, json.loads(line))
        except Exception as error:
            say("failed", error=repr(error), cause=repr(error.__cause__))
    say("end")


main()
