// quickstart.js CHROMIUM DATA CONTROL PYTHON
//
// Runs the blocks of docs/quickstart.md against a server: DATA and CONTROL are the addresses of its ports, which take
// the place of the page's. Each block must show what is published meanwhile. Rust's is left out: it would need crates.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');

const { withPage } = require('./launch.js');

const REPOSITORY = path.join(__dirname, '..', '..');
const PATIENCE = 60_000;
const TITLE = 'hello';

// The blocks under the title in this language.
function blocks(title, language, data, control) {
    const page = fs.readFileSync(path.join(REPOSITORY, 'docs/quickstart.md'), 'utf8');
    const section = page.split(`\n## ${title}\n`)[1].split('\n## ')[0];
    const found = [...section.matchAll(new RegExp(`\`\`\`${language}\n([^]*?)\`\`\``, 'g'))].map(([, text]) => text);
    if (found.length === 0) {
        throw new Error(`no block of ${language} under ${title}`);
    }
    return found.map((text) => text.replaceAll('127.0.0.1:8000', data).replaceAll('127.0.0.1:8001', control));
}

// Publishes again and again until `seen` resolves.
async function publishUntil(publish, seen, what) {
    const timer = setInterval(publish, 200);
    let late = null;
    const end = new Promise((_, reject) => {
        late = setTimeout(() => reject(new Error(`nothing is shown: ${what}`)), PATIENCE);
    });
    try {
        await Promise.race([seen, end]);
    } finally {
        clearInterval(timer);
        clearTimeout(late);
    }
    console.log(`${what}: seen`);
}

// Runs a program until it prints what is published.
async function run(publish, what, program, args, options = {}) {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'], ...options });
    const seen = new Promise((resolve, reject) => {
        let text = '';
        child.stdout.on('data', (chunk) => {
            text += chunk;
            if (text.includes(TITLE)) {
                resolve();
            }
        });
        child.on('error', reject);
        child.on('exit', (code) => reject(new Error(`${what} ends with ${code}: ${text}`)));
    });
    try {
        await publishUntil(publish, seen, what);
    } finally {
        child.removeAllListeners('exit');
        child.kill();
    }
}

async function main(executablePath, data, control, python) {
    const of = (title, language) => blocks(title, language, data, control);
    const [follow, send] = of('curl', 'sh');
    const publish = () => spawn('sh', ['-c', send], { stdio: 'ignore' });
    await run(publish, 'curl', 'sh', ['-c', `exec ${follow}`]);
    await run(publish, 'Python', python, ['-c', of('Python', 'python')[0]]);

    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringfeed-quickstart-'));
    try {
        fs.symlinkSync(process.env.NODE_PATH, path.join(directory, 'node_modules'));
        for (const name of ['ringfeed.js', 'ringfeed-http.js']) {
            fs.copyFileSync(path.join(REPOSITORY, 'clients/js', name), path.join(directory, name));
        }
        fs.writeFileSync(path.join(directory, 'package.json'), '{"type":"module"}');
        for (const title of ['Node.js', 'An SDK of Centrifugo']) {
            fs.writeFileSync(path.join(directory, 'block.js'), of(title, 'js')[0]);
            await run(publish, title, process.execPath, ['block.js'], { cwd: directory });
        }
        for (const title of ['A page without a library', 'A page with ringfeed.js']) {
            fs.writeFileSync(path.join(directory, 'index.html'), of(title, 'html')[0]);
            await look(executablePath, directory, (page) => publishUntil(
                publish, page.locator('#news li', { hasText: TITLE }).first().waitFor(), title,
            ));
        }
    } finally {
        fs.rmSync(directory, { recursive: true });
    }
}

// Serves the directory's files to a browser.
async function look(executablePath, directory, use) {
    const server = http.createServer((request, response) => {
        const name = request.url === '/' ? '/index.html' : request.url;
        const file = path.join(directory, path.basename(name));
        if (!fs.existsSync(file)) {
            return response.writeHead(404).end();
        }
        const type = name.endsWith('.js') ? 'text/javascript' : 'text/html';
        return response.writeHead(200, { 'Content-Type': type }).end(fs.readFileSync(file));
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
        await withPage(executablePath, {}, async (page) => {
            await page.goto(`http://127.0.0.1:${server.address().port}/`);
            await use(page);
        });
    } finally {
        server.close();
    }
}

main(...process.argv.slice(2)).then(
    () => process.exit(0),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
