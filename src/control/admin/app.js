// The admin page. It shows what the control port knows, and reads the server's figures on the data port as any client
// does: with Centrifugo's JSON protocol. All text goes to the page as text.
'use strict';

// ---- Elements.

const $ = (id) => document.getElementById(id);

// Makes an element. `props` are its properties; those with a dash are attributes, and `on…` are listeners.
function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name.includes('-') || ['role', 'for', 'scope', 'colspan'].includes(name))
      element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const link = (href, text) => h('a', { href }, text);
const topicLink = (name) => link(`#topic/${encodeURIComponent(name)}`, name);

// A labelled field of a form.
function field(text, control) {
  return h('label', { className: 'field' }, h('span', {}, text), control);
}

// A table in a box that scrolls by itself. `columns` are texts, or {text, isNumber, key}: those with a key sort.
function table(caption, columns, rows, sort) {
  const head = columns.map((column) => {
    const { text, isNumber, key } = typeof column === 'string' ? { text: column } : column;
    const isSorted = sort && key && sort.key === key;
    const state = isSorted ? (sort.isDown ? 'descending' : 'ascending') : undefined;
    const content = sort && key ? h('button', { type: 'button', onclick: () => sort.by(key, isNumber) }, text) : text;
    return h('th', { scope: 'col', className: isNumber ? 'n' : '', 'aria-sort': state }, content);
  });
  const body = rows.map((cells) =>
    h(
      'tr',
      { className: cells.className ?? '' },
      cells.map((cell, index) => {
        const { isNumber, isName } = columns[index];
        const content = cell instanceof Node || Array.isArray(cell) ? cell : String(cell);
        return h('td', { className: isNumber ? 'n' : isName ? 'name' : '' }, content);
      }),
    ),
  );
  const all = h('table', { 'aria-label': caption }, h('thead', {}, h('tr', {}, head)), h('tbody', {}, body));
  return h('div', { className: 'table', role: 'region', 'aria-label': caption, tabIndex: 0 }, all);
}

// A box that scrolls what is long.
const scroller = (name, content) =>
  h('div', { className: 'scroll', role: 'region', 'aria-label': name, tabIndex: 0 }, content);

const empty = (text) => h('p', { className: 'empty' }, text);

// ---- Numbers for people.

function short(value) {
  if (!Number.isFinite(value)) return '–';
  const magnitude = Math.abs(value);
  for (const [unit, size] of [
    ['G', 1e9],
    ['M', 1e6],
    ['k', 1e3],
  ]) {
    if (magnitude >= size * 0.9995) return `${(value / size).toPrecision(3)} ${unit}`;
  }
  return magnitude > 0 && magnitude < 10 && !Number.isInteger(value) ? value.toFixed(1) : String(Math.round(value));
}

const whole = (value) => Math.round(value).toLocaleString('en');

function bytes(value) {
  if (!Number.isFinite(value)) return '–';
  let [size, unit] = [value, 0];
  while (size >= 1023.5 && unit < 5) [size, unit] = [size / 1024, unit + 1];
  const text = unit === 0 || size >= 100 ? Math.round(size) : size.toPrecision(3);
  return `${text} ${['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][unit]}`;
}

