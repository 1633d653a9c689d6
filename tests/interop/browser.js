// browser.js CHROMIUM URL
//
// Opens the page at URL in a real browser and waits until it says that it is connected and shows two messages of the
// feed.
'use strict';

const { withPage } = require('./launch.js');

async function look(page, url) {
    const problems = [];
    page.on('pageerror', (error) => problems.push(error));
    await page.goto(url);
    await page.locator('#status', { hasText: /^\s*connected\s*$/ }).waitFor();
    const messages = page.locator('#messages .message');
    await messages.nth(1).waitFor();
    const texts = await messages.allTextContents();
    if (texts.some((text) => text.trim() === '')) {
        throw new Error(`a message without text: ${JSON.stringify(texts)}`);
    }
    if (problems.length > 0) {
        throw new Error(`the page has errors: ${problems.join('; ')}`);
    }
    console.log(`the page shows ${texts.length} messages, the last: ${texts.at(-1)}`);
}

async function main(executablePath, url) {
    await withPage(executablePath, {}, (page) => look(page, url));
}

main(...process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exit(1);
});
