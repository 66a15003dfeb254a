// The picture: two hosts, their boxes, the wire between; what moves is drawn moving.

import { bytesText, h, say, still, svg } from "umktls/dom.js";
import { numbers } from "umktls/model.js";
import { stateTable } from "umktls/states.js";

const WIDTH = 1240;
const HEIGHT = 476;
// Left edges of a host's columns: the daemon's outside, the stack's at the wire.
const SIDES = {
  client: { frame: 8, daemon: 22, stack: 212 },
  server: { frame: 774, daemon: 1042, stack: 788 },
};
const FRAME = 458;
const STACK = 240;
const DAEMON = 176;
const ROWS = { fs: [48, 46], rpc: [128, 62], ktls: [230, 228] };
const WIRE = { sent: 310, received: 414 };

const MOVING_SECONDS = 0.9;
const MOST_MOVING = 40;

/** Anchors: where things start and arrive, by box. */
function anchor(side, box) {
  const { stack, daemon } = SIDES[side];
  const x = stack + STACK / 2;
  const middle = ([y, height]) => y + height / 2;
  const inner = side === "client" ? stack + STACK : stack;
  return {
    fs: [x, middle(ROWS.fs)],
    rpc: [x, middle(ROWS.rpc)],
    ktls: [x, ROWS.ktls[0] + 14],
    top: [x, 30],
    daemon: [daemon + DAEMON / 2, ROWS.ktls[0] + 40],
    tx: [inner, side === "client" ? WIRE.sent : WIRE.received],
    rx: [inner, side === "client" ? WIRE.received : WIRE.sent],
  }[box];
}

const OTHER = { client: "server", server: "client" };

// What moves at an event: [look, from, to, text]. Boxes of the event's own side, or "there.box".
const MOVES = {
  request: (e) => ["call", "top", "fs", e.name],
  "request-answered": (e) => ["reply", "fs", "top", e.name],
  "call-sent": (e) => ["call", "fs", "rpc", e.procedure],
  "call-received": (e) => ["call", "rpc", "fs", e.procedure],
  "reply-sent": () => ["reply", "fs", "rpc", "reply"],
  "reply-received": (e) => ["reply", "rpc", "fs", e.procedure],
  probe: (e) => (e.side === "client" ? ["clear", "tx", "there.rx", "AUTH_TLS probe"] : ["clear", "rx", "rpc", "probe"]),
  starttls: (e) => (e.side === "server" ? ["clear", "tx", "there.rx", "STARTTLS"] : ["clear", "rx", "rpc", "STARTTLS"]),
  "tcp-connect": () => ["clear", "tx", "there.rx", "SYN"],
  upcall: (e) => ["upcall", "rpc", "daemon", e.procedure],
  "upcall-answered": (e) => ["upcall", "daemon", "rpc", `${e.procedure}: ${e.result}`],
  "socket-taken": (e) => ["socket", "ktls", "daemon", `fd ${e.fd}`],
  syscall: (e) => ["syscall", "daemon", "ktls", `${e.name}${e.fd >= 0 ? ` fd ${e.fd}` : ""}`],
  flight: (e) => ["type22", "daemon", "tx", String(e.messages ?? "").split(",")[0] || "flight"],
  "handshake-message": (e) => (e.direction === "received" ? ["type22", "rx", "daemon", e.name] : null),
  "tx-keys": () => ["key", "daemon", "ktls", "TX key"],
  "rx-keys": () => ["key", "daemon", "ktls", "RX key"],
  "control-record": (e) => ["ticket", "ktls", "daemon", e.name],
  ticket: () => ["ticket", "ktls", "daemon", "ticket"],
  "key-update": (e) => ["key", ...(e.direction === "sent" ? ["daemon", "ktls"] : ["ktls", "daemon"]), "KeyUpdate"],
  "record-opened": (e) => [`type${e.type}`, "rx", e.type === 23 ? "rpc" : "ktls", `${e.sequence}`],
  "record-refused": (e) => ["type21", "rx", "ktls", "refused"],
  alert: (e) => ["type21", "daemon", "ktls", e.description],
  "record-sealed": (e) => [`type${e.type}`, "tx", "there.rx", `${e.sequence}`],
};

