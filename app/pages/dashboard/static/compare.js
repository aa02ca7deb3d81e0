// Jobs as points, size and latency against score. The charts are drawn from the table below them, and a selection in one shows in
// the other.
import { complain, say } from "./api.js";
import { picture, STAGES } from "./charts.js";

const table = document.getElementById("all");
const rows = () => [...table.querySelectorAll("[data-point]")];
const number = (text) => (text === "" ? null : Number(text));
const box = (row) => row.querySelector('input[name="job"]');
const MOST_PICKED = 12;
const megabytes = (value) => value / 1e6;
const COSTS = {
  bytes: { own: "bytes", base: "baseBytes", name: "MB", scale: megabytes },
  latency_ms: { own: "latency", base: "baseLatency", name: "ms", scale: (value) => value },
};
const short = (value) => Number(value.toPrecision(4)).toString();
// Shares are shown in percent, perplexity and the like as they are.
const score = (value) => (table.dataset.percent ? `${Number((100 * value).toPrecision(4))} %` : short(value));

// The axis of scores: around those there are, if they are all alike too; shares stay between 0 and 100 %.
function range(scores) {
  if (!scores.length) return {};
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const shares = table.dataset.percent && high <= 1;
  const room = Math.max(0.15 * (high - low), shares ? 0.02 : 0.02 * Math.abs(high));
  const step = 10 ** Math.floor(Math.log10(2 * room));
  const [from, to] = [Math.floor((low - room) / step) * step, Math.ceil((high + room) / step) * step];
  return { min: low >= 0 ? Math.max(0, from) : from, max: shares ? Math.min(1, to) : to };
}

function points(cost) {
  const { own, base, scale } = COSTS[cost];
  const of = (row, x, y) => {
    const [at, score] = [number(row.dataset[x]), number(row.dataset[y])];
    return at === null || score === null ? null : [scale(at), score];
  };
  const jobs = rows().map((row) => ({ row, at: of(row, own, "score") })).filter((one) => one.at !== null);
  const starts = new Map(rows().map((row) => of(row, base, "baseScore")).filter(Boolean).map((at) => [at.join(), at]));
  return { jobs, starts: [...starts.values()] };
}

function options(cost, { axis, legend, tooltip, colours }) {
  const { jobs, starts } = points(cost);
  const lower = rows().some((row) => row.dataset.lower === "1");
  const front = jobs.filter(({ row }) => row.dataset.best.split(" ").includes(cost)).map(({ at }) => at).sort((a, b) => a[0] - b[0]);
  const there = jobs.map(({ row }) => row.dataset.stage);
  const used = [...new Set([...STAGES, ...there])].filter((stage) => there.includes(stage)); // a package's stages come last
  const tint = (stage) => colours[stage] ?? colours.accent;
  const dot = ({ row, at }) => ({
    value: at, name: row.dataset.name, id: row.dataset.point,
    symbolSize: box(row).checked ? 20 : 12,
    itemStyle: { color: tint(row.dataset.stage), borderColor: box(row).checked ? colours.ink : colours.surface, borderWidth: box(row).checked ? 3 : 1 },
  });
  const tip = ({ name, value, seriesName }) => `${name || seriesName}\n${short(value[0])} ${COSTS[cost].name}, score ${score(value[1])}`;
  return {
    tooltip: { ...tooltip, trigger: "item", formatter: tip },
    legend: { ...legend, top: 0 },
    grid: { left: 12, right: 24, top: 44, bottom: 32, containLabel: true },
    xAxis: { ...axis, type: "value", name: COSTS[cost].name, nameLocation: "middle", nameGap: 28, min: 0 },
    yAxis: { ...axis, type: "value", ...range([...jobs.map(({ at }) => at), ...starts].map(([, found]) => found)), inverse: lower, axisLabel: { ...axis.axisLabel, formatter: score } },
    series: [
      { name: "Pareto front", type: "line", data: front, symbol: "none", z: 1, lineStyle: { color: colours.good, width: 2, type: "dashed" }, itemStyle: { color: colours.good }, tooltip: { show: false } },
      ...used.map((stage) => ({ name: stage, type: "scatter", z: 3, color: tint(stage), itemStyle: { color: tint(stage) }, data: jobs.filter(({ row }) => row.dataset.stage === stage).map(dot) })),
      { name: "baseline model", type: "scatter", z: 2, symbol: "diamond", symbolSize: 14, color: colours.baseline, itemStyle: { color: colours.baseline }, data: starts.map((at) => ({ value: at, name: "baseline model" })) },
    ],
  };
}

const drawn = {};

async function picked() {
  for (const chart of Object.values(drawn)) chart.draw();
  const wanted = new URLSearchParams(new FormData(document.getElementById("pick")));
  history.replaceState(null, "", `/compare?${wanted}`);
  try { await htmx.ajax("GET", `/compare?${wanted}`, { target: "#picked", swap: "innerHTML" }); }
  catch (error) { complain(error); }
}

function start() {
  for (const cost of Object.keys(COSTS)) {
    const place = document.getElementById(`${cost}-chart`);
    drawn[cost] = picture(place, (looks) => options(cost, looks));
    drawn[cost].chart.on("click", ({ data }) => {
      const row = data?.id && table.querySelector(`[data-point="${CSS.escape(data.id)}"]`);
      if (!row) return;
      box(row).checked = !box(row).checked;
      box(row).dispatchEvent(new Event("change", { bubbles: true }));
    });
  }
  table.addEventListener("change", (event) => {
    if (rows().filter((row) => box(row).checked).length > MOST_PICKED) {
      event.target.checked = false;
      say(`Select at most ${MOST_PICKED} jobs.`);
      return;
    }
    picked();
  });
  document.getElementById("which").addEventListener("change", (event) => {
    if (event.target.id === "model") document.getElementById("data")?.remove();  // another model has other datasets
    event.currentTarget.requestSubmit();
  });
  for (const button of document.querySelectorAll("[data-png]")) {
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      const ground = getComputedStyle(document.querySelector(".card")).backgroundColor;
      link.href = drawn[button.dataset.png].chart.getDataURL({ type: "png", pixelRatio: 2, backgroundColor: ground });
      link.download = `lathe-${button.dataset.png}.png`;
      link.click();
    });
  }
}

if (table) start();
