// admin.js CHROMIUM CONTROL_URL DATA_URL
//
// Opens the admin page in a real browser, with the key `secret`, and a second one, `look`, that only reads. Asks the
// test for a restart of the server by the line `restart`.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const WebSocket = require('ws');

const { withPage } = require('./launch.js');

const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const PAGES = ['overview', 'shards', 'topics', 'topic/chat%3Alobby', 'connections', 'namespaces', 'tokens', 'server'];
const HOSTILE = '<img src=x onerror="window.hacked = true"><script>window.hacked = true</script>';

const [executablePath, control, data] = process.argv.slice(2);

function expect(what, found, expected) {
    if (JSON.stringify(found) !== JSON.stringify(expected)) {
        throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
    }
}

async function until(what, found) {
    const deadline = Date.now() + 60_000;
    while (!(await found())) {
        if (Date.now() > deadline) throw new Error(`${what} never happens`);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
}

// A call of the server API.
async function call(method, params) {
    const headers = { 'X-API-Key': 'secret', 'Content-Type': 'application/json' };
    const response = await fetch(`${control}/api/${method}`, { method: 'POST', headers, body: JSON.stringify(params) });
    const reply = await response.json();
    if (!reply.result) throw new Error(`${method}: ${JSON.stringify(reply)}`);
    return reply.result;
}

// The sum of a metric over all its labels.
async function metric(name) {
    const response = await fetch(`${control}/metrics`, { headers: { 'X-API-Key': 'look' } });
    const lines = (await response.text()).split('\n').filter((line) => line.startsWith(`${name}{`));
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

function token(claims) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const message = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
    const hmac = crypto.createHmac('sha256', 'a key that nobody has guessed yet').update(message);
    const signature = hmac.digest('base64url');
    return `${message}.${signature}`;
}

// A subscriber of a raw feed. Resolves when it is open.
function feed(topic) {
    const socket = new WebSocket(`${data}/feed/${topic}`);
    return new Promise((resolve, reject) => socket.on('open', () => resolve(socket)).on('error', reject));
}

// A client of Centrifugo's protocol with a hostile name.
async function stranger() {
    const socket = new WebSocket(`${data}/connection/websocket`);
    await new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject));
    const claims = { sub: HOSTILE, info: { name: HOSTILE } };
    socket.send(JSON.stringify({ id: 1, connect: { token: token(claims) } }));
    socket.send(JSON.stringify({ id: 2, subscribe: { channel: 'chat:lobby' } }));
    return socket;
}

// Reports what the page or the browser complains about. A request without the key is the page's first question.
function collectProblems(page) {
    const problems = [];
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('console', (message) => {
        const isExpected = /status of 401|ERR_CONNECTION_REFUSED|WebSocket connection to/.test(message.text());
        if (['error', 'warning'].includes(message.type()) && !isExpected) problems.push(message.text());
    });
    return problems;
}

async function logIn(page, key) {
    await page.goto(`${control}/`);
    const input = page.locator('input[type=password]');
    await input.waitFor();
    // The field has the focus: no mouse is needed.
    await page.keyboard.type(key);
    await page.keyboard.press('Enter');
}

async function open(page, name) {
    await page.goto(`${control}/#${name}`);
    await page.locator('main h1').waitFor();
}

async function isLive(page) {
    await page.locator('#status.good', { hasText: /^live$/ }).waitFor();
}

const tile = (page, name) => page.locator('.tile', { has: page.locator('dt', { hasText: name }) }).locator('dd');

async function checkKeys(page) {
    await logIn(page, 'guess');
    await page.locator('[role=alert]', { hasText: 'This key is wrong.' }).waitFor();
    await logIn(page, 'look');
    await isLive(page);
    await page.locator('#where', { hasText: 'read only' }).waitFor();
    await open(page, 'topic/chat%3Alobby');
    await page.locator('h2', { hasText: 'Live tail' }).waitFor();
    expect('forms to publish', await page.locator('button', { hasText: /^Publish$/ }).count(), 0);
    await page.locator('#leave').click();
    await logIn(page, 'secret');
    await isLive(page);
}

// Each figure is the one of /metrics, once the page has caught up.
async function checkFigures(page) {
    const rows = [['Connections', 'ringfeed_connections'], ['Subscriptions', 'ringfeed_subscriptions'],
        ['Topics', 'ringfeed_home_topics_occupied']];
    await open(page, 'overview');
    await page.locator('.chart canvas').first().waitFor();
    for (const [name, wanted] of rows) {
        const text = () => tile(page, name).evaluate((value) => value.firstChild.data);
        const shown = async () => Number((await text()).replaceAll(',', ''));
        await until(`${name} equals ${wanted}`, async () => await shown() === await metric(wanted));
    }
}

