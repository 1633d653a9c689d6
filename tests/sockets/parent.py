"""A parent that passes sockets to a server, as systemd does, and starts the server again when it has ended.

parent.py RUNS PROGRAM ARGUMENT... It prints the ports of the sockets first: two sockets `data` on one port, one
`control`.
"""

import os
import socket
import sys

FIRST = 3


def listener(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


def main() -> None:
    runs, program = int(sys.argv[1]), sys.argv[2:]
    data = listener(0)
    port = data.getsockname()[1]
    sockets = [data, listener(port), listener(0)]
    print(port, sockets[2].getsockname()[1], flush=True)
    for _ in range(runs):
        child = os.fork()
        if child == 0:
            # The numbers may overlap: all copies are made above them first.
            copies = [os.dup2(one.fileno(), 100 + index) for index, one in enumerate(sockets)]
            for index, copy in enumerate(copies):
                os.dup2(copy, FIRST + index)
                os.close(copy)
            names = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "data:data:control", "LISTEN_PID": str(os.getpid())}
            os.environ.update(names)
            os.execvp(program[0], program)
        os.waitpid(child, 0)


main()
