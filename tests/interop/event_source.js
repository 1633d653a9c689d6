// event_source.js CHROMIUM ORIGIN
//
// Reads event streams with `EventSource`, on the page that the server shows at ORIGIN in a real browser. What it wants
// from the other side of the test goes to standard output, one line each.
'use strict';

const { withPage } = require('./launch.js');

// In the page: the stream is cut twice, then the server is another one.
async function scenario(topic) {
    const PATIENCE = 60_000;
    const check = (holds, what, ...details) => {
        if (!holds) {
            throw new Error(`${what} ${JSON.stringify(details)}`);
        }
    };
    const source = new EventSource(`/sse/${topic}`);
    const [messages, lost] = [[], []];
    let opens = 0;
    let wake = () => {};
    source.onopen = () => { opens += 1; wake(); };
    source.onmessage = ({ data, lastEventId }) => { messages.push({ ...JSON.parse(data), id: lastEventId }); wake(); };
    source.addEventListener('lost', ({ data, lastEventId }) => {
        lost.push({ ...JSON.parse(data), id: lastEventId });
        wake();
    });
    const until = async (what, accepts) => {
        const deadline = Date.now() + PATIENCE;
        while (!accepts()) {
            const state = { opens, lost, messages: messages.length, readyState: source.readyState };
            check(Date.now() < deadline, `never: ${what}`, state);
            await new Promise((resolve) => {
                wake = resolve;
                setTimeout(resolve, 1000);
            });
        }
    };
    // All from the first on, in order, each once; and the ids of one epoch count along.
    const checkWhole = (count, epoch) => {
        check(messages.length === count, 'wrong number of messages', messages.length, count);
        messages.forEach(({ n, id }, index) => {
            check(n === index, 'out of order', index, n);
            check(id === `${epoch}:${index + 1}`, 'out of place', index, id);
        });
    };

    await until('open', () => opens === 1);
    await globalThis.cue('subscribers 1');
    await globalThis.cue(`publish ${topic} 0 10`);
    await until('ten messages', () => messages.length >= 10);
    const [epoch] = messages[0].id.split(':');
    for (const count of [60, 260]) {
        const before = opens;
        await globalThis.cue(`cut ${topic} ${messages.length} ${count - messages.length}`);
        await until('all that came while it was away', () => messages.length >= count);
        check(opens === before + 1, 'it came back another number of times', before, opens);
        checkWhole(count, epoch);
    }
    check(lost.length === 0, 'nothing was lost', lost);

    await globalThis.cue('restart');
    await until('it is told of the restart', () => lost.length > 0);
    const [{ epoch: now, offset, id }] = lost;
    check(now !== epoch && offset === 0 && id === `${now}:0`, 'not of another epoch', epoch, lost);
    await globalThis.cue(`publish ${topic} 260 5`);
    await until('it goes on', () => messages.length >= 265);
    const rest = messages.splice(260);
    check(rest.every((message, index) => message.id === `${now}:${index + 1}`), 'out of place', rest);
    check(rest.every(({ n }, index) => n === 260 + index), 'out of order', rest);
    check(lost.length === 1, 'lost more than once', lost);
    source.close();
}

async function main(executablePath, origin) {
    await withPage(executablePath, { bypassCSP: true }, async (page) => {
        await page.exposeFunction('cue', (line) => console.log(line));
        await page.goto(origin, { waitUntil: 'commit' });
        await page.evaluate(scenario, 'history:events');
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
