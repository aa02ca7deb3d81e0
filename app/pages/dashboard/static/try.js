// Runs both models of a job through the API and shows their predictions side by side.
import { api, complain } from "./api.js";
import { made } from "./elements.js";

const page = document.getElementById("try");
const waiting = document.getElementById("waiting");
const answers = document.getElementById("answers");
const ask = document.getElementById("ask");
const byRow = document.getElementById("ask-row");
const OVER = ["succeeded", "failed"];
const TITLES = { text: "Text", text_pair: "Second text", tokens: "Words", question: "Question", context: "Context", image: "Image" };

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const bytes = (value) => (value < 1e6 ? `${(value / 1e3).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`);
const ms = (value) => `${Number(value.toPrecision(3))} ms`;

// A model's prediction in one line.
const said = (answer) => answer.label ?? (answer.value !== null ? Number(answer.value.toPrecision(4)).toString() : null)
  ?? (answer.text !== null ? answer.text || "no answer in the context" : null) ?? answer.tags.join(" ");

function line(title, ...cells) {
  const row = made("tr");
  const head = made("th", title);
  head.scope = "row";
  row.append(head, ...cells.map((cell) => {
    const place = made("td");
    place.append(cell);
    return place;
  }));
  return row;
}

function bar(name, share) {
  const place = made("div", undefined, "share");
  const meter = made("progress");
  meter.max = 1;
  meter.value = share;
  meter.setAttribute("aria-label", name);
  place.append(made("span", name), meter, made("span", percent(share), "number"));
  return place;
}

function shares(answer, names) {
  const place = made("div");
  place.append(...names.map((name) => bar(name, answer.scores[name] ?? 0)));
  return place;
}

// Words with their tags: tags other than O are marked, and those that differ from the other model's stand out.
function tagged(words, tags, others) {
  const place = made("p", undefined, "words");
  words.forEach((word, at) => {
    const one = made("span", word, tags[at] !== others[at] ? "word differs" : tags[at] !== "O" ? "word" : "");
    if (tags[at] !== "O" || others[at] !== "O") one.append(made("small", tags[at]));
    place.append(one, " ");
  });
  return place;
}

function show({ asked, picture = null, expected, original, compressed, exclusive = true }) {
  const facts = document.getElementById("asked");
  facts.replaceChildren(...Object.entries(asked).flatMap(([name, value]) => {
    const group = made("div");
    group.append(made("dt", TITLES[name] ?? name), made("dd", Array.isArray(value) ? value.join(" ") : value));
    return [group];
  }));
  if (expected !== null) {
    const group = made("div");
    const text = Array.isArray(expected) ? expected.join(asked.tokens ? " " : " or ") || "no answer in the context" : String(expected);
    group.append(made("dt", "Expected"), made("dd", text));
    facts.append(group);
  }
  if (picture) {
    const shown = made("img", undefined, "thumb");
    shown.src = picture;
    shown.alt = "The image, small";
    facts.querySelector("dd").append(shown);
  }
  const rows = [];
  if (asked.tokens) rows.push(line("Prediction", tagged(asked.tokens, original.tags, compressed.tags), tagged(asked.tokens, compressed.tags, original.tags)));
  else rows.push(line("Prediction", made("strong", said(original)), made("strong", said(compressed))));
  const most = (name) => Math.max(original.scores[name] ?? 0, compressed.scores[name] ?? 0);
  const names = Object.keys({ ...original.scores, ...compressed.scores }).sort((one, other) => most(other) - most(one)).slice(0, 5);
  if (names.length) rows.push(line("Probabilities", shares(original, names), shares(compressed, names)));
  rows.push(line("Time", ms(original.milliseconds), ms(compressed.milliseconds)));
  rows.push(line("Size", bytes(original.bytes), bytes(compressed.bytes)));
  document.getElementById("sides").replaceChildren(...rows);
  const same = said(original) === said(compressed) || (original.value !== null && Math.abs(original.value - compressed.value) < 0.05 * Math.max(1, Math.abs(original.value)));
  const verdict = document.getElementById("verdict");
  verdict.className = `verdict ${same ? "good" : "bad"}`;
  const ratio = original.milliseconds / compressed.milliseconds;
  const speed = `${ratio.toFixed(2)}× as fast`;
  verdict.textContent = `${same ? "Same prediction" : "Different predictions"}; the compressed model is ${speed} for this input (medians of ${compressed.runs} alternating runs).${exclusive ? "" : " Another job may have been timed on the same machine: times may be too long."}`;
  answers.hidden = false;
}