function seconds(value) {
  if (!Number.isFinite(value)) return '–';
  if (value < 1e-3) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1e3).toPrecision(3)} ms`;
  return `${value.toPrecision(3)} s`;
}

function duration(s) {
  const parts = [
    [86400, 'd'],
    [3600, 'h'],
    [60, 'min'],
    [1, 's'],
  ].filter(([size]) => s >= size);
  if (parts.length === 0) return '0 s';
  const [size, unit] = parts[0];
  const rest = parts[1] && Math.floor((s % size) / parts[1][0]);
  return `${Math.floor(s / size)} ${unit}${rest ? ` ${rest} ${parts[1][1]}` : ''}`;
}

const clock = (ms) => new Date(ms).toLocaleTimeString('en-GB');
const moment = (ms) => (ms > 0 ? new Date(ms).toLocaleString('en-GB') : '–');

// ---- Requests to the control port.

// The key of the control port, for this tab only.
const key = {
  get: () => sessionStorage.getItem('ringfeed.key') ?? '',
  set: (value) => sessionStorage.setItem('ringfeed.key', value),
  forget: () => sessionStorage.removeItem('ringfeed.key'),
};

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, body) {
  const headers = { Accept: 'application/json' };
  if (key.get()) headers['X-API-Key'] = key.get();
  const options = body === undefined ? { headers } : { headers, method: 'POST', body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...options, cache: 'no-store', signal: AbortSignal.timeout(10_000) });
  } catch {
    throw new Refused(0, 'The control port does not answer.');
  }
  const text = await response.text();
  if (response.status === 401) {
    session = null;
    askForKey(key.get() ? 'This key is wrong.' : '');
  }
  if (!response.ok) throw new Refused(response.status, text.trim());
  return JSON.parse(text);
}

// A call of the server API.
async function call(method, params = {}) {
  const reply = await ask(`/api/${method}`, params);
  if (reply.error) throw new Refused(reply.error.code, reply.error.message);
  return reply.result;
}

const parameters = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value));

// ---- The server's figures.

const SAMPLES_MAX = 600;
const SILENCE_MS = 3000;

// From `POST /admin/session`.
let session = null;
// The newest last. Gaps are gaps in time.
let samples = [];

const newest = () => samples.at(-1);

function addSample(sample) {
  const last = newest();
  if (sample.schema !== 1) return notice(`This page does not know figures of schema ${sample.schema}: reload it.`);
  if (last && sample.node !== last.node) {
    notice('The server has started again: figures from before are gone.');
    samples = [];
  } else if (last && sample.time_ms <= last.time_ms) {
    return;
  }
  samples.push(sample);
  if (samples.length > SAMPLES_MAX) samples.shift();
  showDrain(sample);
  view?.onSample?.(sample);
}

// The growth of a figure each second, from one sample to the next.
function rate(pick, now = newest(), before = samples.at(-2)) {
  if (!now || !before) return NaN;
  return Math.max(0, (pick(now) - pick(before)) / ((now.time_ms - before.time_ms) / 1000));
}

// The growth of a figure within the last minute.
function lastMinute(pick) {
  const now = newest();
  const before = samples.find((sample) => sample.time_ms >= now.time_ms - 60_000);
  return pick(now) - pick(before);
}

// A connection to the data port with Centrifugo's JSON protocol.
const feed = {
  socket: null,
  id: 0,
  waiting: new Map(),
  // By topic: {position, onData, onState}.
  topics: new Map(),
  isOpen: false,
  lastSampleMs: 0,

  open() {
    if (!session?.url || this.socket) return;
    const socket = new WebSocket(session.url);
    this.socket = socket;
    socket.onopen = () =>
      this.send({ connect: { token: session.token, name: 'admin' } }, (reply) => {
        if (reply.error) return socket.close();
        [this.isOpen, this.client] = [true, reply.connect.client];
        for (const topic of this.topics.keys()) this.sendSubscribe(topic);
      });
    socket.onmessage = ({ data }) => data.split('\n').forEach((line) => this.onReply(JSON.parse(line)));
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.close();
      setTimeout(() => this.reopen(), 1000);
    };
  },

  close() {
    const socket = this.socket;
    [this.socket, this.isOpen] = [null, false];
    this.waiting.clear();
    socket?.close();
  },

  async reopen() {
    if (!session || this.socket) return;
    try {
      session = await ask('/admin/session', {});
      this.open();
    } catch {
      if (session) setTimeout(() => this.reopen(), 1000);
    }
  },

  send(command, onReply) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.id += 1;
    if (onReply) this.waiting.set(this.id, onReply);
    this.socket.send(JSON.stringify({ id: this.id, ...command }));
  },

  onReply(reply) {
    if (reply.id) {
      this.waiting.get(reply.id)?.(reply);
      this.waiting.delete(reply.id);
    } else if (reply.push?.pub) {
      this.onPublication(reply.push.channel, reply.push.pub);
    } else if (!reply.push) {
      this.socket.send('{}');
    }
  },

  onPublication(topic, publication) {
    const subscription = this.topics.get(topic);
    if (!subscription) return;
    if (publication.offset && subscription.position) subscription.position.offset = publication.offset;
    subscription.onData(publication);
  },

  subscribe(topic, onData, onState = () => {}, position = null) {
    this.topics.set(topic, { position, onData, onState });
    if (this.isOpen) this.sendSubscribe(topic);
  },

  sendSubscribe(topic) {
    const subscription = this.topics.get(topic);
    const { position } = subscription;
    const since = position ? { recover: true, epoch: position.epoch, offset: position.offset } : {};
    this.send({ subscribe: { channel: topic, ...since } }, ({ error, subscribe }) => {
      if (error) return subscription.onState(`refused: ${error.message}`);
      if (position) subscription.onState(subscribe.recovered ? 'recovered' : 'lost');
      else subscription.onState('live');
      subscription.position = subscribe.epoch ? { epoch: subscribe.epoch, offset: subscribe.offset ?? 0 } : null;
      (subscribe.publications ?? []).forEach((publication) => this.onPublication(topic, publication));
    });
  },

  unsubscribe(topic) {
    if (this.topics.delete(topic)) this.send({ unsubscribe: { channel: topic } });
  },

  // The token lasts a minute.
  async renew() {
    if (!session || !this.isOpen) return;
    try {
      const { token } = await ask('/admin/session', {});
      session.token = token;
      this.send({ refresh: { token } });
    } catch {
      // The data port closes the connection, and the page says so.
    }
  },
};

// The figures of the last ten minutes, then each second's.
async function readFigures() {
  if (session.topic) {
    const past = await call('history', { channel: session.topic, limit: SAMPLES_MAX, reverse: true });
    past.publications?.reverse().forEach(({ data }) => addSample(data));
    const position = past.epoch ? { epoch: past.epoch, offset: past.offset ?? 0 } : null;
    const onState = (state) => {
      if (state === 'lost') notice('The server has no figures of the time in which this page was away.');
    };
    feed.subscribe(
      session.topic,
      ({ data }) => {
        feed.lastSampleMs = performance.now();
        addSample(data);
      },
      onState,
      position,
    );
  }
  feed.lastSampleMs = performance.now();
  feed.open();
}

// Each second: is the data port heard from? If not, the control port answers instead.
async function watch() {
  if (!session) return;
  const isSilent = performance.now() - feed.lastSampleMs > SILENCE_MS;
  if (session.topic && !isSilent) return status('live', 'good');
  try {
    addSample(await ask('/admin/stats'));
  } catch (error) {
    return error.status === 0 && status('the server does not answer', 'bad');
  }
  if (!session) return;
  if (newest().state === 'draining') status('draining: polling the control port', 'bad');
  else if (session.topic) status('the data port is silent: polling the control port', 'bad');
  else status('polling the control port', 'good');
}

function status(text, className) {
  const pill = $('status');
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = `pill ${className}`;
}

function notice(text) {
  const banner = $('notice');
  banner.textContent = text;
  banner.hidden = text === '';
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => {
    banner.hidden = true;
  }, 15_000);
}

// The most connections that the drain has had to close.
let drainTotal = 0;

function showDrain(sample) {
  const isDraining = sample.state === 'draining';
  $('drain').hidden = !isDraining;
  if (!isDraining) return;
  const left = sample.gauges.connections;
  drainTotal = Math.max(drainTotal, left, 1);
  [$('drain-bar').max, $('drain-bar').value] = [drainTotal, drainTotal - left];
  $('drain-text').textContent = `The server stops: ${whole(left)} of ${whole(drainTotal)} connections are left`;
}

// ---- Charts.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A chart of rows of `series`: {text, color, pick}, where pick returns a number for a sample and the one before.
class Chart {
  constructor(title, format, series, isStacked = false) {
    Object.assign(this, { title, format, series, isStacked });
    this.values = series.map(() => h('b', {}, '–'));
    this.keys = series.map((one, index) => {
      const mark = h('i');
      mark.style.background = `var(${one.color})`;
      return h('span', { className: 'key' }, mark, one.text, ' ', this.values[index]);
    });
    this.box = h('div', { className: 'chart', role: 'img', 'aria-label': title });
    const head = h('div', { className: 'chart-head' }, h('h2', {}, title), this.keys);
    this.element = h('section', { className: 'card' }, head, this.box);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.box);
  }

  size() {
    return { width: Math.max(80, this.box.clientWidth), height: this.box.clientHeight };
  }

  make() {
    const [line, quiet] = [css('--line'), css('--quiet')];
    const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: '11px system-ui' };
    const time = (_, ticks) => {
      const isShort = ticks.at(-1) - ticks[0] < 180;
      return ticks.map((tick) => clock(tick * 1000).slice(0, isShort ? 8 : 5));
    };
    const series = this.series.map(({ text, color }) => ({
      label: text,
      stroke: css(color),
      width: 1.5,
      points: { show: false },
      spanGaps: false,
      fill: this.isStacked ? `${css(color)}cc` : undefined,
    }));
    const values = (_, ticks) => ticks.map((tick) => this.format(tick));
    // Bytes have ticks at powers of two.
    const isBytes = this.format === bytes;
    const incrs = isBytes ? Array.from({ length: 50 }, (_, power) => 2 ** power) : undefined;
    const least = isBytes ? 1024 : this.format === seconds ? 0.0001 : 4;
    this.plot = new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false } },
        hooks: { setCursor: [({ cursor }) => this.showValues(cursor.idx)] },
        padding: [8, 4, 0, 0],
        scales: { x: { time: true }, y: { range: (_, _min, max) => [0, Math.max(max * 1.1, least)] } },
        axes: [
          { ...axis, values: time, space: 70, size: 26 },
          { ...axis, values, incrs, size: 62, space: 34 },
        ],
        series: [{}, ...(this.isStacked ? series.toReversed() : series)],
      },
      this.data(),
      this.box,
    );
  }

  resize() {
    if (!this.plot && this.box.clientWidth > 0) this.make();
    this.plot?.setSize(this.size());
  }

  data() {
    const times = [];
    const rows = this.series.map(() => []);
    samples.forEach((sample, index) => {
      const before = samples[index - 1];
      // A pause is a gap, not a line.
      if (before && sample.time_ms - before.time_ms > 5000) {
        times.push((before.time_ms + 1000) / 1000);
        rows.forEach((row) => row.push(null));
      }
      times.push(sample.time_ms / 1000);
      this.series.forEach(({ pick }, row) => {
        const value = pick(sample, before);
        rows[row].push(Number.isFinite(value) ? value : null);
      });
    });
    this.rows = [...rows];
    this.keys.forEach((one, index) => {
      one.hidden = this.series[index].isRare && rows[index].every((value) => !value);
    });
    this.showValues(this.plot?.cursor.idx);
    const text = this.series.map((one, index) => `${one.text} ${this.values[index].textContent}`).join(', ');
    this.box.setAttribute('aria-label', `${this.title} of the last ten minutes, now: ${text}`);
    if (!this.isStacked) return [times, ...rows];
    for (let row = 1; row < rows.length; row += 1) {
      rows[row] = rows[row].map((value, index) => (value === null ? null : value + (rows[row - 1][index] ?? 0)));
    }
    return [times, ...rows.toReversed()];
  }

  // The values at a place in time: where the pointer is, or now.
  showValues(index) {
    this.rows?.forEach((row, one) => {
      const value = row[index ?? row.length - 1];
      this.values[one].textContent = value === null || value === undefined ? '–' : this.format(value);
    });
  }

  update() {
    const data = this.data();
    this.plot?.setData(data);
  }

  recolor() {
    this.plot?.destroy();
    this.plot = null;
    this.resize();
  }

  remove() {
    this.observer.disconnect();
    this.plot?.destroy();
  }
}

const counter = (name) => (now, before) => rate((sample) => sample.counters[name], now, before);
const gauge = (name) => (sample) => sample.gauges[name];

// ---- Pages. Each has an element, and may have onSample, onColors and remove.

const COLORS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6', '--c7', '--c8', '--c9'];

const CLOSE_REASONS = {
  peer: 'The client closed the connection',
  peer_lost: 'The client went away without a Close frame',
  protocol: 'The client broke the protocol',
  refused: 'The handshake was refused',
  handshake_timeout: 'The handshake took too long',
  answered: 'A plain HTTP request was answered',
  ping_timeout: 'The client did not answer a ping',
  rate_limited: 'The client sent too much',
  slow_consumer: 'The client did not read fast enough',
  application: 'The application or an operator closed it',
  drain: 'The server stops',
};

function tile(text, note) {
  const [value, small] = [h('dd', {}, '–'), h('small', {}, note ?? '\u00a0')];
  const element = h('div', { className: 'card tile' }, h('dt', {}, text), value);
  const set = (shown, more, isBad = false) => {
    value.replaceChildren(shown, small);
    small.textContent = more ?? '\u00a0';
    element.className = isBad ? 'card tile bad' : 'card tile';
  };
  return { element, set };
}

function overview() {
  const names = [
    'Connections',
    'Subscriptions',
    'Topics',
    'Publications',
    'Deliveries',
    'Sent',
    'Slow readers',
    'Memory',
    'CPU',
  ];
  const tiles = names.map((name) => tile(name));
  const deliveries = new Chart('Messages each second', short, [
    { text: 'deliveries', color: '--c1', pick: counter('deliveries') },
    { text: 'publications', color: '--c3', pick: counter('publications') },
  ]);
  const transports = new Chart(
    'Connections',
    short,
    [
      { text: 'WebSocket', color: '--c1', pick: gauge('websockets') },
      { text: 'event stream', color: '--c2', isRare: true, pick: gauge('streams') },
      { text: 'TCP', color: '--c4', isRare: true, pick: gauge('framed') },
      {
        text: 'other',
        color: '--c6',
        isRare: true,
        pick: ({ gauges: all }) => Math.max(0, all.connections - all.websockets - all.streams - all.framed),
      },
    ],
    true,
  );
  const traffic = new Chart('Bytes each second', bytes, [
    { text: 'sent', color: '--c1', pick: counter('bytes_sent') },
    { text: 'received', color: '--c2', pick: counter('bytes_received') },
  ]);
  const backlog = new Chart('Backlog of slow readers', bytes, [
    { text: 'bytes', color: '--c3', pick: gauge('outbox_bytes') },
  ]);
  const closes = new Chart(
    'Ends of connections each second',
    short,
    Object.keys(CLOSE_REASONS).map((reason, index) => ({
      text: reason.replaceAll('_', ' '),
      color: COLORS[index % COLORS.length],
      isRare: reason !== 'peer',
      pick: (now, before) => rate((sample) => sample.closes[reason], now, before),
    })),
    true,
  );
  const cpu = new Chart('CPU', (value) => `${short(value)} %`, [
    {
      text: 'of one core',
      color: '--c4',
      pick: (now, before) => 100 * rate((s) => s.process.cpu_seconds, now, before),
    },
  ]);
  const duration_ = (name, quantile) => (sample) => sample.durations[name]?.[quantile] ?? NaN;
  const latency = new Chart('Fan-out, until the last send', seconds, [
    { text: 'p50', color: '--c1', pick: duration_('fan_out', 'p50') },
    { text: 'p99', color: '--c3', pick: duration_('fan_out', 'p99') },
  ]);
  const memory = new Chart('Memory', bytes, [
    { text: 'process', color: '--c1', pick: (sample) => sample.process.resident_bytes },
    { text: "kernel's slab", color: '--c2', pick: (sample) => sample.process.slab_bytes },
  ]);
  const shares = (now, before) =>
    now.shards.map((_, index) => rate((sample) => sample.shards[index]?.busy_nanoseconds ?? NaN, now, before) / 1e7);
  const busy = new Chart('Busy share of shards', (value) => `${short(value)} %`, [
    { text: 'busiest', color: '--c3', pick: (now, before) => Math.max(...shares(now, before)) },
    {
      text: 'mean',
      color: '--c1',
      pick: (now, before) => shares(now, before).reduce((sum, share) => sum + share, 0) / now.shards.length,
    },
  ]);
  const charts = [deliveries, latency, transports, traffic, backlog, closes, busy, cpu, memory];
  const reasons = h('section', { className: 'card' });
  const element = h(
    'div',
    { className: 'stack' },
    h('h1', {}, 'Overview'),
    h(
      'dl',
      { className: 'tiles' },
      tiles.map((one) => one.element),
    ),
    h(
      'div',
      { className: 'grid' },
      charts.map((chart) => chart.element),
    ),
    reasons,
  );
  function onSample(sample) {
    const { gauges, counters, process } = sample;
    const [process_, kernel] = process.added_bytes;
    const each =
      gauges.connections >= 1000
        ? `${bytes(process_ / gauges.connections)} + ${bytes(kernel / gauges.connections)} each`
        : `${bytes(process.slab_bytes)} in the kernel's slab`;
    const figures = [
      [whole(gauges.connections), `${short(rate((s) => s.counters.accepted))}/s arrive`],
      [whole(gauges.subscriptions)],
      [whole(gauges.topics), 'with subscribers'],
      [`${short(rate((s) => s.counters.publications))}/s`, `${whole(counters.publications)} in all`],
      [`${short(rate((s) => s.counters.deliveries))}/s`, `${whole(counters.deliveries)} in all`],
      [`${bytes(rate((s) => s.counters.bytes_sent))}/s`, `${bytes(counters.bytes_sent)} in all`],
      [whole(gauges.outbox_connections), `${bytes(gauges.outbox_bytes)} wait`, gauges.outbox_connections > 0],
      [bytes(process.resident_bytes), each],
      [`${short(100 * rate((s) => s.process.cpu_seconds))} %`, `up ${duration(sample.uptime_s)}`],
    ];
    figures.forEach((figure, index) => tiles[index].set(...figure));
    charts.forEach((chart) => chart.update());
    const rows = Object.entries(sample.closes)
      .filter(([, count]) => count > 0)
      .sort(([, a], [, b]) => b - a);
    reasons.replaceChildren(
      h('h2', {}, 'Why connections have ended'),
      rows.length === 0
        ? empty('No connection has ended yet.')
        : table(
            'Ends of connections by reason',
            ['Reason', 'Meaning', { text: 'Last minute', isNumber: true }, { text: 'In all', isNumber: true }],
            rows.map(([reason, count]) => [
              reason.replaceAll('_', ' '),
              CLOSE_REASONS[reason] ?? '',
              whole(lastMinute((s) => s.closes[reason] ?? 0)),
              whole(count),
            ]),
          ),
    );
  }
  return {
    element,
    onSample,
    onColors: () => charts.forEach((chart) => chart.recolor()),
    remove: () => charts.forEach((chart) => chart.remove()),
  };
}

