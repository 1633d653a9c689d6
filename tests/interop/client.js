// client.js SCENARIO ARGUMENTS
//
// Drives the server with the npm package `ws`, a client that shares no code with it. Each scenario is a function
// below; the process ends with status 0 when all was as it should be.
'use strict';

const assert = require('node:assert/strict');
const { randomBytes } = require('node:crypto');
const WebSocket = require('ws');

const PATIENCE = 60_000;

// Compression has a scenario of its own.
const OPTIONS = { perMessageDeflate: false, maxPayload: 0 };

// A WebSocket whose messages can be awaited one by one, as text or as a Buffer.
class Client {
    static async open(url, options) {
        const client = new Client(url, options);
        await withPatience(client.opened, `opening ${url}`);
        return client;
    }

    constructor(url, options) {
        this.ws = new WebSocket(url, { ...OPTIONS, ...options });
        this.messages = [];
        this.waiting = null;
        this.ws.on('message', (data, isBinary) => {
            this.messages.push(isBinary ? data : data.toString());
            this.waiting?.();
        });
        this.closed = new Promise((resolve) => this.ws.once('close', (code, reason) => {
            resolve({ code, reason: reason.toString() });
        }));
        this.opened = new Promise((resolve, reject) => {
            this.ws.once('open', resolve);
            this.ws.on('error', reject);
        });
    }

    async next() {
        if (this.messages.length === 0) {
            await withPatience(new Promise((resolve) => { this.waiting = resolve; }), 'a message');
            this.waiting = null;
        }
        return this.messages.shift();
    }

    async expectEcho(message) {
        this.ws.send(message);
        assert.deepEqual(await this.next(), message);
    }
}

