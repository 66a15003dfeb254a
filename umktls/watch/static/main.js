// Puts the page together: one model, a cursor in it, and what shows both.

import { h, put, say } from "umktls/dom.js";
import { source } from "umktls/source.js";
import { Model } from "umktls/model.js";
import { Picture } from "umktls/picture.js";
import { Timeline, time } from "umktls/timeline.js";
import { messageView, recordView, wait } from "umktls/bytes.js";
import { stepper, stopWords } from "umktls/steps.js";
import { connections, deeds, filters, player, theme } from "umktls/controls.js";
import { lessons } from "umktls/lessons.js";

const facts = JSON.parse(document.getElementById("facts").textContent);
const model = new Model();
const picture = new Picture(facts);
const timeline = new Timeline(model, facts, choose);
let from = null; // the source
let playing = facts.live;
let speed = 0.1;
let pairChosen = "";
let clock = null; // of a recording that plays: {wall, mono}

const steps = facts.live ? stepper(facts.steps, async (order) => { await from.post("./step", order); if (order.next) setPlaying(true); }) : null;
let stops = []; // where hosts stand

const status = h("span", { class: "status", role: "status" });
const notice = h("p", { class: "notice", role: "status", hidden: true });
const said = h("p", { class: "unseen", "aria-live": "polite" });
const detail = h("section", { class: "detail", "aria-label": "The chosen event" });
const bar = player({
  play: () => setPlaying(!playing),
  first: () => goTo(0),
  back: () => step(-1),
  next: () => step(1),
  last: () => (facts.live ? setPlaying(true) : goTo(model.events.length - 1)),
  speed: (value) => { speed = value; clock = null; },
  goTo,
}, facts.live);
const which = connections((key, only) => {
  pairChosen = key;
  timeline.filter.pair = only && present() ? new Set(present().split("|")) : null;
  timeline.refilter();
  show();
});
const tours = lessons(() => from?.tours, { follow, play });
const sieve = filters(facts, timeline, () => { timeline.refilter(); show(); });

document.body.append(
  h("header", {}, h("h1", {}, "umktls ", h("span", {}, facts.live ? "watch" : "recording")), status, which.element,
    h("span", { class: "tools" }, tours.button, facts.live ? h("a", { class: "button", href: "./recording", download: "umktls-recording.html" }, "Save recording") : null, theme())),
  ...(facts.secrets ? [h("p", { class: "secrets", role: "alert" }, "Keys are shown here: whoever sees this page can read and forge what goes over these connections.")] : []),
  notice,
  h("main", {}, h("div", { class: "stage" }, picture.element, bar.element), ...(facts.live ? [steps.element, deeds(act)] : []), sieve.element,
    h("div", { class: "below" }, timeline.element, detail)),
  said, tours.panel,
);

// ---- the cursor

/** The index of the last event that is shown; -1 for none. */
function at() { return timeline.cursor < 0 ? model.events.length - 1 : timeline.cursor; }

function choose(index) {
  if (index < 0 || index >= model.events.length) return;
  if (facts.live) setPlaying(false);
  goTo(index);
}

function goTo(index) {
  if (facts.live && playing) setPlaying(false);
  clock = null;
  move(index);
}

/** Have the cursor at an event, and draw what moves there. */
function move(index, quiet = false) {
  const before = at();
  timeline.select(index);
  if (index !== before + 1) picture.calm();
  if (!quiet && index >= 0) picture.move(model.events[index]);
  show();
  const event = model.events[index];
  if (event && !playing) say(said, `${event.event}: ${event.text}`);
}

function step(by) {
  if (facts.live && playing) setPlaying(false);
  const index = timeline.beside(by);
  if (index >= 0) goTo(index);
}

function setPlaying(yes) {
  playing = yes;
  clock = null;
  if (!yes) until = -1;
  if (facts.live && yes) { timeline.cursor = -1; timeline.grow(true); }
  if (facts.live && !yes && timeline.cursor < 0) timeline.cursor = model.events.length - 1;
  if (!facts.live && yes && timeline.cursor >= model.events.length - 1) move(0);
  show();
}

// ---- lessons

let followed = null; // the process of the lesson whose hosts are shown
let until = -1; // the event at which a recording stops playing

/** Whether a host is one that is shown now: its process's number is in its name. */
function isShown(host) { return followed === null || host.split("-")[1] === String(followed); }

function follow(pid) {
  followed = pid;
  pairChosen = "";
  timeline.filter.shown = isShown;
  timeline.refilter();
  show();
}

/** What happened in a recording between two times. */
function play(start, end) {
  const first = model.events.findIndex((event) => event.mono >= start && isShown(event.host));
  const last = model.events.findLastIndex((event) => event.mono <= end && isShown(event.host));
  if (first < 0 || last < first) return;
  goTo(first);
  until = last;
  setPlaying(true);
}

