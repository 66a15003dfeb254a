// The time line: all events in order, a lane for each box, causes as arrows across.
// Only the rows in sight are in the document, so that many thousands stay usable.

import { h, put, say, svg } from "umktls/dom.js";

const ROW = 24;
const LANE = 27;
const LANES = [
  ["client", "daemon", "daemon"], ["client", "fs", "fs"], ["client", "rpc", "RPC"], ["client", "ktls", "KTLS"],
  ["server", "ktls", "KTLS"], ["server", "rpc", "RPC"], ["server", "fs", "NFS"], ["server", "daemon", "daemon"],
];
const BOX = { fs: "fs", rpc: "rpc", ktls: "ktls", tcp: "ktls", upcall: "rpc", syscall: "daemon", tls: "daemon", daemon: "daemon", front: "rpc", host: "rpc" };
const AT_DAEMON = new Set(["socket-taken"]);
const WIDTH = LANE * LANES.length + 22;
const FAR = 400; // rows: an arrow from further up begins at the edge

export class Timeline {
  constructor(model, facts, chosen) {
    this._model = model;
    this._kinds = facts.kinds;
    this._chosen = chosen;
    this.shown = [];
    this.filter = { layers: new Set(Object.keys(facts.layers)), pair: null, words: [], shown: () => true };
    this.cursor = -1;
    this._seen = 0;
    this._rows = h("div", { class: "rows" });
    this._arrows = svg("svg", { class: "arrows", "aria-hidden": "true", width: WIDTH }, svg("defs", {}, svg("marker", { id: "head", viewBox: "0 0 6 6", refX: 5.5, refY: 3, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0 0L6 3L0 6z" }))));
    this._space = h("div", { class: "space" }, this._arrows, this._rows);
    this.scroller = h("div", { class: "events", tabindex: 0, role: "listbox", "aria-label": "Events", onscroll: () => this.draw(), onclick: (event) => this._click(event) }, this._space);
    this._head = h("div", { class: "lane-names", "aria-hidden": "true" }, LANES.map(([side, , name], place) =>
      h("span", { class: side, style: { left: `${x(place)}px` } }, name)));
    this._count = h("span", { class: "count", role: "status" });
    this.element = h("div", { class: "timeline" }, this._head, this.scroller);
    this.count = this._count;
    new ResizeObserver(() => this.draw()).observe(this.scroller);
  }

  lane(event) {
    const layer = this._kinds[event.event]?.layer ?? "host";
    const box = AT_DAEMON.has(event.event) ? "daemon" : BOX[layer];
    return LANES.findIndex(([side, name]) => side === event.side && name === box);
  }

  passes(event) {
    const { layers, pair, words } = this.filter;
    if (!layers.has(this._kinds[event.event]?.layer ?? "host")) return false;
    if (!this.filter.shown(event.host)) return false;
    if (pair && !(event.here && pair.has(event.here))) return false;
    if (!words.length) return true;
    const text = `${event.event} ${event.text} ${event.connection ?? ""} ${event.host} ${event.id}`.toLowerCase();
    return words.every((word) => text.includes(word));
  }

  /** New events have come: take those in that pass. `follow`: keep the newest in sight. */
  grow(follow) {
    const { events } = this._model;
    for (; this._seen < events.length; this._seen += 1) if (this.passes(events[this._seen])) this.shown.push(this._seen);
    this._sized();
    if (follow) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.draw();
  }

  /** The filter is another. */
  refilter() {
    this.shown = [];
    this._seen = 0;
    this.grow(false);
    this.reveal(this.cursor);
  }

  _sized() {
    this._space.style.height = `${this.shown.length * ROW}px`;
    const all = this._model.events.length;
    say(this._count, this.shown.length === all ? `${all} events` : `${this.shown.length} of ${all} events`);
  }

  /** The place in `shown` of an event, or of the last one before it. */
  place(index) {
    let low = 0;
    let high = this.shown.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.shown[middle] <= index) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  select(index) { this.cursor = index; this.reveal(index); this.draw(); }

  reveal(index) {
    const place = this.place(index);
    if (place < 0) return;
    const top = place * ROW;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop + ROW || top > scrollTop + clientHeight - 2 * ROW) this.scroller.scrollTop = top - clientHeight / 2;
  }

  /** The event `step` rows further, or further back; -1 where there is none. */
  beside(step) {
    const from = this.cursor < 0 ? this.shown.length : this.place(this.cursor);
    const to = Math.max(0, Math.min(this.shown.length - 1, from + step));
    return this.shown[to] ?? -1;
  }

  draw() {
    const { scrollTop, clientHeight } = this.scroller;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - 2);
    const last = Math.min(this.shown.length, Math.ceil((scrollTop + clientHeight) / ROW) + 2);
    const rows = [];
    const lines = [];
    const begin = this._model.events[0]?.mono ?? 0;
    for (let place = first; place < last; place += 1) {
      const index = this.shown[place];
      const event = this._model.events[index];
      rows.push(this._row(event, index, place, begin));
      lines.push(...this._lines(event, place));
    }
    put(this._rows, rows);
    this._arrows.style.transform = `translateY(${first * ROW}px)`;
    this._arrows.setAttribute("height", Math.max(0, (last - first) * ROW));
    this._arrows.setAttribute("viewBox", `0 ${first * ROW} ${WIDTH} ${Math.max(1, (last - first) * ROW)}`);
    this._arrows.replaceChildren(this._arrows.firstChild, ...LANES.map((lane, place) =>
      svg("line", { class: `lane ${lane[0]}`, x1: x(place), x2: x(place), y1: first * ROW, y2: last * ROW })), ...lines);
  }

  _row(event, index, place, begin) {
    const kind = this._kinds[event.event];
    const chosen = index === this.cursor;
    return h("div", {
      class: `event ${kind?.layer ?? "host"}${chosen ? " chosen" : ""}${index > this.cursor && this.cursor >= 0 ? " later" : ""}`,
      role: "option", "aria-selected": String(chosen), id: chosen ? "chosen-event" : null, data: { index },
      style: { top: `${place * ROW}px` },
    },
    h("span", { class: "when" }, time(event.mono - begin)),
    h("span", { class: "connection" }, event.connection ?? ""),
    h("span", { class: "kind" }, event.event),
    h("span", { class: "words" }, event.text, event.skipped ? h("span", { class: "skipped" }, `${event.skipped} before it not shown`) : null));
  }

  _lines(event, place) {
    const at = this.lane(event);
    const y = place * ROW + ROW / 2;
    const layer = this._kinds[event.event]?.layer ?? "host";
    const look = event.type !== undefined && event.record !== undefined ? `type${event.type}` : layer;
    const found = at < 0 ? [] : [svg("circle", { class: `dot ${look}`, cx: x(at), cy: y, r: event.record !== undefined ? 5.5 : 4.5 })];
    for (const id of event.causes ?? []) {
      const index = this._model.places.get(id);
      if (index === undefined) continue;
      const from = this.place(index);
      const lane = this.lane(this._model.events[index]);
      if (from < 0 || this.shown[from] !== index || lane < 0 || at < 0) continue;
      const y1 = Math.max(from, place - FAR) * ROW + ROW / 2;
      const bend = lane === at ? 11 : 0;
      found.unshift(svg("path", { class: `cause ${look}`, "marker-end": "url(#head)", d: `M${x(lane)} ${y1}C${x(lane) + bend} ${(y1 + 2 * y) / 3} ${x(at) + bend} ${(2 * y1 + y) / 3} ${x(at) + (x(lane) < x(at) ? -5 : x(lane) > x(at) ? 5 : 2)} ${y - (lane === at ? 5 : 0)}` }));
    }
    return found;
  }

  _click(event) {
    const row = event.target.closest(".event");
    if (row) this._chosen(Number(row.dataset.index));
  }
}

function x(place) { return 14 + place * LANE + (place >= LANES.length / 2 ? 16 : 0) - 4; }

export function time(seconds) {
  return seconds.toFixed(6).replace(/(\d{3})$/, " $1");
}