// A shard with twice the work of the average one is a hot spot.
const IMBALANCE = 2;

function shards() {
  const box = h('section', { className: 'card' });
  const meter = (share) => {
    const bar = h('i');
    bar.style.width = `${Math.min(100, 100 * share)}%`;
    return h('span', { className: share > 0.85 ? 'meter hot' : 'meter' }, bar);
  };
  function onSample(sample) {
    const before = samples.at(-2);
    const of = (name, index) => rate((s) => s.shards[index]?.[name] ?? 0, sample, before);
    const mean = (pick) => sample.shards.reduce((sum, _, index) => sum + pick(index), 0) / sample.shards.length;
    const columns = [
      'Shard',
      { text: 'Busy', isNumber: true },
      ...[
        'Connections',
        'Subscriptions',
        'Home topics',
        'Deliveries/s',
        'Publications/s',
        'Sent/s',
        'Backlog',
        'Turns/s',
      ].map((text) => ({ text, isNumber: true })),
      '',
    ];
    const rows = sample.shards.map((shard, index) => {
      const isHot = (pick, least) =>
        sample.shards.length > 1 && pick(index) > least && pick(index) > IMBALANCE * mean(pick);
      const hot = [
        ['connections', isHot((i) => sample.shards[i].connections, 100)],
        ['deliveries', isHot((i) => of('deliveries', i), 1000)],
        ['busy', isHot((i) => of('busy_nanoseconds', i) / 1e9, 0.2)],
      ]
        .filter(([, is]) => is)
        .map(([name]) => h('span', { className: 'tag bad' }, `${name} over ${IMBALANCE}× the mean`));
      const busy = of('busy_nanoseconds', index) / 1e9;
      return [
        index,
        [meter(busy), ` ${short(100 * busy)} %`],
        whole(shard.connections),
        whole(shard.subscriptions),
        whole(shard.home_topics),
        short(of('deliveries', index)),
        short(of('publications', index)),
        bytes(of('bytes_sent', index)),
        bytes(shard.outbox_bytes),
        short(of('turns', index)),
        hot,
      ];
    });
    box.replaceChildren(table('Shards', columns, rows));
  }
  const about = 'A shard is one thread with its own connections. A topic’s home shard orders its publications.';
  return {
    element: h('div', { className: 'stack' }, h('h1', {}, 'Shards'), box, h('p', { className: 'quiet small' }, about)),
    onSample,
  };
}