async function checkTopic(page) {
    await open(page, 'topics');
    await page.locator('input[type=search]').fill('lobby');
    await page.keyboard.press('Enter');
    await page.locator('td a', { hasText: 'chat:lobby' }).click();
    await page.locator('.tag.good', { hasText: 'live' }).waitFor();
    const start = Date.now();
    await call('publish', { channel: 'chat:lobby', data: { text: HOSTILE }, key: HOSTILE, tags: { tag: HOSTILE } });
    await page.locator('section', { hasText: 'Live tail' }).locator('pre', { hasText: 'onerror' }).first().waitFor();
    console.log(`a publication is in the live tail after ${Date.now() - start} ms`);
    // By the form; then it is in the history, too.
    await page.locator('textarea').fill('{"by": "the form"}');
    await page.locator('button', { hasText: /^Publish$/ }).click();
    await page.locator('.outcome.good', { hasText: 'Published at offset' }).waitFor();
    const history = page.locator('section', { has: page.locator('h2', { hasText: 'History' }) });
    await history.locator('pre', { hasText: 'the form' }).first().waitFor();
    await history.locator('button', { hasText: 'Hex' }).first().click();
    await history.locator('pre', { hasText: '7b 22 62 79' }).first().waitFor();
    await page.locator('section', { hasText: 'Presence' }).locator('td', { hasText: 'onerror' }).first().waitFor();
    await history.locator('button', { hasText: 'Clear the history' }).click();
    await page.locator('#confirm-yes').click();
    await history.locator('.outcome', { hasText: 'The history is empty.' }).waitFor();
}

async function checkConnections(page, victim) {
    let closed = null;
    victim.on('close', (code) => { closed = code; });
    await open(page, 'connections');
    await page.locator('label', { hasText: 'Topic' }).locator('input').fill('victim');
    await page.keyboard.press('Enter');
    await page.locator('.outcome', { hasText: /^1 in / }).waitFor();
    await page.locator('button', { hasText: 'Disconnect' }).click();
    await page.locator('#confirm-yes').click();
    await page.locator('.empty', { hasText: 'No such connection.' }).waitFor();
    await until('the connection ends', () => closed === 3503);
}

async function checkTokens(page) {
    await open(page, 'tokens');
    await page.locator('label', { hasText: 'User (sub)' }).locator('input').fill(HOSTILE);
    await page.locator('button', { hasText: /^Make$/ }).click();
    const made = await page.locator('pre.token').textContent();
    const check = page.locator('textarea');
    const rows = [[made, 'Valid: for a connection.'], [`${made}x`, 'Rejected: its signature is wrong.']];
    for (const [text, outcome] of rows) {
        await check.fill(text);
        await page.locator('button', { hasText: /^Check$/ }).click();
        await page.locator('.outcome', { hasText: outcome }).waitFor();
    }
    await open(page, 'server');
    await page.locator('td', { hasText: 'tokens.hmac_secret' }).waitFor();
    const shown = await page.locator('main').textContent();
    expect('secrets', shown.includes('nobody has guessed'), false);
}

// axe-core finds nothing serious, on any page.
async function checkAccess(page) {
    for (const name of PAGES) {
        await open(page, name);
        await page.locator('main .card').first().waitFor();
        await page.evaluate(AXE);
        const { violations } = await page.evaluate('axe.run()');
        const serious = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
        const told = serious.map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`);
        expect(`what axe-core finds on ${name}`, told, []);
        const width = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
        if (width[0] > width[1]) throw new Error(`${name} is wider than the window: ${width}`);
    }
}

async function checkSilence(browserOptions) {
    await withPage(executablePath, browserOptions, async (page) => {
        // The data port takes the connection and says nothing.
        await page.routeWebSocket(/connection/, () => {});
        await logIn(page, 'secret');
        await page.locator('#status.bad', { hasText: 'the data port is silent' }).waitFor();
        await tile(page, 'Connections').waitFor();
    });
}

async function main() {
    const victim = await feed('victim');
    await feed('chat:lobby');
    const guest = await stranger();
    await withPage(executablePath, { viewport: { width: 1440, height: 900 } }, async (page) => {
        const problems = collectProblems(page);
        await checkKeys(page);
        await checkFigures(page);
        await checkTopic(page);
        await checkConnections(page, victim);
        await checkTokens(page);
        await checkAccess(page);
        expect('hostile text that ran', await page.evaluate('window.hacked ?? null'), null);
        guest.close();
        console.log('restart');
        await open(page, 'overview');
        await page.locator('#notice', { hasText: 'The server has started again' }).waitFor();
        await isLive(page);
        expect('problems', problems, []);
    });
    await withPage(executablePath, { viewport: { width: 390, height: 800 }, colorScheme: 'dark' }, async (page) => {
        const problems = collectProblems(page);
        await logIn(page, 'secret');
        await isLive(page);
        await checkAccess(page);
        expect('problems', problems, []);
    });
    await checkSilence({});
    console.log('done');
    process.exit(0);
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
