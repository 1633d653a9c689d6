// The types of ringfeed.js.

/** JSON, as it is published. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** What a variable makes of a topic's messages. */
export type Mode = "snapshot" | "append" | "prepend" | "keyed" | "presence";

/** What carries messages. They are tried in turn until one of them opens. */
export type Transport = "websocket" | "http_stream" | "sse";

/** Why a connection or a variable is in its state: a close or error code of the server, or 0, and a text. */
export interface Reason {
  code: number;
  text: string;
}

/** A connection, as its observers see it. */
export interface Status {
  state: "connecting" | "open" | "waiting" | "closed";
  reason: Reason | null;
  /** The connection's name on the server; empty before the first. */
  client: string;
  transport: Transport;
  /** When the next attempt follows, in milliseconds of Unix time; 0 unless the state is "waiting". */
  retryAt: number;
}

/** A client, as other clients see it. */
export interface Client {
  client: string;
  user: string;
  conn_info?: unknown;
  chan_info?: unknown;
}

/** A message with what the server says of it. */
export interface Publication<Data = unknown> {
  data: Data;
  /** Counts the topic's messages: 1, 2, 3 and so on. */
  offset?: number;
  /** The conflation key. */
  key?: string;
  tags?: Record<string, string>;
  /** The publishing client; absent if the application has published it. */
  info?: Client;
}

/** A value that changes: the contract of Svelte's stores. */
export interface Observable<Value> extends AsyncIterable<Value> {
  readonly value: Value;
  /** Calls `observer` at once, and after changes: at most once for each animation frame. Returns the way to end it. */
  subscribe(observer: (value: Value) => void): () => void;
}

export interface ConnectOptions {
  /** The connection token. */
  token?: string;
  /** Brings a token: at first unless there is one, and before and after the old one has expired. */
  getToken?: () => string | Promise<string>;
  /** Default: all, in the order of the type. */
  transports?: Transport[];
  /** The back-off in milliseconds, of which each wait is a random part. Default: 500 to 20,000. */
  retry?: { min?: number; max?: number };
  /** For the application behind the server, when the client connects. */
  data?: unknown;
  /** `false` prevents the connection. */
  beforeOpen?: () => void | boolean | Promise<void | boolean>;
  /** Returns what is published instead; `false` rejects it. */
  beforeSend?: (data: any, topic: string) => unknown;
  /** `false` prevents `close`. */
  beforeClose?: () => void | boolean;
  /** Replacements for the browser's own, as for Node.js. */
  WebSocket?: unknown;
  EventSource?: unknown;
  fetch?: typeof fetch;
}

export interface VariableOptions<Item, Data = any> {
  /** At most so many records; the oldest leave. Default: 10,000. `Infinity` is no limit. */
  limit?: number;
  /** Makes a record of a message; `undefined` ignores the message. */
  parse?: (data: Data, publication: Publication<Data>) => Item | null | undefined;
  /** So many messages of the topic's history come first, as far as the server keeps them. Default: 0. */
  history?: number;
  /** The subscription token. */
  token?: string;
  /** Brings a subscription token. */
  getToken?: (topic: string) => string | Promise<string>;
  /** Each record, also those that `value` no longer has when observers are called. */
  onMessage?: (item: Item, publication: Publication<Data>) => void;
  /** After a reconnect without a gap: so many messages have been recovered. */
  onRecovered?: (count: number) => void;
  /** After a reconnect: messages may be missing. */
  onLost?: () => void;
  /** The server has rejected the subscription, or `parse` has thrown. Default: `console.error`. */
  onError?: (error: Error) => void;
}

/** A topic as a value. The subscription begins with the first observer and ends with the last. */
export interface Variable<Value> extends Observable<Value> {
  readonly topic: string;
  readonly mode: Mode;
  readonly state: "waiting" | "open" | "closed";
  readonly reason: Reason | null;
  /** Messages that the server has conflated or dropped since this client was slow. */
  readonly missed: number;
  /** Reconnects after which messages may be missing. */
  readonly lost: number;
  /** Publishes to the topic. */
  send(data: unknown): Promise<void>;
}

export interface Connection extends Observable<Status> {
  /** Connects at once, also after `close`. */
  open(): void;
  /** Ends the connection, if `beforeClose` allows it. */
  close(): void;
  variable<Item = any>(
    topic: string,
    options?: VariableOptions<Item> & { mode?: "snapshot"; initial?: Item },
  ): Variable<Item | undefined>;
  variable<Item = any>(
    topic: string,
    options: VariableOptions<Item> & { mode: "append" | "prepend"; initial?: readonly Item[] },
  ): Variable<readonly Item[]>;
  variable<Item = any>(
    topic: string,
    options: VariableOptions<Item> & {
      mode: "keyed";
      initial?: Iterable<readonly [string, Item]>;
      /** The record's key: a member's name or a function. Default: the conflation key. */
      key?: string | ((item: Item, publication: Publication) => string);
    },
  ): Variable<ReadonlyMap<string, Item>>;
  variable(
    topic: string,
    options: Omit<VariableOptions<never>, "parse" | "history"> & { mode: "presence" },
  ): Variable<ReadonlyMap<string, Client>>;
  /** Resolves when the server has the message; waits for a connection if there is none. */
  publish(topic: string, data: unknown): Promise<void>;
  /** Sends a command of the protocol, and resolves with the server's result. */
  call(name: "presence", body: { channel: string }): Promise<{ presence: Record<string, Client> }>;
  call(name: "presence_stats", body: { channel: string }): Promise<{ num_clients: number; num_users: number }>;
  call(
    name: "history",
    body: { channel: string; limit?: number; since?: { offset: number; epoch: string }; reverse?: boolean },
  ): Promise<{ publications?: Publication[]; offset?: number; epoch?: string }>;
  call(name: "rpc", body: { method: string; data?: unknown }): Promise<{ data: any }>;
}

/** The server rejects a command, or the connection ends before the answer. */
export class FeedError extends Error {
  constructor(code: number, message: string, isTemporary?: boolean);
  readonly code: number;
  readonly temporary: boolean;
}

/** Connects to a server: its origin, perhaps with the path of a proxy before the server's own paths. */
export function connect(url?: string, options?: ConnectOptions): Connection;
