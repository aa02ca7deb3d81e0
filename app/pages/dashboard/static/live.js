// A stream of server-sent events that opens again whatever happens, rests while nobody looks, and says how it is.
import { api, offline } from "./api.js";

const LONGEST = 15000;

// address: () => URL; events: name → handler(data, event). Returns { reopen, close }.
// The browser's own EventSource goes on by itself after a cut, with Last-Event-ID; it gives up after an answer that is no stream
// (a proxy's 502 while the service restarts), and then we begin anew, from the last event that came.
export function follow(address, events, { status = () => {}, resume = false } = {}) {
  let source = null, last = null, pause = 1000, timer = null, ended = false;

  const note = (event) => { if (event.lastEventId) last = event.lastEventId; };

  function open() {
    clearTimeout(timer);
    source?.close();
    if (ended) return;
    const url = new URL(address(), location.href);
    if (resume && last !== null) url.searchParams.set("after", last);
    source = new EventSource(url);
    source.addEventListener("open", () => { pause = 1000; offline(false); status("live"); });
    source.addEventListener("error", () => {
      if (ended) return;
      status("away");
      if (source.readyState === EventSource.CLOSED) {
        offline(true);
        api("GET", "/v1/queue").catch(() => {});  // a session that is over leads to the sign-in page
        timer = setTimeout(open, pause);
        pause = Math.min(pause * 2, LONGEST);
      }
    });
    for (const [name, handle] of Object.entries(events)) {
      source.addEventListener(name, (event) => { note(event); handle(JSON.parse(event.data), event); });
    }
  }

  const close = () => { ended = true; clearTimeout(timer); source?.close(); };
  // A page in the background keeps its place in the browser's few connections for pages that are looked at.
  document.addEventListener("visibilitychange", () => {
    if (ended) return;
    if (document.hidden) { clearTimeout(timer); source?.close(); } else open();
  });
  window.addEventListener("offline", () => { if (!ended) { clearTimeout(timer); source?.close(); status("away"); } });
  window.addEventListener("online", () => { if (!ended) { pause = 1000; open(); } });
  window.addEventListener("pagehide", () => source?.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted && !ended) open(); });
  open();
  return { reopen: () => { last = null; open(); }, close };
}

// Write how a stream is into a place of the page.
export function liveness(place) {
  const words = place.querySelector("[data-live]");
  return (is) => {
    place.dataset.is = is;
    words.textContent = { live: "live", away: "reconnecting", over: "complete" }[is];
  };
}
