// Bun's built-in WebSocket server: publishes to a topic and echoes, without other work per message. With --deflate it
// compresses, using the compressor shared by all connections.
const deflate = process.argv.includes("--deflate");
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
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
      if (socket.data.startsWith("/feed/")) socket.subscribe("bench");
    },
    message(socket, message) {
      if (socket.data === "/publish") server.publish("bench", message, deflate);
      else socket.send(message, deflate);
    },
  },
});

console.log(`listening on ws://127.0.0.1:${server.port}`);
console.log("ready");
