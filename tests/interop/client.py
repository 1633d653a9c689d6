"""
client.py SCENARIO ARGUMENTS

Drives the server with the Python package `websockets`, a client that shares no
code with it. Each scenario is a function below, ends the process with status 0
when all was as it should be, and with a traceback otherwise.
"""
import asyncio
import random
import socket
import struct
import sys
import urllib.parse

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

# Compression has a scenario of its own. Nothing is bounded on this side.
OPTIONS = {"compression": None, "max_size": None, "open_timeout": 30, "ping_interval": None}
PATIENCE = 60


async def echo(url):
    """Text, binary, fragments, large messages, many at once: all comes back as it was sent."""
    numbers = random.Random(1)
    large_text = "grüße, 語 🦀 " * 600_000
    assert len(large_text.encode()) > 10_000_000
    messages = ["", "text", "grüße, 語, 🦀", b"", b"\x00\xff\xfe", numbers.randbytes(70_000)]
    messages += [numbers.randbytes(10_000_000), large_text]
    async with connect(url, **OPTIONS) as ws:
        for message in messages:
            await ws.send(message)
            assert await ws.recv() == message, "a message of %d came back changed" % len(message)

        await ws.send(["in ", "", "fragments: ", "grü", "ße"])
        assert await ws.recv() == "in fragments: grüße"
        parts = [numbers.randbytes(numbers.randrange(100_000)) for _ in range(100)]
        await ws.send(parts)
        assert await ws.recv() == b"".join(parts)

        many = [numbers.randbytes(numbers.randrange(500)) for _ in range(1000)]
        sending = asyncio.create_task(send_all(ws, many))
        for message in many:
            assert await ws.recv() == message
        await sending


async def send_all(ws, messages):
    for message in messages:
        await ws.send(message)


async def ping(url):
    """Pings come back with their payload, also while a fragmented message is under way."""
    async with connect(url, **OPTIONS) as ws:
        for payload in (b"", b"here?", bytes(125)):
            await asyncio.wait_for(await ws.ping(payload), PATIENCE)

        async def slow_parts():
            yield "first "
            await asyncio.wait_for(await ws.ping(b"between"), PATIENCE)
            yield "second"

        await ws.send(slow_parts())
        assert await ws.recv() == "first second"


async def close(url):
    """A close code and its reason are answered in kind, whatever they are."""
    for code, reason in ((1000, ""), (1000, "bye"), (1001, "navigating"), (3000, "grüße"), (4999, "x" * 123)):
        async with connect(url, **OPTIONS) as ws:
            await ws.send("last words")
            assert await ws.recv() == "last words"
            await ws.close(code, reason)
            assert ws.protocol.close_rcvd.code == code, ws.protocol.close_rcvd
            assert ws.protocol.close_rcvd_then_sent is False, "the server must answer, not begin"


async def disconnect(url):
    """Peers that are cut off, by a reset and within a message, disturb nobody."""
    neighbours = [await connect(url, **OPTIONS) for _ in range(10)]
    for round_number in range(20):
        victims = [await connect(url, **OPTIONS) for _ in range(5)]
        for number, victim in enumerate(victims):
            if number % 2:
                # Half a frame: a header that promises 100 bytes, and ten of them.
                victim.transport.write(b"\x82\xe4\x00\x00\x00\x00" + bytes(10))
            else:
                await victim.send(bytes(100_000))
            reset(victim.transport)
        for neighbour in neighbours:
            message = "round %d" % round_number
            await neighbour.send(message)
            assert await asyncio.wait_for(neighbour.recv(), PATIENCE) == message
    for neighbour in neighbours:
        await neighbour.close()


def reset(transport):
    """Ends a TCP connection with a reset instead of a farewell."""
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


async def feed(url, control):
    """A hundred subscribers get each publication of their topics once, in order, as text or as binary."""
    topics = {"/feed/a": "a", "/feed/b": "b", "/feed/a,b": "ab"}
    subscribers = [(topics[path], await connect(url + path, **OPTIONS)) for path in list(topics) * 33 + ["/feed/a"]]
    assert len(subscribers) == 100
    plan = [("ab"[number % 2], number) for number in range(300)]
    hearing = [asyncio.create_task(hear(ws, [p for p in plan if p[0] in names])) for names, ws in subscribers]
    await publish(control, plan)
    await asyncio.wait_for(asyncio.gather(*hearing), PATIENCE)

    # One more message each: nothing else was on its way before it.
    await publish(control, [("a", -1), ("b", -1)])
    for names, ws in subscribers:
        last = [await asyncio.wait_for(ws.recv(), PATIENCE) for _ in names]
        assert sorted(last) == sorted(payload(name, -1) for name in names), last
        await ws.close()


