// emulated.js HTTP-URL SECRET
//
// The package `centrifuge` on Node.js where WebSockets are blocked: over http_stream in both encodings, and over sse.
// Each client connects, subscribes with deltas, publishes, receives, calls presence, is disconnected by the server, and
// leaves.
'use strict';

const { EventSource } = require('eventsource');
const { signer, codec, OPTIONS } = require('./common.js');

function check(holds, ...details) {
    if (!holds) {
        throw new Error(details.map((detail) => JSON.stringify(detail)).join(' '));
    }
}

function next(emitter, name) {
    return new Promise((resolve) => emitter.once(name, resolve));
}

async function tryTransport(url, transport, encoding, sign) {
    const { Centrifuge } = encoding === 'json' ? require('centrifuge') : require('centrifuge/build/protobuf');
    const { encode, decode } = codec(encoding);
    // A WebSocket to a path without one fails, as in a network that blocks them.
    const transports = [
        { transport: 'websocket', endpoint: `${url.replace('http', 'ws')}/blocked` },
        { transport, endpoint: `${url}/connection/${transport}` },
    ];
    const client = new Centrifuge(transports, {
        ...OPTIONS,
        websocket: require('ws'),
        eventsource: EventSource,
        fetch,
        readableStream: ReadableStream,
        emulationEndpoint: `${url}/emulation`,
        token: await sign({ sub: '42' }),
    });
    const connected = next(client, 'connected');
    client.connect();
    check((await connected).transport === transport, 'another transport');
    const subscription = client.newSubscription('chat:lobby', { delta: 'fossil' });
    const subscribed = next(subscription, 'subscribed');
    subscription.subscribe();
    await subscribed;
    for (let n = 0; n < 20; n++) {
        const published = next(subscription, 'publication');
        await subscription.publish(encode({ n, text: 'é\n"', padding: 'x'.repeat(100) }));
        const { data } = await published;
        check(decode(data).n === n && decode(data).text === 'é\n"', data);
    }
    const { numFullPayloads, numDeltaPayloads } = subscription.deltaStats();
    check(numFullPayloads === 1 && numDeltaPayloads === 19, numFullPayloads, numDeltaPayloads);
    // Commands at once, whose requests race: each has its answer.
    const answers = await Promise.all(Array.from({ length: 20 }, () => subscription.presenceStats()));
    check(answers.every(({ numUsers }) => numUsers === 1), answers);
    const disconnected = next(client, 'disconnected');
    console.log('disconnect');
    const { code, reason } = await disconnected;
    check(code === 4501 && reason === 'bye', code, reason);
}

async function main(url, secret) {
    const sign = signer(secret);
    const rows = [['http_stream', 'json'], ['http_stream', 'protobuf'], ['sse', 'json']];
    for (const [transport, encoding] of rows) {
        await tryTransport(url, transport, encoding, sign);
    }
    console.log('done');
}

main(...process.argv.slice(2)).then(
    () => process.exit(0),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