export class Picture {
  constructor(facts) {
    this._hosts = { client: new HostBox("client", facts.tables), server: new HostBox("server", facts.tables) };
    this._moving = svg("g", { class: "moving" });
    this._count = 0;
    this._caption = svg("text", { x: WIDTH / 2, y: 284, class: "wire-name" });
    this._peers = svg("text", { x: WIDTH / 2, y: 444, class: "wire-name small" });
    this._root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": "picture-words" },
      svg("defs", {}, svg("marker", { id: "tip", viewBox: "0 0 6 6", refX: 5.4, refY: 3, markerWidth: 6, markerHeight: 6, orient: "auto-start-reverse" },
        svg("path", { d: "M0 0L6 3L0 6z", class: "tip" }))),
      this._hosts.client.element, this._hosts.server.element, this._wire(), this._moving);
    this._words = h("p", { id: "picture-words", class: "unseen" });
    this.element = h("div", { class: "picture" }, this._root, this._words);
  }

  _wire() {
    const from = SIDES.client.stack + STACK;
    const to = SIDES.server.stack;
    const lane = (y, right) => svg("g", { class: "lane" },
      svg("line", { x1: from, x2: to, y1: y, y2: y }),
      svg("path", { class: "tip", d: right ? `M${to} ${y}l-9 -5v10z` : `M${from} ${y}l9 -5v10z` }));
    return svg("g", {}, lane(WIRE.sent, true), lane(WIRE.received, false),
      this._caption, this._peers);
  }

  /** Show a connection: `ends` has {client, server}, each {c, told, host} or nothing; `stops` is
   *  where hosts stand. */
  show(ends, stops = []) {
    for (const side of ["client", "server"]) {
      this._hosts[side].show(ends[side]);
      this._hosts[side].halt(stops.find((stop) => stop.host === ends[side]?.host?.name));
    }
    const { client, server } = ends;
    const c = client?.c ?? server?.c;
    const near = client?.c;
    const far = server?.c;
    say(this._caption, c ? `TCP ${near?.name ?? "?"} ⇄ ${far?.name ?? "?"}` : "no connection yet");
    const address = near?.local || client?.told?.local || far?.peer || "";
    const other = near?.peer || client?.told?.peer || server?.told?.local || "";
    say(this._peers, address && `${address} ⇄ ${other}`);
    say(this._words, c ? [words(client, "client"), words(server, "server")].filter(Boolean).join(" ") : "No connection yet.");
  }

  /** Draw what moves at an event; `later` seconds from now. */
  move(event, later = 0) {
    const made = MOVES[event.event]?.(event);
    if (!made || !SIDES[event.side] || this._count >= MOST_MOVING) return;
    const [look, from, to, text] = made;
    const at = (box) => (box.startsWith("there.") ? anchor(OTHER[event.side], box.slice(6)) : anchor(event.side, box));
    const [x1, y1] = at(from);
    const [x2, y2] = at(to);
    const token = this._token(look, text, event.length);
    this._moving.append(token);
    this._count += 1;
    const gone = () => { token.remove(); this._count -= 1; };
    const timing = { duration: MOVING_SECONDS * 1000, delay: later * 1000, easing: "ease-in-out", fill: "both" };
    const frames = still()
      ? [{ transform: `translate(${x2}px, ${y2}px)`, opacity: 1 }, { transform: `translate(${x2}px, ${y2}px)`, opacity: 0 }]
      : [{ transform: `translate(${x1}px, ${y1}px)`, opacity: 0 }, { opacity: 1, offset: 0.08 },
        { opacity: 1, offset: 0.9 }, { transform: `translate(${x2}px, ${y2}px)`, opacity: 0 }];
    const animation = token.animate(frames, timing);
    animation.onfinish = gone;
    animation.oncancel = gone;
  }

  /** What moves, stands still and goes. */
  calm() {
    for (const token of [...this._moving.children]) for (const animation of token.getAnimations()) animation.cancel();
  }

  _token(look, text, length) {
    const width = length ? 16 + Math.min(74, 7 * Math.log2(Math.max(1, length / 16))) : Math.max(24, 7.2 * text.length + 12);
    return svg("g", { class: `token ${look}`, "aria-hidden": "true" },
      svg("rect", { x: -width / 2, y: -9, width, height: 18, rx: length ? 3 : 9 }),
      svg("text", { y: 1 }, text));
  }
}

