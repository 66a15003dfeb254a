// Where events come from: a server that tells them as they happen, or a recording in this page.

import { liveTours, recordedTours } from "umktls/tours.js";

/** Calls `take(message)` for each message; see umktls/watch/feed.py. Returns what else there is:
 *  record(host, number) gives a record taken apart; `live` says which of both it is; `tours` has the
 *  lessons. */
export async function source(facts, take, state) {
  return facts.live ? live(take, state) : recorded(take);
}

function live(take, state) {
  const events = new EventSource("./events");
  let begun = false;
  events.onopen = () => {
    // After a pause the server tells everything again, so what was there goes.
    if (begun) take({ t: "again" });
    begun = true;
    state("live");
  };
  events.onmessage = (message) => take(JSON.parse(message.data));
  events.onerror = () => state("lost");
  return {
    live: true,
    tours: liveTours(post),
    record: async (host, number) => (await answered(`./record/${encodeURIComponent(host)}/${number}`)).json(),
    post: async (path, body) => (await post(path, body)).json(),
  };
}

/** The response to a request. Throws what the server has against it. */
async function answered(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Error((await response.json()).error ?? response.statusText);
  return response;
}

function post(path, body, signal) {
  const headers = { "content-type": "application/json", "x-umktls-watch": "1" };
  return answered(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function recorded(take) {
  const text = document.getElementById("recording").textContent;
  const packed = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const recording = await new Response(unpacked).json();
  take({ t: "pairs", pairs: recording.pairs });
  for (const stat of recording.stats) take(stat);
  take({ t: "events", events: recording.events });
  return {
    live: false,
    tours: recordedTours(recording.tours ?? []),
    made: recording.made,
    async record(host, number) {
      const found = recording.records[`${host}/${number}`];
      if (!found) throw new Error("this record's bytes are not in the recording");
      return found;
    },
  };
}
