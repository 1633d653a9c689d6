// browser.js SCENARIO URL json|protobuf SECRET CHROMIUM
//
// Goes through a scenario with the package `centrifuge` in a real browser, headless, on a page of the same host. What
// it wants from the other side of the test goes to standard output, one line each.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const { withPage } = require('../launch.js');
const { signer, codec, OPTIONS } = require('./common.js');

// The package as it is made for pages: one script that defines `Centrifuge`.
function bundle(encoding) {
    const directory = path.join(path.dirname(require.resolve('centrifuge')), '..', 'dist');
    return path.join(directory, encoding === 'json' ? 'centrifuge.js' : 'centrifuge.protobuf.js');
}

async function main(scenario, url, encoding, secret, executablePath) {
    await withPage(executablePath, { bypassCSP: true }, async (page) => {
        await page.exposeFunction('cue', (line) => console.log(line));
        await page.exposeFunction('sign', signer(secret));
        await page.goto(url.replace(/^ws/, 'http').replace('/connection/websocket', '/'), { waitUntil: 'commit' });
        await page.addScriptTag({ content: fs.readFileSync(bundle(encoding), 'utf8') });
        await page.addScriptTag({ path: path.join(__dirname, 'scenarios.js') });
        await page.addScriptTag({ content: `globalThis.codec = ${codec}` });
        await page.evaluate(
            ([name, address, form, options]) => globalThis.centrifugeScenarios[name]({
                make: (more) => new globalThis.Centrifuge(address, { ...options, ...more }),
                cue: (line) => globalThis.cue(line),
                sign: (claims) => globalThis.sign(claims),
                ...globalThis.codec(form),
            }),
            [scenario, url, encoding, OPTIONS],
        );
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
