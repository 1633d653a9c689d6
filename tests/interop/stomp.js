// stomp.js SCENARIO WS_URL CONTROL_URL [TOKEN]
//
// Drives /stomp with npm's `@stomp/stompjs`. Each scenario is a function below; the process ends with status 0 when all
// was as it should be.
'use strict';

const assert = require('node:assert/strict');
const { Client, Versions } = require('@stomp/stompjs');
const WebSocket = require('ws');

const PATIENCE = 60_000;
const PROTOCOLS = ['v12.stomp', 'v11.stomp', 'v10.stomp'];
const [scenario, wsUrl, controlUrl, token] = process.argv.slice(2);

function within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no end of waiting for ${what}`)), PATIENCE);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A queue whose items can be awaited one by one.
class Queue {
    constructor() { [this.items, this.waiting] = [[], null]; }
    push(item) { this.items.push(item); this.waiting?.(); }
    async next(what = 'a message') {
        while (this.items.length === 0) {
            await within(new Promise((resolve) => { this.waiting = resolve; }), what);
        }
        return this.items.shift();
    }
}

// A connected client; `errors` has its ERROR frames, `closes` the codes of its ends.
async function connect(config = {}, path = '/stomp') {
    const [opened, errors, closes] = [new Queue(), new Queue(), new Queue()];
    const client = new Client({
        webSocketFactory: () => new WebSocket(wsUrl + path, config.protocols ?? PROTOCOLS),
        reconnectDelay: 0,
        connectHeaders: token ? { passcode: token } : { login: 'guest', passcode: 'guest' },
        onConnect: (frame) => opened.push(frame),
        onStompError: (frame) => { errors.push(frame); opened.push(frame); },
        onWebSocketClose: (event) => closes.push(event.code),
        ...config,
    });
    client.activate();
    const first = await opened.next('CONNECTED');
    return Object.assign(client, { first, errors, closes });
}

// Subscribes, and resolves once the receipt has come.
async function subscribe(client, destination, headers = {}) {
    const messages = new Queue();
    const [receipts, id] = [new Queue(), `r-${Math.random()}`];
    client.watchForReceipt(id, (frame) => receipts.push(frame));
    const keep = (message) => messages.push(message);
    const subscription = client.subscribe(destination, keep, { receipt: id, ...headers });
    await receipts.next(`the receipt of ${destination}`);
    return Object.assign(messages, { subscription });
}

async function publish(topic, body, query = '') {
    const response = await fetch(`${controlUrl}/publish/${topic}${query}`, { method: 'POST', body });
    assert.equal(response.status, 200, await response.text());
}

async function send(client, publication) {
    const [receipts, id] = [new Queue(), `s-${Math.random()}`];
    client.watchForReceipt(id, (frame) => receipts.push(frame));
    client.publish({ ...publication, headers: { ...publication.headers, receipt: id } });
    await receipts.next('the receipt of SEND');
}

const scenarios = {
    async pubsub() {
        for (const [protocols, version] of [[['v12.stomp'], '1.2'], [['v11.stomp'], '1.1'], [[], '1.2']]) {
            const stompVersions = version === '1.1' ? new Versions(['1.1']) : Versions.default;
            const client = await connect({ protocols, stompVersions });
            assert.equal(client.first.headers.version, version);
            const messages = await subscribe(client, '/topic/open.news');
            await publish('open.news', 'from the backend: ☃');
            let message = await messages.next();
            assert.equal(message.body, 'from the backend: ☃');
            assert.equal(message.headers.destination, '/topic/open.news');
            // The client escapes in version 1.2 only.
            const special = version === '1.2' ? 'a:b\nc\\' : 'a b';
            const headers = { 'content-type': 'application/json', special };
            await send(client, { destination: '/topic/open.news', body: '{"a":1}', headers });
            message = await messages.next();
            assert.deepEqual(JSON.parse(message.body), { a: 1 });
            assert.equal(message.headers['content-type'], 'application/json');
            assert.equal(message.headers.special, special);
            const binary = new Uint8Array([0, 255, 0, 10, 13]);
            await send(client, { destination: '/topic/open.news', binaryBody: binary });
            message = await messages.next();
            assert.deepEqual([...message.binaryBody], [...binary]);
            messages.subscription.unsubscribe();
            await send(client, { destination: '/topic/open.news', body: 'to nobody' });
            await client.deactivate();
            assert.equal(messages.items.length, 0);
            assert.equal(await client.closes.next('the close'), 1000);
        }
    },

    // Several ids for one destination, each with its messages.
    async twice() {
        const client = await connect({}, '/stomp/websocket');
        const first = await subscribe(client, '/topic/open.a', { id: 'x' });
        const second = await subscribe(client, '/topic/open.a', { id: 'y' });
        await publish('open.a', '1');
        assert.equal((await first.next()).headers.subscription, 'x');
        assert.equal((await second.next()).headers.subscription, 'y');
        first.subscription.unsubscribe();
        await send(client, { destination: '/topic/open.a', body: '2' });
        assert.equal((await second.next()).body, '2');
        assert.equal(first.items.length, 0);
        await client.deactivate();
    },

    async transactions() {
        const client = await connect();
        const messages = await subscribe(client, '/topic/open.t');
        const [kept, aborted] = [client.begin(), client.begin()];
        for (const [transaction, body] of [[kept, '1'], [aborted, 'never'], [kept, '2']]) {
            client.publish({ destination: '/topic/open.t', body, headers: { transaction: transaction.id } });
        }
        aborted.abort();
        await send(client, { destination: '/topic/open.t', body: 'outside' });
        kept.commit();
        const bodies = [];
        for (let count = 0; count < 3; count++) bodies.push((await messages.next()).body);
        assert.deepEqual(bodies, ['outside', '1', '2']);
        await client.deactivate();
    },

    // The client gives up after two of the server's heart-beats are missing, and the server after three of its own.
    async heartbeats() {
        const client = await connect({ heartbeatIncoming: 1000, heartbeatOutgoing: 1000 });
        assert.equal(client.first.headers['heart-beat'], '1000,1000');
        const messages = await subscribe(client, '/topic/open.h');
        await new Promise((resolve) => setTimeout(resolve, 5000));
        await publish('open.h', 'still here');
        assert.equal((await messages.next()).body, 'still here');
        await client.deactivate();
    },

    // A message-id is a position: SUBSCRIBE with `since` receives what followed it.
    async recovery() {
        const client = await connect();
        const messages = await subscribe(client, '/topic/open.r');
        await publish('open.r', '1');
        const since = (await messages.next()).headers['message-id'];
        await client.deactivate();
        for (const body of ['2', '3']) await publish('open.r', body);
        const again = await connect();
        const missed = await subscribe(again, '/topic/open.r', { since });
        assert.deepEqual([(await missed.next()).body, (await missed.next()).body], ['2', '3']);
        missed.subscription.unsubscribe();
        const lost = await subscribe(again, '/topic/open.r', { since: since.replace(/^.{13}/, 'aaaaaaaaaaaaa') });
        assert.equal((await lost.next()).headers.lost, 'true');
        await publish('open.r', '4');
        assert.equal((await lost.next()).body, '4');
        await again.deactivate();
    },

    // Large messages arrive in several WebSocket messages.
    async split() {
        const client = await connect({ splitLargeFrames: true, maxWebSocketChunkSize: 1000 });
        const messages = await subscribe(client, '/topic/open.s');
        const body = 'y'.repeat(60_000);
        await send(client, { destination: '/topic/open.s', body });
        assert.equal((await messages.next()).body, body);
        await client.deactivate();
    },

    async refusals() {
        const rows = [
            [(client) => client.subscribe('/topic/closed:a', () => {}), 'access refused'],
            [(client) => client.subscribe('/app/hello', () => {}), 'cannot subscribe'],
            [(client) => client.subscribe('/topic/open.a', () => {}, { selector: "a = 'b'" }), 'cannot subscribe'],
            [(client) => client.publish({ destination: '/topic/mute:a', body: '1' }), 'access refused'],
            [(client) => client.publish({ destination: '/topic/open.a', body: 'z'.repeat(70_000) }), null],
            [(client) => client.commit('none'), 'transaction failed'],
            [(client) => client.unsubscribe('none'), 'cannot unsubscribe'],
        ];
        for (const [action, message] of rows) {
            const client = await connect();
            action(client);
            if (message === null) {
                assert.ok([1002, 1009].includes(await client.closes.next('the close')));
            } else {
                assert.equal((await client.errors.next('ERROR')).headers.message, message);
                assert.equal(await client.closes.next('the close'), 1002);
            }
            await client.deactivate();
        }
    },

    // With a token: its user, and the user's own destination, which nobody else reads.
    async users() {
        const client = await connect();
        assert.equal(client.first.headers['user-name'], 'ann');
        const messages = await subscribe(client, '/user/queue/reply');
        await publish('queue%2Freply%23ann', 'for ann');
        const message = await messages.next();
        assert.deepEqual([message.body, message.headers.destination], ['for ann', '/user/queue/reply']);
        await client.deactivate();
        const stranger = await connect({ connectHeaders: { passcode: 'not a token' } });
        assert.equal(stranger.first.command, 'ERROR');
        assert.equal(stranger.first.headers.message, 'access refused');
        await stranger.deactivate();
        const anonymous = await connect({ connectHeaders: {} });
        anonymous.subscribe('/topic/queue/reply#ann', () => {});
        assert.equal((await anonymous.errors.next('ERROR')).headers.message, 'access refused');
        await anonymous.deactivate();
    },
};

scenarios[scenario]().then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
});
