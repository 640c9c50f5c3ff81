"""A stateful line server on a unix socket, as people write them with socketserver.

usage: kv.py single|threading SOCKET

Requests are lines; each has a one-line reply:

    set KEY VALUE   OK
    get KEY         VALUE, or NONE
    incr KEY        the new number
    pid             the process id, and the number of threads
    crash           no reply: the process dies by SIGSEGV

"single" serves one connection at a time until it ends; "threading" has a thread for each connection.
"""

import ctypes
import os
import socketserver
import sys
import threading

store = {}
lock = threading.Lock()


def answer(line):
    words = line.split(" ", 2)
    match words:
        case ["set", key, value]:
            with lock:
                store[key] = value
            return "OK"
        case ["get", key]:
            return store.get(key, "NONE")
        case ["incr", key]:
            with lock:
                store[key] = str(int(store.get(key, "0")) + 1)
                return store[key]
        case ["pid"]:
            return f"{os.getpid()} {threading.active_count()}"
        case ["crash"]:
            ctypes.string_at(0)
    return f"ERROR unknown request {line!r}"


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write((answer(line.decode().rstrip("\r\n")) + "\n").encode())


class Single(socketserver.UnixStreamServer):
    request_queue_size = 128


class Threading(socketserver.ThreadingMixIn, Single):
    daemon_threads = True


def main():
    kinds = {"single": Single, "threading": Threading}
    if len(sys.argv) != 3 or sys.argv[1] not in kinds:
        sys.exit(f"usage: {sys.argv[0]} single|threading SOCKET")
    kinds[sys.argv[1]](sys.argv[2], Handler).serve_forever()


if __name__ == "__main__":
    main()
