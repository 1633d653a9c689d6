// demo.js CHROMIUM URL CONTROL PAGE
//
// Opens a demo page in a real browser, and measures what the page claims. CONTROL is the control port's URL. No page
// may have an error, a message on the console, or a report of its security policy.
'use strict';

const { withPage } = require('./launch.js');

const PATIENCE = 60_000;

function check(holds, what, ...details) {
    if (!holds) {
        throw new Error(`${what} ${details.map((detail) => JSON.stringify(detail)).join(' ')}`);
    }
}

const number = async (page, id) => Number((await page.locator(`#${id}`).textContent()).replace(/[^0-9.]/g, ''));
const live = (page) => page.locator('#status.open').waitFor();

// Waits until it holds, in the page.
const until = (page, what, argument) => page.waitForFunction(what, argument, { timeout: PATIENCE, polling: 50 });

const checks = {
    async index(page) {
        const links = await page.locator('li a').evaluateAll((all) => all.map((link) => link.href));
        check(links.length === 12, 'a page and a source for each', links);
        for (const link of links) {
            const { status, type } = await page.evaluate(async (url) => {
                const response = await fetch(url);
                return { status: response.status, type: response.headers.get('Content-Type') };
            }, link);
            const wanted = link.endsWith('?source') ? 'text/plain' : 'text/html';
            check(status === 200 && type.startsWith(wanted), 'a link', link, status, type);
        }
    },

    // A page that reads slowly is late by what is in buffers, never by what it has missed, and counts that.
    async prices(page, { connect }) {
        await live(page);
        await until(page, () => document.querySelectorAll('.tile').length === 75);
        await page.locator('#slow').check();
        await until(page, () => document.querySelectorAll('.tile').length === 500);
        // What a reader that is not slow receives, at the same time.
        const newest = await connect('demo-prices:gold');
        await page.waitForTimeout(3000);
        const shown = await page.evaluate(() => {
            const tiles = [...document.querySelectorAll('.tile')];
            return tiles.map((tile) => [tile.dataset.symbol, tile.querySelector('span').textContent]);
        });
        const at = Date.now();
        const ages = [];
        for (const [symbol, price] of shown) {
            const seen = newest.filter((message) => message.data.symbol === symbol);
            // When the price that is shown was replaced by the next one: since then it is old.
            const index = seen.findLastIndex(({ data }) => data.price.toFixed(2) === price);
            if (seen.length > 0) {
                ages.push(index === seen.length - 1 ? 0 : at - seen[index + 1]?.at);
            }
        }
        // Three seconds on two quiet cores; any machine may be busy.
        check(ages.length === 25 && ages.every((age) => age < PATIENCE), 'a price is old', ages);
        const [arrived, conflated] = [await number(page, 'arrived'), await number(page, 'conflated')];
        check(arrived > 0, 'nothing has arrived', arrived);
        await page.locator('#slow').uncheck();
        console.log(`${arrived} arrived, ${conflated} conflated, ages up to ${Math.max(...ages)} ms`);
    },

    // Two tabs see each other and the same order.
    async chat(one, { open }) {
        await live(one);
        await one.locator('#here', { hasText: '1 here' }).waitFor();
        const two = await open();
        await live(two);
        for (const page of [one, two]) {
            await page.locator('#here', { hasText: '2 here' }).waitFor();
        }
        const say = async (page, text) => {
            await page.locator('#text').fill(text);
            await page.locator('form button').click();
        };
        for (let n = 0; n < 10; n += 1) {
            await Promise.all([say(one, `one ${n}`), say(two, `two ${n}`)]);
        }
        const said = (page) => page.locator('#log li:not(.event)').evaluateAll(
            (lines) => lines.map((line) => line.lastChild.textContent).filter((text) => /^(one|two) \d$/.test(text)),
        );
        for (const page of [one, two]) {
            await page.locator('#log li', { hasText: /(one|two) \d$/ }).nth(19).waitFor();
        }
        const [first, second] = [await said(one), await said(two)];
        check(first.length === 20 && first.join() === second.join(), 'another order', first, second);
        await two.locator('#rooms button').nth(1).click();
        await say(one, 'still there?');
        await two.locator('#rooms button').first().locator('.unread', { hasText: '1' }).waitFor();
        // Markup is text.
        await say(one, '<img src=x onerror=alert(1)>');
        await one.locator('#log li', { hasText: '<img src=x' }).waitFor();
        await two.close();
        await one.locator('#here', { hasText: '1 here' }).waitFor();
    },

    // After five seconds offline the page has what the server has.
    async map(page, { history }) {
        await live(page);
        await until(page, () => document.querySelectorAll('.vehicle').length === 300);
        await page.locator('#offline').click();
        await page.locator('#status.closed').waitFor();
        await page.locator('#outcome').waitFor();
        await live(page);
        await page.waitForTimeout(1500);
        // The server's state goes on while both are read: the page's must be between two of the server's.
        const before = new Map((await history('demo-map:city', 300)).map(({ data }) => [data.id, data]));
        const shown = await page.evaluate(() => [...globalThis.fleet.value]);
        const after = new Map((await history('demo-map:city', 300)).map(({ data }) => [data.id, data]));
        check(before.size === 300 && shown.length === 300, 'how many', before.size, shown.length);
        for (const [id, report] of shown) {
            const [low, high] = [before.get(id), after.get(id)];
            // What the server has published may be on its way.
            check(report.n >= low.n - 1 && report.n <= high.n, 'a vehicle is old', report, low, high);
            const same = [low, high].find(({ n }) => n === report.n);
            check(!same || (same.x === report.x && same.y === report.y), 'a vehicle is elsewhere', report, same);
        }
    },

    // A stroke of one tab appears in the other, once.
    async board(one, { open }) {
        const two = await open();
        await live(one);
        await live(two);
        await one.locator('#here', { hasText: '2 here' }).waitFor();
        const box = await one.locator('#board').boundingBox();
        await one.mouse.move(box.x + 50, box.y + 50);
        await one.mouse.down();
        for (let step = 0; step < 40; step += 1) {
            await one.mouse.move(box.x + 50 + step * 5, box.y + 50 + step * 3);
        }
        await one.mouse.up();
        for (const page of [one, two]) {
            await until(page, () => Number(document.getElementById('pieces').textContent) > 0);
        }
        const pieces = async (page) => {
            // A page in the background draws no frames.
            await page.bringToFront();
            await page.waitForTimeout(500);
            return number(page, 'pieces');
        };
        const [sent, received] = [await pieces(one), await pieces(two)];
        check(sent === received, 'a piece is missing, or is there twice', sent, received);
        await two.locator('.cursor').waitFor();
        // Ink, in the middle of the stroke.
        const ink = await two.evaluate(() => {
            const canvas = document.getElementById('canvas');
            const [x, y] = [150, 110].map((at) => (at * canvas.width) / canvas.clientWidth);
            const { data } = canvas.getContext('2d').getImageData(x - 8, y - 8, 16, 16);
            return data.some((value) => value > 0);
        });
        check(ink, 'the stroke is not drawn');
        // A later tab shows it as well.
        const three = await open();
        await until(three, (all) => Number(document.getElementById('pieces').textContent) === all, sent);
        console.log(`${sent} pieces, ${await one.locator('#latency').textContent()} there and back`);
    },

    // A cut of three seconds leaves no gap on either side.
    async match(page) {
        await live(page);
        const counted = (least) => until(page, (count) => {
            const { left, right } = globalThis.sides;
            return left.offsets.length >= count && right.offsets.length >= count;
        }, least);
        await counted(3);
        await page.locator('#cut').click();
        for (const side of ['websocket', 'sse']) {
            await page.locator(`#${side} .badge`, { hasText: 'cut' }).waitFor();
        }
        for (const side of ['websocket', 'sse']) {
            await page.locator(`#${side} .badge`, { hasText: /recovered [1-9]/ }).waitFor();
        }
        await counted(8);
        const gaps = await page.evaluate(() => {
            const { left, right } = globalThis.sides;
            const jumps = (all) => all.filter((offset, index) => index && offset !== all[index - 1] + 1);
            return [left, right].map(({ offsets }) => jumps(offsets));
        });
        check(gaps.flat().length === 0, 'a gap', gaps);
        check(await page.locator('li.gap').count() === 0, 'the page shows a gap');
    },

    // Two thousand samples, of which none is missing.
    async heart(page) {
        await live(page);
        await until(page, () => Number(document.getElementById('samples').textContent.replace(/\D/g, '')) >= 2000);
        check(await number(page, 'missing') === 0, 'samples are missing');
        const [plain, deflated] = await page.evaluate(
            () => ['plain', 'deflated'].map((id) => parseFloat(document.getElementById(id).textContent)),
        );
        check(plain > 0 && deflated < plain, 'the bytes', plain, deflated);
        const ink = await page.locator('canvas').evaluateAll((all) => all.map((canvas) => {
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return data.some((value) => value > 0);
        }));
        check(ink.length === 4 && ink.every(Boolean), 'a line is not drawn', ink);
        console.log(`compression: ${await page.locator('#extension').textContent()}, ${plain} KB, ${deflated} KB`);
    },
};

