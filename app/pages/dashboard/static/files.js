// The files of a new model or dataset: chosen or dropped, listed with their splits, and sent.
import { complain, Problem } from "./api.js";
import { get, made, size } from "./elements.js";
import { PAGE, Paused, upload } from "./upload.js";

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
    const found = await upload(kind, body, files, running[kind].signal, told(kind), said, () => { pause.hidden = true; });
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

export function uploads() {
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