// ---- a recording that plays

function tick(now) {
  requestAnimationFrame(tick);
  if (facts.live || !playing) return;
  const { events } = model;
  const cursor = Math.max(0, timeline.cursor);
  if (cursor >= events.length - 1 || cursor === until) { setPlaying(false); return; }
  clock ??= { wall: now, mono: events[cursor].mono };
  let next = cursor;
  if (speed === 0) {
    if (now - clock.wall >= 700) { next = timeline.beside(1); clock = { wall: now, mono: 0 }; if (next === cursor) setPlaying(false); }
  } else {
    const now_ = clock.mono + ((now - clock.wall) / 1000) * speed;
    while (next < events.length - 1 && events[next + 1].mono <= now_) next += 1;
    // Nothing happens for long: go on to where it does.
    if (next === cursor && events[cursor + 1].mono - now_ > 2 * speed) clock = { wall: now - 500, mono: events[cursor + 1].mono - speed };
  }
  if (next === cursor) return;
  if (cursor < until && next > until) next = until;
  for (let place = cursor + 1; place < next; place += 1) picture.move(events[place]);
  timeline.cursor = next - 1;
  move(next);
}

// ---- what there is to do

async function act(side, what) {
  const [client, server] = (present() ?? "|").split("|");
  const here = side === "client" ? client : server;
  const host = here.split(":")[0] || Object.values(model.world(at() + 1).hosts).filter((each) => each.side === side && !each.down).pop()?.name;
  if (!host) return "there is no such host";
  try {
    await from.post("./do", { host, what, connection: here.split(":")[1] ?? null });
    setPlaying(true);
    return `done: see what happens`;
  } catch (error) {
    return error.message;
  }
}

// ---- what is shown

/** The pair in the picture: `client end|server end`. */
function present() {
  if (pairChosen) return pairChosen;
  const known = pairs();
  return known.length ? known[known.length - 1].key : null;
}

function pairs() {
  const world = model.world(at() + 1);
  const found = new Map();
  for (const c of Object.values(world.connections)) {
    if (!isShown(c.host)) continue;
    const other = model.others.get(c.here);
    const ends = c.side === "server" ? [other ?? "", c.here] : [c.here, other ?? ""];
    const name = (here) => (here ? here.split(":").pop() : "?");
    const gone = c.phase === "closed" ? " (closed)" : "";
    found.set(ends.join("|"), { key: ends.join("|"), text: `${name(ends[0])} ⇄ ${name(ends[1])}${gone}`, seen: c.seen ?? 0 });
  }
  return [...found.values()].sort((one, other) => one.seen - other.seen);
}

function ends(world, mono) {
  const [client, server] = (present() ?? "|").split("|");
  const end = (here, side) => {
    const c = world.connections[here];
    const host = c ? world.hosts[c.host] : Object.values(world.hosts).filter((each) => each.side === side && !each.down && isShown(each.name)).pop();
    if (!c && !host) return null;
    return { c, host, told: c ? model.told(here, mono) : null, rates: c ? model.rates(here, mono) : null };
  };
  const both = { client: end(client, "client"), server: end(server, "server") };
  for (const side of ["client", "server"]) if (both[side] && !both[side].c) both[side] = { host: both[side].host, c: undefined };
  return both;
}

let drawn = null;
function show() {
  if (drawn !== null) return;
  drawn = requestAnimationFrame(() => { drawn = null; draw(); });
}

function draw() {
  const index = at();
  const event = model.events[index];
  const mono = playing && facts.live ? Infinity : event?.mono ?? 0;
  const known = pairs();
  which.show(known, pairChosen || null);
  const both = ends(model.world(index + 1), mono);
  picture.show(withoutEmpty(both), stops);
  bar.show(timeline.cursor, model.events.length, playing);
  say(status, facts.live ? (lost ? "the server is gone" : playing ? "● live" : "❚❚ stopped to look") : `recorded ${new Date((from?.made ?? 0) * 1000).toLocaleString()}`);
  status.classList.toggle("lost", lost);
  notice.hidden = model.skipped === 0;
  say(notice, `Much happens at once: ${model.skipped} events of single records and calls are counted and not shown one by one (100 in a second are, of each host). Numbers and rates in the boxes count all.`);
  if (followed !== null) tours.showHosts(Object.values(model.world(index + 1).hosts).filter((each) => !each.down && isShown(each.name)).map((each) => each.name));
  showDetail(timeline.cursor < 0 ? null : model.events[timeline.cursor]);
}

function withoutEmpty(both) {
  const found = {};
  for (const side of ["client", "server"]) {
    const end = both[side];
    found[side] = end ? { ...end, c: end.c } : null;
  }
  return found;
}