// The messages of a topic as they come, each with the time of its arrival.
async function follow(base, topic) {
    const { Centrifuge } = require('centrifuge');
    const client = new Centrifuge(`${base.replace('http', 'ws')}/connection/websocket`, { websocket: require('ws') });
    const subscription = client.newSubscription(topic);
    const seen = [];
    subscription.on('publication', ({ data }) => seen.push({ data, at: Date.now() }));
    subscription.subscribe();
    client.connect();
    await subscription.ready(PATIENCE);
    return seen;
}

async function main(executablePath, base, control, name) {
    const problems = [];
    const watch = (page) => {
        page.on('pageerror', (error) => problems.push(error.message));
        page.on('console', (message) => {
            if (['error', 'warning'].includes(message.type())) {
                problems.push(message.text());
            }
        });
    };
    const url = `${base}/demo/${name === 'index' ? '' : `${name}.html`}`;
    await withPage(executablePath, { viewport: { width: 1000, height: 800 } }, async (page) => {
        watch(page);
        await page.goto(url);
        await checks[name](page, {
            connect: (topic) => follow(base, topic),
            open: async () => {
                const other = await page.context().newPage();
                watch(other);
                await other.goto(url);
                return other;
            },
            history: async (topic, limit) => {
                const body = JSON.stringify({ channel: topic, limit, reverse: true });
                const response = await fetch(`${control}/api/history`, { method: 'POST', body });
                return (await response.json()).result.publications;
            },
        });
        const width = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        check(width <= 0, 'the page is too wide', width);
    });
    check(problems.length === 0, 'the page has problems', problems);
}

main(...process.argv.slice(2)).then(
    () => process.exit(0),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
