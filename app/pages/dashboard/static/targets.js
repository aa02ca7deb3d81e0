// Other targets of a finished job: sliders ask the API what a cut would come to, and a chart shows the front.
import { api, Problem } from "./api.js";
import { picture } from "./charts.js";
import { count, made } from "./elements.js";

const bytes = (value) => (value < 1e6 ? `${(value / 1e3).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`);
const ms = (value) => (value === null ? "–" : `${Number(value.toPrecision(3))} ms`);
const change = (before, after) => `${after <= before ? "−" : "+"}${(100 * Math.abs(1 - after / before)).toFixed(1)} %`;

// A predicted score. units: names of the metrics that are no shares.
function score(found, units) {
  if (!found) return "–";
  const shown = (value) => (units.includes(found.metric) ? Number(value.toPrecision(4)) : `${(100 * value).toFixed(1)} %`);
  return `≈ ${shown(found.value)} ± ${shown(found.standard_error)}${found.extrapolated ? ", beyond what was tried" : ""}`;
}

const shape = (point) => (point.shape.widths ? `${Object.keys(point.shape.widths).length} groups, ${point.layers.length || point.shape.layers} blocks` : `${point.shape.layers} layers of ${point.shape.hidden}/${point.shape.heads}/${point.shape.ffns ? `${Math.min(...point.shape.ffns)}–` : ""}${point.shape.ffn}${point.shape.eight_bits ? `, ${point.shape.eight_bits.length} in 8 bits` : ""}`);

function line(...cells) {
  const row = made("tr"), [first, ...rest] = cells;
  const head = made("th", first);
  head.scope = "row";
  row.append(head, ...rest.map((cell) => made("td", cell, "number")));
  return row;
}

let drawn = null, watched = null;

