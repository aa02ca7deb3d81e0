// Calls the API with the session's cookie and, on every change, its CSRF token.

export const csrf = () => document.querySelector('meta[name="csrf-token"]')?.content ?? "";

// An API response that is a problem document: its cause is the message, its remedy what to do.
export class Problem extends Error {
  constructor(status, document_, after = null) {
    super(document_.cause ?? `The service answered ${status}.`);
    this.status = status;
    this.after = Number(after) || 1;  // seconds to wait, of a 429
    this.code = document_.code ?? "";
    this.remedy = document_.remedy ?? "Try again in a moment.";
    this.param = document_.param ?? null;
  }
}

// Call the API and return the parsed response. Throws Problem, or TypeError if the service cannot be reached.
export async function api(method, path, body, headers = {}) {
  const answer = await fetch(path, {
    method,
    credentials: "same-origin",
    headers: { "X-CSRF-Token": csrf(), Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await answer.text();
  let parsed = {};
  try { parsed = text ? JSON.parse(text) : {}; } catch { /* a proxy's own page */ }
  if (answer.status === 401) location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  if (!answer.ok) throw new Problem(answer.status, parsed, answer.headers.get("Retry-After"));
  return parsed;
}

// Show a message; it disappears by itself unless it is an error.
export function say(text, { kind = "info", remedy = "" } = {}) {
  const place = document.getElementById("messages");
  const box = document.createElement("div");
  box.className = `message ${kind}`;
  const words = document.createElement("p");
  words.textContent = text;
  box.append(words);
  if (remedy) {
    const more = document.createElement("p");
    more.className = "small";
    more.textContent = remedy;
    box.append(more);
  }
  const close = document.createElement("button");
  close.type = "button";
  close.className = "quiet";
  close.setAttribute("aria-label", "Dismiss");
  close.textContent = "×";
  close.addEventListener("click", () => box.remove());
  box.append(close);
  place.append(box);
  if (kind !== "error") setTimeout(() => box.remove(), 6000);
}

// Show an error and its remedy.
export function complain(error) {
  if (error instanceof Problem) say(error.message, { kind: "error", remedy: error.remedy });
  else say("The service cannot be reached.", { kind: "error", remedy: "Check whether the change was made, then try again." });
}

export function offline(is) {
  const note = document.getElementById("offline");
  if (note) note.hidden = !is;
}

const nameOf = (element) => element.id || element.getAttribute("aria-label") || element.textContent;

// Note what the reader did to a part of the page: details that are open, tables that are scrolled, the focus and the section in view.
// Returns a function that restores it once the part is replaced.
function remember(place) {
  const opened = [...place.querySelectorAll("details[id]")].map((each) => [each.id, each.open]);
  const scrolled = [...place.querySelectorAll(".scroll[aria-label]")].map((each) => [each.getAttribute("aria-label"), each.scrollLeft, each.scrollTop]);
  const focus = place.contains(document.activeElement) ? document.activeElement : null;
  const inView = scrollY > 0 ? [...document.querySelectorAll(".section")].find((each) => each.getBoundingClientRect().bottom > 0) : null;
  const top = inView?.getBoundingClientRect().top;
  const root = document.documentElement;
  root.style.overflowAnchor = "none";  // or the browser moves the page as well
  return () => {
    for (const [id, open] of opened) { const each = document.getElementById(id); if (each) each.open = open; }
    for (const [label, left, down] of scrolled) place.querySelector(`.scroll[aria-label="${CSS.escape(label)}"]`)?.scrollTo(left, down);
    if (focus) [...place.querySelectorAll(focus.tagName)].find((each) => nameOf(each) === nameOf(focus))?.focus({ preventScroll: true });
    const section = inView && document.getElementById(inView.id);
    if (section) scrollBy({ top: section.getBoundingClientRect().top - top, behavior: "instant" });
    requestAnimationFrame(() => { root.style.overflowAnchor = ""; });
  };
}

// Replace a part of the page by what the server makes of it now. Returns whether it came; the page shows a lost connection.
export async function bring(path, place, wanted = () => true) {
  let answer, text;
  try {
    answer = await fetch(path, { credentials: "same-origin", headers: { "HX-Request": "true", Accept: "text/html" } });
    text = await answer.text();
  } catch { offline(true); return false; }
  const elsewhere = answer.headers.get("HX-Redirect");
  if (elsewhere) { location.assign(elsewhere); return false; }
  if (!answer.ok || !wanted()) return false;
  offline(false);
  const restore = remember(place);
  place.innerHTML = text;
  restore();
  window.htmx?.process(place);
  document.dispatchEvent(new CustomEvent("lathe:brought", { detail: { place } }));
  return true;
}
