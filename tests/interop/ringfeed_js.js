// ringfeed_js.js SCENARIO URL SECRET LIBRARY
//
// Goes through a scenario with clients/js on Node.js. What it wants from the other side of the test goes to standard
// output, one line each: see world.rs.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { pathToFileURL } = require('node:url');
const { gzipSync } = require('node:zlib');

const WebSocket = require('ws');

const PATIENCE = 60_000;
const cue = (line) => console.log(line);

function check(holds, what, ...details) {
    if (!holds) {
        throw new Error(`${what} ${details.map((detail) => JSON.stringify(detail)).join(' ')}`);
    }
}

// The first value for which `accepts` holds.
function until(observable, accepts, what) {
    return new Promise((resolve, reject) => {
        const late = new Error(`nothing for ${PATIENCE} ms: ${what}: ${JSON.stringify(observable.value)}`);
        const timer = setTimeout(() => reject(late), PATIENCE);
        let leave = null;
        leave = observable.subscribe((value) => {
            if (accepts(value)) {
                clearTimeout(timer);
                resolve(value);
                // The first call is before `subscribe` returns.
                queueMicrotask(() => leave());
            }
        });
    });
}

async function failure(promise) {
    try {
        await promise;
    } catch (error) {
        return error;
    }
    throw new Error('this should have failed');
}

function sign(secret, claims) {
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const content = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
    return `${content}.${crypto.createHmac('sha256', secret).update(content).digest('base64url')}`;
}

const range = (first, end) => Array.from({ length: end - first }, (_, index) => first + index);
const numbers = (items) => [...items.values()].map(({ n }) => n);
const same = (found, wanted, what) => check(JSON.stringify(found) === JSON.stringify(wanted), what, found, wanted);

// What the variable should have after these messages.
const MODELS = {
    snapshot: (all) => all.at(-1),
    append: (all, limit) => all.slice(-limit),
    prepend: (all, limit) => all.slice(-limit).reverse(),
};

