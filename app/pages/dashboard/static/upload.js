// Uploads files in parts: a lost connection or a closed page costs at most the part being sent.
import { api, csrf, offline, Problem } from "./api.js";
import { hash } from "./sha256.js";

const PART = 8 << 20;
const LONGEST = 15000;
const rest = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Thrown if the user pauses.
export class Paused extends Error {}

async function offset(place) {
  const answer = await fetch(place, { method: "HEAD", credentials: "same-origin" });
  if (!answer.ok) throw new Problem(answer.status, { cause: `The service answered ${answer.status}.` });
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
      resolve({ status: request.status, parsed });
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
      const { status, parsed } = await patch(place, at, file.slice(at, at + PART), signal, told);
      if (status === 409 && parsed.code === "upload_offset_mismatch") continue;
      if (status >= 500) throw new TypeError("the service is away");
      if (status >= 400) throw new Problem(status, parsed);
      offline(false);
      pause = 500;
      if (parsed.uploaded) { told(file.size); return; }
    } catch (error) {
      if (error instanceof Paused || (error instanceof Problem && error.status < 500)) throw error;
      offline(true);
      await rest(pause);
      pause = Math.min(2 * pause, LONGEST);
    }
  }
}

// Upload files as a model or a dataset, resuming a partial upload. Returns the resource once it is ready or rejected.
// files: [{ path, file }]; told: (path, bytes, "hashing" | "sending" | "sent"); said: (a line about the whole).
export async function upload(kind, body, files, signal, told, said) {
  said("Hashing …");
  const manifest = [];
  for (const { path, file } of files) {
    if (signal.aborted) throw new Paused();
    manifest.push({ path, size: file.size, sha256: await hash(file, (bytes) => told(path, bytes, "hashing")) });
  }
  const wanted = JSON.stringify(manifest.map(({ path, sha256 }) => [path, sha256]).sort());
  const alike = (known) => known.task === body.task && JSON.stringify(known.data.splits) === JSON.stringify(body.splits)
    && Object.entries(known.data.columns).every(([name, column]) => body.columns[name] === column);
  const size = manifest.reduce((sum, file) => sum + file.size, 0);
  // The list has file counts and sizes; only candidates that match are fetched.
  const perhaps = (known) => known.state !== "rejected" && known.file_count === manifest.length && known.bytes === size
    && (kind === "models" || alike(known));
  let known;
  for (const each of (await api("GET", `/v1/${kind}?page_size=200`)).items.filter(perhaps)) {
    const whole = await api("GET", `/v1/${kind}/${each.id}`);
    if (JSON.stringify(whole.files.map(({ path, sha256 }) => [path, sha256]).sort()) === wanted) { known = whole; break; }
  }
  const target = known ?? await api("POST", `/v1/${kind}`, { ...body, files: manifest });
  const place = `/v1/${kind}/${target.id}`;
  if (target.state === "uploading") {
    said(known ? "Resuming the upload …" : "Uploading …");
    for (const { path, file } of files) {
      await sendFile(`${place}/files/${path.split("/").map(encodeURIComponent).join("/")}`, file, signal, (bytes) => told(path, bytes, "sending"));
      told(path, file.size, "sent");
    }
    await api("POST", `${place}/complete`);
  } else for (const { path, file } of files) told(path, file.size, "sent");
  said("Uploaded; the service is checking the files …");
  for (;;) {
    const found = await api("GET", place, undefined, { Prefer: "wait=20" });
    if (found.state === "ready" || found.state === "rejected") return found;
  }
}