let asking = 0;

async function put(question) {
  const mine = ++asking;
  const buttons = [...page.querySelectorAll("button")];
  buttons.forEach((button) => { button.disabled = true; });
  answers.hidden = true;
  waiting.textContent = "Running both models …";
  const place = `/v1/jobs/${page.dataset.job}/try`;
  try {
    let found = await api("POST", place, { ...question, part: page.dataset.part }, { Prefer: "wait=20" });
    for (let turn = 0; turn < 15 && !OVER.includes(found.state); turn += 1) {
      waiting.textContent = found.state === "queued" ? "Waiting for a worker …" : "Running both models …";
      found = await api("GET", `${place}/${found.id}`, undefined, { Prefer: "wait=20" });
    }
    if (mine !== asking) return;
    waiting.textContent = "";
    if (found.state === "succeeded") show(found.result);
    else if (found.state === "failed") waiting.textContent = `${found.error.cause} ${found.error.remedy ?? ""}`;
    else waiting.textContent = "No worker has responded yet. The fleet page shows whether a worker for checks is online.";
  } catch (error) {
    waiting.textContent = "No prediction.";
    complain(error);
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
}

// A field's value as the API takes it: words in a list, a file in base64.
async function valueOf(field) {
  if (field.dataset.kind === "words") return field.value.trim().split(/\s+/);
  if (field.type !== "file") return field.value;
  const address = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(field.files[0]);
  });
  return address.slice(address.indexOf(",") + 1);
}

// Why a file cannot be sent; empty if it can.
function hindrance(file, most) {
  return file && file.size > most ? `${file.name} has ${bytes(file.size)}; the most is ${bytes(most)}. Save it with fewer pixels: networks read a few hundred on each side.` : "";
}

// A place for one image: dropped or chosen, with a preview.
function dropZone(zone) {
  const input = zone.querySelector("input"), preview = zone.querySelector("img"), wrong = zone.querySelector(".wrong");
  const chosen = () => {
    const [file] = input.files;
    const reason = hindrance(file, Number(zone.dataset.most));
    input.setCustomValidity(reason);
    input.setAttribute("aria-invalid", String(Boolean(reason)));
    wrong.textContent = reason;
    wrong.hidden = !reason;
    URL.revokeObjectURL(preview.src);
    preview.hidden = true;
    preview.removeAttribute("src");
    if (file && !reason) preview.src = URL.createObjectURL(file);
  };
  // A file that the browser cannot show may still be one that the service reads.
  preview.addEventListener("load", () => { preview.hidden = false; });
  input.addEventListener("change", chosen);
  for (const name of ["dragenter", "dragover"]) zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) zone.addEventListener(name, () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    input.files = one.files;
    chosen();
  });
}

if (page) {
  document.querySelectorAll("[data-drop]").forEach(dropZone);
  ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    const fields = [...ask.elements].filter((each) => each.name);
    const values = await Promise.all(fields.map(async (field) => [field.name, await valueOf(field)]));
    put(Object.fromEntries(values));
  });
  byRow?.addEventListener("submit", (event) => {
    event.preventDefault();
    put({ row: Number(byRow.row.value), split: byRow.split.value });
  });
  byRow?.split.addEventListener("change", () => {
    byRow.row.max = Number(byRow.split.selectedOptions[0].dataset.rows) - 1;
    byRow.row.value = 0;
  });
  document.getElementById("any-row")?.addEventListener("click", () => {
    byRow.row.value = Math.floor(Math.random() * (Number(byRow.row.max) + 1));
    byRow.requestSubmit();
  });
}
document.getElementById("which")?.addEventListener("change", (event) => {
  if (event.target.id === "job") document.getElementById("part")?.remove();
  event.currentTarget.requestSubmit();
});
