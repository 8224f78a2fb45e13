"""A back end with the official service SDK, unmodified: it calls what lines of JSON on stdin name, and prints what came of it
as lines of JSON. It must not know the emulator: how to reach it is a matter of the environment, as for any user of the SDK."""

import json
import sys

from azure.iot.hub import IoTHubConfigurationManager, IoTHubRegistryManager
from azure.iot.hub.protocol import models
from msrest.exceptions import HttpOperationError


def say(event, **more):
    print(json.dumps({"saw": event, **more}), flush=True)


def read(value):
    """{"Twin": {…}} is a model of the SDK."""
    if isinstance(value, dict) and len(value) == 1:
        (name, fields), = value.items()
        if hasattr(models, name):
            return getattr(models, name).deserialize(fields)
    return value


def written(value):
    if isinstance(value, list):
        return [written(item) for item in value]
    if hasattr(value, "continuation_token"):
        return {"items": written(value.items), "continuation": value.continuation_token, "type": value.type}
    return value.serialize(keep_readonly=True) if hasattr(value, "serialize") else value


def act(backends, line):
    name = line["do"]
    backend = next(backend for backend in backends if hasattr(backend, name))
    try:
        say("done", what=name, value=written(getattr(backend, name)(*map(read, line.get("args", [])))))
    except HttpOperationError as error:
        say("refused", what=name, status=error.response.status_code, body=error.response.text)


def main():
    connection_string = json.loads(sys.stdin.readline())["connection_string"]
    kinds = [IoTHubRegistryManager, IoTHubConfigurationManager]
    backends = [kind.from_connection_string(connection_string) for kind in kinds]
    for line in sys.stdin:
        try:
            act(backends, json.loads(line))
        except Exception as error:  # The test is to see it, whatever it is.
            say("error", error=repr(error), cause=repr(error.__cause__))
    say("end")


main()
