// Uploads files in parts: a lost connection or a closed page costs at most the part being sent.
import { api, csrf, offline, Problem } from "./api.js";
import { hash } from "./sha256.js";

export const PAGE = 1000;  // files of a manifest in one request
const PART = 8 << 20;
const SMALL = 1 << 20;
const AT_ONCE = 6;
const LONGEST = 15000;
const FULL = 507;  // a quota is used up, or the service's disk: the same request is refused again
const rest = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Thrown if the user pauses.
export class Paused extends Error {}

async function offset(place) {
  const answer = await fetch(place, { method: "HEAD", credentials: "same-origin" });
  if (!answer.ok) throw new Problem(answer.status, { cause: `The service answered ${answer.status}.` }, answer.headers.get("Retry-After"));
  return { at: Number(answer.headers.get("Upload-Offset")), whole: answer.headers.get("Upload-Complete") === "?1" };
}

// fetch has no upload progress; XMLHttpRequest has. Resolves with the status and the problem, if there is one.
function patch(place, at, body, signal, told) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PATCH", place);
    request.setRequestHeader("X-CSRF-Token", csrf());
    request.setRequestHeader("Upload-Offset", String(at));
    request.setRequestHeader("Content-Type", "application/partial-upload");
    request.upload.addEventListener("progress", (event) => told(at + event.loaded));
    request.addEventListener("load", () => {
      let parsed = {};
      try { parsed = JSON.parse(request.responseText); } catch { /* a proxy's own page */ }
      resolve({ status: request.status, parsed, after: request.getResponseHeader("Retry-After") });
    });
    request.addEventListener("error", () => reject(new TypeError("the line broke")));
    request.addEventListener("abort", () => reject(new Paused()));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

// Send one file from the offset that the service has. told: (bytes uploaded).
async function sendFile(place, file, signal, told) {
  let pause = 500;
  for (;;) {
    if (signal.aborted) throw new Paused();
    try {
      const { at, whole } = await offset(place);
      told(at);
      if (whole) return;
      const { status, parsed, after } = await patch(place, at, file.slice(at, at + PART), signal, told);
      if (status === 409 && parsed.code === "upload_offset_mismatch") continue;
      if (status >= 500 && status !== FULL) throw new TypeError("the service is away");
      if (status >= 400) throw new Problem(status, parsed, after);
      offline(false);
      pause = 500;
      if (parsed.uploaded) { told(file.size); return; }
    } catch (error) {
      if (error instanceof Paused || (error instanceof Problem && (error.status < 500 || error.status === FULL))) throw error;
      offline(true);
      await rest(pause);
      pause = Math.min(2 * pause, LONGEST);
    }
  }
}

// Send a small file whole; returns whether it arrived. Asking for its offset would take as long as sending it.
async function sendWhole(place, file, signal) {
  const headers = { "X-CSRF-Token": csrf(), "Content-Type": "application/octet-stream" };
  let answer;
  try {
    answer = await fetch(place, { method: "PUT", credentials: "same-origin", headers, body: file, signal });
  } catch {
    if (signal.aborted) throw new Paused();
    return false;
  }
  if ((answer.status >= 400 && answer.status < 500) || answer.status === FULL) throw new Problem(answer.status, await answer.json().catch(() => ({})), answer.headers.get("Retry-After"));
  return answer.ok;
}

// Call a function until the service has room for its request: a key has so many a minute, and a folder of images has a request a file.
async function patient(call, signal, waits) {
  for (;;) {
    try { return await call(); } catch (error) {
      if (!(error instanceof Problem) || error.status !== 429) throw error;
      waits(`Waiting ${error.after} s: this key has sent its requests of a minute …`);
      await Promise.race([rest(1000 * error.after), new Promise((done) => signal.addEventListener("abort", done, { once: true }))]);
      if (signal.aborted) throw new Paused();
      waits(null);
    }
  }
}

// Call a function for each of some files, several at a time. The first failure starts no more of them.
async function several(files, call) {
  let next = 0, failed = false;
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (!failed && next < files.length) {
      try { await call(files[next++]); } catch (error) { failed = true; throw error; }
    }
  }));
}

