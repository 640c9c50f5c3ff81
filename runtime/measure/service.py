# A service of a given size: PATH MIB THREADS VMAS. A request is 16 bytes, an operation and a number; so is a reply.
import gc, mmap, os, select, socket, struct, sys, threading, time

path, (mib, threads, vmas) = sys.argv[1], map(int, sys.argv[2:5])
memory = bytearray(mib << 20)
pages = len(memory) >> 12
memory[::4096] = b"\1" * pages
for _ in range(threads - 1):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
gc.disable()
# Neighbours of the same kind would become one mapping.
kinds = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ
mappings = [mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, kinds[i % 2]) for i in range(vmas)]

listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(16)
ready = select.epoll()
ready.register(listener.fileno(), select.EPOLLIN)
conns = {}
ones = b"\2" * pages


def answer(request):
    if request[:1] == b"d":
        n = struct.unpack_from("<q", request, 8)[0]
        memory[: n << 12 : 4096] = ones[:n]
    elif request[:1] == b"x":
        os.abort()
    elif request[:1] == b"f":
        t = time.perf_counter_ns()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        t = time.perf_counter_ns() - t
        os.waitpid(pid, 0)
        return struct.pack("<qq", t, 0)
    return request


while True:
    for fd, _ in ready.poll():
        if fd == listener.fileno():
            c, _ = listener.accept()
            conns[c.fileno()] = c
            ready.register(c.fileno(), select.EPOLLIN)
            continue
        request = os.read(fd, 16)
        if request:
            os.write(fd, answer(request))
        else:
            ready.unregister(fd)
            conns.pop(fd).close()
