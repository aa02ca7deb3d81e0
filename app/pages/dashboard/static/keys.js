// Creates and ends keys, links and teams; the lists are refreshed after each change.
import { api, bring, complain, say } from "./api.js";
import { get } from "./elements.js";

const again = () => bring(location.pathname + location.search, get("keys"));

function show(key, what) {
  get("made-key").textContent = key;
  get("made-for").textContent = what;
  get("made").hidden = false;
}

// Disable a button while its work runs, so that a double click does it once.
async function once(button, work) {
  button.disabled = true;
  try { await work(); } catch (error) { complain(error); } finally { button.disabled = false; }
}

const ends = {
  async rotate(button) {
    const made = await api("POST", `/v1/keys/${button.dataset.rotate}/rotate`, {});
    show(made.key, `It replaces ${button.dataset.name}, which works for one more day.`);
  },
  async revoke(button) {
    if (!confirm(`Revoke the key “${button.dataset.name}”? Its sessions and links end immediately.`)) return;
    await api("DELETE", `/v1/keys/${button.dataset.revoke}`);
    say(`${button.dataset.name} is revoked.`);
  },
  async unshare(button) {
    await api("DELETE", `/v1/jobs/${button.dataset.job}/share/${button.dataset.unshare}`);
    say("The link is revoked.");
  },
  async close(button) {
    if (!confirm(`Close the team “${button.dataset.name}”? All its keys, sessions and links end immediately.`)) return;
    await api("DELETE", `/v1/teams/${button.dataset.close}`);
    say(`${button.dataset.name} is closed.`);
  },
};

document.addEventListener("click", (event) => {
  for (const [name, work] of Object.entries(ends)) {
    const button = event.target.closest?.(`[data-${name}]`);
    if (button) once(button, async () => { await work(button); await again(); });
  }
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!["key-new", "team-new"].includes(form.id)) return;
  event.preventDefault();
  once(form.querySelector("button"), async () => {
    const name = form.elements.name.value;
    if (form.id === "key-new") {
      const until = form.expires_in.value;
      const made = await api("POST", "/v1/keys", { name, scope: form.scope.value, expires_in: until ? Number(until) : null });
      show(made.key, `Name: ${made.name}.`);
      form.elements.name.value = "";
    } else {
      const made = await api("POST", "/v1/teams", { name });
      show(made.key, `It is the first admin key of team ${made.name}.`);
    }
    await again();
  });
});