// All files that a manifest lists: the resource itself has the first page of them.
async function listed(place, resource) {
  if (resource.file_count <= resource.files.length) return resource.files;
  const found = [];
  for (let token = ""; token !== null;) {
    const page = await api("GET", `${place}/files?page_size=${PAGE}${token && `&page_token=${encodeURIComponent(token)}`}`);
    found.push(...page.items);
    token = page.next_page_token;
  }
  return found;
}

// An upload that lists these files, or some of them and none else, and what it lists; null if there is none.
async function find(kind, body, manifest) {
  const digests = new Map(manifest.map(({ path, sha256 }) => [path, sha256]));
  // Databases keep the order of files, and not all of them that of splits.
  const same = (one, other) => Object.keys({ ...one, ...other }).every((split) => JSON.stringify(one[split]) === JSON.stringify(other[split]));
  const alike = (known) => known.task === body.task && same(known.data.splits, body.splits)
    && Object.entries(known.data.columns).every(([name, column]) => body.columns[name] === column);
  const size = manifest.reduce((sum, file) => sum + file.size, 0);
  // The list has file counts and sizes; only candidates that match are fetched.
  const perhaps = (known) => known.state !== "rejected" && known.file_count === manifest.length && known.bytes === size
    && (kind === "models" || alike(known));
  for (const each of (await api("GET", `/v1/${kind}?page_size=200`)).items.filter(perhaps)) {
    const place = `/v1/${kind}/${each.id}`, target = await api("GET", place), files = await listed(place, target);
    if (files.every(({ path, sha256 }) => digests.get(path) === sha256)) return { target, files };
  }
  return null;
}

// Promise the files of a new upload, as many as one request takes; the rest follows.
async function create(kind, body, manifest) {
  const files = manifest.slice(0, PAGE), later = manifest.slice(PAGE);
  const rest = later.length ? { rest: { files: later.length, bytes: later.reduce((sum, file) => sum + file.size, 0) } } : {};
  return { target: await api("POST", `/v1/${kind}`, { ...body, files, ...rest }), files };
}

// Upload files as a model or a dataset, resuming a partial upload. Returns the resource once it is ready or rejected.
// files: [{ path, file }]; told: (path, bytes, "hashing" | "sending" | "sent"); said: (a line about the whole); sent: (): nothing is
// left to pause.
export async function upload(kind, body, files, signal, told, said, sent) {
  const go = () => { if (signal.aborted) throw new Paused(); };
  let line = "";
  const say = (text) => said(line = text);
  const waits = (text) => said(text ?? line);
  const ask = (...request) => patient(() => api(...request), signal, waits);
  say("Hashing …");
  const manifest = [];
  for (const { path, file } of files) {
    go();
    manifest.push({ path, size: file.size, sha256: await hash(file, (bytes) => told(path, bytes, "hashing")) });
  }
  const known = await find(kind, body, manifest);
  const { target, files: there } = known ?? await create(kind, body, manifest);
  const place = `/v1/${kind}/${target.id}`;
  if (target.state === "uploading") {
    say(known ? "Resuming the upload …" : "Uploading …");
    const paths = new Set(there.map(({ path }) => path)), missing = manifest.filter(({ path }) => !paths.has(path));
    for (let at = 0; at < missing.length; at += PAGE) {
      go();
      await ask("POST", `${place}/files`, { files: missing.slice(at, at + PAGE) });
    }
    const arrived = new Set(there.filter((file) => file.uploaded).map(({ path }) => path));
    for (const { path, file } of files) if (arrived.has(path)) told(path, file.size, "sent");
    const send = async ({ path, file }) => {
      go();
      const own = `${place}/files/${path.split("/").map(encodeURIComponent).join("/")}`;
      await patient(async () => {
        if (file.size > SMALL || !(await sendWhole(own, file, signal))) await sendFile(own, file, signal, (bytes) => told(path, bytes, "sending"));
      }, signal, waits);
      told(path, file.size, "sent");
    };
    const left = files.filter(({ path }) => !arrived.has(path));
    await several(left.filter(({ file }) => file.size <= SMALL), send);
    for (const one of left.filter(({ file }) => file.size > SMALL)) await send(one);
    await ask("POST", `${place}/complete`);
  } else for (const { path, file } of files) told(path, file.size, "sent");
  go();
  sent();
  say("Uploaded; the service is checking the files …");
  for (;;) {
    const found = await ask("GET", place, undefined, { Prefer: "wait=20" });
    if (found.state === "ready" || found.state === "rejected") return found;
  }
}
