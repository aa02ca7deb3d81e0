// One job: its stream of events feeds the log and the curves; a new state or a finished stage refreshes the parts of the page.
import { api, bring, complain, say } from "./api.js";
import { picture } from "./charts.js";
import { Curves } from "./curves.js";
import { follow, liveness } from "./live.js";
import { Log } from "./log.js";
import { sections } from "./sections.js";
import { targets } from "./targets.js";

const page = document.getElementById("job");
const id = page.dataset.job;
const now = document.getElementById("now");
const log = new Log(document.getElementById("log-box"));
const curves = new Curves(document.getElementById("training"));
const RESULTS = ["stage_finished", "part_finished", "artifact"];
const ENDS = ["succeeded", "failed", "cancelled"];

// Refresh a part of the page, at most once a second, and once more if that was wanted meanwhile.
function part(name, place, then = () => {}) {
  let asking = false, again = false, asked = 0;
  return async function refresh() {
    if (asking) { again = true; return; }
    asking = true;
    const wait = asked + 1000 - Date.now();
    if (wait > 0) await new Promise((done) => setTimeout(done, wait));
    asked = Date.now();
    again = false;
    const kept = new Set([...place.querySelectorAll('input[name="remedy"]:not(:checked)')].map((box) => box.value));
    await bring(`/jobs/${id}?part=${name}`, place);
    for (const box of place.querySelectorAll('input[name="remedy"]')) box.checked = !kept.has(box.value);
    asking = false;
    then();
    if (again) refresh();
  };
}

// Charts of figures that a table beside them has.
let drawn = [];
function drawResults() {
  drawn.forEach((each) => each.close());
  drawn = [];
  const sensitivity = document.querySelector("[data-sensitivity]");
  if (sensitivity) {
    const axes = new Map();
    for (const row of document.querySelectorAll("[data-axis]")) {
      if (!axes.has(row.dataset.axis)) axes.set(row.dataset.axis, []);
      axes.get(row.dataset.axis).push([100 * Number(row.dataset.taken), Number(row.dataset.score)]);
    }
    drawn.push(picture(sensitivity, ({ axis, legend, tooltip, colours }) => ({
      color: [colours.quantized, colours.pruned, colours.distilled, colours.baseline],
      tooltip: { ...tooltip, trigger: "axis", valueFormatter: (value) => Number(value).toFixed(4) }, legend: { ...legend, top: 0 },
      grid: { left: 8, right: 16, top: 40, bottom: 28, containLabel: true },
      xAxis: { ...axis, type: "value", name: "removed, %", nameLocation: "middle", nameGap: 28 },
      yAxis: { ...axis, type: "value", scale: true, name: sensitivity.dataset.sensitivity, nameTextStyle: { ...axis.nameTextStyle, align: "left" } },
      series: [...axes].map(([name, points]) => ({ name, type: "line", data: points, symbolSize: 7 })),
    })));
  }
  targets();
  const ranges = document.querySelector("[data-ranges]");
  if (ranges) {
    const short = (name) => name.replace(/^.*?(?=(layers?|blocks?|h)\.\d)/, "");
    const layers = [...document.querySelectorAll("[data-layer]")].map((row) => ({
      name: short(row.dataset.layer), value: Number(row.dataset.ratio), broken: row.dataset.broken === "1",
    })).reverse();
    drawn.push(picture(ranges, ({ axis, tooltip, colours }) => ({
      tooltip: { ...tooltip, trigger: "item", valueFormatter: (value) => `${Number(value).toFixed(1)} × 99th percentile` },
      grid: { left: 8, right: 24, top: 8, bottom: 28, containLabel: true },
      xAxis: { ...axis, type: "value", name: "largest / 99th percentile", nameLocation: "middle", nameGap: 28 },
      yAxis: { ...axis, type: "category", data: layers.map((layer) => layer.name), axisLabel: { ...axis.axisLabel, width: 240, overflow: "truncate", fontSize: 11 } },
      series: [{ type: "bar", barMaxWidth: 14, data: layers.map((layer) => ({ value: layer.value, itemStyle: { color: layer.broken ? colours.bad : colours.quantized, borderRadius: 3 } })) }],
    })));
  }
}

const refreshNow = part("now", now);
const refreshResults = part("results", document.getElementById("found"), drawResults);
const markSection = sections(document.querySelector(".sections"));
const status = liveness(document.getElementById("live"));
let shown = Number(now.dataset.version);

function take(type, data) {
  const isNew = log.add(type, data);
  if (!isNew) return;
  if (type === "progress") curves.add(data.data);
  if (RESULTS.includes(type) && page.dataset.over === "no") refreshResults();
}

const types = ["queued", "claimed", "started", "stage_started", "progress", "log", "artifact", "part_finished", "stage_finished", "training_saved", "tables_saved", "released", "requeued", "cancel_requested", ...ENDS];
const stream = follow(
  () => `/v1/jobs/${id}/events?states=true`,
  {
    ...Object.fromEntries(types.map((type) => [type, (data) => take(type, data)])),
    state: (data) => {
      log.show();
      curves.show();
      if (data.version !== shown) { shown = data.version; refreshNow(); }
      if (!ENDS.includes(data.state)) return;
      // The stream ends with the job: no broken connection.
      stream.close();
      curves.end();
      markSection();
      status("over");
      if (page.dataset.over === "no") { page.dataset.over = "yes"; refreshResults(); refreshNow(); }
    },
  },
  { status, resume: true },
);

// Profiles come from devices, also after the job is over: no event of the job tells of them.
let profiled = null;
setInterval(async () => {
  if (document.hidden || page.dataset.over === "no") return;
  const found = await api("GET", `/v1/profiles?job=${id}&page_size=100`).catch(() => null);
  const states = found && JSON.stringify(found.items.map((one) => [one.id, one.state]));
  if (states !== null && profiled !== null && states !== profiled) refreshResults();
  profiled = states ?? profiled;
}, 5000);

const sure = document.getElementById("sure");
const fresh = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function act(button, path, body) {
  button.disabled = true;
  try {
    const job = await api("POST", `/v1/jobs/${id}/${path}`, body, { "Idempotency-Key": fresh() });
    if (job.id !== id) location.assign(`/jobs/${job.id}`);
    else { say("The job is being cancelled."); refreshNow(); }
  } catch (error) {
    complain(error);
    button.disabled = false;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  if (button.dataset.act === "cancel") sure.showModal();
  if (button.dataset.act === "retry") act(button, "retry", {});
  if (button.dataset.act === "profiled") act(button, "retry", { remedies: [button.dataset.key], profile: button.dataset.profile });
  if (button.dataset.act === "late") act(button, "retry", { remedies: "all" });
  if (button.dataset.act === "mend") {
    const remedies = [...document.querySelectorAll('input[name="remedy"]:checked')].map((box) => box.value);
    if (remedies.length) act(button, "retry", { remedies });
    else say("Select a change first.", { kind: "error", remedy: "Or press Retry to submit the same request again." });
  }
});
sure.querySelector("[data-not-sure]").addEventListener("click", () => sure.close());
sure.querySelector("[data-sure]").addEventListener("click", () => { sure.close(); act(document.getElementById("act-cancel"), "cancel"); });

drawResults();
