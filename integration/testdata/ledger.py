"""A service that keeps the same list in memory, in a database, in one that it makes when it is first told to, and in a log.

    python3 ledger.py SOCKET DIRECTORY JOURNAL_MODE

add WORD     appends the word everywhere
get          the four lists and what the databases say of themselves
half N       begins to write N words, so many that the database file is touched, and says so; they are never committed
"""

import os
import socketserver
import sqlite3
import sys

address, directory, mode = sys.argv[1:4]
os.chdir(directory)


def database(name):
    db = sqlite3.connect(name, check_same_thread=False, isolation_level=None)
    got = db.execute("pragma journal_mode=" + mode).fetchone()[0]
    assert got == mode, got
    db.execute("pragma cache_size=10")
    db.execute("create table if not exists words(word)")
    return db


memory = []
first, late = database("first.db"), None
log = open("log.txt", "a")


def words(db):
    return [w for (w,) in db.execute("select word from words order by rowid")]


def check(db):
    return db.execute("pragma integrity_check").fetchone()[0]


def add(word):
    global late
    if late is None:
        late = database("late.db")
    for db in first, late:
        db.execute("insert into words values(?)", (word,))
    memory.append(word)
    log.write(word + "\n")
    log.flush()
    return "ok"


def get():
    lists = [memory, words(first), words(late) if late else [], open("log.txt").read().split()]
    if any(l != memory for l in lists):
        return "they differ: %r" % lists
    return ",".join(memory) + ";" + check(first) + ";" + (check(late) if late else "ok")


def half(n):
    first.execute("begin")
    first.executemany("insert into words values(?)", (("never" + "x" * 1000,) for _ in range(int(n))))
    log.write("never\n")
    log.flush()
    return "begun"


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            verb, *arguments = line.decode().split()
            try:
                reply = {"add": add, "get": get, "half": half}[verb](*arguments)
            except Exception as e:
                reply = repr(e)
            self.wfile.write((reply + "\n").encode())


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


os.umask(0)
Server(address, Handler).serve_forever()
