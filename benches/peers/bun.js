// Bun's built-in WebSocket server: publishes to topics and echoes, without other work per message. With --deflate it
// compresses, using the compressor shared by all connections. With --tls CERT KEY it listens for wss.
//
// A socket of /feed/a,b subscribes to a and b. A message on /publish goes to the topic bench, one on /publish/topics to
// the topic before its first blank.
const deflate = process.argv.includes("--deflate");
const at = process.argv.indexOf("--tls");
const tls = at < 0 ? undefined : { cert: Bun.file(process.argv[at + 1]), key: Bun.file(process.argv[at + 2]) };
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  tls,
  fetch(request, server) {
    const path = new URL(request.url).pathname;
    if (server.upgrade(request, { data: path })) return undefined;
    return new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    perMessageDeflate: deflate,
    idleTimeout: 0,
    backpressureLimit: 64 * 1024 * 1024,
    open(socket) {
      if (socket.data.startsWith("/feed/")) {
        for (const topic of socket.data.slice("/feed/".length).split(",")) socket.subscribe(topic);
      }
    },
    message(socket, message) {
      if (socket.data === "/publish") server.publish("bench", message, deflate);
      else if (socket.data === "/publish/topics") {
        const blank = message.indexOf(" ");
        server.publish(message.slice(0, blank), message.slice(blank + 1), deflate);
      } else socket.send(message, deflate);
    },
  },
});

console.log(`listening on ${tls ? "wss" : "ws"}://127.0.0.1:${server.port}`);
console.log("ready");
