// What Node.js and the page in the browser have in common.
'use strict';

// Clients come back sooner than the package would have them, so that tests are quick.
const OPTIONS = { minReconnectDelay: 20, maxReconnectDelay: 40 };

// Makes tokens signed with HS256.
function signer(secret) {
    const { createHmac } = require('node:crypto');
    const encoded = (bytes) => Buffer.from(bytes).toString('base64url');
    return async (claims) => {
        const head = `${encoded('{"alg":"HS256","typ":"JWT"}')}.${encoded(JSON.stringify(claims))}`;
        return `${head}.${createHmac('sha256', secret).update(head).digest('base64url')}`;
    };
}

// How data is written in an encoding: values in JSON, bytes in Protobuf.
function codec(encoding) {
    if (encoding === 'json') {
        return { encode: (value) => value, decode: (data) => data };
    }
    return {
        encode: (value) => new TextEncoder().encode(JSON.stringify(value)),
        decode: (data) => JSON.parse(new TextDecoder().decode(data)),
    };
}

module.exports = { OPTIONS, signer, codec };
