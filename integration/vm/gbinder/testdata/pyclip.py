"""Stands in for the module pyclip, which hands text over to the desktop. Here is no desktop: the text stays in the process.

It has a defect, so that a crash of the service can be shown: it does not survive the text "crash".
"""
import ctypes

clipboard = "(empty)"


def copy(text):
    global clipboard
    if text == "crash":
        ctypes.string_at(0)
    clipboard = text


def paste():
    return clipboard
