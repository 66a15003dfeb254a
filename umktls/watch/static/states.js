// The tables of states as pictures: all states, the arrows between them, the present one lit.

import { svg } from "umktls/dom.js";

// Where each state stands, in the unit of a pill. What a table has and this has not is drawn below.
const PLACES = {
  half: { CLEAR: [0, 0], SEALED: [1, 0], PAUSED: [2, 0], BROKEN: [3, 0] },
  upcall: { queued: [0, 0], offered: [1, 0], taken: [2, 0], live: [2, 1], ended: [1, 1] },
};

/** A picture of a table [[from, event, to], ...]; returns {element, light(state)}. */
export function stateTable(kind, table, { width = 62, height = 18, gapX = 16, gapY = 14 } = {}) {
  const places = PLACES[kind];
  const names = [...new Set(table.flatMap(([from, , to]) => [from, to]))];
  const at = (name) => {
    const [column, row] = places[name] ?? [0, 2];
    return [column * (width + gapX), row * (height + gapY)];
  };
  const pills = new Map();
  const group = svg("g", { class: "states" });
  const drawn = new Map();
  for (const [from, event, to] of table) {
    if (from === to) continue;
    const key = `${from} ${to}`;
    drawn.set(key, [...(drawn.get(key) ?? []), event]);
  }
  for (const [key, events] of drawn) {
    const [from, to] = key.split(" ");
    group.append(arrow(at(from), at(to), width, height, events.join(", "), drawn.has(`${to} ${from}`)));
  }
  for (const name of names) {
    const [x, y] = at(name);
    const pill = svg("g", { class: "state", transform: `translate(${x} ${y})` },
      svg("rect", { width, height, rx: height / 2 }),
      svg("text", { x: width / 2, y: height / 2 }, name.toLowerCase()));
    pills.set(name, pill);
    group.append(pill);
  }
  return {
    element: group,
    light(state) {
      for (const [name, pill] of pills) pill.classList.toggle("lit", name === state);
    },
  };
}

function arrow([x1, y1], [x2, y2], width, height, events, both) {
  let from; let to;
  if (y1 === y2 && Math.abs(x2 - x1) > 1.5 * width) {
    const [a, b, y] = [x1 + width / 2, x2 + width / 2 - 6 + (x2 - x1) / 60, y1 + height];
    return svg("path", { class: "go", d: `M${a} ${y}C${a + 8} ${y + 11} ${b - 8} ${y + 11} ${b} ${y}`, "marker-end": "url(#tip)" },
      svg("title", {}, events.toLowerCase()));
  }
  if (y1 === y2) {
    const shift = both ? (x2 > x1 ? -3 : 3) : 0;
    from = [x1 + (x2 > x1 ? width : 0), y1 + height / 2 + shift];
    to = [x2 + (x2 > x1 ? 0 : width), y2 + height / 2 + shift];
  } else {
    from = [x1 + width / 2, y1 + (y2 > y1 ? height : 0)];
    to = [x2 + width / 2 + (x1 - x2) / 8, y2 + (y2 > y1 ? 0 : height)];
  }
  return svg("line", { class: "go", x1: from[0], y1: from[1], x2: to[0], y2: to[1], "marker-end": "url(#tip)" },
    svg("title", {}, events.toLowerCase()));
}