async def deflate(url, control, takeover):
    """Compressed both ways, with windows of all sizes, all comes as it was sent; plain neighbours get the same.

    Messages refer back to earlier ones where the server allows it."""
    numbers = random.Random(2)
    documents = [document(numbers, size) for size in (10, 127, 128, 300, 1000, 5000, 40_000, 300_000)]
    windows = [(None, None), (None, True), (15, 15), (12, 12), (9, 9), (9, None)]
    subscribers = [await connect(url + "/feed/deflate", **OPTIONS)]
    for server_bits, client_bits in windows:
        options = {**OPTIONS, "extensions": [ClientPerMessageDeflateFactory(
            server_max_window_bits=server_bits, client_max_window_bits=client_bits)]}
        async with connect(url + "/echo", **options) as ws:
            extension, = ws.protocol.extensions
            assert extension.remote_no_context_takeover == (takeover != "takeover")
            for message in [*documents, "", b"", numbers.randbytes(70_000)]:
                await ws.send(message)
                assert await ws.recv() == message, "a message of %d came back changed" % len(message)
            await ws.send(documents)
            assert await ws.recv() == "".join(documents)
        subscribers.append(await connect(url + "/feed/deflate", **options))
    address = urllib.parse.urlsplit(control)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    for text in documents:
        await post(reader, writer, address.netloc, "deflate", text)
    for ws in subscribers:
        for text in documents:
            assert await asyncio.wait_for(ws.recv(), PATIENCE) == text
        await ws.close()
    writer.close()


def document(numbers, size):
    """JSON of that many characters, or a few more."""
    text = "["
    while len(text) < size:
        text += '{"id": %d, "name": "grüße %s"},' % (numbers.randrange(10**9), numbers.choice("abcdefgh") * 3)
    return text + "null]"


async def hear(ws, expected):
    """Expects these publications: each topic in its order, the topics in any order among themselves."""
    heard = [await ws.recv() for _ in expected]
    for topic in "ab":
        of_topic = [message for message in heard if topic_of(message) == topic]
        assert of_topic == [payload(name, number) for name, number in expected if name == topic]


def payload(topic, number):
    """Even numbers in pairs are text, odd ones binary, so that both topics have both."""
    text = "%s %d grüße" % (topic, number)
    return text if number // 2 % 2 else text.encode() + b"\xff"


def topic_of(message):
    return message[0] if isinstance(message, str) else message[:1].decode()


async def publish(control, plan):
    """Posts one after the other on one connection, and checks that offsets count up by one."""
    address = urllib.parse.urlsplit(control)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    offsets = {}
    for topic, number in plan:
        offset = await post(reader, writer, address.netloc, topic, payload(topic, number))
        assert offset == offsets.get(topic, offset - 1) + 1, "offset %d of %s" % (offset, topic)
        offsets[topic] = offset
    writer.close()


async def post(reader, writer, host, topic, body):
    """Publishes one message and returns its offset."""
    kind = "text/plain" if isinstance(body, str) else "application/octet-stream"
    body = body.encode() if isinstance(body, str) else body
    head = "POST /publish/%s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    writer.write((head % (topic, host, kind, len(body))).encode() + body)
    answer_head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert answer_head.startswith("http/1.1 200"), answer_head
    length = int(answer_head.split("content-length:")[1].split("\r\n")[0])
    answer = (await reader.readexactly(length)).decode()
    return int(answer.split('"offset":')[1].split(",")[0].strip("} "))


async def drain(url):
    """Says `connected` when a hundred are there, then expects the server's farewell on each."""
    paths = ["/echo", "/feed/a"]
    connections = [await connect(url + paths[number % 2], **OPTIONS) for number in range(100)]
    print("connected", flush=True)
    for ws in connections:
        try:
            await asyncio.wait_for(ws.recv(), PATIENCE)
            raise AssertionError("a message, not a farewell")
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code == 1001, closed


if __name__ == "__main__":
    scenario = {f.__name__: f for f in (echo, ping, close, disconnect, feed, deflate, drain)}[sys.argv[1]]
    asyncio.run(scenario(*sys.argv[2:]))
