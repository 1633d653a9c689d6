// A real browser, headless and with an empty profile.
'use strict';

const { chromium } = require('playwright-core');

// A busy machine may take long to start a browser.
const PATIENCE = 120_000;

// What a browser would otherwise ask the network for.
const FLAGS = [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
];

// Runs `use` with a new page, and ends the browser then.
async function withPage(executablePath, options, use) {
    const browser = await chromium.launch({ executablePath, headless: true, args: FLAGS, timeout: PATIENCE });
    try {
        const context = await browser.newContext(options);
        const page = await context.newPage();
        page.setDefaultTimeout(PATIENCE);
        await use(page);
    } finally {
        await browser.close();
    }
}

module.exports = { withPage };
