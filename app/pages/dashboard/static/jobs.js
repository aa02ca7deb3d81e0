// Keeps the list of jobs up to date: a stream sends the ids and versions on the page, and if they differ from what is shown the
// list is fetched again, at most once a second.
import { bring } from "./api.js";
import { follow, liveness } from "./live.js";

const EVERY = 1000;
const list = document.getElementById("list");
let wanted = null, asking = false, asked = 0, timer = null;

const key = (jobs) => jobs.map((job) => `${job.id} ${job.version}`).join();
const shown = () => key([...list.querySelectorAll("[data-job]")].map((row) => ({ id: row.dataset.job, version: row.dataset.version })));

async function refresh() {
  clearTimeout(timer);
  if (asking || wanted === null || key(wanted) === shown()) return;
  const wait = asked + EVERY - Date.now();
  if (wait > 0) { timer = setTimeout(refresh, wait); return; }
  const before = location.href;
  asking = true;
  asked = Date.now();
  const here = () => location.href === before;  // if the filter changes before the response comes, the response is dropped
  await bring(before, list, here);
  asking = false;
  timer = setTimeout(refresh, here() ? EVERY : 0);
}

// The page ignores what it does not know, as links from mails have; the service refuses it.
const KNOWN = ["state", "label", "model", "search", "page_size", "page_token"];
function known() {
  return new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => KNOWN.includes(name)));
}

const stream = follow(
  () => `/v1/jobs?${known()}`,
  { jobs: (data) => { wanted = data.jobs; refresh(); } },
  { status: liveness(document.getElementById("live")) },
);
document.addEventListener("htmx:pushedIntoHistory", () => { wanted = null; stream.reopen(); });
// An empty field is no filter: leave it out of the URL.
document.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.elt.id === "filters" && !event.detail.parameters.search) delete event.detail.parameters.search;
});
