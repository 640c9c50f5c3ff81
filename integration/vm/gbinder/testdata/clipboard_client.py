"""Asks the clipboard service: clipboard_client.py SERVICE_MANAGER_PROTOCOL PROTOCOL [TEXT]. With TEXT, sets it first."""
import sys

import gbinder

manager = gbinder.ServiceManager("/dev/binder", sys.argv[1], sys.argv[2])
remote, status = manager.get_service_sync("waydroidclipboard")
if remote is None:
    sys.exit("no service: %s" % status)
client = gbinder.Client(remote, "lineageos.waydroid.IClipboard")
SET, GET = 1, 2


def call(code, text=None):
    request = client.new_request()
    if text is not None:
        request.append_string16(text)
    reply, status = client.transact_sync_reply(code, request)
    if status != 0:
        sys.exit("transaction %d: status %d" % (code, status))
    return reply.init_reader()


if len(sys.argv) > 3:
    ok, exception = call(SET, sys.argv[3]).read_int32()
    if not ok or exception != 0:
        sys.exit("set: exception %d" % exception)
reader = call(GET)
reader.read_int32()
print(reader.read_string16())