// A list that is read page by page: `read(query)` returns {rows, cursor}, `show(rows, sort)` an element.
function pager(read, show) {
  const box = h('div');
  const outcome = h('p', { className: 'outcome quiet small', role: 'status' });
  const [first, next] = ['First page', 'Next page'].map((text) =>
    h('button', { type: 'button', className: 'plain' }, text),
  );
  const state = { query: {}, cursor: '', rows: [], loads: 0 };
  const sort = {
    key: '',
    isDown: false,
    by(wanted, isNumber) {
      sort.isDown = sort.key === wanted ? !sort.isDown : Boolean(isNumber);
      sort.key = wanted;
      draw();
    },
  };
  function draw() {
    const rows = [...state.rows];
    if (sort.key) {
      const order = (a, b) => (typeof a === 'number' ? a - b : String(a).localeCompare(String(b)));
      rows.sort((a, b) => order(a[sort.key], b[sort.key]) * (sort.isDown ? -1 : 1));
    }
    box.replaceChildren(show(rows, sort));
  }
  async function load(cursor = '') {
    outcome.className = 'outcome quiet small';
    outcome.textContent = 'Loading …';
    const start = performance.now();
    state.loads += 1;
    const load_ = state.loads;
    try {
      const page = await read({ ...state.query, cursor });
      // A later search may have been faster.
      if (load_ !== state.loads) return;
      Object.assign(state, { rows: page.rows, cursor: page.cursor, at: cursor });
      draw();
      const text = page.cursor ? 'There are more: sorting orders this page only.' : 'That is all.';
      outcome.textContent = `${whole(page.rows.length)} in ${Math.round(performance.now() - start)} ms. ${text}`;
    } catch (error) {
      outcome.className = 'outcome bad';
      outcome.textContent = error.message;
    }
    [first.hidden, next.hidden] = [!state.at, !state.cursor];
  }
  first.addEventListener('click', () => load());
  next.addEventListener('click', () => load(state.cursor));
  [first.hidden, next.hidden] = [true, true];
  const element = h('section', { className: 'card' }, box, outcome, h('div', { className: 'row' }, first, next));
  const search = (query) => {
    state.query = query;
    return load();
  };
  return { element, search, reload: () => load(state.at) };
}