function withPatience(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no end of waiting for ${what}`)), PATIENCE);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Text, binary, fragments, large messages, many at once: all comes back as it was sent.
async function echo(url) {
    const client = await Client.open(url);
    for (const message of ['', 'text', 'grüße, 語, 🦀', Buffer.alloc(0), Buffer.from([0, 255, 254])]) {
        await client.expectEcho(message);
    }
    await client.expectEcho(randomBytes(10_000_000));
    await client.expectEcho('grüße, 語 🦀 '.repeat(600_000));

    const [start, middle, end] = [randomBytes(1), randomBytes(70_000), randomBytes(0)];
    client.ws.send(start, { binary: true, fin: false });
    client.ws.send(middle, { binary: true, fin: false });
    client.ws.send(end, { binary: true, fin: true });
    assert.deepEqual(await client.next(), Buffer.concat([start, middle, end]));

    const many = Array.from({ length: 1000 }, (_, index) => randomBytes(index % 500));
    many.forEach((message) => client.ws.send(message));
    for (const message of many) {
        assert.deepEqual(await client.next(), message);
    }
    client.ws.close();
    await withPatience(client.closed, 'the end');
}

// Pings come back with their payload.
async function ping(url) {
    const client = await Client.open(url);
    for (const payload of [Buffer.alloc(0), Buffer.from('here?'), Buffer.alloc(125, 7)]) {
        const pong = new Promise((resolve) => client.ws.once('pong', resolve));
        client.ws.ping(payload);
        assert.deepEqual(await withPatience(pong, 'a pong'), payload);
    }
    client.ws.close();
    await withPatience(client.closed, 'the end');
}

// A close code is answered in kind.
async function close(url) {
    for (const [code, reason] of [[1000, ''], [1000, 'bye'], [1001, 'navigating'], [3000, 'grüße'], [4999, '']]) {
        const client = await Client.open(url);
        client.ws.close(code, reason);
        assert.equal((await withPatience(client.closed, 'the end')).code, code);
    }
}

// Peers that are cut off by a reset, within a message, disturb nobody.
async function disconnect(url) {
    const neighbours = await Promise.all(Array.from({ length: 10 }, () => Client.open(url)));
    for (let round = 0; round < 20; round += 1) {
        const victims = await Promise.all(Array.from({ length: 5 }, () => Client.open(url)));
        for (const victim of victims) {
            victim.ws.send(randomBytes(100_000), { fin: false });
            victim.ws._socket.resetAndDestroy();
        }
        await Promise.all(neighbours.map((neighbour) => neighbour.expectEcho(`round ${round}`)));
    }
    neighbours.forEach((neighbour) => neighbour.ws.close());
    await Promise.all(neighbours.map((neighbour) => withPatience(neighbour.closed, 'the end')));
}

// A hundred subscribers get each publication once, in order, as text or as binary.
async function feed(url, control) {
    const paths = ['/feed/js-a', '/feed/js-b', '/feed/js-a,js-b'];
    const subscribers = await Promise.all(Array.from({ length: 100 }, async (_, index) => {
        const path = paths[index % paths.length];
        return { path, client: await Client.open(url + path) };
    }));
    const plan = Array.from({ length: 200 }, (_, index) => {
        const topic = index % 2 ? 'js-a' : 'js-b';
        const text = `${topic} ${index} grüße`;
        return { topic, message: index % 4 < 2 ? text : Buffer.from(text) };
    });
    for (const { topic, message } of plan) {
        const type = typeof message === 'string' ? 'text/plain' : 'application/octet-stream';
        const headers = { 'Content-Type': type };
        const answer = await fetch(`${control}/publish/${topic}`, { method: 'POST', headers, body: message });
        assert.equal(answer.status, 200);
        assert.ok((await answer.json()).offset >= 0);
    }
    await Promise.all(subscribers.map(async ({ path, client }) => {
        const expected = plan.filter(({ topic }) => path.includes(topic)).map(({ message }) => message);
        const heard = [];
        while (heard.length < expected.length) {
            heard.push(await client.next());
        }
        for (const topic of ['js-a', 'js-b']) {
            const ofTopic = (messages) => messages.filter((message) => message.toString().startsWith(topic));
            assert.deepEqual(ofTopic(heard), ofTopic(expected));
        }
        client.ws.close();
        await withPatience(client.closed, 'the end');
        assert.equal(client.messages.length, 0, 'more came than was published');
    }));
}

// Compressed both ways, with windows of all sizes, all comes as it was sent. Messages refer back to earlier ones where
// the server allows it.
async function deflate(url, control, takeover) {
    const documents = [10, 127, 128, 1000, 5000, 40_000, 300_000].map((size) => {
        const row = () => ({ id: randomBytes(4).toString('hex'), name: 'grüße' });
        const rows = Array.from({ length: size / 40 + 1 }, row);
        return JSON.stringify(rows);
    });
    const offers = [{}, { serverMaxWindowBits: 9 }, { serverMaxWindowBits: 12, clientMaxWindowBits: 10 },
        { serverNoContextTakeover: true, clientNoContextTakeover: true }];
    const subscribers = await Promise.all(offers.map(async (offer) => {
        const perMessageDeflate = { threshold: 0, ...offer };
        const client = await Client.open(`${url}/echo`, { perMessageDeflate });
        assert.match(client.ws.extensions, /permessage-deflate/);
        const refusesTakeover = takeover !== 'takeover' || offer.serverNoContextTakeover === true;
        // `extensions` has only their names.
        const agreed = client.ws._extensions['permessage-deflate'].params;
        assert.equal(agreed.server_no_context_takeover === true, refusesTakeover);
        assert.equal(agreed.client_no_context_takeover === true, refusesTakeover);
        for (const message of [...documents, '', Buffer.alloc(0), randomBytes(70_000)]) {
            await client.expectEcho(message);
        }
        client.ws.close();
        await withPatience(client.closed, 'the end');
        return Client.open(`${url}/feed/js-deflate`, { perMessageDeflate });
    }));
    for (const body of documents) {
        const answer = await fetch(`${control}/publish/js-deflate`, { method: 'POST', body });
        assert.equal(answer.status, 200);
    }
    for (const client of subscribers) {
        for (const document of documents) {
            assert.equal(await client.next(), document);
        }
        client.ws.close();
        await withPatience(client.closed, 'the end');
    }
}

// Says `connected` when a hundred are there, then expects the server's farewell on each.
async function drain(url) {
    const clients = await Promise.all(Array.from({ length: 100 }, (_, index) => {
        return Client.open(url + (index % 2 ? '/echo' : '/feed/js-a'));
    }));
    console.log('connected');
    for (const client of clients) {
        assert.equal((await withPatience(client.closed, 'the end')).code, 1001);
    }
}

const [scenario, ...parameters] = process.argv.slice(2);
const scenarios = { echo, ping, close, disconnect, feed, deflate, drain };
scenarios[scenario](...parameters).catch((error) => {
    console.error(error);
    process.exit(1);
});
