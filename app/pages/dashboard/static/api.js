// The pages' way to the API: the same paths as scripts use, by cookie, with the session's token on every change.

export const csrf = () => document.querySelector('meta[name="csrf-token"]')?.content ?? "";

// An answer of the API that is a problem document: its cause is the message, its remedy what to do.
export class Problem extends Error {
  constructor(status, document_) {
    super(document_.cause ?? `The service answered ${status}.`);
    this.status = status;
    this.code = document_.code ?? "";
    this.remedy = document_.remedy ?? "Try again in a moment.";
    this.param = document_.param ?? null;
  }
}

// Ask the API; return what it answers, parsed. Throws Problem, and TypeError where the service cannot be reached.
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
  if (!answer.ok) throw new Problem(answer.status, parsed);
  return parsed;
}

// Show a message that goes by itself unless it is an error.
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

// Show what went wrong, and what to do.
export function complain(error) {
  if (error instanceof Problem) say(error.message, { kind: "error", remedy: error.remedy });
  else say("The service cannot be reached.", { kind: "error", remedy: "Nothing is known to have changed. Try again in a moment." });
}

export function offline(is) {
  const note = document.getElementById("offline");
  if (note) note.hidden = !is;
}

// Bring a part of the page anew: what the server makes of it takes its place; what had the focus has it again.
// Returns whether it came; a line that is cut is told by the page, not by the console.
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
  const focus = place.contains(document.activeElement) ? document.activeElement.id : "";
  place.innerHTML = text;
  if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
  window.htmx?.process(place);
  document.dispatchEvent(new CustomEvent("lathe:brought", { detail: { place } }));
  return true;
}
