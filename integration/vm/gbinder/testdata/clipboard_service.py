"""Runs Waydroid's clipboard service, unmodified, as its session does: clipboard_service.py CONFIG."""
import argparse
import sys

sys.path[:0] = ["/usr/lib/waydroid"]
from tools.services import clipboard_manager

clipboard_manager.start(argparse.Namespace(config=sys.argv[1]))
