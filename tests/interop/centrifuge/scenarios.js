// What a client of the package `centrifuge` goes through, in Node.js and in a browser alike.
//
// Each scenario is given `env`: `make(options)` makes a client, `encode` and `decode` turn values into a publication's
// data and back, `sign(claims)` makes a token, and `cue(line)` asks the other side of the test to do something:
//   publish TOPIC FIRST COUNT   publish {"n":FIRST} and so on
//   documents TOPIC FIRST COUNT the same, each with more that stays the same
//   tagged TOPIC FIRST COUNT    the same with the tags n and parity
//   cut TOPIC FIRST COUNT       cut the network, publish, let connections through again
//   storm TOPIC                 publish all the time while the network is cut, until its subscriber is back
//   last TOPIC                  publish once more, and say so
//   restart                     stop the server, gracefully, and start another
//   put TOPIC KEY N             set the key of a keyed topic to {"n":N}
//   remove TOPIC KEY            remove the key
//   change TOPIC                cut, remove k0, set k1 to k20, remove the even ones, let connections through again
'use strict';

const PATIENCE = 60_000;

function check(holds, what, ...details) {
    if (!holds) {
        throw new Error(`${what} ${details.map((detail) => JSON.stringify(detail)).join(' ')}`);
    }
}

function within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`nothing for ${PATIENCE} ms: ${what}`)), PATIENCE);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// The next event of that name for which `accepts` holds.
function next(emitter, name, accepts = () => true) {
    const event = new Promise((resolve) => {
        const listener = (context) => {
            if (accepts(context)) {
                emitter.removeListener(name, listener);
                resolve(context);
            }
        };
        emitter.on(name, listener);
    });
    return within(event, `event ${name}`);
}

async function failure(promise) {
    try {
        await promise;
    } catch (error) {
        return error;
    }
    throw new Error('this should have failed');
}

// Publications as they come, of a subscription or, with `channel`, of a client's server-side subscriptions.
function collect(env, emitter, channel) {
    const seen = [];
    emitter.on('publication', (context) => {
        if (channel === undefined || context.channel === channel) {
            seen.push({ ...env.decode(context.data), offset: context.offset });
            emitter.emit('seen', seen);
        }
    });
    return {
        seen,
        until: async (accepts) => {
            while (!accepts(seen)) {
                await next(emitter, 'seen');
            }
        },
    };
}

// The values of a map, as an application keeps them.
function keep(env, subscription) {
    const values = new Map();
    let syncs = 0;
    const changed = () => subscription.emit('seen');
    subscription.on('sync', ({ entries }) => {
        syncs++;
        values.clear();
        for (const { key, data, removed } of entries) {
            check(!removed && !values.has(key), 'not a state', entries);
            values.set(key, env.decode(data).n);
        }
        changed();
    });
    subscription.on('update', ({ key, data, removed }) => {
        removed ? values.delete(key) : values.set(key, env.decode(data).n);
        changed();
    });
    const text = (object) => JSON.stringify(Object.entries(object).sort());
    return {
        syncs: () => syncs,
        until: async (expected) => {
            while (text(Object.fromEntries(values)) !== text(expected)) {
                await next(subscription, 'seen');
            }
        },
    };
}

// That these are all publications from the first to the last, in order, each once.
function checkWhole(seen, count) {
    check(seen.length === count, 'wrong number of publications:', seen.length, count);
    seen.forEach(({ n, offset }, index) => {
        check(n === index, 'out of order at', index, n);
        check(offset === seen[0].offset + index, 'an offset is out of order:', index, offset);
    });
}

async function connected(client) {
    const event = next(client, 'connected');
    client.connect();
    return event;
}

async function subscribed(subscription) {
    const event = next(subscription, 'subscribed');
    subscription.subscribe();
    return event;
}