class HostBox {
  constructor(side, tables) {
    const at = SIDES[side];
    const box = (name, y, height, x = at.stack, width = STACK) =>
      svg("rect", { class: `box ${name}`, x, y, width, height, rx: 8 });
    const text = (x, y, name = "") => svg("text", { x, y, class: name });
    this._side = side;
    this._title = text(at.frame + 14, 30, "title");
    this._halt = text(at.frame + FRAME - 14, 30, "halt end");
    this._boxes = {};
    const titled = (name, label, y, height) => {
      this._boxes[name] = box(name, y, height);
      return [this._boxes[name], svg("text", { x: at.stack + 12, y: y + 19, class: "name" }, label)];
    };
    this._fs = text(at.stack + 12, ROWS.fs[0] + 37, "small");
    this._rpc = [0, 1].map((line) => text(at.stack + 12, ROWS.rpc[0] + 37 + 16 * line, "small"));
    this._ktls = text(at.stack + STACK - 12, ROWS.ktls[0] + 19, "small end");
    this._halves = side === "client"
      ? [this._half("tx", "sends", WIRE.sent, tables.tx), this._half("rx", "receives", WIRE.received, tables.rx)]
      : [this._half("rx", "receives", WIRE.sent, tables.rx), this._half("tx", "sends", WIRE.received, tables.tx)];
    this._daemon = box("daemon", ROWS.ktls[0], 120, at.daemon, DAEMON);
    this._daemonName = text(at.daemon + 12, ROWS.ktls[0] + 19, "name");
    this._daemonLines = [0, 1, 2, 3].map((line) => text(at.daemon + 12, ROWS.ktls[0] + 40 + 17 * line, "small"));
    this._upcall = stateTable("upcall", tables.connect, { width: 50, height: 17, gapX: 11, gapY: 16 });
    this._upcallName = text(at.daemon + 2, ROWS.rpc[0] + 10, "small");
    const upcall = svg("g", { transform: `translate(${at.daemon + 2} ${ROWS.rpc[0] + 20})` }, this._upcall.element);
    const inner = side === "client" ? at.daemon + DAEMON : at.stack + STACK;
    this.element = svg("g", { class: `host ${side}` },
      svg("rect", { class: "frame", x: at.frame, y: 6, width: FRAME, height: HEIGHT - 12, rx: 12 }),
      this._title, this._halt,
      titled("fs", side === "client" ? "File system (FUSE)" : "NFS server", ...ROWS.fs), this._fs,
      titled("rpc", side === "client" ? "RPC client" : "RPC server", ...ROWS.rpc), this._rpc,
      titled("ktls", "KTLS socket", ...ROWS.ktls), this._ktls, this._halves.map((half) => half.element),
      this._daemon, this._daemonName, this._daemonLines, this._upcallName, upcall,
      this._link(at.stack + STACK / 2, ROWS.fs[0] + ROWS.fs[1], at.stack + STACK / 2, ROWS.rpc[0]),
      this._link(at.stack + STACK / 2, ROWS.rpc[0] + ROWS.rpc[1], at.stack + STACK / 2, ROWS.ktls[0]),
      this._link(inner, ROWS.ktls[0] + 60, inner + (side === "client" ? at.stack - inner : at.daemon - inner), ROWS.ktls[0] + 60),
      svg("text", { x: (inner + (side === "client" ? at.stack : at.daemon)) / 2, y: ROWS.ktls[0] + 54, class: "tiny middle" }, ""));
  }

  _link(x1, y1, x2, y2) { return svg("line", { class: "link", x1, y1, x2, y2 }); }

  _half(way, word, y, table) {
    const at = SIDES[this._side];
    const states = stateTable("half", table, { width: 46, height: 17, gapX: 10.6 });
    const top = y - 44;
    const lines = [0, 1].map((line) => svg("text", { x: at.stack + 12, y: top + 62 + 16 * line, class: "numbers" }));
    const element = svg("g", { class: `half ${way}` },
      svg("text", { x: at.stack + 12, y: top + 10, class: "small" }, `${way.toUpperCase()} ${word}`),
      svg("g", { transform: `translate(${at.stack + 12} ${top + 18})` }, states.element), lines);
    return { way, element, states, lines };
  }