// Fill the section once it comes into view, if the page has it; to be called again once that part of the page was replaced.
export function targets() {
  drawn?.close();
  watched?.disconnect();
  drawn = watched = null;
  const place = document.getElementById("targets");
  if (!place) return;
  const find = (name) => document.getElementById(name);
  const path = `/v1/jobs/${place.dataset.job}/targets`, units = place.dataset.units.split(" ");
  const params = find("target-params"), limit = find("target-ms"), by = find("front-by"), part = find("target-part");
  let whole = null, wanted = null, busy = false;  // wanted: front or answer

  const say = (text) => { find("target-state").textContent = text; };

  // What failed is said in its place: the cut of before answers another question.
  function fail(error) {
    find("target-answer").hidden = true;
    find("target-remarks").replaceChildren();
    say(error instanceof Problem ? `${error.message}. ${error.remedy}` : "The service cannot be reached. Move a slider to ask again.");
  }

  function label() {
    const kept = whole ? count(Math.floor(whole.parameters.total * params.value / 100)) : `${params.value} %`;
    const time = limit.value === "100" ? "no limit" : whole?.milliseconds ? ms(whole.milliseconds * limit.value / 100) : `${limit.value} %`;
    for (const [slider, text] of [[params, kept], [limit, time]]) {
      slider.setAttribute("aria-valuetext", text);
      find(`${slider.id}-shown`).textContent = text;
    }
  }

  function remark(found) {
    const point = found.point ?? found.points.at(-1);
    const told = [
      found.missed ? `Out of reach: ${found.missed}. The nearest cut is shown.` : "",
      found.no_milliseconds ? `No milliseconds: ${found.no_milliseconds}` : "",
      found.no_score ? `No score: ${found.no_score}` : "",
      point?.score ? `The score rests on ${point.score.basis}` : "",
      point && !point.proven ? "It is not proven that no other cut errs less." : "",
    ];
    find("target-remarks").replaceChildren(...told.filter(Boolean).map((text) => made("p", text)));
  }

  function show({ point, whole: before, reached }) {
    const removed = change(before.parameters.total, point.parameters.total);
    const rows = [
      line("Shape", "", shape(point), ""),
      line("Parameters", count(before.parameters.total), count(point.parameters.total), removed),
      line("Size", bytes(before.bytes), bytes(point.bytes), change(before.bytes, point.bytes)),
    ];
    if (point.flops !== null) rows.push(line("Multiply-adds", count(before.flops), count(point.flops), change(before.flops, point.flops)));
    if (point.milliseconds !== null) rows.push(line("Time", ms(before.milliseconds), ms(point.milliseconds), `${(before.milliseconds / point.milliseconds).toFixed(2)}×`));
    rows.push(line("Predicted error", "0", point.error.toPrecision(3), ""), line("Predicted score", "", score(point.score, units), ""));
    find("target-figures").replaceChildren(...rows);
    find("target-answer").hidden = false;
    say(`${reached ? "" : "Out of reach. "}A cut to ${count(point.parameters.total)} parameters (${removed}), predicted error ${point.error.toPrecision(3)}.`);
  }

  function question() {
    const body = { target_params: Math.max(1, Math.floor(whole.parameters.total * params.value / 100)), part: part.value };
    if (limit.value !== "100" && whole.milliseconds) body.target_latency = { milliseconds: whole.milliseconds * limit.value / 100 };
    return body;
  }

  function chart(found) {
    const x = (point) => (found.by === "milliseconds" ? point.milliseconds : 100 * point.parameters.total / found.whole.parameters.total);
    drawn?.close();
    drawn = picture(find("front-chart"), ({ axis, tooltip, colours }) => ({
      color: [colours.pruned],
      tooltip: { ...tooltip, trigger: "axis", valueFormatter: (value) => Number(value).toPrecision(3) },
      grid: { left: 8, right: 16, top: 28, bottom: 28, containLabel: true },
      xAxis: { ...axis, type: "value", scale: true, name: found.by === "milliseconds" ? "milliseconds" : "parameters kept, %", nameLocation: "middle", nameGap: 28 },
      yAxis: { ...axis, type: "value", name: "predicted error", nameTextStyle: { ...axis.nameTextStyle, align: "left" } },
      series: [{ type: "line", name: "predicted error", data: found.points.map((point) => [x(point), point.error]), symbolSize: 7 }],
    }));
    find("front-rows").replaceChildren(...found.points.map((point) => line(shape(point), count(point.parameters.total), ms(point.milliseconds), point.error.toPrecision(3), score(point.score, units))));
  }

  function begin(found) {
    whole = found.whole;
    find("target-ms-field").hidden = find("front-by-field").hidden = whole.milliseconds === null;
    label();
    chart(found);
    wanted = "answer";
  }

  function clear() {
    drawn?.close();
    drawn = null;
    find("front-rows").replaceChildren();
  }

  // One question at a time: while it is answered, only what was chosen last is remembered. An answer to what is not chosen any more,
  // or for a part of the page that was replaced, is dropped.
  async function work() {
    if (busy) return;
    busy = true;
    while (wanted && place.isConnected) {
      const isFront = wanted === "front", dropped = () => wanted || !place.isConnected;
      wanted = null;
      say("Solving …");
      try {
        const found = await (isFront ? api("GET", `${path}?${new URLSearchParams({ by: by.value, part: part.value })}`) : api("POST", path, question()));
        if (dropped()) continue;
        if (isFront) begin(found);
        else {
          show(found);
          remark(found);
        }
      } catch (error) {
        if (dropped()) continue;
        if (isFront) clear();
        fail(error);
      }
    }
    busy = false;
  }

  function ask(what) {
    if (what === "front") whole = null;
    wanted = what;
    work();
  }

  for (const slider of [params, limit]) {
    slider.addEventListener("input", label);
    // While the front loads, its own answer is to the sliders' last place. If it failed, it is asked for again.
    slider.addEventListener("change", () => { if (whole || !busy) ask(whole ? "answer" : "front"); });
  }
  for (const choice of [by, part]) choice.addEventListener("change", () => ask("front"));
  find("target-form").addEventListener("submit", (event) => event.preventDefault());
  label();
  watched = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    watched.disconnect();
    ask("front");
  });
  watched.observe(place);
}
