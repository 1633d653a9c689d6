// ringfeed.js: live data of a Ringfeed server in JavaScript values. README.md has the documentation, ringfeed.d.ts the
// types. It speaks the JSON form of Centrifugo's client protocol.

const TRANSPORTS = ["websocket", "http_stream", "sse"];
const MODES = ["snapshot", "append", "prepend", "keyed", "presence"];
const DIAL_MS = 10_000; // from the attempt to the server's answer
const PING_GRACE_MS = 10_000; // after a missing ping
const STABLE_MS = 5_000; // a connection that lasted as long starts the back-off anew
const RENEW_MS = 5_000; // until a failed request for a token is repeated
const QUEUE_MAX = 1000; // commands that wait for a connection
const LIMIT = 10_000; // records of a variable

/** Connects to a server. `url` is its origin, perhaps with the path of a proxy before the server's own paths. */
export function connect(url = globalThis.location?.origin, options = {}) {
  return new Connection(url, options);
}

/** The server rejects a command, or the connection ends before the answer. */
export class FeedError extends Error {
  constructor(code, message, isTemporary = false) {
    super(message);
    Object.assign(this, { code, temporary: isTemporary });
  }
}

/** The transport that has worked for this page. */
const remembered = (name) => {
  try {
    return name ? (sessionStorage.ringfeed = name) : sessionStorage.ringfeed;
  } catch {} // There is no such storage, or the page may not use it.
};

// Frames of a hidden page do not come; the value is up to date without them.
const soon = (act) =>
  globalThis.requestAnimationFrame && !globalThis.document?.hidden ? requestAnimationFrame(act) : setTimeout(act, 16);

/** A value that changes. `subscribe` has the contract of Svelte's stores. */
class Store {
  #observers = new Set();
  #isScheduled = false;

