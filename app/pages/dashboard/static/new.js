// The form of a new job: the recipe from its schema, the forecast from the API's preflight, uploads in parts.
import { api, complain, Problem, say } from "./api.js";
import { form } from "./schema.js";
import { PAGE, Paused, upload } from "./upload.js";

const get = (id) => document.getElementById(id);
const may = get("new").dataset.may === "yes";
const made = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};
const size = (value) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0, left = value;
  while (left >= 1000 && at < units.length - 1) { left /= 1000; at += 1; }
  return `${at ? left.toPrecision(3) : left} ${units[at]}`;
};
const count = (value) => (value >= 1e9 ? `${(value / 1e9).toPrecision(3)} B` : value >= 1e6 ? `${(value / 1e6).toPrecision(3)} M` : value >= 1e3 ? `${(value / 1e3).toPrecision(3)} k` : String(value));
const minutes = (value) => (value < 1.5 ? "about 1 minute" : value < 90 ? `about ${Math.round(value)} minutes` : `about ${(value / 60).toPrecision(2)} hours`);
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
    if (found.multiply_adds !== null) {
      const [was, is] = [found.baseline_multiply_adds, found.multiply_adds];
      list.append(fact("Multiply-adds of an image", `${count(was)} → ${count(is)} (${(100 * (1 - is / was)).toFixed(1)} % fewer)`));
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

// Uploads

const MODEL = [".json", ".safetensors", ".txt", ".model", ".jinja", ".gguf", ".onnx"];
// Licence files and READMEs are uploaded too; the names are those of TERMS in client/upload.py.
const TERMS = /^(readme\.md|(licen[cs]e|notice|copying)([_-][a-z0-9_-]*)?(\.(txt|md|rst))?)$/i;
const most = () => Number(get("new").dataset.most);
const FEW = 30;  // files that are listed without a scroll bar
// The format of a data file by its suffix, and the format whose files lie in a folder of their class, as the service's registry has them.
const { suffixes = "{}", byClass } = get("task")?.dataset ?? {};
const FORMATS = Object.fromEntries(Object.entries(JSON.parse(suffixes)).flatMap(([format, ends]) => ends.map((end) => [end, format])));
const formatOf = (name) => FORMATS[name.slice(name.lastIndexOf(".")).toLowerCase()];
const SPLITS = { train: "train", validation: "validation", valid: "validation", val: "validation", dev: "validation", test: "test", unlabelled: "unlabelled", unlabeled: "unlabelled" };
const chosen = { models: [], datasets: [] };
const running = { models: null, datasets: null };
const lines = { models: new Map(), datasets: new Map() };  // path of a file → its line in the list

function splitOf(name, alone) {
  const word = name.replace(/\.[^.]*$/, "").replace(/[_.]/g, "-").split("-")[0].toLowerCase();
  return SPLITS[word] ?? (alone ? "train" : null);
}

// What is sent of a model's file; null: nothing.
function ofModel({ file }) {
  return MODEL.some((end) => file.name.endsWith(end)) ? { path: file.name, file, split: null } : null;
}

// What is sent of a data file, and its split: the name of the file gives it or, where files lie in folders of their classes, a folder's.
function ofData({ file, path }, alone) {
  const format = formatOf(file.name), steps = path.split("/");
  if (format === undefined) return null;
  if (format !== byClass) return steps.length < 3 ? { path: file.name, file, split: splitOf(file.name, alone) } : null;
  const at = steps.slice(0, -2).findIndex((step) => SPLITS[step.toLowerCase()]);
  const [name, ...rest] = at < 0 ? steps.slice(-2) : steps.slice(at + 1);
  if (!rest.length) return null;
  const split = at < 0 ? "train" : SPLITS[steps[at].toLowerCase()];
  return { path: `${split}/${name}/${rest.join("_").replace(/[^A-Za-z0-9._@+=-]/g, "_")}`, file, split };
}

// Choose a task that reads these formats, if the chosen one does not.
function suit(formats) {
  const reads = (option) => formats.every((format) => option.dataset.formats.split(" ").includes(format));
  const other = reads(get("task").selectedOptions[0]) ? null : [...get("task").options].find(reads);
  if (other) { other.selected = true; columns(); }
}

// files: [{ file, path }], the path as it was dropped or chosen, with the names of folders.
function take(kind, files) {
  const shown = files.filter(({ path }) => !path.split("/").some((step) => step.startsWith(".")));
  const fine = kind === "models" ? shown.filter(({ path }) => path.split("/").length < 3) : shown;
  const alone = fine.filter(({ file }) => formatOf(file.name)).length === 1;
  const own = fine.map((each) => (kind === "models" ? ofModel(each) : ofData(each, alone))).filter(Boolean);
  const taken = new Set(own.map(({ file }) => file));
  const terms = kind === "models" && own.length ? fine.filter(({ file }) => TERMS.test(file.name) && !taken.has(file)) : [];
  const kept = [...own, ...terms.map(({ file }) => ({ path: file.name, file, split: null }))];
  const many = kept.length > most();
  chosen[kind] = many ? [] : kept;
  if (kept.length && !get(`name-${kind}`).value) get(`name-${kind}`).value = fine.find(({ file }) => file === kept[0].file).path.split("/")[0].replace(/\.[^.]*$/, "").slice(0, 200);
  if (kind === "datasets" && kept.length) suit([...new Set(kept.map(({ file }) => formatOf(file.name)))]);
  show(kind);
  const left = fine.length - kept.length, loose = kind === "datasets" && fine.some((each) => formatOf(each.file.name) === byClass && !taken.has(each.file));
  get(`said-${kind}`).textContent = many ? `The manifest has ${kept.length} files; ${most()} are the most. Send many images as .parquet or .npz.`
    : loose ? "Images that lie in no folder with the name of their class are ignored."
      : left ? `${left} file${left === 1 ? "" : "s"} of other types ignored.` : "";
}

// Files by the line that shows them: each has its own or, of more than a page, each folder has.
function lined(files) {
  const found = new Map();
  for (const one of files) {
    const name = files.length > PAGE && one.path.includes("/") ? one.path.slice(0, one.path.lastIndexOf("/")) : one.path;
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(one);
  }
  return found;
}

function show(kind) {
  const found = lined(chosen[kind]);
  lines[kind].clear();
  get(`list-${kind}`).replaceChildren(...[...found].map(([name, own]) => {
    const item = made("li"), meter = made("progress"), state = made("span", "", "small");
    const bytes = own.reduce((sum, { file }) => sum + file.size, 0), several = own.length > 1;
    const line = { meter, state, files: own.length, sent: 0 };
    for (const { path } of own) lines[kind].set(path, line);
    meter.max = several ? own.length : bytes || 1;
    meter.value = 0;
    meter.setAttribute("aria-label", `Progress of ${name}`);
    item.append(made("span", name, "mono"), made("span", several ? `${own.length} files, ${size(bytes)}` : size(bytes), "small number"));
    if (kind === "datasets") {
      const which = document.createElement("select");
      which.setAttribute("aria-label", `Split of ${name}`);
      for (const split of ["train", "validation", "test", "unlabelled", ""]) which.append(new Option(split || "leave out", split, false, split === (own[0].split ?? "")));
      which.addEventListener("change", () => { for (const one of own) one.split = which.value || null; });
      item.append(which);
    }
    state.dataset.state = "";
    item.append(meter, state);
    return item;
  }));
  get(`list-${kind}`).classList.toggle("many", kind === "datasets" && found.size > FEW);
  document.querySelector(`[data-send="${kind}"]`).disabled = !found.size;
}

function told(kind) {
  for (const line of lines[kind].values()) line.sent = 0;
  return (path, bytes, how) => {
    const line = lines[kind].get(path);
    if (how === "sent") line.sent += 1;
    line.meter.value = line.files > 1 ? line.sent : bytes;
    const part = line.files > 1 ? `${line.sent} of ${line.files} sent` : `${size(bytes)} sent`;
    line.state.textContent = { hashing: "hashing", sending: part, sent: line.sent < line.files ? part : "uploaded" }[how];
  };
}

// The files of each split; of images by class the folders that hold nothing else, for a request names at most a page of paths.
function splitsOf(files, format) {
  const holds = new Map(), found = {};
  const top = (path) => path.split("/")[0];
  for (const { path, split } of files) holds.set(top(path), (holds.get(top(path)) ?? new Set()).add(split));
  for (const { path, split } of files) (found[split] ??= new Set()).add(format === byClass && holds.get(top(path)).size === 1 ? top(path) : path);
  return Object.fromEntries(Object.entries(found).map(([split, names]) => [split, [...names]]));
}

function bodyOf(kind) {
  const name = get(`name-${kind}`).value.trim() || "unnamed";
  if (kind === "models") return { name };
  const files = chosen.datasets.filter((one) => one.split);
  const formats = [...new Set(files.map((one) => formatOf(one.path)))];
  if (formats.length !== 1) throw new Problem(0, { cause: "All files of a dataset must have one format.", remedy: "Leave out files of other formats." });
  // All columns, as the service lists them; unused or empty ones keep their defaults.
  const columns = {};
  for (const field of document.querySelectorAll("[data-column]")) {
    const input = field.querySelector("input");
    columns[field.dataset.column] = (!field.hidden && input.value.trim()) || input.defaultValue || null;
  }
  return { name, task: get("task").value, format: formats[0], splits: splitsOf(files, formats[0]), columns };
}

async function sendFiles(kind) {
  const button = document.querySelector(`[data-send="${kind}"]`), pause = document.querySelector(`[data-pause="${kind}"]`);
  const said = (text) => { get(`said-${kind}`).textContent = text; };
  button.disabled = true;
  pause.hidden = false;
  running[kind] = new AbortController();
  try {
    const body = bodyOf(kind);
    const files = kind === "models" ? chosen.models : chosen.datasets.filter((one) => one.split);
    const found = await upload(kind, body, files, running[kind].signal, told(kind), said);
    if (found.state === "rejected") {
      said(`Rejected: ${found.reasons.map((reason) => `${reason.cause} ${reason.remedy ?? ""}`).join(" ")}`);
      button.disabled = false;
    } else {
      said("Ready, and selected above.");
      const select = get(kind === "models" ? "model" : "data");
      let option = [...select.options].find((each) => each.value === found.id);
      if (!option) {
        option = new Option(found.name, found.id);
        if (kind === "datasets") option.dataset.modality = get("task").selectedOptions[0].dataset.modality;
        select.insertBefore(option, kind === "models" ? select.options[1] : select.options[0]);
      }
      if (kind === "datasets") for (const each of select.options) each.selected = false;
      option.selected = true;
      select.dispatchEvent(new Event("change"));
    }
  } catch (error) {
    button.disabled = false;
    if (error instanceof Paused) said("Paused: uploaded bytes are kept. Press Upload to resume.");
    else { said("Upload failed."); complain(error); }
  } finally {
    pause.hidden = true;
  }
}

function columns() {
  const reads = get("task").selectedOptions[0].dataset.columns.split(" ");
  for (const field of document.querySelectorAll("[data-column]")) field.hidden = !reads.includes(field.dataset.column);
}

function uploads() {
  for (const kind of ["models", "datasets"]) {
    const zone = document.querySelector(`[data-drop="${kind}"]`);
    for (const name of ["dragenter", "dragover"]) zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("over"); });
    for (const name of ["dragleave", "drop"]) zone.addEventListener(name, () => zone.classList.remove("over"));
    zone.addEventListener("drop", async (event) => { event.preventDefault(); take(kind, await dropped(event.dataTransfer, kind === "datasets")); });
    for (const place of ["files", "folder"]) {
      get(`${place}-${kind}`).addEventListener("change", (event) => take(kind, [...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }))));
    }
    document.querySelector(`[data-choose="${kind}"]`).addEventListener("click", () => get(`files-${kind}`).click());
    document.querySelector(`[data-choose-folder="${kind}"]`).addEventListener("click", () => get(`folder-${kind}`).click());
    document.querySelector(`[data-send="${kind}"]`).addEventListener("click", () => sendFiles(kind));
    document.querySelector(`[data-pause="${kind}"]`).addEventListener("click", () => running[kind]?.abort());
  }
  get("task").addEventListener("change", columns);
  columns();
}

// What was dropped, as [{ file, path }]. A folder stands for its files or, if `deep`, for all files below it.
async function dropped(transfer, deep) {
  const found = [];
  async function add(entry, path, depth) {
    if (entry.isFile) { found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path }); return; }
    if (depth && !deep) return;
    const reader = entry.createReader();
    while (found.length <= most()) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const each of some) await add(each, `${path}/${each.name}`, depth + 1);
    }
  }
  // All at once, for the list is empty as soon as anything was waited for.
  for (const entry of [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean)) await add(entry, entry.name, 0);
  return found.length ? found : [...transfer.files].map((file) => ({ file, path: file.name }));
}

if (may) uploads();
start().catch((error) => { complain(error); say("The recipe form could not be loaded.", { kind: "error", remedy: "Reload the page." }); });
