// browser.js CHROMIUM URL
//
// Opens the page at URL in a real browser, headless and with an empty profile, and waits until it says that it is
// connected and shows two messages of the feed.
'use strict';

const { chromium } = require('playwright-core');

const PATIENCE = 60_000;

// What a browser would otherwise ask the network for.
const FLAGS = [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
];

async function main(executablePath, url) {
    const browser = await chromium.launch({ executablePath, headless: true, args: FLAGS, timeout: PATIENCE });
    try {
        const page = await browser.newPage();
        const problems = [];
        page.on('pageerror', (error) => problems.push(error));
        await page.goto(url, { timeout: PATIENCE });
        await page.locator('#status', { hasText: /^\s*connected\s*$/ }).waitFor({ timeout: PATIENCE });
        const messages = page.locator('#messages .message');
        await messages.nth(1).waitFor({ timeout: PATIENCE });
        const texts = await messages.allTextContents();
        if (texts.some((text) => text.trim() === '')) {
            throw new Error(`a message without text: ${JSON.stringify(texts)}`);
        }
        if (problems.length > 0) {
            throw new Error(`the page has errors: ${problems.join('; ')}`);
        }
        console.log(`the page shows ${texts.length} messages, the last: ${texts.at(-1)}`);
    } finally {
        await browser.close();
    }
}

main(...process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exit(1);
});