const scenarios = {
    // Publications in order, history, and what is refused.
    async pubsub(env) {
        const client = env.make();
        const subscription = client.newSubscription('history:pubsub');
        const { seen, until } = collect(env, subscription);
        // Both at once, as most applications do: they arrive in one message.
        const event = next(subscription, 'subscribed');
        subscription.subscribe();
        await connected(client);
        const context = await event;
        const { recoverable, positioned, streamPosition } = context;
        check(recoverable && positioned && streamPosition.epoch !== '', 'not positioned', context);
        env.cue('publish history:pubsub 0 100');
        await until((all) => all.length >= 100);
        checkWhole(seen, 100);

        const newest = await subscription.history({ limit: 3, reverse: true });
        check(newest.epoch === context.streamPosition.epoch, 'another epoch', newest.epoch);
        const numbers = (page) => page.publications.map(({ data }) => env.decode(data).n);
        check(numbers(newest).join() === '99,98,97', 'not the newest', newest);
        const since = { offset: newest.publications[2].offset, epoch: newest.epoch };
        check(numbers(await subscription.history({ limit: 10, since })).join() === '98,99', 'not what came after');
        const lost = await failure(subscription.history({ limit: 1, since: { offset: 1, epoch: 'other' } }));
        check(lost.code === 112, 'another epoch is another history', lost);

        check((await failure(client.publish('locked:a', env.encode(1)))).code === 103, 'publishing is not for all');
        check((await failure(client.presence('history:pubsub'))).code === 103, 'presence is not for all');
        check((await failure(client.rpc('anything', env.encode(1)))).code === 108, 'there are no calls');
        const refusals = { 'locked:a': 103, 'nowhere:a': 102, 'not a name': 107 };
        for (const [channel, code] of Object.entries(refusals)) {
            const refused = client.newSubscription(channel);
            const end = next(refused, 'unsubscribed');
            refused.subscribe();
            check((await end).code === code, 'refused with another code', channel, code);
        }
        const end = next(subscription, 'unsubscribed');
        subscription.unsubscribe();
        await end;
        await subscribed(subscription);
        client.disconnect();
    },

    // Presence, joins and leaves, and messages from one client to another.
    async presence(env) {
        const [a, b] = [env.make(), env.make()];
        const [first, second] = [(await connected(a)).client, (await connected(b)).client];
        check(first !== second && first.length === 36, 'names', first, second);
        const room = a.newSubscription('room:1', { joinLeave: true });
        const other = b.newSubscription('room:1');
        await subscribed(room);
        const join = next(room, 'join', ({ info }) => info.client === second);
        await subscribed(other);
        await join;
        const { clients } = await room.presence();
        check(Object.keys(clients).sort().join() === [first, second].sort().join(), 'who is there', clients);
        const stats = await room.presenceStats();
        check(stats.numClients === 2 && stats.numUsers === 1, 'how many are there', stats);

        const message = next(room, 'publication');
        await other.publish(env.encode({ text: 'häi\n"' }));
        const { data, info } = await message;
        check(env.decode(data).text === 'häi\n"' && info.client === second, 'what was said', info);

        const leave = next(room, 'leave', (context) => context.info.client === second);
        b.disconnect();
        await leave;
        check((await room.presenceStats()).numClients === 1, 'somebody has left');
        a.disconnect();
    },

    // Nothing is lost when the network is cut, however often.
    async recovery(env) {
        const client = env.make();
        const subscription = client.newSubscription('history:recovery');
        const { seen, until } = collect(env, subscription);
        const event = next(subscription, 'subscribed');
        subscription.subscribe();
        client.connect();
        check(!(await event).wasRecovering, 'there was nothing to recover');
        const back = next(subscription, 'subscribed');
        env.cue('cut history:recovery 0 50');
        const context = await back;
        check(context.wasRecovering && context.recovered, 'not recovered', context);
        await until((all) => all.length >= 50);
        checkWhole(seen, 50);
        client.disconnect();
    },

    // The same while publishing goes on.
    async storm(env) {
        const client = env.make();
        const subscription = client.newSubscription('history:storm');
        const { seen, until } = collect(env, subscription);
        const event = next(subscription, 'subscribed');
        subscription.subscribe();
        client.connect();
        await event;
        for (let cuts = 0; cuts < 5; cuts += 1) {
            const back = next(subscription, 'subscribed');
            env.cue('storm history:storm');
            const context = await back;
            check(context.wasRecovering && context.recovered, 'not recovered', context);
        }
        env.cue('last history:storm');
        await until((all) => all.some(({ last }) => last));
        checkWhole(seen, seen.length);
        client.disconnect();
    },

    // A server that has lost its memory says so.
    async restart(env) {
        const client = env.make();
        const subscription = client.newSubscription('history:restart');
        const { until } = collect(env, subscription);
        const event = next(subscription, 'subscribed');
        subscription.subscribe();
        client.connect();
        const before = await event;
        env.cue('publish history:restart 0 5');
        await until((all) => all.length >= 5);
        const stopped = next(client, 'connecting');
        const back = next(subscription, 'subscribed');
        env.cue('restart');
        check((await stopped).code === 3001, 'the server says that it stops');
        const after = await back;
        check(after.wasRecovering && !after.recovered, 'there is nothing to recover from', after);
        check(after.streamPosition.epoch !== before.streamPosition.epoch, 'the epoch is another', after);
        env.cue('publish history:restart 5 1');
        await until((all) => all.length >= 6);
        client.disconnect();
    },

    // Tokens: who one is, refreshed in time, or not.
    async tokens(env) {
        const now = () => Math.floor(Date.now() / 1000);
        // Seconds, in which a browser on a busy machine must have connected.
        const LIFE = 5;
        const outsider = env.make({ token: 'not.a.token' });
        const end = next(outsider, 'disconnected');
        outsider.connect();
        check((await end).code === 3500, 'an invalid token');

        let refreshes = 0;
        const getToken = async () => {
            refreshes += 1;
            return env.sign({ sub: '42', exp: now() + 600 });
        };
        const client = env.make({ token: await env.sign({ sub: '42', exp: now() + LIFE }), getToken });
        const interruptions = [];
        client.on('connecting', ({ code }) => interruptions.push(code));
        let subscriptionRefreshes = 0;
        const subscription = client.newSubscription('locked:t', {
            token: await env.sign({ sub: '42', channel: 'locked:t', exp: now() + LIFE, info: { seat: 7 } }),
            getToken: async () => {
                subscriptionRefreshes += 1;
                return env.sign({ sub: '42', channel: 'locked:t', exp: now() + 600 });
            },
        });
        subscription.on('subscribing', ({ code }) => interruptions.push(code));
        const event = next(subscription, 'subscribed');
        subscription.subscribe();
        await connected(client);
        await event;

        // Two who can't renew theirs.
        const late = env.make({ token: await env.sign({ exp: now() + LIFE }), getToken: () => new Promise(() => {}) });
        const expired = next(late, 'connecting', ({ code }) => code === 3005);
        await connected(late);
        const member = env.make({ token: await env.sign({ sub: '43' }) });
        const lateSubscription = member.newSubscription('locked:t', {
            token: await env.sign({ sub: '43', channel: 'locked:t', exp: now() + LIFE }),
            getToken: () => new Promise(() => {}),
        });
        const unsubscribed = next(lateSubscription, 'subscribing', ({ code }) => code === 2501);
        lateSubscription.subscribe();
        member.connect();
        await Promise.all([expired, unsubscribed]);
        late.disconnect();
        member.disconnect();

        // By then the first tokens are over as well, and were replaced.
        check(refreshes === 1 && subscriptionRefreshes === 1, 'refreshes', refreshes, subscriptionRefreshes);
        check(interruptions.join() === '0,0', 'nothing was interrupted', interruptions);
        check(client.state === 'connected' && subscription.state === 'subscribed', 'it is still there');
        client.disconnect();
    },

    // What the server subscribes a client to, as its token says.
    async serverSide(env) {
        const token = await env.sign({ sub: '42', channels: ['history:s1', 'history:s2', 'room:s3'] });
        const client = env.make({ token });
        const first = collect(env, client, 'history:s1');
        const subscriptions = [];
        client.on('subscribed', (context) => subscriptions.push(context));
        await connected(client);
        const channels = subscriptions.map(({ channel }) => channel).sort().join();
        check(channels === 'history:s1,history:s2,room:s3', 'subscribed to', channels);
        env.cue('publish history:s1 0 10');
        await first.until((all) => all.length >= 10);
        subscriptions.length = 0;
        const back = next(client, 'connected');
        env.cue('cut history:s1 10 20');
        await back;
        await first.until((all) => all.length >= 30);
        checkWhole(first.seen, 30);
        const recovered = subscriptions.filter((context) => context.recovered).map(({ channel }) => channel);
        check(recovered.sort().join() === 'history:s1,history:s2', 'recovered', subscriptions);
        client.disconnect();
    },

    // Publications as deltas, with a recovery in between, beside a subscriber without deltas.
    async deltas(env) {
        const clients = [env.make(), env.make()];
        const subscriptions = [{ delta: 'fossil' }, {}].map((options, index) => {
            return clients[index].newSubscription('delta:a', options);
        });
        const all = subscriptions.map((subscription) => collect(env, subscription));
        for (const [index, subscription] of subscriptions.entries()) {
            subscription.subscribe();
            await connected(clients[index]);
            await subscription.ready();
        }
        const until = (count) => Promise.all(all.map((one) => one.until((seen) => seen.length >= count)));
        env.cue('documents delta:a 0 50');
        await until(50);
        const stats = subscriptions[0].deltaStats();
        check(stats.numFullPayloads === 1 && stats.numDeltaPayloads === 49, 'not deltas:', stats);
        check(stats.bytesReceived < stats.bytesDecoded / 10, 'large deltas:', stats);
        const back = subscriptions.map((subscription) => next(subscription, 'subscribed'));
        env.cue('cut delta:a 50 20');
        check((await Promise.all(back)).every(({ recovered }) => recovered), 'not recovered');
        await until(70);
        env.cue('documents delta:a 70 30');
        await until(100);
        all.forEach(({ seen }) => checkWhole(seen, 100));
        check(subscriptions[0].deltaStats().numDeltaPayloads >= 75, 'no deltas after a recovery');
        clients.forEach((client) => client.disconnect());
    },

    // Filters by tags, live and in a recovery, and those that are refused.
    async filters(env) {
        const filters = [
            { key: 'parity', cmp: 'eq', val: 'even' },
            { op: 'and', nodes: [
                { key: 'n', cmp: 'gte', val: '50' },
                { op: 'not', nodes: [{ key: 'parity', cmp: 'in', vals: ['even', 'none'] }] },
            ] },
            undefined,
        ];
        const clients = filters.map(() => env.make());
        const subscriptions = filters.map((tagsFilter, index) => {
            return clients[index].newSubscription('tagged:a', { tagsFilter });
        });
        const all = subscriptions.map((subscription) => collect(env, subscription));
        for (const [index, subscription] of subscriptions.entries()) {
            subscription.subscribe();
            await connected(clients[index]);
            await subscription.ready();
        }
        const expect = async (expected) => {
            await Promise.all(all.map((one, index) => one.until((seen) => seen.length >= expected[index].length)));
            all.forEach(({ seen }, index) => {
                check(seen.map(({ n }) => n).join() === expected[index].join(), 'other publications', index, seen);
            });
        };
        const numbers = Array.from({ length: 100 }, (_, n) => n);
        env.cue('tagged tagged:a 0 100');
        const expected = [numbers.filter((n) => n % 2 === 0), numbers.filter((n) => n >= 50 && n % 2 === 1), numbers];
        await expect(expected);
        // Publications without tags match none of the filters.
        const back = subscriptions.map((subscription) => next(subscription, 'subscribed'));
        env.cue('cut tagged:a 100 10');
        check((await Promise.all(back)).every(({ recovered }) => recovered), 'not recovered');
        env.cue('tagged tagged:a 110 2');
        expected[0].push(110);
        expected[1].push(111);
        expected[2].push(...Array.from({ length: 12 }, (_, n) => 100 + n));
        await expect(expected);

        const refused = async (channel, tagsFilter) => {
            const subscription = clients[0].newSubscription(channel, { tagsFilter });
            subscription.subscribe();
            return (await next(subscription, 'unsubscribed')).code;
        };
        check(await refused('history:a', filters[0]) === 107, 'the namespace has no filters');
        check(await refused('tagged:b', { key: 'n', cmp: 'eq', val: '1'.repeat(2100) }) === 107, 'a long filter');
        check(await refused('tagged:c', { op: 'and', nodes: Array(40).fill(filters[0]) }) === 107, 'a wide filter');
        clients.forEach((client) => client.disconnect());
    },

    // A topic as a cache: a client that recovers receives the newest publication, unless it has it.
    async cache(env) {
        const client = env.make();
        const other = env.make();
        const plain = other.newSubscription('cached:a');
        const watched = collect(env, plain);
        plain.subscribe();
        await connected(other);
        await plain.ready();
        env.cue('publish cached:a 0 5');
        await watched.until((all) => all.length >= 5);
        const subscription = client.newSubscription('cached:a', { since: { offset: 0, epoch: '' } });
        const { seen, until } = collect(env, subscription);
        subscription.subscribe();
        await connected(client);
        await until((all) => all.length >= 1);
        const recovered = async (cue) => {
            const back = next(subscription, 'subscribed');
            env.cue(cue);
            return (await back).recovered;
        };
        check(await recovered('cut cached:a 5 10'), 'not recovered');
        await until((all) => all.length >= 2);
        check(await recovered('cut cached:a 15 0'), 'not recovered');
        env.cue('publish cached:a 15 1');
        await until((all) => all.length >= 3);
        check(seen.map(({ n }) => n).join() === '4,14,15', 'other publications', seen);
        other.disconnect();
        client.disconnect();
    },

    // Maps: the state in several pages, changes from both sides, recovery, and a restart, after which all is gone.
    async maps(env) {
        const client = env.make();
        const subscription = client.newMapSubscription('map:a');
        const map = keep(env, subscription);
        const expected = {};
        for (let n = 0; n < 10; n++) {
            env.cue(`put map:a k${n} ${n}`);
            expected[`k${n}`] = n;
        }
        const event = next(subscription, 'subscribed');
        subscription.subscribe();
        await connected(client);
        await event;
        await map.until(expected);
        env.cue('put map:a k1 100');
        env.cue('remove map:a k2');
        expected.k1 = 100;
        delete expected.k2;
        await map.until(expected);
        await subscription.publish('k3', env.encode({ n: 7 }));
        await subscription.remove('k4');
        expected.k3 = 7;
        delete expected.k4;
        await map.until(expected);
        const error = await failure(subscription.remove('nothing'));
        check(error.code === 107, 'a key without a value was removed:', error);

        // Another one joins: it reads the state, also of what has changed, and nothing else.
        const other = env.make();
        const late = other.newMapSubscription('map:a');
        const copy = keep(env, late);
        late.subscribe();
        await connected(other);
        await copy.until(expected);
        check(copy.syncs() === 1, 'states:', copy.syncs());

        const back = next(subscription, 'subscribed');
        env.cue('change map:a');
        const { recovered } = await back;
        check(recovered, 'not recovered');
        delete expected.k0;
        for (let n = 1; n <= 20; n++) {
            expected[`k${n}`] = 1000 + n;
            if (n % 2 === 0) {
                delete expected[`k${n}`];
            }
        }
        await map.until(expected);
        await copy.until(expected);
        check(map.syncs() === 1, 'a recovery began anew', map.syncs());

        env.cue('restart');
        env.cue('put map:a k0 1');
        await map.until({ k0: 1 });
        await copy.until({ k0: 1 });
        const stream = client.newSubscription('map:b');
        stream.subscribe();
        const refused = await next(stream, 'unsubscribed');
        check(refused.code === 108, 'a stream of a map:', refused);
        client.disconnect();
        other.disconnect();
    },
};

globalThis.centrifugeScenarios = scenarios;
