// The bars: playing, filters, what there is besides.

import { h, put, say } from "umktls/dom.js";

const SPEEDS = [["0.01", "1/100"], ["0.1", "1/10"], ["1", "as it was"], ["0", "one by one"]];

/** The bar that moves through time. */
export function player(actions, live) {
  const button = (label, title, key, action) => h("button", { title: `${title} (${key})`, "aria-label": title, "aria-keyshortcuts": key, onclick: action }, label);
  const play = button(live ? "Pause" : "Play", "Play or pause", "Space", actions.play);
  play.className = "play";
  const speed = h("select", { "aria-label": "Speed", onchange: () => actions.speed(Number(speed.value)) },
    SPEEDS.map(([value, text]) => h("option", { value, selected: value === "0.1" }, text)));
  const scrub = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Time", oninput: () => actions.goTo(Number(scrub.value)) });
  const element = h("div", { class: "player", role: "group", "aria-label": "Time" },
    button("|◀", "First event", "Home", actions.first), button("◀", "Event before", "K", actions.back),
    play, button("▶", "Next event", "J", actions.next), button("▶|", live ? "Now" : "Last event", "End", actions.last),
    live ? null : speed, scrub);
  return {
    element,
    show(cursor, count, playing) {
      scrub.max = Math.max(0, count - 1);
      scrub.value = cursor < 0 ? count - 1 : cursor;
      say(play, playing ? "Pause" : live ? "Live" : "Play");
      element.classList.toggle("running", playing);
    },
  };
}

/** Filters by layer, connection and words. */
export function filters(facts, timeline, changed) {
  const { filter } = timeline;
  const chips = Object.entries(facts.layers).map(([layer, meaning]) => {
    const box = h("input", { type: "checkbox", checked: true, onchange: () => { if (box.checked) filter.layers.add(layer); else filter.layers.delete(layer); changed(); } });
    return h("label", { class: `chip ${layer}`, title: meaning }, box, h("span", {}, layer));
  });
  const search = h("input", {
    type: "search", placeholder: "Search: kind, text, id", "aria-label": "Search events", "aria-keyshortcuts": "/",
    oninput: () => { filter.words = search.value.toLowerCase().split(/\s+/).filter(Boolean); changed(); },
  });
  return { element: h("div", { class: "filters", role: "group", "aria-label": "Filters" }, chips, search, timeline.count), search };
}

/** Which connection is in the picture. */
export function connections(chosen) {
  const select = h("select", { "aria-label": "Connection", onchange: () => chosen(select.value, only.checked) });
  const only = h("input", { type: "checkbox", onchange: () => chosen(select.value, only.checked) });
  let known = "";
  return {
    element: h("span", { class: "connections" }, h("label", {}, "Connection ", select), h("label", {}, only, " only its events")),
    show(pairs, present) {
      const list = pairs.map(({ key, text }) => `${key}\n${text}`).join("\n\n");
      if (list !== known) {
        known = list;
        put(select, h("option", { value: "" }, "the newest"), pairs.map(({ key, text }) => h("option", { value: key }, text)));
      }
      select.value = present ?? "";
    },
  };
}

// What there is to do: [what, words, whether it is about a connection].
const DEEDS = [
  ["rekey", "New keys (KeyUpdate)"], ["mode-sw", "TX in software"], ["mode-ifnet", "TX by the card"],
  ["flip", "Flip a bit of the next record"], ["replay", "Replay the next record"], ["drop", "Drop the next record"],
  ["hold", "Hold the next record back"], ["expire", "Use the key up"], ["cut", "Cut the connection"], ["kill-daemon", "Kill the daemon"],
];

/** The buttons that do something to a host; `act(side, what)` does it and returns what to say. */
export function deeds(act) {
  const side = h("select", { "aria-label": "Which host" }, h("option", { value: "client" }, "client host"), h("option", { value: "server" }, "server host"));
  const answer = h("span", { class: "note", role: "status" });
  const button = ([what, words]) => h("button", { data: { what }, onclick: async () => { say(answer, "…"); say(answer, await act(side.value, what)); } }, words);
  return h("details", { class: "deeds" }, h("summary", {}, "Do"), h("div", { class: "filters" }, h("label", {}, "On the ", side), DEEDS.map(button), answer));
}

/** Light or dark: as the system has it, until somebody says otherwise. */
export function theme() {
  const order = ["auto", "light", "dark"];
  const button = h("button", {
    title: "Light or dark",
    onclick: () => { set(order[(order.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % order.length]); },
  });
  const set = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    say(button, { auto: "◐ auto", light: "☀ light", dark: "☾ dark" }[name]);
  };
  set("auto");
  return button;
}
