// sockjs.js SCENARIO TRANSPORT HOST:PORT CONTROL_URL [CHROMIUM]
//
// Drives the server with npm's `sockjs-client` on one transport. Each scenario is a function below; the process ends
// with status 0 when all was as it should be.
'use strict';

const assert = require('node:assert/strict');
const http = require('node:http');
const path = require('node:path');
const { Client } = require('@stomp/stompjs');
const SockJS = require('sockjs-client');
const { withPage } = require('./launch.js');

const PATIENCE = 60_000;
const [scenario, transport, host, controlUrl, chromium] = process.argv.slice(2);

// In Node.js the client sends each body as one chunk without its length. The server rejects that; browsers state it.
const { write } = http.ClientRequest.prototype;
http.ClientRequest.prototype.write = function writeWithLength(chunk, ...rest) {
    if (!this.headersSent && !this.hasHeader('Content-Length')) {
        this.setHeader('Content-Length', Buffer.byteLength(chunk));
    }
    return write.call(this, chunk, ...rest);
};

function within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no end of waiting for ${what} on ${transport}`)), PATIENCE);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const event = (source, name) => within(new Promise((resolve) => { source[`on${name}`] = resolve; }), name);

async function publish(topic, body) {
    const response = await fetch(`${controlUrl}/publish/${topic}`, { method: 'POST', body });
    assert.equal(response.status, 200, await response.text());
}

const scenarios = {
    // Messages with all kinds of characters, some in one request; then an end from each side.
    async echo() {
        const sock = new SockJS(`http://${host}/echo`, null, { transports: [transport] });
        await event(sock, 'open');
        assert.equal(sock.transport, transport);
        const texts = ['a', '', '"\\\n\u0000', 'grüße ☃ 😀 \u2028\ufffe', 'x'.repeat(10_000)];
        const sent = Array.from({ length: 40 }, (_, number) => texts[number % texts.length] + number);
        const received = [];
        const all = within(new Promise((resolve) => {
            sock.onmessage = ({ data }) => { if (received.push(data) === sent.length) resolve(); };
        }), 'the messages');
        for (const text of sent) sock.send(text);
        await all;
        assert.deepEqual(received, sent);
        const closed = event(sock, 'close');
        sock.close();
        assert.equal((await closed).code, 1000);
    },

    // Frames of STOMP both ways, publications from elsewhere, and an ERROR with the close that follows it.
    async stomp() {
        const opened = [];
        const client = new Client({
            webSocketFactory: () => new SockJS(`http://${host}/stomp`, null, { transports: [transport] }),
            reconnectDelay: 0,
        });
        const connected = within(new Promise((resolve) => { client.onConnect = resolve; }), 'CONNECTED');
        client.activate();
        opened.push(await connected);
        const messages = [];
        let wake = () => {};
        const next = async () => {
            while (messages.length === 0) await within(new Promise((resolve) => { wake = resolve; }), 'a message');
            return messages.shift();
        };
        const receipt = within(new Promise((resolve) => client.watchForReceipt('r', resolve)), 'the receipt');
        const topic = `news-${transport}`;
        client.subscribe(`/topic/${topic}`, (message) => { messages.push(message); wake(); }, { receipt: 'r' });
        await receipt;
        await publish(topic, 'from the backend: ☃');
        assert.equal((await next()).body, 'from the backend: ☃');
        const body = `"${'y'.repeat(50_000)}\n\\`;
        client.publish({ destination: `/topic/${topic}`, body, headers: { special: 'a:b' } });
        const message = await next();
        assert.deepEqual([message.body, message.headers.special], [body, 'a:b']);
        // More than a streaming response may have.
        for (let number = 0; number < 10; number++) await publish(topic, `${number}${'z'.repeat(40_000)}`);
        for (let number = 0; number < 10; number++) assert.equal((await next()).body[0], String(number));
        const [error, closed] = [event(client, 'StompError'), event(client, 'WebSocketClose')];
        client.publish({ destination: '/nowhere', body: '' });
        assert.equal((await error).headers.message, 'unusable destination');
        assert.equal((await closed).code, 1002);
        await client.deactivate();
    },

    // The same in a real browser, from a page of the server's own origin.
    async browser() {
        const modules = process.env.NODE_PATH;
        const scripts = ['sockjs-client/dist/sockjs.min.js', '@stomp/stompjs/bundles/stomp.umd.min.js'];
        await withPage(chromium, {}, async (page) => {
            await page.goto(`http://${host}/`);
            for (const script of scripts) await page.addScriptTag({ path: path.join(modules, script) });
            for (const each of transport.split(',')) {
                const result = await page.evaluate((each) => new Promise((resolve, reject) => {
                    setTimeout(() => reject(new Error('timeout')), 60_000);
                    let sock, used;
                    const client = new StompJs.Client({
                        webSocketFactory: () => (sock = new SockJS('/stomp', null, { transports: [each] })),
                        reconnectDelay: 0,
                        onConnect: () => {
                            used = sock.transport;
                            client.subscribe(`/topic/browser-${each}`, async (message) => {
                                await client.deactivate();
                                resolve([used, message.body]);
                            }, { receipt: 'r' });
                            client.watchForReceipt('r', () => {
                                client.publish({ destination: `/topic/browser-${each}`, body: 'hello ☃' });
                            });
                        },
                        onStompError: (frame) => reject(new Error(frame.headers.message)),
                    });
                    client.activate();
                }), each);
                assert.deepEqual(result, [each, 'hello ☃']);
            }
        });
    },
};

scenarios[scenario]().then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
});
