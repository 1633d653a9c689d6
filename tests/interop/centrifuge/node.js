// node.js SCENARIO URL json|protobuf SECRET
//
// Goes through a scenario with the package `centrifuge` on Node.js. What it wants from the other side of the test goes
// to standard output, one line each.
'use strict';

const WebSocket = require('ws');
require('./scenarios.js');
const { signer, codec, OPTIONS } = require('./common.js');

async function main(scenario, url, encoding, secret) {
    const { Centrifuge } = encoding === 'json' ? require('centrifuge') : require('centrifuge/build/protobuf');
    const env = {
        make: (options) => new Centrifuge(url, { websocket: WebSocket, ...OPTIONS, ...options }),
        cue: (line) => console.log(line),
        sign: signer(secret),
        ...codec(encoding),
    };
    await globalThis.centrifugeScenarios[scenario](env);
    console.log('done');
}

main(...process.argv.slice(2)).then(
    () => process.exit(0),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
