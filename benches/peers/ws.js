// npm's ws on Node: loops over all subscribers for a publication, as in its documentation, and echoes.
// Arguments: the path of the module, and --deflate to compress at Ringfeed's level.
const { WebSocketServer } = require(require("node:path").resolve(process.argv[2]));

const perMessageDeflate = process.argv.includes("--deflate") && { zlibDeflateOptions: { level: 2 } };

const subscribers = new Set();
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate }, () => {
  console.log(`listening on ws://127.0.0.1:${server.address().port}`);
  console.log("ready");
});

server.on("connection", (socket, request) => {
  if (request.url.startsWith("/feed/")) {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  } else if (request.url === "/publish") {
    socket.on("message", (message, binary) => {
      for (const subscriber of subscribers) subscriber.send(message, { binary });
    });
  } else {
    socket.on("message", (message, binary) => socket.send(message, { binary }));
  }
  socket.on("error", () => socket.terminate());
});
