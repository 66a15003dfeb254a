// Lessons, as they come: from the server, which has them played now, or out of a recording.
//
// Both have list(), which gives {name, about, minutes}, and begin(name, hear, signal), which calls
// hear(part, answer) for each part (umktls/lessons/player.py); answer(text) answers a question.

/** Those of the server, which is asked by `post(path, body, signal)`. */
export const liveTours = (post) => ({
  words: "Choose a lesson. It runs on this machine as you go, and all its numbers are of that run. The picture shows its hosts.",
  list: async () => (await fetch("./lessons")).json(),

  async begin(name, hear, signal) {
    const run = { run: crypto.randomUUID() };
    const answer = (text) => post("./answer", { ...run, text });
    const response = await post(`./lesson/${name}`, run, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const pieces = (text + value).split("\n");
      text = pieces.pop();
      for (const piece of pieces) hear(JSON.parse(piece), answer);
    }
  },
});

/** Those of a recording: each has its name and its parts, with the times at which they came. */
export function recordedTours(kept) {
  const named = new Map(kept.map((tour, place) => [`${tour.name}${kept.findIndex(({ name }) => name === tour.name) === place ? "" : ` (${place + 1})`}`, tour]));
  return {
    none: !kept.length,
    words: "Choose a lesson that was recorded. Its numbers are of the run that was; the picture plays what happened.",
    list: async () => [...named].map(([name, { parts }]) => {
      const head = parts.find(({ part }) => part === "lesson");
      return { name, about: head?.title ?? "", minutes: head?.minutes ?? "?" };
    }),

    async begin(name, hear, signal) {
      let given = null;
      let asked = 0;
      for (const part of named.get(name).parts) {
        if (signal.aborted) return;
        if (part.part === "question") {
          asked = part.mono;
          given = await new Promise((done) => { hear(part, async (text) => done(text || null)); });
        } else if (part.part === "check") hear({ ...part, given, right: given === null ? null : same(given, part.answer) });
        else hear(part.part === "seen" ? { ...part, from: asked } : part);
      }
    },
  };
}

/** As Question.right of umktls/lessons/lesson.py has it. */
function same(given, answer) {
  return given.toLowerCase().trim().split(/\s+/).join(" ").replace(/\.+$/, "") === answer.toLowerCase();
}