function topics() {
  const pattern = h('input', { type: 'search', placeholder: 'chat:*', maxLength: 255, spellcheck: false });
  const columns = [
    { text: 'Topic', key: 'name', isName: true },
    { text: 'Subscribers', key: 'subscribers', isNumber: true },
    { text: 'Offset', key: 'offset', isNumber: true },
    { text: 'History', key: 'history_len', isNumber: true },
    { text: 'Bytes', key: 'history_bytes', isNumber: true },
    { text: 'Last publication', key: 'published_ms', isNumber: true },
  ];
  const list = pager(
    async (query) => {
      const { topics: rows, cursor } = await ask(`/admin/topics?${parameters(query)}`);
      return { rows, cursor };
    },
    (rows, sort) =>
      rows.length === 0
        ? empty('No topic has subscribers or a history here.')
        : table(
            'Topics',
            columns,
            rows.map((topic) => [
              topicLink(topic.name),
              whole(topic.subscribers),
              whole(topic.offset),
              whole(topic.history_len),
              bytes(topic.history_bytes),
              moment(topic.published_ms),
            ]),
            sort,
          ),
  );
  const onsubmit = (event) => {
    event.preventDefault();
    // Without a star, what is typed may be anywhere.
    const text = pattern.value.trim();
    list.search({ match: text === '' || /[*?]/.test(text) ? text : `*${text}*` });
  };
  const form = h(
    'form',
    { className: 'card', onsubmit, role: 'search' },
    h(
      'div',
      { className: 'row' },
      field('Search: a part of the name, or a pattern with * and ?', pattern),
      h('button', { type: 'submit' }, 'Search'),
    ),
  );
  list.search({});
  return { element: h('div', { className: 'stack' }, h('h1', {}, 'Topics'), form, list.element) };
}

// Shows a payload as indented JSON, as text, or in hexadecimal.
function payload(data) {
  const text = typeof data === 'string' ? data : JSON.stringify(data);
  const content = h('pre', { tabIndex: 0 });
  const forms = {
    JSON: () => (text.length <= 72 ? text : JSON.stringify(data, null, 2)),
    Text: () => text,
    Hex: () =>
      [...new TextEncoder().encode(text)]
        .slice(0, 4096)
        .map((byte, index) => byte.toString(16).padStart(2, '0') + ((index + 1) % 16 === 0 ? '\n' : ' '))
        .join(''),
  };
  const buttons = Object.keys(forms).map((name) => h('button', { type: 'button', onclick: () => choose(name) }, name));
  function choose(name) {
    content.textContent = forms[name]();
    buttons.forEach((button) => button.setAttribute('aria-pressed', String(button.textContent === name)));
  }
  choose(typeof data === 'string' ? 'Text' : 'JSON');
  return {
    buttons: h('span', { className: 'switch', role: 'group', 'aria-label': 'Form of the payload' }, buttons),
    content,
  };
}

function message(publication, when) {
  const { buttons, content } = payload(publication.data);
  const tags = Object.entries(publication.tags ?? {}).map(([name, value]) =>
    h('span', { className: 'tag' }, `${name}: ${value}`),
  );
  const parts = [
    publication.offset ? `offset ${whole(publication.offset)}` : '',
    publication.key ? `key ${publication.key}` : '',
    publication.info?.user ? `from ${publication.info.user}` : '',
    when,
  ].filter(Boolean);
  const meta = h(
    'div',
    { className: 'meta row middle' },
    parts.map((part) => h('span', {}, part)),
    tags,
    buttons,
  );
  return h('li', { className: 'message' }, meta, content);
}

const TAIL_MAX = 100;
const HISTORY_PAGE = 20;

