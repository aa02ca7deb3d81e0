// For every page: the CSRF token on htmx's requests, times in the reader's zone, copy buttons.
import { bring, complain, csrf, offline, Problem, say } from "./api.js";

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const short = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

export function writeTimes(root = document) {
  for (const place of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(place.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    place.textContent = short.format(moment);
    place.title = exact.format(moment);
  }
}

document.addEventListener("htmx:configRequest", (event) => { event.detail.headers["X-CSRF-Token"] = csrf(); });
document.addEventListener("htmx:afterSwap", (event) => writeTimes(event.detail.target));
document.addEventListener("lathe:brought", (event) => writeTimes(event.detail.place));
document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) offline(false); });
document.addEventListener("htmx:sendError", () => offline(true));
document.addEventListener("htmx:responseError", (event) => {
  complain(new Problem(event.detail.xhr.status, { cause: `The service answered ${event.detail.xhr.status}.` }));
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    say("Copied.");
  } catch {  // no clipboard without TLS: select the text instead
    source.closest("details")?.setAttribute("open", "");
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    say("Selected: press Ctrl+C to copy.");
  }
});

// Refresh a part every so many seconds while the page is visible.
for (const place of document.querySelectorAll("[data-refresh]")) {
  setInterval(() => { if (!document.hidden) bring(location.pathname + location.search, place); }, 1000 * Number(place.dataset.refresh));
}

// On a narrow screen the navigation scrolls: show the entry of this page.
const here = document.querySelector(".bar nav a[aria-current]");
if (here) {
  const nav = here.closest("nav"), [entry, all] = [here.getBoundingClientRect(), nav.getBoundingClientRect()];
  if (entry.right > all.right) nav.scrollLeft += entry.right - all.right + 16;
}

window.addEventListener("offline", () => offline(true));
window.addEventListener("online", () => offline(false));
writeTimes();
