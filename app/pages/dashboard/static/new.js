// The form of a new job: the recipe from its schema, the forecast from the API's preflight, uploads.
import { api, complain, Problem, say } from "./api.js";
import { count, get, made, minutes, size } from "./elements.js";
import { uploads } from "./files.js";
import { form } from "./schema.js";

const may = get("new").dataset.may === "yes";
const learnt = ({ jobs, minutes_low: low, minutes_high: high }) => {
  if (!jobs) return "";
  const from = `from ${jobs} finished job${jobs === 1 ? "" : "s"}`;
  return low === null ? ` (${from})` : ` (${Math.round(low)} to ${Math.round(high)} minutes, ${from})`;
};

// The recipe

let recipe, targets, evaluate, presets, offers = [];

function changed(byHand = true) {
  if (byHand && get("preset").value) get("preset").value = "";
  summary();
  ask();
}

// The chosen preset, as it is for the chosen data.
function preset() {
  const found = presets[get("preset").value];
  return found.of_modalities[get("data").selectedOptions[0]?.dataset.modality] ?? found.recipe;
}

function summary() {
  get("preset-summary").textContent = get("preset").selectedOptions[0].dataset.summary ?? "Custom recipe: all values are sent.";
}

function labels() {
  const pairs = get("labels").value.split(",").map((pair) => pair.split(":").map((each) => each.trim())).filter(([key]) => key);
  return Object.fromEntries(pairs.map(([key, ...value]) => [key, value.join(":")]));
}

function request() {
  const body = {
    models: { base: get("model").value }, datasets: [...get("data").selectedOptions].map((option) => option.value),
    recipe: get("preset").value || recipe.value(), targets: targets.value(), evaluate: evaluate.value(),
    labels: labels(), device: get("device").value, priority: Number(get("priority").value || 0),
  };
  if (get("name").value.trim()) body.name = get("name").value.trim();
  return body;
}

// The forecast

let timer = null, asked = 0;

function ask() {
  get("request").textContent = JSON.stringify(request(), null, 2);
  clearTimeout(timer);
  timer = setTimeout(forecast, 350);
}

const forms = () => [recipe, targets, evaluate];

function fact(title, text, kind) {
  const group = made("div");
  group.append(made("dt", title), made("dd", text, kind));
  return group;
}

// Devices that train together.
const together = () => (get("preset").value ? preset() : recipe.value()).train?.devices ?? 1;

function needs(estimate, one) {
  return one.kind === "cuda" ? [[estimate.card_bytes, one.card], [estimate.host_bytes_with_card, one.memory]] : [[estimate.memory_bytes, one.memory]];
}

function fits(estimate) {
  const wanted = get("device").value, many = together();
  const fitting = offers.filter((one) => (wanted === "any" || wanted === one.kind) && many <= one.devices);
  if (!offers.length) return ["No worker takes jobs now: none is online, or each has lost its device. The job would wait for one.", "warn"];
  if (!fitting.length && many > 1) return [`No: no online worker has ${many} ${{ cuda: "working GPUs", cpu: "cores and no GPU" }[wanted] ?? "working GPUs or cores"}. The job would wait for one.`, "bad"];
  if (!fitting.length) return [`No: no online worker has ${wanted === "cuda" ? "a working GPU" : "no GPU"}. The job would wait for one.`, "bad"];
  const taker = fitting.find((one) => needs(estimate, one).every(([needed, there]) => needed <= there));
  if (taker) return [taker.kind === "cuda" ? `Yes: a worker has ${many > 1 ? `${taker.devices} GPUs with ${size(taker.card)} each` : `a GPU with ${size(taker.card)}`}.` : `Yes: the largest worker has ${size(taker.memory)} per job${many > 1 ? `, for all of its ${many} processes` : ""}.`, "good"];
  const [needed, there] = needs(estimate, fitting[0]).find(([needed, there]) => needed > there);
  return [`No: the job needs ${size(needed)}, and the largest worker online has ${size(there)} per job. It would wait for a larger one.`, "bad"];
}

function onCard(estimate) {
  if (!estimate.card_bytes) return "Nothing runs on it: the model goes from file to file.";
  const whose = together() > 1 ? "the first one's memory, the fullest," : "its memory";
  return `${size(estimate.card_bytes)} of ${whose} and ${size(estimate.host_bytes_with_card)} of the host's`;
}

