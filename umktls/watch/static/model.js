// What is known at each event: hosts, daemons, connections, both halves of each KTLS socket.
// The picture is a function of this, so going back in time is going back in the list.

const SNAPSHOT = 500;
const KEPT_STATS = 4800; // a page may be open for days
const STALE = 3; // seconds: rates that are older are no more

const half = () => ({
  state: "CLEAR", sequence: 0, records: 0, bytes: 0, engine: "", mode: "", suite: "", generation: 0, at: 0,
});

const connection = (event) => ({
  here: event.here, host: event.host, name: event.connection, side: event.side,
  local: "", peer: "", phase: "open", owner: "kernel", fd: null, pid: null, daemon: "",
  tx: half(), rx: half(), upcall: null, handshake: null, calls: 0, replies: 0, tickets: 0, why: "",
});

const direction = (event) => (event.direction === "sent" ? "tx" : "rx");

// One function a kind: what an event changes. `c` is its connection, `host` its host.
const CHANGES = {
  "host-up": (e, c, host) => { host.rundir = e.rundir; },
  "host-down": (e, c, host) => { host.down = true; },
  "daemon-started": (e, c, host) => { host.daemons[e.pid] = { name: e.daemon, pid: e.pid, ready: false }; },
  "daemon-registered": (e, c, host) => { host.daemons[e.pid] = { name: e.daemon, pid: e.pid, ready: true, version: e.version }; },
  "daemon-unregistered": (e, c, host) => { delete host.daemons[e.pid]; },
  "daemon-gone": (e, c, host) => { delete host.daemons[e.pid]; },
  "tcp-connect": (e, c) => { c.local = e.local; c.peer = e.peer; },
  "tcp-accept": (e, c) => { c.peer = e.peer; },
  probe: (e, c) => { c.phase = "probe"; },
  starttls: (e, c) => { c.phase = "STARTTLS"; },
  upcall: (e, c) => { if (c) c.upcall = { procedure: e.procedure, state: "offered", daemon: e.daemon, pid: e.pid, xid: e.xid }; },
  queued: (e, c) => { if (c) c.upcall = { procedure: "CONNECT", state: "queued", daemon: e.daemon }; },
  "upcall-state": (e, c) => { if (c) c.upcall = { ...c.upcall, procedure: e.procedure, state: e.state, xid: e.xid }; },
  "socket-taken": (e, c) => {
    Object.assign(c, { owner: "daemon", fd: e.fd, pid: e.pid, phase: "handshake" });
    c.upcall = { ...c.upcall, state: "taken" };
  },
  handshake: (e, c) => { if (c) c.handshake = { version: e.version, suite: e.suite, alpn: e.alpn, peer: e.peer, resumed: e.resumed }; },
  "handshake-failed": (e, c) => { if (c) Object.assign(c, { phase: "failed", why: e.reason }); },
  "upcall-answered": (e, c) => {
    if (!c?.upcall) return;
    if (["offered", "taken"].includes(c.upcall.state)) c.upcall = { ...c.upcall, state: "live" };
    c.upcall = { ...c.upcall, result: e.result };
  },
  "tx-keys": (e, c) => keys(e, c.tx),
  "rx-keys": (e, c) => keys(e, c.rx),
  "half-state": (e, c) => { c[direction(e)].state = e.state; },
  mode: (e, c) => {
    Object.assign(c.tx, { mode: e.tx, engine: e.engine_tx });
    Object.assign(c.rx, { mode: e.rx, engine: e.engine_rx });
    c.phase = "TLS";
  },
  "tx-mode": (e, c) => { Object.assign(c.tx, { mode: e.mode, engine: e.engine }); },
  "record-sealed": (e, c) => record(e, c.tx),
  "record-opened": (e, c) => record(e, c.rx),
  "call-sent": (e, c) => { c.calls += 1; },
  "call-received": (e, c) => { c.calls += 1; c.last = e.procedure; },
  "reply-sent": (e, c) => { c.replies += 1; },
  "reply-received": (e, c) => { c.replies += 1; },
  ticket: (e, c) => { if (c) c.tickets += 1; },
  orphaned: (e, c) => { Object.assign(c, { owner: "nobody", pid: null, fd: null }); },
  adopted: (e, c) => { Object.assign(c, { owner: "daemon", pid: e.pid }); },
  disconnect: (e, c) => { c.phase = "closing"; c.why = e.reason; },
  alert: (e, c) => { if (c && e.level === "fatal") c.why = `${e.description}: ${e.reason ?? ""}`; },
  "cut-off": (e, c) => { c.why = e.reason; },
  closed: (e, c) => { Object.assign(c, { phase: "closed", owner: "kernel", fd: null, why: c.why || e.reason }); },
};

function keys(event, side) {
  Object.assign(side, { state: "SEALED", suite: event.suite, sequence: event.sequence, at: event.mono });
  side.generation += 1;
}

