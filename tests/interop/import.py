"""A service of Python's `websockets`, for `ringfeed test`. Prints its port."""

import asyncio
import json

from websockets.asyncio.server import serve


async def ticks(connection):
    """Sends one message after the other."""
    n = 0
    while True:
        await connection.send(json.dumps({"event": "tick", "n": n}))
        n += 1
        await asyncio.sleep(0.005)


async def main():
    """Serves until the process ends."""
    async with serve(ticks, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