function topic(name) {
  const tiles = ['Subscribers', 'Offset', 'History', 'Present', 'Last publication'].map((text) => tile(text));
  const encodings = h('section', { className: 'card' });
  const settings = h('section', { className: 'card' });

  const isOwn = name === session.topic;
  const closeAll = act(
    'Disconnect all subscribers',
    'danger tiny',
    `Close the connections of all subscribers of ${name}?`,
    async () => {
      const { num_connections: count } = await call('disconnect', { topic: name });
      notice(`${whole(count)} connections were closed.`);
      await describe();
    },
  );
  async function describe() {
    try {
      const { topic: found, settings: namespace, subscribers } = await ask(`/admin/topic?${parameters({ name })}`);
      const row = found ?? { subscribers: 0, offset: 0, history_len: 0, history_bytes: 0, present: 0, published_ms: 0 };
      tiles[0].set(whole(row.subscribers));
      tiles[1].set(whole(row.offset), found ? `epoch ${row.epoch}` : 'unknown topic');
      tiles[2].set(whole(row.history_len), bytes(row.history_bytes));
      tiles[3].set(namespace.presence ? whole(row.present) : '–', namespace.presence ? 'clients' : 'presence is off');
      tiles[4].set(
        row.published_ms ? clock(row.published_ms) : '–',
        row.published_ms ? moment(row.published_ms).split(',')[0] : '',
      );
      encodings.replaceChildren(
        h('h2', {}, 'Subscribers by protocol'),
        subscribers.length === 0
          ? empty('Nobody has subscribed.')
          : table(
              'Subscribers by protocol',
              ['Protocol and encoding', { text: 'Subscribers', isNumber: true }],
              subscribers.map(({ encoding, count }) => [encoding, whole(count)]),
            ),
        ...(closeAll && !isOwn && row.subscribers > 0 ? [closeAll] : []),
      );
      settings.replaceChildren(
        h('h2', {}, 'Settings of its namespace'),
        table(
          'Settings',
          ['Key', 'Value'],
          Object.entries(namespace).map(([key_, value]) => [key_, String(value)]),
        ),
      );
      return namespace;
    } catch (error) {
      encodings.replaceChildren(h('p', { className: 'bad-text' }, error.message));
      return null;
    }
  }

  // Live tail.
  const tailState = h('span', { className: 'tag' }, 'connecting');
  const tail = h('ol', { className: 'messages' });
  const tailBox = scroller('Publications as they come', tail);
  let isPaused = false;
  const pause = h(
    'button',
    {
      type: 'button',
      className: 'plain tiny',
      onclick: () => {
        isPaused = !isPaused;
        pause.textContent = isPaused ? 'Go on' : 'Pause';
      },
    },
    'Pause',
  );
  if (!isOwn && session.url) {
    feed.subscribe(
      name,
      (publication) => {
        if (isPaused) return;
        tail.prepend(message(publication, clock(Date.now())));
        while (tail.children.length > TAIL_MAX) tail.lastChild.remove();
      },
      (state) => {
        tailState.textContent = state;
        tailState.className = state === 'lost' || state.startsWith('refused') ? 'tag bad' : 'tag good';
      },
    );
  }
  const tailCard = h(
    'section',
    { className: 'card' },
    h('div', { className: 'row middle' }, h('h2', {}, 'Live tail'), tailState, pause),
    tailBox,
  );

  // History.
  const history = h('ol', { className: 'messages' });
  const historyBox = scroller('Publications of the history', history);
  const outcome = h('p', { className: 'outcome quiet small', role: 'status' });
  let since = null;
  const older = h(
    'button',
    { type: 'button', className: 'plain', hidden: true, onclick: () => readHistory() },
    'Older',
  );
  async function readHistory() {
    try {
      const page = await call('history', {
        channel: name,
        limit: HISTORY_PAGE,
        reverse: true,
        ...(since ? { since } : {}),
      });
      const publications = page.publications ?? [];
      history.append(...publications.map((publication) => message(publication, '')));
      if (publications.length > 0) since = { offset: publications.at(-1).offset, epoch: page.epoch };
      older.hidden = publications.length < HISTORY_PAGE;
      outcome.textContent = history.children.length === 0 ? 'The history is empty.' : '';
    } catch (error) {
      outcome.textContent = error.message;
    }
  }
  const renewHistory = () => {
    history.replaceChildren();
    since = null;
    return readHistory();
  };
  const clear = act(
    'Clear the history',
    'danger tiny',
    `Remove all publications in the history of ${name}?`,
    async () => {
      await call('history_remove', { channel: name });
      await Promise.all([describe(), renewHistory()]);
    },
  );
  const historyCard = h(
    'section',
    { className: 'card' },
    h(
      'div',
      { className: 'row middle' },
      h('h2', {}, 'History'),
      h('button', { type: 'button', className: 'plain tiny', onclick: renewHistory }, 'Refresh'),
      isOwn ? null : clear,
    ),
    outcome,
    historyBox,
    older,
  );

  // Presence.
  const present = h('div', { className: 'tall' });
  async function readPresence() {
    try {
      const { presence } = await call('presence', { channel: name });
      const rows = Object.values(presence).slice(0, 200);
      present.replaceChildren(
        rows.length === 0
          ? empty('Nobody is present.')
          : table(
              'Presence',
              ['User', 'Client', 'Info'],
              rows.map(({ user, client, conn_info }) => [
                user || 'anonymous',
                client,
                conn_info ? JSON.stringify(conn_info) : '',
              ]),
            ),
      );
    } catch (error) {
      present.replaceChildren(h('p', { className: 'quiet' }, error.message));
    }
  }
  const presenceCard = h(
    'section',
    { className: 'card' },
    h(
      'div',
      { className: 'row middle' },
      h('h2', {}, 'Presence'),
      h('button', { type: 'button', className: 'plain tiny', onclick: readPresence }, 'Refresh'),
    ),
    present,
  );

  const tools = session.may_act && !isOwn ? [publishForm(name, describe, renewHistory)] : [];
  const element = h(
    'div',
    {},
    h('p', { className: 'small back' }, link('#topics', '← Topics')),
    h('h1', {}, name),
    h(
      'dl',
      { className: 'tiles' },
      tiles.map((one) => one.element),
    ),
    h(
      'div',
      { className: 'grid' },
      h('div', { className: 'stack' }, tools, isOwn ? null : tailCard, historyCard),
      h('div', { className: 'stack' }, encodings, presenceCard, settings),
    ),
  );
  describe().then((namespace) => {
    if (namespace?.presence) readPresence();
    else presenceCard.hidden = true;
    if (namespace?.history_size > 0) readHistory();
    else historyCard.hidden = true;
  });
  const timer = setInterval(describe, 5000);
  return {
    element,
    remove: () => {
      clearInterval(timer);
      if (!isOwn) feed.unsubscribe(name);
    },
  };
}

function publishForm(name, ...afterwards) {
  const kind = h(
    'select',
    {},
    ['JSON', 'Text', 'File'].map((text) => h('option', {}, text)),
  );
  const text = h('textarea', { value: '{"hello": "world"}', spellcheck: false });
  const file = h('input', { type: 'file' });
  const fileField = field('File', file);
  fileField.hidden = true;
  const textField = field('Payload', text);
  kind.addEventListener('change', () => {
    [fileField.hidden, textField.hidden] = [kind.value !== 'File', kind.value === 'File'];
  });
  const [keyed, tags, once] = [
    h('input', { maxLength: 255 }),
    h('input', { placeholder: 'room=7, kind=note' }),
    h('input', { maxLength: 255 }),
  ];
  const outcome = h('p', { className: 'outcome', role: 'status' });
  async function content() {
    if (kind.value === 'JSON') return { data: JSON.parse(text.value) };
    const part =
      kind.value === 'Text' ? new TextEncoder().encode(text.value) : new Uint8Array(await file.files[0].arrayBuffer());
    return { b64data: btoa(Array.from(part, (byte) => String.fromCharCode(byte)).join('')) };
  }
  async function onsubmit(event) {
    event.preventDefault();
    const pairs = tags.value
      .split(',')
      .map((pair) => pair.split('=').map((part) => part.trim()))
      .filter(([tag]) => tag);
    try {
      const params = {
        channel: name,
        ...(await content()),
        key: keyed.value,
        tags: Object.fromEntries(pairs),
        idempotency_key: once.value,
      };
      const { offset, epoch } = await call('publish', params);
      [outcome.className, outcome.textContent] = [
        'outcome good',
        `Published at offset ${whole(offset)} of epoch ${epoch}.`,
      ];
      afterwards.forEach((next) => next());
    } catch (error) {
      [outcome.className, outcome.textContent] = ['outcome bad', error.message];
    }
  }
  return h(
    'form',
    { className: 'card', onsubmit },
    h('h2', {}, 'Publish'),
    textField,
    fileField,
    h(
      'div',
      { className: 'row' },
      field('As', kind),
      field('Key', keyed),
      field('Tags', tags),
      field('Idempotency key', once),
    ),
    h('p', {}, h('button', { type: 'submit' }, 'Publish')),
    outcome,
  );
}

// A button for an action that asks first.
function act(text, className, question, action) {
  if (!session.may_act) return null;
  return h(
    'button',
    {
      type: 'button',
      className,
      onclick: async (event) => {
        if (!(await confirmed(question, text))) return;
        event.target.disabled = true;
        try {
          await action();
        } catch (error) {
          notice(error.message);
        }
        event.target.disabled = false;
      },
    },
    text,
  );
}