  subscribe = (observer) => {
    const entry = { observer };
    this.#observers.add(entry);
    if (this.#observers.size === 1) this._start();
    observer(this.value);
    return () => {
      if (this.#observers.delete(entry) && !this.#observers.size) this._stop();
    };
  };

  /** The value now, then the newest whenever the loop asks for one. */
  async *[Symbol.asyncIterator]() {
    let wake, isNew;
    const leave = this.subscribe(() => {
      isNew = true;
      wake?.();
    });
    try {
      for (;;) {
        while (!isNew) await new Promise((resolve) => (wake = resolve));
        isNew = false;
        yield this.value;
      }
    } finally {
      leave();
    }
  }

  _start() {}
  _stop() {}

  /** At most once for each frame, however often the value changes. */
  _notify() {
    if (this.#isScheduled || !this.#observers.size) return;
    this.#isScheduled = true;
    soon(() => {
      this.#isScheduled = false;
      for (const { observer } of this.#observers) observer(this.value);
    });
  }
}

/** A topic's value: its newest message, its last messages, the newest of each key, or its present clients. */
class Variable extends Store {
  state = "waiting";
  reason = null;
  missed = 0;
  lost = 0;
  _offset = 0;
  _held = null; // publications that came while the history is under way
  #value;
  #isStale = true;
  #items;
  #join;
  #leave;

  constructor(topic, options, join, leave) {
    super();
    const { mode = "snapshot", limit = LIMIT, key = (_, { key = "" }) => key } = options;
    if (!MODES.includes(mode)) throw new TypeError(`modes: ${MODES}`);
    if (!(limit >= 1)) throw new TypeError("limit: 1 or more");
    Object.assign(this, { topic, mode, limit, options });
    this.key = typeof key === "function" ? key : (item) => item[key];
    this.#join = join;
    this.#leave = leave;
    this._clear(options.initial);
  }

  get value() {
    if (this.#isStale) {
      this.#value = this.#items;
      if (this.#isList) this.#value = this.limit === Infinity ? [...this.#items] : this.#items.slice(-this.limit);
      else if (this.mode !== "snapshot") this.#value = new Map(this.#items);
      if (this.mode === "prepend") this.#value.reverse();
      this.#isStale = false;
    }
    return this.#value;
  }

  get #isList() {
    return this.mode.endsWith("pend");
  }

  _start() {
    this.#join(this);
  }

  _stop() {
    this.#leave(this);
    Object.assign(this, { state: "waiting", hasBegun: false, _held: null });
  }

  _clear(initial) {
    this.#items = this.#isList ? [...(initial ?? [])] : this.mode === "snapshot" ? initial : new Map(initial);
    if (this.mode === "prepend") this.#items.reverse();
    this.#changed();
  }

  _take(publication) {
    if (this.mode === "presence") return;
    if (this._held) {
      if (this._held.push(publication) > 2 * this.limit) this._held.splice(0, this.limit);
      return;
    }
    const { offset = 0 } = publication;
    if (offset && this._offset) {
      if (offset <= this._offset) return;
      this.missed += offset - this._offset - 1;
    }
    this._offset = offset;
    this.#apply(publication);
  }

  #apply(publication) {
    const { mode, limit, options } = this;
    const { data } = publication;
    let item, key;
    try {
      item = options.parse ? options.parse(data, publication) : data;
      if (item === undefined) return;
      if (mode === "keyed") key = this.key(item ?? data, publication);
      options.onMessage?.(item, publication);
    } catch (error) {
      return this._fail(error);
    }
    if (mode === "snapshot") this.#items = item;
    else if (mode === "keyed") this._set(key, item);
    else if (this.#items.push(item) >= 2 * limit) this.#items = this.#items.slice(-limit);
    this.#changed();
  }

  // With a limit, the key that has not changed for longest leaves first.
  _set(key, item) {
    if (item === null || this.#items.size >= this.limit) this.#items.delete(key);
    if (item === null) return this.#changed();
    this.#items.set(key, item);
    if (this.#items.size > this.limit) this.#items.delete(this.#items.keys().next().value);
    this.#changed();
  }

  _fail(error) {
    if (this.options.onError) this.options.onError(error);
    else console.error(`ringfeed: ${this.topic}:`, error);
  }

  #changed() {
    this.#isStale = true;
    this._notify();
  }
}

class Connection extends Store {
  #base;
  #options;
  #transports;
  #index = 0;
  #hasOpened = false;
  #token;
  #link = null; // the transport in use, and what belongs to it
  #attempts = 0;
  #retry;
  #id = 0;
  #sent = new Map(); // commands without an answer, by id
  #queue = [];
  #channels = new Map();

  constructor(url, options) {
    super();
    this.#base = String(url).replace(/^ws/, "http").replace(/\/+$/, "");
    this.#options = options;
    this.#transports = options.transports ?? TRANSPORTS;
    this.#token = options.token;
    if (!this.#transports.every((name) => TRANSPORTS.includes(name))) throw new TypeError(`transports: ${TRANSPORTS}`);
    this.#index = Math.max(0, this.#transports.indexOf(remembered()));
    // These reach the window, also from the document.
    for (const name of ["online", "pageshow", "visibilitychange"]) globalThis.addEventListener?.(name, this.#wake);
    this.open();
  }

  /** Connects, unless it does already. */
  open() {
    if (!this.#link) this.#dial();
  }

  /** Ends the connection until `open` is called, if `beforeClose` allows it. */
  close() {
    if (this.#options.beforeClose?.() !== false) this.#finish(1000, "closed");
  }

  variable(topic, options = {}) {
    const { mode } = options;
    const join = (variable) => {
      let channel = this.#channels.get(topic);
      if (!channel) this.#channels.set(topic, (channel = { topic, variables: new Set(), offset: 0, epoch: "" }));
      channel.variables.add(variable);
      channel.getToken ??= options.getToken;
      channel.token ??= options.token;
      const needsJoins = mode === "presence" && !channel.hasJoins;
      channel.hasJoins ||= mode === "presence";
      const { isOpen, turn } = channel;
      if ((isOpen || turn) && !needsJoins) return isOpen && this.#begin(channel, variable);
      if (isOpen || turn) this.#unsubscribe(topic);
      this.#subscribe(channel);
    };
    const leave = (variable) => {
      const channel = this.#channels.get(topic);
      if (!channel?.variables.delete(variable) || channel.variables.size) return;
      this.#channels.delete(topic);
      channel.turn = null;
      clearTimeout(channel.renewal);
      this.#unsubscribe(topic);
    };
    const variable = new Variable(topic, options, join, leave);
    variable.send = (data) => this.publish(topic, data);
    return variable;
  }

  /** Resolves when the server has the message. */
  async publish(topic, data) {
    const { beforeSend } = this.#options;
    const sent = beforeSend ? await beforeSend(data, topic) : data;
    if (sent === false) throw new FeedError(0, "rejected by beforeSend");
    await this.call("publish", { channel: topic, data: sent });
  }

  // ---- The connection

  async #dial() {
    clearTimeout(this.#retry);
    const { getToken, beforeOpen } = this.#options;
    const link = (this.#link = { name: this.#transports[this.#index] });
    const end = (code, text) => this.#lost(link, code, text);
    link.timer = setTimeout(end, DIAL_MS, 0, "no answer");
    this.#set("connecting", this.value?.reason);
    try {
      if (beforeOpen && (await beforeOpen()) === false) return this.#finish(0, "rejected by beforeOpen");
      if (!this.#token && getToken) this.#token = await getToken();
      const begin = link.name === TRANSPORTS[0] ? webSocket : (await import("./ringfeed-http.js"))[link.name];
      if (link !== this.#link) return;
      const body = { token: this.#token, data: this.#options.data };
      const opened = (result) => this.#opened(link, result);
      const first = this.#command("connect", body, opened, (error) => this.#refused(link, error));
      const target = { base: this.#base, url: `${this.#base}/connection/${link.name}`, first, link };
      link.socket = begin(this.#options, target, { text: (text) => this.#receive(link, text), end });
    } catch (error) {
      end(0, error.message);
    }
  }

  #opened(link, result) {
    Object.assign(link, result, { isOpen: true, since: Date.now(), ping: result.ping * 1000 });
    this.#hasOpened = true;
    remembered(link.name);
    this.#watch(link);
    this.#renew(link, result, this.#options.getToken, async (token) => {
      this.#token = token;
      return this.#ask("refresh", { token });
    });
    this.#set("open");
    for (const channel of this.#channels.values()) this.#subscribe(channel);
    for (const send of this.#queue.splice(0)) send();
  }

  // The server has answered the connect command with an error.
  #refused(link, error) {
    const { code, message, temporary } = error;
    if (link !== this.#link) return;
    if (temporary || (code === 109 && this.#options.getToken)) this.#lost(link, code, message);
    else this.#finish(code, message);
  }

  /** The link has ended: another attempt follows, unless the code forbids it. */
  #lost(link, code, text) {
    if (link !== this.#link) return;
    if (this.#options.getToken && (code === 3005 || code === 109)) this.#token = "";
    if (code >= 3500 && code % 1000 >= 500) return this.#finish(code, text);
    if (link.isOpen && Date.now() - link.since > STABLE_MS) this.#attempts = 0;
    if (!link.isOpen && !this.#hasOpened) this.#index = (this.#index + 1) % this.#transports.length;
    const { min = 500, max = 20_000 } = this.#options.retry ?? {};
    // Full jitter also for the first attempt: the clients of a server that restarts do not all come at once.
    const wait = Math.random() * Math.min(max, min * 2 ** this.#attempts++);
    this.#drop(new FeedError(code, text));
    this.#retry = setTimeout(() => this.open(), wait);
    this.#set("waiting", { code, text }, Date.now() + wait);
  }

  #finish(code, text) {
    const error = new FeedError(code, text);
    this.#drop(error);
    clearTimeout(this.#retry);
    for (const send of this.#queue.splice(0)) send(error);
    this.#set("closed", { code, text });
  }

  /** Forgets the link. Whether the commands without an answer were executed is unknown. */
  #drop(error) {
    const link = this.#link;
    this.#link = null;
    if (link) {
      link.isOpen = false;
      clearTimeout(link.timer);
      clearTimeout(link.renewal);
      link.socket?.close();
    }
    for (const { reject } of this.#sent.values()) reject(error);
    this.#sent.clear();
    for (const channel of this.#channels.values()) {
      channel.isOpen = channel.turn = null;
      clearTimeout(channel.renewal);
      this.#tell(channel, "waiting");
    }
  }

  #set(state, reason = null, retryAt = 0) {
    const { client = this.value?.client ?? "", name } = this.#link ?? {};
    this.value = { state, reason, client, transport: name ?? this.#transports[this.#index], retryAt };
    this._notify();
  }

  // A network that is back, or a page that is looked at again, is worth an attempt at once.
  #wake = () => {
    if (globalThis.document?.hidden) return;
    if (this.value.state === "waiting") this.open();
    if (this.#link?.isOpen) this.#watch(this.#link);
  };

  #watch(link) {
    clearTimeout(link.timer);
    if (!link.ping) return;
    const left = link.seen + link.ping + PING_GRACE_MS - Date.now();
    if (left <= 0) return this.#lost(link, 0, "no ping");
    link.timer = setTimeout(() => this.#watch(link), left);
  }

  /** Brings a new token a little before the old one expires, again and again. */
  #renew(owner, { expires, ttl }, getToken, refresh) {
    if (!expires || !getToken) return;
    const again = (ms) => (owner.renewal = setTimeout(act, Math.min(ms, 2 ** 31 - 1)));
    const act = async () => {
      try {
        const token = await getToken(owner.topic);
        if (owner.isOpen) this.#renew(owner, await refresh(token), getToken, refresh);
      } catch {
        if (owner.isOpen) again(RENEW_MS);
      }
    };
    again(ttl * 900);
  }

  // ---- Commands and replies

  /** The text of a command. `resolve` or `reject` is called before the message that follows the answer is read. */
  #command(name, body, resolve, reject) {
    this.#sent.set(++this.#id, { name, resolve, reject });
    return JSON.stringify({ id: this.#id, [name]: body });
  }

  /** Sends a command on the open connection. */
  #ask(name, body) {
    return new Promise((resolve, reject) => this.#link.socket.send(this.#command(name, body, resolve, reject)));
  }

  #unsubscribe(topic) {
    if (this.#link?.isOpen) this.#ask("unsubscribe", { channel: topic }).catch(() => {});
  }

  /** Sends any command of the protocol, once there is a connection, and resolves with its result. */
  call(name, body) {
    if (this.#link?.isOpen) return this.#ask(name, body);
    return new Promise((resolve, reject) => {
      const send = (error) => (error ? reject(error) : resolve(this.#ask(name, body)));
      if (this.value.state === "closed") send(new FeedError(0, "closed"));
      else if (this.#queue.push(send) > QUEUE_MAX) this.#queue.pop()(new FeedError(0, "the queue is full", true));
    });
  }

  #receive(link, text) {
    link.seen = Date.now();
    for (const line of text.split("\n")) {
      if (!line || link !== this.#link) continue;
      const reply = JSON.parse(line);
      const { id, error, push } = reply;
      if (push) this.#onPush(link, push);
      else if (!id) link.pong && link.socket.send("{}");
      else {
        const sent = this.#sent.get(id);
        this.#sent.delete(id);
        if (error) sent?.reject(new FeedError(error.code, error.message, error.temporary));
        else sent?.resolve(reply[sent.name] ?? {});
      }
    }
  }

  #onPush(link, { channel: topic, pub, join, leave, unsubscribe, disconnect }) {
    if (disconnect) return this.#lost(link, disconnect.code, disconnect.reason);
    const channel = this.#channels.get(topic);
    if (!channel) return;
    if (pub) this.#deliver(channel, pub);
    const [person, isHere] = join ? [join.info, true] : [leave?.info, false];
    if (person) for (const variable of channel.variables) this.#meet(variable, person, isHere);
    if (unsubscribe) this.#unsubscribed(channel, unsubscribe);
  }

  // ---- Topics

  #deliver(channel, publication) {
    if (publication.offset) channel.offset = publication.offset;
    for (const variable of channel.variables) variable._take(publication);
  }

  #meet(variable, person, isHere) {
    if (variable.mode !== "presence") return;
    if (variable._held) variable._held.push([person, isHere]);
    else variable._set(person.client, isHere ? person : null);
  }

  async #subscribe(channel) {
    const link = this.#link;
    if (!link?.isOpen) return;
    const turn = (channel.turn = {});
    clearTimeout(channel.renewal);
    const unless = (act) => (result) => link.isOpen && channel.turn === turn && act(channel, result);
    const failed = unless(this.#notSubscribed);
    const send = unless(() => {
      const { topic, epoch, offset, hasJoins, token } = channel;
      const body = { channel: topic, token, join_leave: hasJoins, ...(epoch && { recover: true, epoch, offset }) };
      link.socket.send(this.#command("subscribe", body, unless(this.#subscribed), failed));
    });
    try {
      if (!channel.token && channel.getToken) channel.token = await channel.getToken(channel.topic);
      send();
    } catch (error) {
      failed(error);
    }
  }

  #subscribed = (channel, { epoch = "", offset = 0, recovered, publications = [], expires, ttl }) => {
    const isAgain = channel.hasBegun;
    Object.assign(channel, { isOpen: true, hasBegun: true, turn: null, epoch });
    this.#tell(channel, "open");
    this.#renew(channel, { expires, ttl }, channel.getToken, async (token) => {
      channel.token = token;
      return this.#ask("sub_refresh", { channel: channel.topic, token });
    });
    if (!recovered) channel.offset = offset;
    for (const publication of publications) this.#deliver(channel, publication);
    for (const variable of channel.variables) {
      if (isAgain && variable.hasBegun) {
        if (!recovered) variable.lost += 1;
        const { onRecovered, onLost } = variable.options;
        recovered ? onRecovered?.(publications.length) : onLost?.();
      }
      if (!recovered || !variable.hasBegun || variable.mode === "presence") this.#begin(channel, variable);
    }
  };

  /** The variable counts on from the channel's position, and first takes what the topic's history has. */
  async #begin(channel, variable) {
    const { mode, options } = variable;
    const isPresence = mode === "presence";
    Object.assign(variable, { state: "open", hasBegun: true, _offset: channel.offset });
    if (!isPresence && !options.history) return;
    const held = (variable._held = []);
    let page = {};
    try {
      const question = { channel: channel.topic, limit: options.history, reverse: true };
      page = await this.#ask(isPresence ? "presence" : "history", question);
    } catch (error) {
      if (variable._held === held) variable._fail(error);
    }
    // Otherwise it has ended or begun anew meanwhile.
    if (variable._held !== held) return;
    variable._held = null;
    const { publications = [], presence = {} } = page;
    if (isPresence) {
      variable._clear();
      for (const person of Object.values(presence)) this.#meet(variable, person, true);
      for (const [person, isHere] of held) this.#meet(variable, person, isHere);
      return;
    }
    if (publications.length) variable._clear();
    variable._offset = 0;
    for (const publication of publications.reverse().concat(held)) variable._take(publication);
  }

  #notSubscribed = (channel, error) => {
    channel.turn = null;
    // A subscription that the token or the application behind the server has made.
    if (error.code === 105) return this.#subscribed(channel, {});
    if (error.code === 109 && channel.getToken) channel.token = "";
    else if (!error.temporary && error instanceof FeedError) {
      this.#tell(channel, "closed", { code: error.code, text: error.message });
      for (const variable of channel.variables) variable._fail(error);
      return;
    }
    channel.renewal = setTimeout(() => this.#subscribe(channel), Math.random() * RENEW_MS);
  };

  #unsubscribed(channel, { code, reason }) {
    channel.isOpen = false;
    clearTimeout(channel.renewal);
    if (code < 2500) return this.#tell(channel, "closed", { code, text: reason });
    if (channel.getToken) channel.token = "";
    this.#subscribe(channel);
  }

  #tell(channel, state, reason = null) {
    for (const variable of channel.variables) {
      Object.assign(variable, { state, reason });
      if (state !== "open") variable._held = null;
    }
  }
}

/** Begins with the connect command, and hands every text to `on.text` and the end to `on.end`. */
function webSocket({ WebSocket = globalThis.WebSocket }, { url, first }, on) {
  const socket = new WebSocket(url.replace(/^http/, "ws"));
  socket.onopen = () => socket.send(first);
  socket.onmessage = ({ data }) => on.text(data);
  socket.onclose = ({ code, reason }) => on.end(code, reason || "lost");
  socket.onerror = () => {}; // onclose follows.
  return socket;
}
