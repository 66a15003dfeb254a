// Lessons as guided tours: a prediction is asked, the step is done by the server, the answer checked.

import { h, put, say } from "umktls/dom.js";

const HEADERS = { "content-type": "application/json", "x-umktls-watch": "1" };
const paragraphs = (texts) => texts.map((text) => h("p", {}, text));
const lines = (texts) => (texts.length ? h("pre", {}, texts.join("\n")) : null);

async function post(path, body, signal) {
  const response = await fetch(path, { method: "POST", headers: HEADERS, body: JSON.stringify(body), signal });
  if (!response.ok) throw new Error((await response.json()).error ?? response.statusText);
  return response;
}

/** A button, and the dialog behind it. */
export function lessons() {
  const list = h("nav", { class: "lesson-list", "aria-label": "Lessons" });
  const tour = h("article", { class: "tour", "aria-live": "polite" });
  const close = h("button", { class: "close", onclick: () => dialog.close() }, "Close");
  const dialog = h("dialog", { class: "lessons", "aria-label": "Lessons", onclose: () => end() }, close, list, tour);
  let running = null;

  const end = () => { running?.abort(); running = null; };

  async function open() {
    dialog.showModal();
    if (list.childElementCount) return;
    const entries = await (await fetch("./lessons")).json();
    put(list, entries.map(({ name, about, minutes }) => h("button", { data: { lesson: name }, onclick: () => begin(name) },
      h("strong", {}, name), h("span", {}, about), h("small", {}, `${minutes} min`))));
    put(tour, h("p", { class: "note" }, "Choose a lesson. It runs on this machine as you go, and all its numbers are of that run."));
  }

  async function begin(name) {
    end();
    const mine = running = new AbortController();
    const run = { run: crypto.randomUUID() };
    put(tour);
    for (const button of list.children) button.setAttribute("aria-pressed", button.dataset.lesson === name);
    try {
      const response = await post(`./lesson/${name}`, run, mine.signal);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const pieces = (text + value).split("\n");
        text = pieces.pop();
        for (const piece of pieces) show(JSON.parse(piece), run);
      }
    } catch (error) {
      if (!mine.signal.aborted) show({ part: "failed", text: error.message }, run);
    }
  }

  function show(part, run) {
    const shown = SHOWN[part.part]?.(part, run);
    if (shown) tour.append(...[shown].flat(Infinity).filter(Boolean));
    if (part.part === "question") tour.lastElementChild.scrollIntoView({ block: "center" });
  }

  return { button: h("button", { onclick: open }, "Lessons"), dialog };
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
function question(part, { run }) {
  const answer = h("input", { type: "text", name: "answer", autocomplete: "off", "aria-label": "Your prediction", size: 12 });
  const choices = part.choices.map((choice) => h("label", {}, h("input", { type: "radio", name: "answer", value: choice }), choice));
  const note = h("span", { class: "note", role: "status" });
  const form = h("form", { class: "prediction" },
    h("fieldset", {}, h("legend", {}, part.text), choices.length ? choices : answer,
      h("button", { type: "submit", class: "predict" }, "Do it"), note));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = new FormData(form).get("answer");
    form.firstElementChild.disabled = true;
    try {
      await post("./answer", { run, text });
    } catch (error) {
      say(note, error.message);
    }
  });
  return form;
}
