// greetings.js CHROMIUM URL PICTURES
//
// Opens two pages of examples/greetings.rs in a real browser: what one sends, both receive; an error is for its sender.
// PICTURES is a directory for screenshots: of a desktop, of a phone and in the dark.
'use strict';

const assert = require('node:assert/strict');
const { withPage } = require('./launch.js');

const [chromium, url, pictures] = process.argv.slice(2);

async function open(context) {
    const page = await context.newPage();
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(String(error)));
    page.on('console', (message) => complaints.push(message.text()));
    await page.goto(url);
    await page.locator('#state[data-open="true"]').waitFor();
    await page.getByText('Names have at most 40 characters.').waitFor();
    return { page, complaints };
}

async function send(page, name) {
    await page.getByLabel('Your name').fill(name);
    await page.getByRole('button', { name: 'Send' }).click();
}

withPage(chromium, { viewport: { width: 1280, height: 800 } }, async (first) => {
    const context = first.context();
    const [ann, bob] = [await open(context), await open(context)];
    await send(ann.page, 'Ann');
    for (const { page } of [ann, bob]) await page.getByText('Hello, Ann!').waitFor();
    await send(bob.page, 'Bob <b>');
    for (const { page } of [ann, bob]) await page.getByText('Hello, Bob <b>!').waitFor();
    await send(ann.page, ' ');
    await ann.page.getByText('Send a name of 1 to 40 characters.').waitFor();
    assert.equal(await bob.page.locator('#error').textContent(), '');
    await ann.page.screenshot({ path: `${pictures}/desktop.png` });
    await ann.page.emulateMedia({ colorScheme: 'dark' });
    await ann.page.screenshot({ path: `${pictures}/dark.png` });
    await ann.page.setViewportSize({ width: 360, height: 740 });
    await ann.page.screenshot({ path: `${pictures}/phone.png` });
    const width = await ann.page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 360, `the page is ${width} pixels wide on a phone`);
    assert.deepEqual([...ann.complaints, ...bob.complaints], []);
}).then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
});
