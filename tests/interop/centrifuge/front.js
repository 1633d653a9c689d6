// One port for the data port and the control port's /api, as Centrifugo has it.
const http = require('http'), net = require('net');
const [data, control] = [Number(process.argv[2]), Number(process.argv[3])];
const server = http.createServer((request, response) => {
  const port = request.url.startsWith('/api') ? control : data;
  const headers = { ...request.headers };
  if (port === control) headers.host = `127.0.0.1:${control}`;
  const { url: path, method } = request;
  const out = http.request({ host: '127.0.0.1', port, path, method, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    response.flushHeaders();
    answer.pipe(response);
  });
  request.pipe(out);
  out.on('error', () => response.destroy());
  response.on('close', () => out.destroy());
});
server.on('upgrade', (request, socket, head) => {
  const out = net.connect(data, '127.0.0.1', () => {
    const fields = [];
    for (let i = 0; i < request.rawHeaders.length; i += 2) {
      fields.push(`${request.rawHeaders[i]}: ${request.rawHeaders[i + 1]}`);
    }
    out.write(`${request.method} ${request.url} HTTP/1.1\r\n${fields.join('\r\n')}\r\n\r\n`);
    out.write(head);
    socket.pipe(out).pipe(socket);
  });
  out.on('error', () => socket.destroy());
  socket.on('error', () => out.destroy());
});
server.listen(8000, () => console.log('front ready'));
