// The transports for networks that let no WebSocket through; ringfeed.js loads them when it needs them.
//
// The server answers on an HTTP response that does not end. Commands are requests of their own.

export function http_stream({ fetch = globalThis.fetch }, target, on) {
  const stop = new AbortController();
  const read = async () => {
    const response = await fetch(target.url, { ...posted(target.first), signal: stop.signal });
    if (!response.ok) throw new Error(`the server answers with ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) throw new Error("the stream has ended");
      const end = value.lastIndexOf("\n");
      if (end >= 0) on.text(rest + value.slice(0, end));
      rest = end >= 0 ? value.slice(end + 1) : rest + value;
    }
  };
  read().catch((error) => on.end(0, error.message));
  return { send: sender(fetch, target, on), close: () => stop.abort() };
}

export function sse({ EventSource = globalThis.EventSource, fetch = globalThis.fetch }, target, on) {
  const source = new EventSource(`${target.url}?cf_connect=${encodeURIComponent(target.first)}`);
  source.onmessage = ({ data }) => on.text(data);
  // It would reconnect by itself, but not recover.
  source.onerror = () => {
    source.close();
    on.end(0, "the event stream was lost");
  };
  return { send: sender(fetch, target, on), close: () => source.close() };
}

const posted = (body) => ({ method: "POST", body, headers: { "Content-Type": "application/json" } });

/** Sends commands one request after the other, since they must not overtake each other; each takes all that wait. */
function sender(fetch, { base, link }, on) {
  let waiting = [];
  let isPosting = false;
  const post = async () => {
    isPosting = true;
    while (waiting.length) {
      const data = waiting.splice(0, 100).join("\n");
      const commands = JSON.stringify({ session: link.session, node: link.node, data });
      const response = await fetch(`${base}/emulation`, posted(commands));
      if (!response.ok) throw new Error(`the server answers commands with ${response.status}`);
    }
    isPosting = false;
  };
  return (text) => {
    waiting.push(text);
    if (!isPosting) post().catch((error) => on.end(0, error.message));
  };
}
