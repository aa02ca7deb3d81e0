// The log of a job: one line per event, in order and without duplicates, with search and follow.

const MOST = 5000;  // lines that stay in the page; the API has all
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

// The validation metric, in brackets behind its value; "score" adds nothing.
const { judged } = document.getElementById("job").dataset;
const by = judged === "score" ? "" : ` (${judged})`;

// Describe an event in words; the page shows it as text.
function words(type, data) {
  switch (type) {
    case "log": return data.message;
    case "progress": return [`${data.stage}: ${data.part ? `${data.part}, ` : ""}${data.phase} ${data.step}/${data.total}`, data.loss === null ? null : `loss ${data.loss.toPrecision(4)}`, data.score === null ? null : `validation ${data.score.toFixed(4)}${by}`].filter(Boolean).join(", ");
    case "claimed": return `claimed by ${data.worker}, attempt ${data.attempt}`;
    case "started": return `engine started: ${Object.entries(data.environment ?? {}).map(([name, value]) => `${name} ${value}`).join(", ")}`;
    case "stage_started": return `${data.stage} started${data.resumed ? " from its checkpoint" : ""}`;
    case "stage_finished": return `${data.stage ?? data.row?.stage ?? "stage"} finished`;
    case "part_finished": return `${data.part} finished ${data.stage}`;
    case "training_saved": return `training saved: ${data.stage} ${data.phase}, step ${data.step} of at most ${data.total}`;
    case "tables_saved": return `error tables${data.part ? ` of ${data.part}` : ""} saved`;
    case "artifact": return `artifact ${data.name ?? ""} is ready`;
    case "failed": return `${data.code}: ${data.cause}`;
    case "requeued": return `${data.code}: ${data.cause} Retry in ${data.wait_seconds} s.`;
    case "queued": return "accepted";
    case "cancel_requested": return "cancellation requested";
    case "released": return data.code ? `released: ${data.cause}` : "released by a stopping worker";
    default: return Object.keys(data).length ? JSON.stringify(data) : type;
  }
}

export class Log {
  constructor(box) {
    this.box = box;
    this.list = box.querySelector("ol");
    this.search = document.getElementById("log-search");
    this.follow = document.getElementById("log-follow");
    this.count = document.getElementById("log-count");
    this.last = 0;
    this.total = 0;
    this.waiting = document.createDocumentFragment();
    this.search.addEventListener("input", () => this.filter());
    this.follow.addEventListener("change", () => this.end());
    // Scrolling up stops following; scrolling to the end resumes it.
    box.addEventListener("scroll", () => { this.follow.checked = box.scrollTop + box.clientHeight >= box.scrollHeight - 24; });
    setInterval(() => this.show(), 250);
  }

  // Add an event; false if it is there already, as after a reconnect.
  add(type, event) {
    if (event.seq <= this.last) return false;
    this.last = event.seq;
    this.total += 1;
    const line = document.createElement("li");
    const level = type === "log" ? event.data.level : type === "failed" || type === "requeued" ? "error" : "info";
    line.className = `is-${type} is-${level}`;
    line.dataset.seq = event.seq;
    const time = document.createElement("time");
    time.dateTime = event.at;
    time.textContent = clock.format(new Date(event.at));
    const kind = document.createElement("span");
    kind.className = "kind";
    kind.textContent = type.replaceAll("_", " ");
    const text = document.createElement("span");
    text.className = "text";
    text.textContent = words(type, event.data);
    line.append(time, " ", kind, " ", text);
    line.hidden = !this.matches(line);
    this.waiting.append(line);
    return true;
  }

  // Add all waiting lines to the page at once.
  show() {
    if (!this.waiting.childNodes.length) return;
    const following = this.follow.checked;
    this.list.append(this.waiting);
    while (this.list.childElementCount > MOST) this.list.firstElementChild.remove();
    this.tell();
    this.follow.checked = following;
    this.end();
  }

  end() { if (this.follow.checked) this.box.scrollTop = this.box.scrollHeight; }

  matches(line) {
    const wanted = this.search.value.trim().toLowerCase();
    return !wanted || line.textContent.toLowerCase().includes(wanted);
  }

  filter() {
    for (const line of this.list.children) line.hidden = !this.matches(line);
    this.tell();
    this.end();
  }

  tell() {
    const seen = [...this.list.children].filter((line) => !line.hidden).length;
    this.count.textContent = this.search.value.trim() ? `${seen} of ${this.total} lines` : `${this.total} lines`;
  }
}