const scenarios = {
    // Each mode against a model, while the network is cut again and again.
    async modes(env) {
        const feed = env.connect();
        const limit = 30;
        const parse = ({ n }) => n;
        const variables = Object.keys(MODELS).map((mode) => feed.variable('history:modes', { mode, limit, parse }));
        const seen = [];
        const keyed = feed.variable('history:modes', {
            mode: 'keyed', key: 'k', parse: ({ n }) => ({ n, k: `k${n % 7}` }), onMessage: ({ n }) => seen.push(n),
        });
        const leave = [...variables, keyed].map((variable) => variable.subscribe(() => {}));
        await until(feed, ({ state }) => state === 'open', 'open');
        let next = 0;
        for (let round = 0; round < 4; round += 1) {
            cue(`${round % 2 ? 'cut' : 'publish'} history:modes ${next} 50`);
            next += 50;
            await until(variables[0], (value) => value === next - 1, `message ${next - 1}`);
        }
        const all = range(0, next);
        for (const variable of variables) {
            same(variable.value, MODELS[variable.mode](all, limit), variable.mode);
            check(variable.lost === 0 && variable.missed === 0, 'a gap', variable.mode, variable.lost, variable.missed);
        }
        same(seen, all, 'each message once, in order');
        const newest = (k) => [`k${k}`, next - 1 - ((next - 1 - k) % 7)];
        same([...keyed.value].map(([key, { n }]) => [key, n]).sort(), range(0, 7).map(newest), 'keyed');
        const before = variables[1].value;
        check(before === variables[1].value, 'a value that has not changed is another');
        cue(`publish history:modes ${next} 1`);
        const after = await until(variables[1], (value) => value.at(-1) === next, 'one more');
        check(after !== before && before.at(-1) === next - 1, 'a value has been changed in place');
        leave.forEach((end) => end());
        feed.close();
    },

    // A restart loses the history: that is reported, and what follows arrives.
    async lost(env) {
        // Observers see one state a frame at most, and the client may be back within one.
        const reasons = [];
        let feed = null;
        feed = env.connect({ beforeOpen: () => void reasons.push(feed?.value.reason?.code) });
        let [losses, recoveries] = [0, 0];
        const variable = feed.variable('history:lost', {
            mode: 'append',
            history: 100,
            onLost: () => { losses += 1; },
            onRecovered: (count) => { recoveries += count; },
        });
        const leave = variable.subscribe(() => {});
        await until(feed, ({ state }) => state === 'open', 'open');
        cue('publish history:lost 0 5');
        await until(variable, (value) => value.length === 5, 'five');
        cue('cut history:lost 5 5');
        await until(variable, (value) => value.length === 10, 'ten');
        same([losses, recoveries, variable.lost], [0, 5, 0], 'recovered');
        cue('restart');
        cue('publish history:lost 10 5');
        await until(variable, (value) => numbers(value).at(-1) === 14, 'after the restart');
        same(reasons.at(-1), 3001, 'the reason of the restart');
        same(losses, 1, 'one loss');
        same(variable.lost, 1, 'one loss of the variable');
        check(variable.state === 'open' && feed.value.reason === null, 'open again', variable.state, feed.value);
        leave();
        feed.close();
    },

    // A late subscriber begins with the history, and misses nothing of what comes meanwhile.
    async history(env) {
        const feed = env.connect();
        const first = feed.variable('history:late');
        const leave = first.subscribe(() => {});
        await until(feed, ({ state }) => state === 'open', 'open');
        cue('publish history:late 0 40');
        await until(first, (value) => value?.n === 39, 'forty');
        const late = ['append', 'prepend'].map((mode) => feed.variable('history:late', { mode, history: 10 }));
        leave.late = late.map((variable) => variable.subscribe(() => {}));
        cue('publish history:late 40 20');
        await Promise.all(late.map((variable) => until(variable, (value) => numbers(value).includes(59), 'sixty')));
        // The history's ten end anywhere from 39 on; from then on nothing is missing.
        for (const variable of late) {
            const found = variable.mode === 'append' ? numbers(variable.value) : numbers(variable.value).reverse();
            check(found.length >= 10 && found.length <= 30, 'how many', found);
            same(found, range(60 - found.length, 60), variable.mode);
        }
        const page = await feed.call('history', { channel: 'history:late', limit: 2, reverse: true });
        same(page.publications.map(({ data }) => data.n), [59, 58], 'a page');
        feed.close();
    },

    // Each transport, with commands, recovery and the end.
    async transports(env) {
        for (const transport of ['websocket', 'http_stream', 'sse']) {
            const topic = `history:${transport}`;
            const feed = env.connect({ transports: [transport] });
            const variable = feed.variable(topic, { mode: 'append', parse: ({ n }) => n });
            const room = feed.variable('room:transports', { mode: 'append' });
            const leave = [variable, room].map((one) => one.subscribe(() => {}));
            await until(feed, ({ state }) => state === 'open', transport);
            check(feed.value.transport === transport && feed.value.client.length === 36, 'its status', feed.value);
            await Promise.all(range(0, 20).map((n) => room.send({ n })));
            await until(room, (value) => value.length === 20, 'its own messages');
            same(numbers(room.value), range(0, 20), 'commands overtake each other');
            cue(`publish ${topic} 0 10`);
            await until(variable, (value) => value.length === 10, 'ten');
            cue(`cut ${topic} 10 10`);
            await until(variable, (value) => value.length === 20, 'twenty');
            same(variable.value, range(0, 20), transport);
            leave.forEach((end) => end());
            feed.close();
        }
    },

    // Where a transport does not open, the next one is tried.
    async fallback(env) {
        class Blocked extends EventTarget {
            constructor() {
                super();
                queueMicrotask(() => this.onclose({ code: 1006, reason: '' }));
            }

            close() {}
        }
        const feed = env.connect({ WebSocket: Blocked });
        await until(feed, ({ state }) => state === 'open', 'the second transport');
        check(feed.value.transport === 'http_stream', 'the transport', feed.value);
        feed.close();
        check(feed.value.state === 'closed' && feed.value.reason.code === 1000, 'closed', feed.value);
        const error = await failure(feed.publish('room:1', 1));
        check(error.message === 'closed', 'a closed connection publishes', error.message);
        feed.open();
        await until(feed, ({ state }) => state === 'open', 'open again');
        feed.close();
    },

    // Presence, messages between clients, and what is refused.
    async presence(env) {
        const [one, two] = [env.connect(), env.connect()];
        const talk = one.variable('room:1', { mode: 'append' });
        const leave = [talk.subscribe(() => {})];
        await until(one, ({ state }) => state === 'open', 'open');
        // The topic is subscribed to already, without joins.
        const here = one.variable('room:1', { mode: 'presence' });
        await until(here, (value) => value.size === 1, 'alone');
        leave.push(here.subscribe(() => {}));
        const other = two.variable('room:1', { mode: 'presence' });
        leave.push(other.subscribe(() => {}));
        await until(here, (value) => value.size === 2, 'two');
        await until(other, (value) => value.size === 2, 'two, for the other');
        check(here.value.has(two.value.client), 'the other is there', [...here.value.keys()]);
        await other.send({ text: 'häi\n"' });
        await until(talk, (value) => value.some(({ text }) => text === 'häi\n"'), 'what the other has sent');
        two.close();
        await until(here, (value) => value.size === 1, 'alone again');
        same(Object.keys((await one.call('presence', { channel: 'room:1' })).presence), [one.value.client], 'asked');

        const refused = await new Promise((resolve) => {
            const variable = one.variable('locked:a', { onError: (error) => resolve({ error, variable }) });
            variable.subscribe(() => {});
        });
        check(refused.error.code === 103 && refused.variable.state === 'closed', 'no permission', refused.error.code);
        const error = await failure(one.publish('locked:a', 1));
        check(error.code === 103 && !error.temporary, 'publishing is not for all', error);
        leave.forEach((end) => end());
        one.close();
    },

    // Tokens: used, refreshed, expired, invalid.
    async tokens(env) {
        const in_ = (seconds) => Math.floor(Date.now() / 1000) + seconds;
        let asked = 0;
        const getToken = async () => {
            asked += 1;
            return env.sign({ sub: '42', exp: in_(asked === 1 ? -10 : 3) });
        };
        const subscriptions = [];
        const getSubscriptionToken = async (channel) => {
            subscriptions.push(channel);
            return env.sign({ sub: '42', channel, exp: in_(3) });
        };
        const feed = env.connect({ getToken });
        const variable = feed.variable('locked:mine', { mode: 'append', getToken: getSubscriptionToken });
        const leave = variable.subscribe(() => {});
        await until(feed, ({ state }) => state === 'open', 'open after an expired token');
        check(asked === 2, 'tokens', asked);
        const { client } = feed.value;
        const start = Date.now();
        // Longer than the tokens and the server's grace.
        while (Date.now() - start < 9000) {
            await new Promise((resolve) => setTimeout(resolve, 500));
            const { value } = feed;
            check(value.state === 'open' && value.client === client, 'the token has not been refreshed', value);
        }
        check(asked >= 4 && subscriptions.length >= 3, 'refreshes', asked, subscriptions.length);
        check(variable.state === 'open', 'the subscription token has not been refreshed', variable.reason);
        cue('publish locked:mine 0 1');
        await until(variable, (value) => value.length === 1, 'a message of the locked topic');
        leave();
        feed.close();

        const invalid = env.connect({ token: 'a.b.c' });
        const { reason } = await until(invalid, ({ state }) => state === 'closed', 'closed for good');
        check(reason.code === 3500, 'the code of an invalid token', reason);
        const expired = env.connect({ token: env.sign({ sub: '42', exp: in_(-10) }) });
        check((await until(expired, ({ state }) => state === 'closed', 'closed')).reason.code === 109, 'expired');
    },

    // Hooks may change and prevent.
    async hooks(env) {
        let allowed = false;
        const feed = env.connect({
            beforeOpen: async () => allowed,
            beforeSend: (data) => (data.n < 0 ? false : { n: data.n * 2 }),
            beforeClose: () => allowed,
        });
        await until(feed, ({ state }) => state === 'closed', 'prevented');
        allowed = true;
        feed.open();
        const variable = feed.variable('room:hooks');
        const leave = variable.subscribe(() => {});
        await until(feed, ({ state }) => state === 'open', 'allowed');
        await variable.send({ n: 21 });
        await until(variable, (value) => value?.n === 42, 'changed');
        check((await failure(variable.send({ n: -1 }))).message === 'rejected by beforeSend', 'prevented');
        allowed = false;
        feed.close();
        check(feed.value.state === 'open', 'closed all the same');
        allowed = true;
        leave();
        feed.close();
        check(feed.value.state === 'closed', 'not closed');
    },

    // Every wait is random from the first attempt on, and grows.
    async backoff(env) {
        const waits = [];
        class Down {
            constructor() {
                queueMicrotask(() => this.onclose({ code: 1006, reason: '' }));
            }

            close() {}
        }
        for (let client = 0; client < 40; client += 1) {
            const retry = { min: 100_000, max: 200_000 };
            const feed = env.connect({ WebSocket: Down, transports: ['websocket'], retry });
            const { retryAt } = await until(feed, ({ state }) => state === 'waiting', 'down');
            waits.push(retryAt - Date.now());
            feed.close();
        }
        check(waits.every((wait) => wait <= 100_000), 'the first wait is too long', waits);
        check(Math.min(...waits) < 25_000 && Math.max(...waits) > 60_000, 'the waits are not spread', waits);
    },

    // A million messages with a limit take no more memory than ten thousand.
    async memory(env) {
        let socket = null;
        class Fake {
            constructor() {
                socket = this;
                queueMicrotask(() => this.onopen());
            }

            send(text) {
                for (const line of text.split('\n')) {
                    const { id, connect, subscribe } = JSON.parse(line);
                    const result = connect ? { connect: { client: 'c' } } : subscribe ? { subscribe: {} } : {};
                    queueMicrotask(() => this.onmessage({ data: JSON.stringify({ id, ...result }) }));
                }
            }

            close() {}
        }
        const feed = env.connect({ WebSocket: Fake, transports: ['websocket'] });
        const modes = ['snapshot', 'append', 'prepend', 'keyed'];
        const variables = modes.map((mode) => feed.variable('a', { mode, limit: 100, key: 'k' }));
        const leave = variables.map((variable) => variable.subscribe(() => {}));
        await until(feed, ({ state }) => state === 'open', 'open');
        require('node:v8').setFlagsFromString('--expose_gc');
        const collect = require('node:vm').runInNewContext('gc');
        const heap = () => {
            collect();
            return process.memoryUsage().heapUsed;
        };
        let before = 0;
        for (let n = 1; n <= 1_000_000; n += 1) {
            const data = { n, k: `k${n}`, text: 'x'.repeat(50) };
            socket.onmessage({ data: JSON.stringify({ push: { channel: 'a', pub: { data, offset: n } } }) });
            if (n % 10_000 === 0) {
                await new Promise((resolve) => setImmediate(resolve));
            }
            if (n === 10_000) {
                before = heap();
            }
        }
        const grown = heap() - before;
        check(grown < 2_000_000, 'the heap has grown', grown);
        check(variables[0].value.n === 1_000_000 && variables[1].value.length === 100, 'the last');
        check(variables[2].value[0].n === 1_000_000 && variables[3].value.size === 100, 'the last, too');
        console.error(`the heap has grown by ${grown} bytes`);
        leave.forEach((end) => end());
        feed.close();
    },

    // The one line for each framework.
    async frameworks(env) {
        const load = (name) => import(pathToFileURL(require.resolve(name)));
        const feed = env.connect();
        const price = feed.variable('history:frameworks', { parse: ({ n }) => n, initial: -1 });
        const hold = price.subscribe(() => {});
        await until(feed, ({ state }) => state === 'open', 'open');

        const { get, derived } = await load('svelte/store');
        check(get(price) === -1, 'Svelte', get(price));
        const doubled = derived(price, (value) => value * 2);

        const React = require('react');
        const { act, create } = require('react-test-renderer');
        globalThis.IS_REACT_ACT_ENVIRONMENT = true;
        const usePrice = () => React.useSyncExternalStore(price.subscribe, () => price.value);
        const Price = () => React.createElement('b', null, usePrice());
        let rendered = null;
        act(() => { rendered = create(React.createElement(Price)); });
        same(rendered.toJSON().children, ['-1'], 'React');

        const { shallowRef, computed } = require('vue');
        const ref = shallowRef(); price.subscribe((value) => { ref.value = value; });
        const tripled = computed(() => ref.value * 3);

        const { from } = require('rxjs');
        const observed = [];
        const subscription = from(price).subscribe((value) => observed.push(value));

        const iterated = [];
        const loop = (async () => {
            for await (const value of price) {
                iterated.push(value);
                if (value === 6) {
                    break;
                }
            }
        })();
        globalThis.IS_REACT_ACT_ENVIRONMENT = false;
        cue('publish history:frameworks 0 7');
        await until(price, (value) => value === 6, 'seven');
        await loop;
        await until({ subscribe: doubled.subscribe }, (value) => value === 12, 'Svelte');
        await new Promise((resolve) => setTimeout(resolve, 100));
        same(rendered.toJSON().children, ['6'], 'React');
        check(tripled.value === 18, 'Vue', tripled.value);
        check(observed[0] === -1 && observed.at(-1) === 6, 'RxJS', observed);
        check(iterated[0] === -1 && iterated.at(-1) === 6, 'for await', iterated);
        subscription.unsubscribe();
        hold();
        process.nextTick(() => feed.close());
    },

    // The types compile, also against React's, and mistakes in them do not.
    async types(env) {
        const directory = fs.mkdtempSync(path.join(require('node:os').tmpdir(), 'ringfeed-types-'));
        const source = `
import { connect, FeedError, type Variable, type Client } from ${JSON.stringify(env.library)};
const feed = connect("https://example.com", { getToken: async () => "t", retry: { max: 1000 } });
const price: Variable<number | undefined> = feed.variable("a", { parse: ({ p }: { p: number }) => p });
const log: Variable<readonly string[]> = feed.variable<string>("a", { mode: "append", limit: 10, history: 5 });
type Item = { id: string };
const all: Variable<ReadonlyMap<string, Item>> = feed.variable<Item>("a", { mode: "keyed", key: "id" });
const here: Variable<ReadonlyMap<string, Client>> = feed.variable("a", { mode: "presence" });
const end: () => void = price.subscribe((value) => value?.toFixed());
async function loop() { for await (const lines of log) lines.at(-1)?.trim(); await log.send({}); }
type Page = { publications?: { offset?: number }[] };
const page: Promise<Page> = feed.call("history", { channel: "a", limit: 1 });
const failed = (error: unknown) => error instanceof FeedError && error.code === 103;
// @ts-expect-error There is no such mode.
feed.variable("a", { mode: "sometimes" });
// @ts-expect-error Values are not changed in place.
log.value.push("x");
// @ts-expect-error There is no such transport.
connect("https://example.com", { transports: ["carrier pigeon"] });
`;
        const file = path.join(directory, 'use.ts');
        fs.writeFileSync(file, source);
        const tsc = require.resolve('typescript/bin/tsc');
        const flags = '--noEmit --strict --target es2022 --module nodenext --lib es2022,dom,dom.iterable'.split(' ');
        flags.push('--typeRoots', directory, file, env.library.replace('ringfeed.js', 'ring-feed.d.ts'));
        try {
            execFileSync(process.execPath, [tsc, ...flags], { encoding: 'utf8' });
        } catch (error) {
            throw new Error(error.stdout);
        } finally {
            fs.rmSync(directory, { recursive: true });
        }
    },

    // The core fits in four kilobytes, and the table of the README has the true sizes of all.
    async size(env) {
        const { minify } = require('terser');
        const directory = path.dirname(env.library);
        const compressed = (text) => gzipSync(text, { level: 9 }).length;
        const own = {};
        for (const name of ['ringfeed.js', 'ringfeed-http.js', 'ring-feed.js']) {
            const source = fs.readFileSync(path.join(directory, name), 'utf8');
            const { code } = await minify(source, { module: true, compress: { passes: 3 } });
            own[name] = [compressed(code), compressed(source)];
        }
        check(own['ringfeed.js'][0] <= 4096, 'the core is larger than 4 KB', own);
        const published = {
            'reconnecting-websocket': 'dist/reconnecting-websocket-iife.min.js',
            '@stomp/stompjs': 'bundles/stomp.umd.min.js',
            'socket.io-client': 'dist/socket.io.min.js',
            'pusher-js': 'dist/web/pusher.min.js',
            centrifuge: 'dist/centrifuge.js',
        };
        const readme = fs.readFileSync(path.join(directory, 'README.md'), 'utf8');
        const modules = process.env.NODE_PATH;
        const row = (name, bytes) => {
            const isRow = (text) => text.startsWith(`| \`${name}\``) && text.includes('KB');
            const line = readme.split('\n').find(isRow);
            check(line, 'the table has no row', name);
            const [, written] = line.match(/ (\d+\.\d) KB/);
            check(Math.abs(Number(written) * 1000 - bytes) <= 100, 'the table says', name, written, bytes);
        };
        for (const [name, file] of Object.entries(published)) {
            row(name, compressed(fs.readFileSync(path.join(modules, name, file))));
        }
        for (const [name, [minified]] of Object.entries(own)) {
            row(name, minified);
        }
        console.error(JSON.stringify(own));
    },
};

async function main(scenario, url, secret, library) {
    const { connect } = await import(pathToFileURL(library));
    const { EventSource } = require('eventsource');
    const options = { WebSocket, EventSource, retry: { min: 50, max: 1000 } };
    await scenarios[scenario]({
        connect: (more) => connect(url, { ...options, ...more }),
        sign: (claims) => sign(secret, claims),
        library,
    });
    console.log('done');
}

main(...process.argv.slice(2)).then(
    () => process.exit(0),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
