// A record, byte by byte: the tree on one side, the bytes on the other, each lighting the other.

import { h, put, say } from "umktls/dom.js";

const PER_ROW = 16;
const FIRST = 4096; // bytes drawn at once; the rest on demand
const SPOKEN = 16; // bytes of a field that are said

const decode = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

/** An element for a record taken apart (umktls/watch/dissect.py). */
export function recordView(found) {
  const runs = {
    wire: new Bytes("On the wire", decode(found.wire), (node) => node.choose()),
    plain: new Bytes(found.records > 1 ? `The message, of ${found.records} records` : "What is in it", decode(found.plain), (node) => node.choose()),
  };
  runs.plain.part(found.records > 1 ? found.part : null);
  return h("div", { class: "record" }, apart(runs, found.tree), made(found));
}

/** An element for a handshake message (umktls/watch/handshakes.py). */
export function messageView(event) {
  const data = Uint8Array.from(event.hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  const runs = { plain: new Bytes(event.name, data, (node) => node.choose()) };
  return h("div", { class: "record" }, apart(runs, [{ ...event.tree, run: "plain" }]));
}

/** Runs of bytes, and the tree of the fields in them. */
function apart(runs, roots_) {
  const tree = h("ul", { class: "tree", role: "tree", "aria-label": "Fields" });
  const words = h("p", { class: "lit-words", role: "status" }, "Choose a field, or a byte.");
  let chosen = null;

  function choose(node) {
    chosen?.item.setAttribute("aria-selected", "false");
    chosen = node;
    for (const run of Object.values(runs)) run.light(null);
    runs[node.run].light(node);
    say(words, inWords(node, runs[node.run].bytes(node)));
    node.item.setAttribute("aria-selected", "true");
    for (let up = node.parent; up; up = up.parent) up.open(true);
    node.item.scrollIntoView({ block: "nearest" });
    node.item.focus({ preventScroll: true });
  }

  function grow(data, parent, run) {
    const node = { ...data, parent, run, leaves: [] };
    const children = (data.children ?? []).map((child) => grow(child, node, run));
    const list = children.length ? h("ul", { role: "group" }, children.map((child) => child.element)) : null;
    node.open = (yes) => {
      if (!list) return;
      list.hidden = !yes;
      node.item.setAttribute("aria-expanded", String(yes));
    };
    node.choose = () => choose(node);
    node.item = h("div", {
      role: "treeitem", tabindex: "-1", "aria-selected": "false", class: "field",
      onclick: (event) => {
        if (event.target.closest(".fold")) node.open(list.hidden);
        else choose(node);
      },
    },
    h("span", { class: "fold", "aria-hidden": "true" }, list ? "▾" : ""),
    h("b", {}, data.name), " ", data.value !== undefined ? h("span", { class: "value" }, data.value) : null, " ",
    h("span", { class: "place", title: placeOf(data) }, data.start < data.end - 1 ? `${data.start}–${data.end - 1}` : data.start < data.end ? data.start : ""), " ",
    data.note ? h("span", { class: "note" }, data.note) : null, " ",
    data.rfc ? rfc(data.rfc) : null);
    node.element = h("li", {}, node.item, list);
    node.open((data.children ?? []).length < 14 && (data.end - data.start) < 2000);
    runs[run].add(node);
    return node;
  }

  const roots = roots_.map((data) => grow(data, null, data.run));
  roots.forEach((root) => root.open(true));
  tree.append(...roots.map((root) => root.element));
  tree.addEventListener("keydown", (event) => treeKeys(event, tree));
  roots[0].item.tabIndex = 0;
  return h("div", { class: "apart" }, h("div", { class: "runs" }, Object.values(runs).map((run) => run.element), words), tree);
}

/** Where a field is: the numbers of its first and its last byte. */
function placeOf({ start, end }) {
  if (start === end) return "no bytes";
  return end - start === 1 ? `byte ${start}` : `bytes ${start}–${end - 1}`;
}

/** What is lit, for who does not see it. */
function inWords(node, bytes) {
  const shown = [...bytes.slice(0, SPOKEN)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const value = node.value === undefined ? "" : ` is ${node.value}`;
  const more = bytes.length > SPOKEN ? " …" : "";
  return `${node.name}${value}; ${placeOf(node)}${shown ? `: ${shown}${more}` : ""}`;
}

function treeKeys(event, tree) {
  const items = [...tree.querySelectorAll(".field")].filter((item) => item.offsetParent !== null);
  const place = items.indexOf(document.activeElement);
  const to = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to !== undefined && items[to]) { event.preventDefault(); event.stopPropagation(); items[to].click(); }
  if (["ArrowLeft", "ArrowRight"].includes(event.key) && items[place]?.hasAttribute("aria-expanded")) {
    const open = items[place].getAttribute("aria-expanded") === "true";
    if (open !== (event.key === "ArrowRight")) items[place].querySelector(".fold").click();
    event.stopPropagation();
  }
}

function rfc(text) {
  const [, number, section] = /RFC (\d+)(?: section ([\d.]+))?/.exec(text) ?? [];
  if (!number) return h("span", { class: "rfc" }, text);
  const anchor = section ? `#section-${section}` : "";
  return h("a", { class: "rfc", href: `https://www.rfc-editor.org/rfc/rfc${number}${anchor}`, rel: "noreferrer noopener", target: "_blank" }, text);
}

/** How nonce and additional data were made. */
function made(found) {
  const { nonce, additional, secrets } = found;
  const hidden = "kept secret: umktls watch --secrets shows it, of hosts started with UMKTLS_SECRETS=1";
  const row = (name, value, note) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, h("code", {}, value || "—"), note ? h("span", { class: "note" }, note) : null));
  const explicit = nonce.number && nonce.number.length === 16;
  return h("table", { class: "made" },
    h("caption", {}, `Sequence number ${found.sequence}, ${found.suite ?? "suite not known"}`),
    h("tbody", {},
      row("key", secrets.key, secrets.key ? "" : hidden),
      row("IV", nonce.iv, nonce.iv ? "" : hidden),
      row(explicit ? "explicit nonce" : "sequence number", nonce.number),
      row("nonce", nonce.nonce || (nonce.how.includes("XOR") ? "IV ⊕ sequence number" : "IV ‖ explicit nonce"), `${nonce.how} (${nonce.rfc})`),
      row("additional data", additional.value, `${additional.how} (${additional.rfc})`)));
}

