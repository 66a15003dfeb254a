// Lessons as guided tours beside the picture: a prediction is asked, the step is done, by the server
// or out of the recording, and the answer checked. The picture shows the lesson's hosts meanwhile.

import { h, put, say } from "umktls/dom.js";

const paragraphs = (texts) => texts.map((text) => h("p", {}, text));
const lines = (texts) => (texts.length ? h("pre", {}, texts.join("\n")) : null);

/** A button, and the panel behind it. `tours()` gives the source's; `follow(pid)` has the picture show the
 *  hosts of that process, all with null; `play(start, end)` what happened from one time to another. */
export function lessons(tours, { follow, play }) {
  const list = h("nav", { class: "lesson-list", "aria-label": "Lessons" });
  const choice = h("details", { class: "choice", open: true }, h("summary", {}, "All lessons"), list);
  const hosts = h("p", { class: "note hosts", role: "status" });
  const tour = h("article", { class: "tour", "aria-live": "polite" });
  const panel = h("aside", { class: "lessons", "aria-label": "Lessons", hidden: true },
    h("button", { class: "close", onclick: () => close() }, "Close"), choice, hosts, tour);
  const button = h("button", { class: "open-lessons", "aria-expanded": "false", onclick: () => (panel.hidden ? open() : close()) }, "Lessons");
  let running = null;

  panel.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });

  const end = () => { running?.abort(); running = null; };

  function shown(yes) {
    panel.hidden = !yes;
    button.setAttribute("aria-expanded", String(yes));
    document.body.classList.toggle("touring", yes);
  }

  function close() {
    end();
    shown(false);
    follow(null);
    button.focus();
  }

  async function open() {
    shown(true);
    const entries = await tours().list();
    put(list, entries.map(({ name, about, minutes }) => h("button", { data: { lesson: name }, onclick: () => begin(name) },
      h("strong", {}, name), h("span", {}, about), h("small", {}, `${minutes} min`))));
    if (!tour.childElementCount) put(tour, h("p", { class: "note" }, tours().words));
    list.firstElementChild?.focus();
  }

  async function begin(name) {
    end();
    const mine = running = new AbortController();
    put(tour);
    say(hosts, "");
    choice.open = false;
    for (const each of list.children) each.setAttribute("aria-pressed", each.dataset.lesson === name);
    try {
      await tours().begin(name, (part, answer) => { if (!mine.signal.aborted) show(part, answer); }, mine.signal);
    } catch (error) {
      if (!mine.signal.aborted) show({ part: "failed", text: error.message });
    }
  }

  function show(part, answer) {
    if (part.part === "process") follow(part.pid);
    if (part.part === "seen" && part.from) play(part.from, part.mono);
    const made = SHOWN[part.part]?.(part, answer);
    if (made) tour.append(...[made].flat(Infinity).filter(Boolean));
    if (part.part === "question") tour.lastElementChild.scrollIntoView({ block: "center" });
  }

  /** Say which hosts the picture shows. */
  const showHosts = (names) => say(hosts, names.length
    ? `The picture shows ${names.join(" and ")}, of this lesson.`
    : "No host of this lesson is up, so the picture is empty.");

  return { button, panel, showHosts };
}

const SHOWN = {
  lesson: (part) => [h("h2", {}, part.title, h("small", {}, ` ${part.minutes} minutes`)), paragraphs(part.text)],
  step: (part) => [h("h3", {}, `${part.number}. ${part.title}`), paragraphs(part.text), lines(part.given)],
  question,
  seen: (part) => lines(part.lines),
  check: (part) => h("p", { class: `check ${part.right === null ? "" : part.right ? "right" : "wrong"}` },
    h("strong", {}, part.right === null ? "Answer: " : part.right ? "✓ Right: " : "✗ It is: "), part.answer,
    part.right === false ? h("span", { class: "note" }, ` (you said: ${part.given})`) : null),
  means: (part) => paragraphs(part.text),
  end: (part) => [
    h("h3", {}, "Exercises"),
    h("ol", {}, part.exercises.map(({ text, solution }) => h("li", {}, text, h("details", {}, h("summary", {}, "Solution"), h("p", {}, solution))))),
    h("h3", {}, "To read"),
    h("ul", {}, part.code.map(({ file, name }) => h("li", {}, h("code", {}, file), `: ${name}`)),
      part.rfcs.map(({ rfc, section, about }) => h("li", {}, `RFC ${rfc} section ${section}: ${about}`))),
  ],
  failed: (part) => h("p", { class: "check wrong", role: "alert" }, part.text),
};

/** A form that sends the prediction; then the step is done. */
function question(part, answer) {
  const typed = h("input", { type: "text", name: "answer", autocomplete: "off", "aria-label": "Your prediction", size: 12 });
  const choices = part.choices.map((choice) => h("label", {}, h("input", { type: "radio", name: "answer", value: choice }), choice));
  const note = h("span", { class: "note", role: "status" });
  const form = h("form", { class: "prediction" },
    h("fieldset", {}, h("legend", {}, part.text), choices.length ? choices : typed,
      h("button", { type: "submit", class: "predict" }, "Do it"), note));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = new FormData(form).get("answer");
    form.firstElementChild.disabled = true;
    try {
      await answer(text);
    } catch (error) {
      say(note, error.message);
    }
  });
  return form;
}