async function forecast() {
  const place = get("forecast"), body = request(), mine = ++asked;
  get("send").disabled = true;
  if (!body.models.base || !body.datasets.length) return;
  try {
    const found = await api("POST", "/v1/jobs?validate_only=true", body);
    if (mine !== asked) return;
    forms().forEach((each) => each.blame(null));
    const { estimate, parameters, baseline_parameters: before, shape } = found;
    const list = made("dl", undefined, "facts");
    const [text, kind] = fits(estimate);
    list.append(
      fact("Fits", text, kind), fact("Memory", size(estimate.memory_bytes)), fact("Disk", size(estimate.disk_bytes)),
      fact(together() > 1 ? `On ${together()} GPUs` : "On a GPU", onCard(estimate)),
      fact(`Time, on ${estimate.machine ?? "two cores"}`, minutes(estimate.minutes) + learnt(estimate)),
      fact("Parameters", `${count(before.total)} → ${count(parameters.total)} (${(100 * (1 - parameters.total / before.total)).toFixed(1)} % fewer)`),
      fact("Shape", shape.widths ? `${shape.layers} residual blocks, ${shape.hidden} features`
        : `${shape.layers} layers, ${shape.hidden} hidden, ${shape.heads} heads, ${shape.ffn} feed-forward`),
    );
    if (found.multiply_adds !== null && found.baseline_multiply_adds) {
      const [was, is] = [found.baseline_multiply_adds, found.multiply_adds];
      list.append(fact(`Multiply-adds of ${shape.widths ? "an image" : "a text"}`, `${count(was)} → ${count(is)} (${(100 * (1 - is / was)).toFixed(1)} % fewer)`));
    }
    place.replaceChildren(list);
    if (found.warnings.length) {
      const notes = made("ul");
      notes.append(...found.warnings.map((warning) => made("li", warning)));
      place.append(made("h3", "Warnings"), notes);
    }
    get("send").disabled = !may;
  } catch (error) {
    if (mine !== asked) return;
    if (!(error instanceof Problem)) { complain(error); return; }
    let blamed = false;
    for (const each of forms()) blamed = each.blame(error.param, error.message) || blamed;
    place.replaceChildren(made("p", error.message, "wrong"), made("p", error.remedy, "small"));
  }
}

async function send() {
  const button = get("send");
  button.disabled = true;
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const body = request();
  for (let turn = 0; ; turn += 1) {
    try {
      const job = await api("POST", "/v1/jobs", body, { "Idempotency-Key": key });
      location.assign(`/jobs/${job.id}`);
      return;
    } catch (error) {
      // The same idempotency key: a lost response makes no second job.
      if (turn < 4 && !(error instanceof Problem && error.status < 500)) { await new Promise((done) => setTimeout(done, 1000 * 2 ** turn)); continue; }
      complain(error);
      button.disabled = false;
      return;
    }
  }
}

async function start() {
  const [found, workers] = await Promise.all([api("GET", "/v1/recipes"), api("GET", "/v1/workers")]);
  presets = Object.fromEntries(found.items.map((item) => [item.name, item]));
  recipe = form(found.schema, "recipe", () => changed());
  targets = form(found.targets_schema, "targets", () => changed(false));
  evaluate = form(found.evaluate_schema, "evaluate", () => changed(false));
  targets.set(targets.defaults());
  evaluate.set(evaluate.defaults());
  get("recipe").replaceChildren(recipe.element);
  get("targets").replaceChildren(targets.element);
  get("evaluate").replaceChildren(evaluate.element);
  offers = workers.items.filter((worker) => worker.alive && worker.kind === "jobs" && !worker.facts.device?.lost)
    .map(({ facts }) => ({ kind: facts.device?.kind ?? "cpu", memory: facts.memory_bytes ?? 0, card: facts.device?.memory_bytes ?? 0, devices: facts.train_devices ?? 1 }))
    .sort((one, other) => other.memory - one.memory);
  get("preset").value = found.items[0].name;
  recipe.set(preset());
  for (const id of ["preset", "data"]) {
    get(id).addEventListener("change", () => {
      if (get("preset").value) recipe.set(preset());
      changed(false);
    });
  }
  get("model").addEventListener("change", ask);
  for (const id of ["name", "labels", "device", "priority"]) get(id).addEventListener("input", ask);
  get("send").addEventListener("click", send);
  summary();
  ask();
}

if (may) uploads();
start().catch((error) => { complain(error); say("The recipe form could not be loaded.", { kind: "error", remedy: "Reload the page." }); });