/** A run of bytes as a table; a byte leads to the innermost field that has it. */
class Bytes {
  constructor(title, data, chosen) {
    this._data = data;
    this._nodes = [];
    this._chosen = chosen;
    this._part = null;
    this._cells = [];
    this._body = h("div", { class: "bytes", role: "group", "aria-label": title, onclick: (event) => this._click(event) });
    this.element = h("section", {}, h("h3", {}, `${title}: ${data.length} bytes`), this._body);
    this._drawn = 0;
    this._draw(Math.min(FIRST, data.length));
  }

  add(node) { this._nodes.push(node); }

  part(part) {
    this._part = part;
    if (part) this._cells.forEach((cell, place) => cell.classList.toggle("outside", place < part[0] || place >= part[1]));
  }

  _draw(until) {
    const rows = [];
    for (let start = this._drawn; start < until; start += PER_ROW) {
      const cells = [];
      let text = "";
      for (let place = start; place < Math.min(start + PER_ROW, this._data.length); place += 1) {
        const byte = this._data[place];
        const cell = h("span", { data: { at: place } }, byte.toString(16).padStart(2, "0"));
        this._cells[place] = cell;
        cells.push(cell);
        text += byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·";
      }
      rows.push(h("div", { class: "row" }, h("span", { class: "offset" }, start.toString(16).padStart(4, "0")), h("span", { class: "hex" }, cells), h("span", { class: "text", "aria-hidden": "true" }, text)));
    }
    this._drawn = until;
    this._more?.remove();
    this._body.append(...rows);
    const left = this._data.length - until;
    if (left > 0) {
      this._more = h("button", { onclick: () => this._draw(this._data.length) }, `${left} bytes more`);
      this._body.append(this._more);
    }
    this.part(this._part);
  }

  bytes(node) { return this._data.slice(node.start, node.end); }

  light(node) {
    if (node && node.end > this._drawn) this._draw(this._data.length);
    for (const cell of this._lit ?? []) cell.classList.remove("lit");
    this._lit = node ? this._cells.slice(node.start, node.end) : [];
    for (const cell of this._lit) cell.classList.add("lit");
    this._lit[0]?.scrollIntoView({ block: "nearest" });
  }

  _click(event) {
    const at = event.target.dataset?.at;
    if (at === undefined) return;
    const place = Number(at);
    const inside = this._nodes.filter((node) => node.start <= place && place < node.end);
    inside.sort((a, b) => (a.end - a.start) - (b.end - b.start));
    if (inside[0]) this._chosen(inside[0]);
  }
}

export function wait(element, text) { put(element, h("p", { class: "note" }, text)); }