// ---- the chosen event

let detailed = null;
function showDetail(event) {
  if (detailed === event?.id) return;
  detailed = event?.id;
  if (!event) {
    put(detail, h("p", { class: "note" }, "Choose an event: what is in it, what led to it, and, of a record, every byte."));
    return;
  }
  const kind = facts.kinds[event.event];
  const links = (ids, word) => ids.length
    ? h("p", { class: "links" }, `${word}: `, ids.slice(0, 8).map((id) => link(id))) : null;
  const bytes = h("div", { class: "bytes-place" });
  put(detail,
    h("h2", {}, event.event, h("span", { class: `chip ${kind?.layer}` }, kind?.layer)),
    h("p", { class: "said" }, event.text),
    h("p", { class: "note" }, `${kind?.meaning ?? ""}`),
    links(event.causes ?? [], "because of"), links(model.effects.get(event.id) ?? [], "led to"),
    bytes, fields(event));
  if (event.tree) put(bytes, messageView(event));
  if (event.record !== undefined) showRecord(event, bytes);
}

function link(id) {
  const event = model.find(id);
  if (!event) return null;
  return h("button", { class: "link", onclick: () => choose(model.places.get(id)) }, `${event.event} (${event.connection ?? event.host})`);
}

async function showRecord(event, place) {
  wait(place, "The record is fetched …");
  try {
    const found = await from.record(event.host, event.record);
    if (detailed === event.id) put(place, recordView(found));
  } catch (error) {
    if (detailed === event.id) wait(place, `The record's bytes cannot be shown: ${error.message}`);
  }
}

function fields(event) {
  const hidden = new Set(["text", "event", "causes", "id", "here", "hex", "tree"]);
  return h("table", { class: "fields" }, h("caption", {}, `Fields of event ${event.id}`), h("tbody", {}, Object.entries(event).filter(([name]) => !hidden.has(name)).map(([name, value]) => {
    const field = facts.fields[`${event.event} ${name}`] ?? facts.fields[name];
    const shown = name === "time" ? new Date(value * 1000).toISOString() : name === "xid" ? `0x${value.toString(16)}` : String(value);
    return h("tr", { title: field?.meaning ?? "" }, h("th", { scope: "row" }, name), h("td", {}, shown, field?.unit && name !== "time" ? h("span", { class: "unit" }, field.unit) : null));
  })));
}

// ---- messages

let lost = false;

function take(message) {
  if (message.t === "again") { model.clear(); timeline.cursor = -1; timeline.refilter(); detailed = null; }
  if (message.t === "step") { stops = message.stops; steps?.show(message); if (stops.length) say(said, stopWords(stops[0])); show(); return; }
  const events = model.take(message);
  if (message.t === "stat" && (playing || !model.events.length)) show();
  if (!events) return;
  timeline.grow(facts.live && playing);
  if (facts.live && playing) animate(message.events);
  show();
}

/** Of a batch: the newest, spread over the time until the next one. */
function animate(events) {
  const now = model.events[model.events.length - 1].mono;
  const shown = events.filter((event) => now - event.mono < 2).slice(-30);
  shown.forEach((event, place) => picture.move(event, (place / Math.max(1, shown.length)) * 0.6));
}

document.addEventListener("keydown", (event) => {
  if (event.target.closest?.(".lessons")) return;
  const typing = event.target.closest?.("input[type=search], select");
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
  const inTree = event.target.closest?.(".tree");
  const key = {
    " ": () => (event.target.closest?.("button, a, input") ? undefined : (setPlaying(!playing), true)),
    j: () => step(1), k: () => step(-1),
    ArrowDown: () => (inTree ? undefined : step(1)), ArrowUp: () => (inTree ? undefined : step(-1)),
    PageDown: () => step(20), PageUp: () => step(-20),
    Home: () => (inTree ? undefined : goTo(0)), End: () => (inTree ? undefined : facts.live ? setPlaying(true) : goTo(model.events.length - 1)),
    c: () => { const cause = model.events[at()]?.causes?.[0]; if (cause) choose(model.places.get(cause)); },
    e: () => { const effect = model.effects.get(model.events[at()]?.id)?.[0]; if (effect) choose(model.places.get(effect)); },
    n: () => steps?.next(),
    "/": () => sieve.search.focus(),
  }[event.key];
  if (key && !(event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow"))) {
    if (key() !== undefined || event.key !== " ") event.preventDefault();
  }
});

from = await source(facts, take, (state) => { lost = state === "lost"; show(); });
if (!facts.live && model.events.length) move(0, true);
tours.button.hidden = Boolean(from.tours.none);
requestAnimationFrame(tick);
show();
document.documentElement.dataset.ready = "yes";
