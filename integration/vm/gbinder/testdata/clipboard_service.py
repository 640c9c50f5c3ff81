"""Runs Waydroid's clipboard service, unmodified, on /dev/binder: clipboard_service.py SERVICE_MANAGER_PROTOCOL PROTOCOL."""
import argparse
import sys

sys.path.insert(0, "/usr/lib/waydroid")
from tools import helpers
from tools.interfaces import IClipboard

# The names of the nodes come from Waydroid's configuration, which a machine without Waydroid does not have.
helpers.drivers.loadBinderNodes = lambda args: None

clipboard = {"text": "(empty)"}
args = argparse.Namespace(BINDER_DRIVER="binder", SERVICE_MANAGER_PROTOCOL=sys.argv[1], BINDER_PROTOCOL=sys.argv[2])
IClipboard.add_service(args, lambda text: clipboard.update(text=text), lambda: clipboard["text"])