function record(event, side) {
  side.records += 1;
  side.bytes += event.bytes ?? 0;
  Object.assign(side, { sequence: event.sequence + 1, generation: event.generation, engine: event.engine, at: event.mono });
}

export class Model {
  constructor() { this.clear(); }

  clear() {
    this.events = [];
    this.places = new Map(); // id -> index
    this.effects = new Map(); // id -> ids
    this.others = new Map(); // here -> there
    this.stats = [];
    this.skipped = 0;
    this._snapshots = [{ at: 0, world: { hosts: {}, connections: {} } }];
    this._last = null;
  }

  /** Take a message of the source; whether there are new events. */
  take(message) {
    if (message.t === "pairs") for (const [one, other] of message.pairs) { this.others.set(one, other); this.others.set(other, one); }
    if (message.t === "stat") {
      this.stats.push(message);
      if (this.stats.length > KEPT_STATS) this.stats.splice(0, KEPT_STATS / 2);
    }
    if (message.t !== "events") return false;
    for (const event of message.events) {
      this.places.set(event.id, this.events.length);
      for (const cause of event.causes ?? []) {
        if (!this.effects.has(cause)) this.effects.set(cause, []);
        this.effects.get(cause).push(event.id);
      }
      this.skipped += event.skipped ?? 0;
      this.events.push(event);
    }
    return message.events.length > 0;
  }

  find(id) { return this.events[this.places.get(id)]; }

  /** The world behind the first `count` events. Not to be changed. */
  world(count) {
    if (this._last && this._last.at <= count && count - this._last.at < SNAPSHOT) return this._forward(this._last, count);
    let from = this._snapshots[0];
    for (const snapshot of this._snapshots) if (snapshot.at <= count) from = snapshot;
    return this._forward({ at: from.at, world: structuredClone(from.world) }, count);
  }

  _forward(from, count) {
    const { world } = from;
    for (let place = from.at; place < count; place += 1) {
      const newest = this._snapshots[this._snapshots.length - 1];
      if (place - newest.at >= SNAPSHOT) this._snapshots.push({ at: place, world: structuredClone(world) });
      apply(world, this.events[place]);
    }
    this._last = { at: count, world };
    return world;
  }

  /** What a host itself said last, before that time, of one of its connections. */
  told(here, mono) { return this._told(here, mono, 1)[0] ?? null; }

  /** What it does in a second: {calls, tx, rx}, the latter in bytes; null where nothing is known. */
  rates(here, mono) {
    const [now, before] = this._told(here, mono, 2);
    const seconds = before ? now.mono - before.mono : 0;
    if (seconds <= 0 || (Number.isFinite(mono) && mono - now.mono > STALE)) return null;
    const rate = (of) => Math.max(0, ((of(now) ?? 0) - (of(before) ?? 0)) / seconds);
    return { calls: rate((one) => one.rpc?.calls), tx: rate((one) => one.tx.bytes), rx: rate((one) => one.rx.bytes) };
  }

  _told(here, mono, most) {
    const found = [];
    for (let place = this.stats.length - 1; place >= 0 && found.length < most; place -= 1) {
      const stat = this.stats[place];
      if (stat.mono > mono) continue;
      const host = stat.hosts.find((each) => here.startsWith(`${each.host.name}:`));
      const one = host?.connections.find((each) => `${host.host.name}:${each.id}` === here);
      if (!one) break;
      found.push({ ...one, mono: stat.mono });
    }
    return found;
  }
}

function apply(world, event) {
  const host = (world.hosts[event.host] ??= { name: event.host, side: event.side, daemons: {}, requests: 0 });
  if (event.event === "request") host.requests += 1;
  let c = null;
  if (event.here) c = world.connections[event.here] ??= connection(event);
  const change = CHANGES[event.event];
  if (change && (c || HOSTS.has(event.event))) change(event, c, host);
  if (c) c.seen = event.mono;
}

// Those that may come without a connection.
const HOSTS = new Set(["host-up", "host-down", "daemon-started", "daemon-registered", "daemon-unregistered", "daemon-gone", "upcall", "queued", "upcall-state", "upcall-answered", "handshake", "handshake-failed", "ticket", "alert"]);

/** A half's numbers: what events said, or what the host said later. */
export function numbers(side, told) {
  if (!told) return side;
  const newer = told.mono >= side.at || told.records > side.records;
  return {
    ...side,
    records: Math.max(side.records, told.records),
    bytes: Math.max(side.bytes, told.bytes),
    sequence: newer ? told.sequence : side.sequence,
    engine: side.engine || told.engine || "",
    mode: side.mode || told.mode || "",
    state: side.state === "CLEAR" && told.engine && told.mode !== "NONE" && told.mono >= side.at ? "SEALED" : side.state,
  };
}