function confirmed(question, yes) {
  $('confirm-text').textContent = question;
  $('confirm-yes').textContent = yes;
  $('confirm').showModal();
  return new Promise((resolve) => {
    const end = (answer) => () => {
      $('confirm').close();
      resolve(answer);
    };
    [$('confirm-yes').onclick, $('confirm-no').onclick] = [end(true), end(false)];
    $('confirm').oncancel = end(false);
  });
}

function connections() {
  const inputs = {
    address: h('input', { placeholder: '192.0.2.7' }),
    user: h('input', { maxLength: 255 }),
    topic: h('input', { maxLength: 255 }),
  };
  Object.values(inputs).forEach((input) => {
    input.spellcheck = false;
  });
  const columns = [
    { text: 'Address', key: 'address' },
    { text: 'User', key: 'user', isName: true },
    { text: 'Protocol', key: 'route' },
    { text: 'State', key: 'state' },
    { text: 'Topics', key: 'subscriptions', isName: true },
    { text: 'Backlog', key: 'outbox_bytes', isNumber: true },
    { text: 'Oldest', key: 'oldest_age_ms', isNumber: true },
    { text: 'Place', key: 'place' },
    '',
  ];
  let isSlowest = false;
  const list = pager(
    async (query) => {
      const answer = await ask(isSlowest ? '/connections/slow?count=100' : `/admin/connections?${parameters(query)}`);
      const rows = answer.connections.map((row) => ({
        ...row,
        address: row.address ?? row.peer ?? 'unknown',
        user: row.user ?? '',
        route: row.route ?? '',
        state: row.state ?? 'open',
        subscriptions: row.subscriptions ?? row.topic_count,
        place: `${row.shard}.${row.slot}.${row.generation}`,
      }));
      return { rows, cursor: answer.cursor ?? null };
    },
    (rows, sort) => {
      const shown = rows.map((row) => {
        const names = row.topics.map((name) => h('span', { className: 'tag' }, topicLink(name)));
        const more = row.subscriptions > row.topics.length ? [`and ${row.subscriptions - row.topics.length} more`] : [];
        const { shard, slot, generation } = row;
        const close = act(
          'Disconnect',
          'danger tiny',
          `Close the connection of ${row.user || row.address}?`,
          async () => {
            const { num_connections: count } = await call('disconnect', { connection: { shard, slot, generation } });
            notice(count === 1 ? 'The connection was closed.' : 'The connection had ended already.');
            setTimeout(() => list.reload(), 200);
          },
        );
        return [
          row.address,
          row.user ||
            h('span', { className: 'quiet' }, row.client && row.client === feed.client ? 'this page' : 'anonymous'),
          row.route || '–',
          row.state,
          [...names, ...more],
          bytes(row.outbox_bytes),
          row.oldest_age_ms ? seconds(row.oldest_age_ms / 1000) : '–',
          row.place,
          close ?? '',
        ];
      });
      return rows.length === 0
        ? empty(isSlowest ? 'No connection is slow.' : 'No such connection.')
        : table('Connections', columns, shown, sort);
    },
  );
  const search = (event) => {
    event?.preventDefault();
    isSlowest = false;
    list.search(Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()])));
  };
  const slow = h(
    'button',
    {
      type: 'button',
      className: 'plain',
      onclick: () => {
        isSlowest = true;
        list.search({});
      },
    },
    'Slow ones',
  );
  const form = h(
    'form',
    { className: 'card', onsubmit: search, role: 'search' },
    h(
      'div',
      { className: 'row' },
      field('Address', inputs.address),
      field('User', inputs.user),
      field('Topic', inputs.topic),
      h('button', { type: 'submit' }, 'Search'),
      slow,
    ),
  );
  search();
  return { element: h('div', { className: 'stack' }, h('h1', {}, 'Connections'), form, list.element) };
}

function namespaces() {
  const box = h('div', {});
  ask('/admin/server')
    .then(({ namespaces: all }) => {
      const keys = Object.keys(all[0].settings);
      const columns = ['Setting', ...all.map(({ name }) => ({ text: name || 'default' }))];
      const rows = keys.map((name) => [name, ...all.map(({ settings }) => String(settings[name]))]);
      box.replaceChildren(
        h('section', { className: 'card' }, table('Settings of each namespace', columns, rows)),
        h(
          'p',
          { className: 'quiet small' },
          'The namespace of a topic is the part of its name before the first colon.',
        ),
      );
    })
    .catch((error) => box.replaceChildren(h('p', { className: 'bad-text' }, error.message)));
  return { element: h('div', { className: 'stack' }, h('h1', {}, 'Namespaces'), box) };
}

function tokens() {
  const made = h('div', { className: 'outcome', role: 'status' });
  const [user, channels, channel, lasts, info] = ['42', 'news, chat:lobby', '', '3600', ''].map((placeholder) =>
    h('input', { placeholder, spellcheck: false }),
  );
  lasts.value = '3600';
  lasts.type = 'number';
  lasts.min = '1';
  async function make(event) {
    event.preventDefault();
    const claims = { sub: user.value.trim() };
    const list = channels.value
      .split(',')
      .map((name) => name.trim())
      .filter(Boolean);
    try {
      if (list.length > 0) claims.channels = list;
      if (channel.value.trim()) claims.channel = channel.value.trim();
      if (info.value.trim()) claims.info = JSON.parse(info.value);
      const wish = { claims, ...(lasts.value ? { expires_in_s: Number(lasts.value) } : {}) };
      const { token } = await ask('/admin/tokens', wish);
      made.className = 'outcome';
      made.replaceChildren(h('pre', { className: 'token', tabIndex: 0, 'aria-label': 'The token' }, token));
    } catch (error) {
      made.className = 'outcome bad';
      made.replaceChildren(error.message);
    }
  }
  const makeForm = h(
    'form',
    { className: 'card', onsubmit: make },
    h('h2', {}, 'Make a token'),
    h('div', { className: 'row' }, field('User (sub)', user), field('Lasts, in seconds', lasts)),
    h(
      'div',
      { className: 'row' },
      field('Server-side subscriptions (channels)', channels),
      field('For one subscription (channel)', channel),
    ),
    h('div', { className: 'row' }, field('Info for other clients, as JSON', info)),
    h('p', {}, h('button', { type: 'submit', disabled: !session.may_act }, 'Make')),
    made,
  );

  const checked = h('div', { className: 'outcome', role: 'status' });
  const token = h('textarea', { spellcheck: false, placeholder: 'eyJ…' });
  async function check(event) {
    event.preventDefault();
    try {
      const { is_valid: isValid, kind, reason } = await ask('/admin/tokens/check', { token: token.value });
      checked.className = `outcome ${isValid ? 'good' : 'bad'}`;
      checked.replaceChildren(isValid ? `Valid: for a ${kind}.` : `Rejected: ${reason}.`, ...claimsOf(token.value));
    } catch (error) {
      checked.className = 'outcome bad';
      checked.replaceChildren(error.message);
    }
  }
  const checkForm = h(
    'form',
    { className: 'card', onsubmit: check },
    h('h2', {}, 'Check a token'),
    field('Token', token),
    h('p', {}, h('button', { type: 'submit' }, 'Check')),
    checked,
  );
  const about = 'The secret stays on the server. A key that only reads can check tokens, but make none.';
  return {
    element: h(
      'div',
      {},
      h('h1', {}, 'Tokens'),
      h('div', { className: 'grid' }, makeForm, checkForm),
      h('p', { className: 'quiet small' }, about),
    ),
  };
}