  show(end) {
    const c = end?.c;
    const host = end?.host;
    this.element.classList.toggle("away", !end);
    const side = this._side === "client" ? "Client host" : "Server host";
    say(this._title, host ? `${side} ${host.name}` : `${side}: nobody watches it`);
    say(this._fs, host ? (this._side === "client" ? `${host.requests} requests seen` : end?.told?.backend ?? (c?.last ? `last: ${c.last}` : "")) : "");
    const rpc = end?.told?.rpc;
    say(this._rpc[0], c ? `${few(Math.max(c.calls, rpc?.calls ?? 0))} calls, ${few(Math.max(c.replies, rpc?.replies ?? 0))} replies${perSecond(end.rates)}` : "");
    say(this._rpc[1], c ? c.phase === "handshake" ? "waits for the daemon" : flow(c.phase, end.rates) : "");
    say(this._ktls, c?.name ?? "");
    for (const { way, states, lines } of this._halves) {
      const side_ = c ? numbers(c[way], end.told?.[way]) : null;
      states.light(side_?.state);
      say(lines[0], side_ ? `next ${side_.sequence} · ${few(side_.records)} records · ${bytesText(side_.bytes)}` : "");
      lines[0].classList.toggle("tight", lines[0].textContent.length > 32);
      say(lines[1], side_ && side_.mode ? `${side_.mode} ${side_.engine} · ${short(side_.suite || end.told?.tls?.suite)}${side_.generation > 1 ? ` · key ${side_.generation}` : ""}` : "");
    }
    this._showDaemon(c, host);
    this._upcall.light(c?.upcall?.state);
    say(this._upcallName, c?.upcall ? `upcall ${c.upcall.procedure}` : "upcall");
  }

  /** Say in front of what the host stands, if it does. */
  halt(stop) {
    this.element.classList.toggle("halted", Boolean(stop));
    say(this._halt, stop ? `❚❚ before: ${stop.step} ${stop.what}`.slice(0, 40) : "");
  }

  _showDaemon(c, host) {
    const known = Object.values(host?.daemons ?? {}).filter((each) => each.ready);
    // One that registered before anybody watched is known by what it has taken.
    const daemon = known.find((each) => each.pid === c?.pid) ?? (c?.pid ? { pid: c.pid } : known[0]);
    const name = this._side === "client" ? "rpctlscd" : "rpctlssd";
    say(this._daemonName, daemon?.name ?? name);
    const owns = c?.owner === "daemon" && daemon;
    this._daemon.classList.toggle("owner", Boolean(owns));
    this._daemon.classList.toggle("missing", Boolean(host) && !daemon);
    this._boxes.rpc.classList.toggle("owner", Boolean(c) && c.owner === "kernel" && c.phase !== "closed");
    const lines = [
      daemon ? `process ${daemon.pid}` : host ? "no daemon is there" : "",
      owns ? `owns the close${c.fd === null ? "" : `: fd ${c.fd}`}` : c?.owner === "nobody" ? "an orphan: nobody owns it" : "",
      c?.handshake ? `${c.handshake.version}${c.handshake.resumed ? ", resumed" : ""}` : "",
      c?.tickets ? `${c.tickets} tickets kept` : "",
    ];
    this._daemonLines.forEach((line, place) => say(line, lines[place]));
  }
}

/** Rates, where there are any to speak of. */
function perSecond(rates) { return rates && rates.calls >= 1 ? ` · ${few(Math.round(rates.calls))}/s` : ""; }

/** A count that has room in a box. */
function few(count) {
  if (count < 10_000) return String(count);
  return count < 1_000_000 ? `${Math.round(count / 1000)}k` : `${(count / 1_000_000).toFixed(1)}M`;
}

function flow(phase, rates) {
  if (!rates || rates.tx + rates.rx < 1000) return `has the socket: ${phase}`;
  return `${phase} · ↑ ${bytesText(Math.round(rates.tx))}/s ↓ ${bytesText(Math.round(rates.rx))}/s`;
}

function short(suite = "") { return suite.replace(/^TLS_/, "").replace(/_SHA\d+$/, "").replace("CHACHA20_POLY1305", "CHACHA20"); }

function words(end, side) {
  if (!end?.c) return "";
  const { c, told, rates } = end;
  const halfWords = (way) => {
    const side_ = numbers(c[way], told?.[way]);
    return `${way === "tx" ? "sending" : "receiving"} ${side_.state.toLowerCase()}, next sequence number ${side_.sequence}, ${side_.records} records, ${bytesText(side_.bytes)}, ${side_.engine || "no engine"} ${side_.mode}`;
  };
  return `${side} connection ${c.name}: ${c.phase}${rates?.calls >= 1 ? `, ${Math.round(rates.calls)} calls in a second` : ""}; ${halfWords("tx")}; ${halfWords("rx")}; the ${c.owner} owns the close${c.upcall ? `; upcall ${c.upcall.procedure} is ${c.upcall.state}` : ""}.`;
}
