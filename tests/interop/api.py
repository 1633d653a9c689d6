"""
api.py WS_URL CONTROL_URL KEY

Drives the server API with `cent`, Centrifugo's own client for backends in
Python, and hears what comes of it with the package `websockets`. The server's
configuration is `api.toml`. Ends the process with status 0 when all was as it
should be, and with a traceback otherwise.
"""
import asyncio
import json
import sys

from cent import (
    AsyncClient, BroadcastRequest, CentApiResponseError, CentUnauthorizedError, ChannelsRequest,
    DisconnectRequest, HistoryRemoveRequest, HistoryRequest, InfoRequest, PresenceRequest,
    PresenceStatsRequest, PublishRequest, RefreshRequest, StreamPosition, SubscribeRequest,
    UnsubscribeRequest, BatchRequest)
from websockets.asyncio.client import connect

PATIENCE = 60


async def main(url, control, key):
    async with connect(url + "/feed/news:a", open_timeout=PATIENCE) as ws:
        hear = lambda: asyncio.wait_for(ws.recv(), PATIENCE)
        api = AsyncClient(control + "/api", key, timeout=PATIENCE)
        await a_wrong_key(control)
        await publications(api, hear)
        await broadcasts(api, hear)
        await histories(api)
        await lists(api)
        await orders(api)
        await batches(api, hear)
        await api.close()


async def a_wrong_key(control):
    for key in ("guess", ""):
        api = AsyncClient(control + "/api", key, timeout=PATIENCE)
        try:
            await api.info(InfoRequest())
            raise AssertionError("let in with the key %r" % key)
        except CentUnauthorizedError:
            await api.close()


async def publications(api, hear):
    """What is published comes as it was, once for each idempotency key."""
    data = {"text": "grüße, 語 🦀", "number": 1.5, "list": [None, True, {}]}
    first = await api.publish(PublishRequest(channel="news:a", data=data, tags={"a": "b"}))
    assert first.offset == 1 and len(first.epoch) == 13, first
    assert json.loads(await hear()) == data
    once = PublishRequest(channel="news:a", data="once", idempotency_key="key")
    second, again = await api.publish(once), await api.publish(once)
    assert (second.offset, again.offset) == (2, 2), (second, again)
    assert json.loads(await hear()) == "once"
    binary = await api.publish(PublishRequest(channel="news:a", data=None, b64data="AP8="))
    assert binary.offset == 3
    assert await hear() == b"\x00\xff"
    for channel, code in (("unheard-of:a", 102), ("news:a b", 107), ("", 107)):
        await refused(api.publish(PublishRequest(channel=channel, data=1)), code)


async def refused(call, code):
    try:
        raise AssertionError("not refused: %s" % await call)
    except CentApiResponseError as error:
        assert error.code == code, error


async def broadcasts(api, hear):
    channels = ["news:a", "unheard-of:a"] + ["news:%d" % number for number in range(2000)]
    result = await api.broadcast(BroadcastRequest(channels=channels, data={"to": "all"}))
    first, unknown, *others = result.responses
    assert first.result.offset == 4 and unknown.error.code == 102, (first, unknown)
    assert [response.result.offset for response in others] == [1] * 2000
    assert json.loads(await hear()) == {"to": "all"}


async def histories(api):
    """Four publications are there, and can be paged through either way, until they are removed."""
    history = lambda **options: api.history(HistoryRequest(channel="news:a", **options))
    position = await history()
    assert position.offset == 4 and position.publications == [], position
    offsets = lambda page: [publication.offset for publication in page.publications]
    everything = await history(limit=-1)
    assert offsets(everything) == [1, 2, 3, 4]
    assert everything.publications[0].data["text"] == "grüße, 語 🦀"
    assert everything.publications[0].tags == {"a": "b"}
    assert everything.publications[1].data == "once"
    since = lambda offset: StreamPosition(offset=offset, epoch=position.epoch)
    assert offsets(await history(limit=2, since=since(1))) == [2, 3]
    assert offsets(await history(limit=2, reverse=True)) == [4, 3]
    assert offsets(await history(limit=9, since=since(3), reverse=True)) == [2, 1]
    await refused(history(limit=1, since=StreamPosition(offset=1, epoch="another")), 112)
    await refused(api.history(HistoryRequest(channel="plain", limit=1)), 108)
    await api.history_remove(HistoryRemoveRequest(channel="news:a"))
    removed = await history(limit=-1)
    assert removed.publications == [] and removed.offset == 4, removed
    assert removed.epoch == position.epoch


async def lists(api):
    presence = await api.presence(PresenceRequest(channel="news:a"))
    assert presence.presence == {}, presence
    stats = await api.presence_stats(PresenceStatsRequest(channel="news:a"))
    assert (stats.num_clients, stats.num_users) == (0, 0), stats
    await refused(api.presence(PresenceRequest(channel="plain")), 108)
    channels = await api.channels(ChannelsRequest(pattern="news:*"))
    active = {name: channel.num_clients for name, channel in channels.channels.items() if channel.num_clients > 0}
    assert active == {"news:a": 1}, active
    # Topics that only have a history are listed, too.
    assert "news:0" in channels.channels
    assert (await api.channels(ChannelsRequest(pattern="other*"))).channels == {}
    info = await api.info(InfoRequest())
    assert len(info.nodes) == 1, info
    assert (info.nodes[0].num_clients, info.nodes[0].num_subs, info.nodes[0].num_channels) == (1, 1, 1), info


async def orders(api):
    """Orders to users of whom nobody is here change nothing, and are carried out all the same."""
    await api.subscribe(SubscribeRequest(user="ann", channel="news:a"))
    await api.unsubscribe(UnsubscribeRequest(user="ann", channel="news:a"))
    await api.disconnect(DisconnectRequest(user="ann"))
    await api.refresh(RefreshRequest(user="ann", expire_at=2_000_000_000))
    await refused(api.disconnect(DisconnectRequest(user="")), 107)
    await refused(api.subscribe(SubscribeRequest(user="ann", channel="unheard-of:a")), 102)


async def batches(api, hear):
    for parallel in (False, True):
        requests = [PublishRequest(channel="news:a", data=number) for number in range(100)]
        result = await api.batch(BatchRequest(
            requests=[*requests, PresenceStatsRequest(channel="news:a")], parallel=parallel))
        *published, stats = result.replies
        offsets = [reply.offset for reply in published]
        assert offsets == list(range(offsets[0], offsets[0] + 100)), offsets
        assert stats.num_clients == 0, stats
        assert [json.loads(await hear()) for _ in range(100)] == list(range(100))


asyncio.run(main(*sys.argv[1:]))
