"""One client of the official SDK, unmodified: it does what lines of JSON on stdin say, and prints what it saw as lines of
JSON. It must not know the emulator: whatever it expects is the SDK's own opinion."""

import json
import sys
import threading
import time

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse, ProxyOptions
from azure.iot.device.exceptions import NoConnectionError

PRINTING = threading.Lock()


def say(event, **more):
    with PRINTING:
        print(json.dumps({"saw": event, **more}), flush=True)


def client_of(options):
    kind = IoTHubModuleClient if "ModuleId=" in options["connection_string"] else IoTHubDeviceClient
    proxy = ProxyOptions("HTTP", options["proxy_host"], options["proxy_port"])
    with open(options["ca_file"], encoding="ascii") as file:
        ca = file.read()
    return kind.create_from_connection_string(
        options["connection_string"],
        websockets=options["websockets"],
        proxy_options=proxy,
        server_verification_cert=ca,
        sastoken_ttl=options["token_life_s"],
        keep_alive=options["keep_alive_s"],
        connection_retry_interval=1,
    )


def listen(client):
    def message(came):
        say(
            "message",
            input=came.input_name,
            body=came.data.decode(),
            properties=came.custom_properties,
            mid=came.message_id,
            content_type=came.content_type,
        )

    def method(request):
        say("method", name=request.name, payload=request.payload)
        answer = {"heard": request.payload}
        client.send_method_response(MethodResponse.create_from_method_request(request, 207, answer))

    client.on_message_received = message
    client.on_method_request_received = method
    client.on_twin_desired_properties_patch_received = lambda patch: say("desired", patch=patch)
    client.on_connection_state_change = lambda: say("connection", connected=client.connected)
    client.on_background_exception = lambda error: say("exception", error=repr(error))


def persist(send, *args):
    """While it is not connected the SDK refuses at once, and leaves it to the application to try again. It may be so for a
    moment also after it said that it is connected."""
    end = time.monotonic() + 20
    while True:
        try:
            return send(*args)
        except NoConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def act(client, line):
    what = line["do"]
    if what == "connect":
        client.connect()
        listen(client)
    elif what == "send":
        message = Message(line["body"])
        message.custom_properties = line.get("properties", {})
        for name, value in line.get("system", {}).items():
            setattr(message, name, value)
        if "output" in line:
            persist(client.send_message_to_output, message, line["output"])
        else:
            persist(client.send_message, message)
    elif what == "twin":
        say("twin", twin=client.get_twin())
    elif what == "report":
        client.patch_twin_reported_properties(line["patch"])
    else:
        raise ValueError(what)
    say("done", what=what)


def main():
    client = client_of(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        try:
            act(client, json.loads(line))
        except Exception as error:  # The test is to see it, whatever it is.
            say("error", error=repr(error), cause=repr(error.__cause__))
    client.shutdown()
    say("end")


main()
