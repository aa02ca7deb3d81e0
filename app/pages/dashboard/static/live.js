// A stream of server-sent events that reconnects, closes while the page is hidden, and reports its state.
import { api, offline } from "./api.js";

const LONGEST = 15000;

// address: () => URL; events: name → handler(data, event). Returns { reopen, close }.
// EventSource reconnects by itself with Last-Event-ID, but gives up after a response that is no stream (a proxy's 502 while the
// service restarts); then we open it again from the last event received.
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
        api("GET", "/v1/queue").catch(() => {});  // if the session is over, this opens the sign-in page
        timer = setTimeout(open, pause);
        pause = Math.min(pause * 2, LONGEST);
      }
    });
    for (const [name, handle] of Object.entries(events)) {
      source.addEventListener(name, (event) => { note(event); handle(JSON.parse(event.data), event); });
    }
  }

  const close = () => { ended = true; clearTimeout(timer); source?.close(); };
  // A hidden page frees its connection: a browser allows only a few per host.
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

// Show a stream's state.
export function liveness(place) {
  const words = place.querySelector("[data-live]");
  return (is) => {
    place.dataset.is = is;
    words.textContent = { live: "live", away: "reconnecting", over: "complete" }[is];
  };
}
