// Single steps: in front of which the hosts stop, where they stand, and Next.

import { h, put, say } from "umktls/dom.js";

/** `ask(order)` has the server do something: {on}, {kinds} or {next}. `kinds`: names and meanings. */
export function stepper(kinds, ask) {
  const answer = h("span", { class: "note", role: "status" });
  const send = async (order) => {
    try { say(answer, ""); await ask(order); } catch (error) { say(answer, error.message); }
  };
  const on = h("input", { type: "checkbox", onchange: () => send({ on: on.checked }) });
  const next = h("button", { class: "next", title: "The step that is next (N)", "aria-keyshortcuts": "N", disabled: true, onclick: () => send({ next: true }) }, "Next");
  const boxes = Object.entries(kinds).map(([kind, meaning]) => {
    const box = h("input", { type: "checkbox", checked: true, onchange: () => send({ kinds: Object.keys(kinds).filter((each) => chosen.get(each).checked) }) });
    return [kind, box, h("label", { class: "chip", title: meaning }, box, h("span", {}, kind))];
  });
  const chosen = new Map(boxes.map(([kind, box]) => [kind, box]));
  const where = h("span", { class: "where", role: "status", "aria-live": "polite" });
  const others = h("ol", { class: "others" });
  const element = h("details", { class: "steps" }, h("summary", {}, "Single step"),
    h("div", { class: "filters" }, h("label", {}, on, " stop before each"), boxes.map(([, , label]) => label)),
    h("div", { class: "filters" }, next, where, answer), others);
  return {
    element,
    next: () => { if (!next.disabled) next.click(); },
    show({ on: yes, kinds: present, stops, problems }) {
      on.checked = yes;
      if (yes) element.open = true;
      for (const [kind, box] of chosen) box.checked = present.includes(kind);
      next.disabled = stops.length === 0;
      where.dataset.stop = stops.length ? `${stops[0].host}/${stops[0].number}` : "";
      say(where, !yes ? "" : stops.length ? `${stopWords(stops[0])}; all clocks stand` : "going: nothing stands");
      put(others, stops.slice(1).map((stop) => h("li", {}, stopWords(stop))), problems.map((problem) => h("li", { class: "note" }, problem)));
    },
  };
}

/** Where a host stands, in words. */
export function stopWords(stop) {
  return `${stop.host}${stop.connection ? ` ${stop.connection}` : ""} stands before: ${stop.step} ${stop.what}`.trim();
}