// The parts of a token, unverified.
function claimsOf(token) {
  return token
    .trim()
    .split('.')
    .slice(0, 2)
    .map((part) => {
      try {
        const bytes_ = Uint8Array.from(atob(part.replaceAll('-', '+').replaceAll('_', '/')), (one) =>
          one.charCodeAt(0),
        );
        return h('pre', { tabIndex: 0 }, JSON.stringify(JSON.parse(new TextDecoder().decode(bytes_)), null, 2));
      } catch {
        return null;
      }
    })
    .filter(Boolean);
}

function server() {
  const [nodes, certificates, settings] = [0, 0, 0].map(() => h('section', { className: 'card' }));
  const failed = (box) => (error) => box.append(h('p', { className: 'bad-text' }, error.message));
  call('info')
    .then(({ nodes: all }) =>
      nodes.replaceChildren(
        h('h2', {}, all.length > 1 ? 'Nodes of the cluster' : 'This server'),
        table(
          'Nodes',
          [
            'Name',
            'Id',
            'Version',
            ...['Connections', 'Subscriptions', 'Topics', 'Up'].map((text) => ({ text, isNumber: true })),
          ],
          all.map((node) => [
            node.name,
            node.uid,
            node.version,
            whole(node.num_clients),
            whole(node.num_subs),
            whole(node.num_channels),
            duration(node.uptime),
          ]),
        ),
      ),
    )
    .catch(failed(nodes));
  ask('/admin/server')
    .then((all) => {
      const left = (s) => Math.floor((s * 1000 - Date.now()) / 86_400_000);
      certificates.replaceChildren(
        h('h2', {}, 'Certificates'),
        all.certificates.length === 0
          ? h('p', { className: 'quiet' }, 'No port speaks TLS.')
          : table(
              'Certificates',
              ['File', 'Names', 'Expires', { text: 'Days left', isNumber: true }],
              all.certificates.map(({ file, names, not_after: end }) => [
                file,
                names.join(', '),
                moment(end * 1000),
                h('span', { className: left(end) < 14 ? 'tag bad' : 'tag good' }, whole(left(end))),
              ]),
            ),
      );
      const filter = h('input', { type: 'search', placeholder: 'server.', spellcheck: false });
      const list = h('div', { className: 'settings' });
      const draw = () => {
        const rows = Object.entries(all.settings).filter(([name]) => name.includes(filter.value.trim()));
        list.replaceChildren(rows.length === 0 ? empty('No such key.') : table('Settings', ['Key', 'Value'], rows));
      };
      filter.addEventListener('input', draw);
      draw();
      settings.replaceChildren(
        h('h2', {}, 'Settings in use'),
        h('div', { className: 'row' }, field('Filter', filter)),
        list,
      );
    })
    .catch(failed(settings));
  return { element: h('div', { className: 'stack' }, h('h1', {}, 'Server'), nodes, certificates, settings) };
}

// ---- Which page is shown.

const PAGES = { overview, shards, topics, connections, namespaces, tokens, server };
let view = null;

function show() {
  if (!session) return;
  const [name, ...rest] = location.hash.slice(1).split('/');
  const wanted = name === 'topic' ? 'topics' : name;
  const isKnown = Object.hasOwn(PAGES, wanted);
  view?.remove?.();
  const argument = rest.join('/');
  let decoded = argument;
  try {
    decoded = decodeURIComponent(argument);
  } catch {
    // It stays as it is.
  }
  view = name === 'topic' && decoded ? topic(decoded) : PAGES[isKnown ? wanted : 'overview']();
  $('main').replaceChildren(view.element);
  for (const tab of $('pages').children) {
    if (tab.hash === `#${isKnown ? wanted : 'overview'}`) tab.setAttribute('aria-current', 'page');
    else tab.removeAttribute('aria-current');
  }
  const title = name === 'topic' && decoded ? decoded : isKnown ? wanted : 'overview';
  document.title = `${title} · Ringfeed`;
  if (newest()) view.onSample?.(newest());
}

// ---- The key.

function askForKey(problem) {
  feed.close();
  feed.topics.clear();
  view?.remove?.();
  view = null;
  samples = [];
  [$('pages').hidden, $('leave').hidden, $('where').textContent] = [true, true, ''];
  status('a key is needed', '');
  const input = h('input', { type: 'password', autocomplete: 'off', required: true });
  const outcome = h('p', { className: 'outcome bad', role: 'alert' }, problem);
  const onsubmit = (event) => {
    event.preventDefault();
    key.set(input.value.trim());
    start();
  };
  $('main').replaceChildren(
    h(
      'form',
      { className: 'card login', onsubmit },
      h('h1', {}, 'Control port'),
      field('Key (key or read_key in [api])', input),
      h('div', { className: 'row' }, h('button', { type: 'submit' }, 'Log in')),
      outcome,
      h('p', { className: 'quiet small' }, 'The key stays in this tab, and is gone when you close it.'),
    ),
  );
  input.focus();
}

$('leave').addEventListener('click', () => {
  key.forget();
  session = null;
  askForKey('');
});

async function start() {
  try {
    session = await ask('/admin/session', {});
  } catch (error) {
    if (error.status !== 401) {
      status(error.message, 'bad');
      setTimeout(start, 2000);
    }
    return;
  }
  $('where').textContent = `${session.host} · ${session.version}${session.may_act ? '' : ' · read only'}`;
  $('leave').hidden = key.get() === '';
  $('pages').hidden = false;
  show();
  try {
    await readFigures();
  } catch (error) {
    if (session) notice(error.message);
  }
  watch();
}

$('pages').append(...Object.keys(PAGES).map((name) => link(`#${name}`, name[0].toUpperCase() + name.slice(1))));
addEventListener('hashchange', show);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => view?.onColors?.());
setInterval(watch, 1000);
setInterval(() => feed.renew(), 40_000);
start();
