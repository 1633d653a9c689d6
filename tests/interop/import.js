// Services that are not ours, for `ringfeed test`: each on a port of its own, which is printed. And judges of what
// `ringfeed test` writes.
'use strict';

const { readFileSync, writeFileSync } = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const { WebSocketServer } = require('ws');

function listen(server) {
    server.listen(0, '127.0.0.1', () => console.log(server.address().port));
}

// Calls `serve` for each connection.
function serveWebSocket(serve, options = {}) {
    const server = http.createServer();
    new WebSocketServer({ server, ...options }).on('connection', serve);
    listen(server);
}

// Sends what `make` returns for 0, 1, 2 … until the connection ends.
function repeat(socket, make) {
    let n = 0;
    const timer = setInterval(() => socket.send(make(n++)), 5);
    socket.on('close', () => clearInterval(timer));
}

// A market: three types of messages, optional and nullable fields, maps, tuples, unions and hostile names.
function market(n, isChanged) {
    switch (n % 3) {
        case 0:
            return {
                type: 'trade', symbol: `S${n}`, price: isChanged ? n + 0.5 : `${n}.25`, E: n, e: -n,
                at: new Date(n * 1000).toISOString(), side: n % 2 ? 'buy' : 'sell', maker: n % 4 ? null : { id: n },
                ...(n % 2 ? {} : { note: 'a' }),
            };
        case 1:
            return {
                type: 'book', levels: [['1.5', n], ['2.5', n + 1]], 'x-y "z" */': 1, class: 'a', self: n,
                big: 2 ** 53 - 1,
                mixed: [n, 'text', { deep: [[n]] }, null], sizes: { 1: n, 2: n, 3: n, 4: n, 5: n }, password: 'secret',
                ...(isChanged ? {} : { depth: 2 }),
            };
        default:
            return { type: 'heart-beat', empty: {}, list: [], nothing: null, ok: true };
    }
}

const services = {
    market: () => serveWebSocket((socket) => repeat(socket, (n) => JSON.stringify(market(n, false)))),
    changed: () => serveWebSocket((socket) => repeat(socket, (n) => JSON.stringify(market(n, true)))),
    socketio() {
        const server = http.createServer();
        const { Server } = require('socket.io');
        new Server(server, { pingInterval: 100, pingTimeout: 1000 }).on('connection', (socket) => {
            let n = 0;
            const timer = setInterval(() => socket.emit('price', { symbol: 'A', price: n++ }), 5);
            socket.on('disconnect', () => clearInterval(timer));
        });
        listen(server);
    },
    graphql() {
        const { buildSchema } = require('graphql');
        const { useServer } = require('graphql-ws/use/ws');
        const schema = buildSchema('type Query { a: Int } type Subscription { ticks: Int }');
        const roots = {
            subscription: {
                async *ticks() {
                    for (let n = 0; ; n++) {
                        yield { ticks: n };
                        await new Promise((resolve) => setTimeout(resolve, 5));
                    }
                },
            },
        };
        const server = http.createServer();
        useServer({ schema, roots }, new WebSocketServer({ server, path: '/graphql' }));
        listen(server);
    },
    // The first messages of servers that no package manager here has.
    signalr: () => serveWebSocket((socket) => {
        socket.once('message', () => {
            socket.send('{}\u001e');
            repeat(socket, (n) => `{"type":1,"target":"price","arguments":[${n}]}\u001e`);
        });
    }),
    phoenix: () => serveWebSocket((socket) => {
        socket.on('message', (text) => {
            const [join, ref, topic] = JSON.parse(text);
            socket.send(JSON.stringify([join, ref, topic, 'phx_reply', { status: 'ok', response: {} }]));
        });
    }),
    jsonrpc: () => serveWebSocket((socket) => {
        repeat(socket, (n) => JSON.stringify({ jsonrpc: '2.0', method: 'tick', params: [n] }));
    }),
    pusher: () => serveWebSocket((socket) => {
        socket.send(JSON.stringify({ event: 'pusher:connection_established', data: '{"socket_id":"1.1"}' }));
    }),
    mqtt: () => serveWebSocket((socket) => {
        socket.once('message', (packet, isBinary) => {
            if (isBinary) {
                socket.send(Buffer.from([0x20, 2, 0, 0]));
            }
        });
    }),
    text: () => serveWebSocket((socket) => repeat(socket, (n) => `tick ${n}`)),
    // Passes every bound, one after the other; the last ends the connection.
    hostile: () => serveWebSocket((socket) => {
        socket.send('['.repeat(5000));
        socket.send('['.repeat(100) + ']'.repeat(100));
        socket.send(JSON.stringify(Object.fromEntries(Array.from({ length: 20000 }, (_, n) => [`k${n}`, n]))));
        for (let n = 0; n < 300; n++) {
            const name = `\u001b[2J*/"\u2028'${'\\'}${n}`;
            socket.send(JSON.stringify({ [name]: n, [`__proto__${n}`]: { class: n }, [`q${n}`]: 1 }));
        }
        socket.send('x'.repeat(5 * 1024 * 1024));
    }),
    // Masked frames are for clients only (RFC 6455 §5.1).
    broken: () => serveWebSocket((socket) => {
        socket._socket.write(Buffer.from([0x81, 0x81, 1, 2, 3, 4, 5]));
    }),
};

// Whether a document of AsyncAPI is valid: what the parser of the AsyncAPI initiative says.
async function checkAsyncapi(file) {
    const { Parser } = require('@asyncapi/parser');
    const { document, diagnostics } = await new Parser().parse(readFileSync(file, 'utf8'));
    const errors = diagnostics.filter((found) => found.severity === 0);
    if (!document || errors.length > 0) {
        throw new Error(JSON.stringify(errors, null, 2));
    }
    console.log(document.allMessages().length);
}

// Whether the types compile, and take all samples.
function checkTypescript(file, samples) {
    const ts = require('typescript');
    const lines = readFileSync(samples, 'utf8').split('\n').filter((line) => line);
    const program = path.join(path.dirname(file), 'samples.ts');
    const module = `./${path.basename(file, '.ts')}`;
    const list = lines.map((line) => `    ${line},\n`).join('');
    writeFileSync(program, `import { Message } from '${module}';\nexport const all: Message[] = [\n${list}];\n`);
    const compiled = ts.createProgram([program], { strict: true, noEmit: true, target: ts.ScriptTarget.ES2020 });
    const found = ts.getPreEmitDiagnostics(compiled);
    if (found.length > 0) {
        const text = found.map((each) => ts.flattenDiagnosticMessageText(each.messageText, '\n')).join('\n');
        throw new Error(`${text}\n${readFileSync(file, 'utf8')}`);
    }
    console.log(lines.length);
}

const [command, ...files] = process.argv.slice(2);
if (command === 'check-asyncapi') {
    checkAsyncapi(...files).catch((error) => {
        console.error(error);
        process.exit(1);
    });
} else if (command === 'check-typescript') {
    checkTypescript(...files);
} else {
    services[command]();
}
