// Creates, lists and revokes links to a job's report. This part of the page is replaced when the job ends, so elements are looked up
// when they are needed.
import { api, complain } from "./api.js";
import { writeTimes } from "./app.js";
import { get } from "./elements.js";

const place = () => `/v1/jobs/${get("share").dataset.job}/share`;
const mayRevoke = () => !get("share-new").querySelector("button").disabled;

function line(link) {
  const item = document.createElement("li");
  const until = document.createElement("time");
  until.dateTime = link.expires_at;
  item.append(`Link ${link.id.slice(-6)}, expires `, until);
  if (mayRevoke()) {
    const end = document.createElement("button");
    end.type = "button";
    end.className = "quiet";
    end.textContent = "Revoke";
    end.setAttribute("aria-label", `Revoke link ${link.id.slice(-6)}`);
    end.addEventListener("click", async () => {
      try { await api("DELETE", `${place()}/${link.id}`); get("share-made").hidden = true; await list(); } catch (error) { complain(error); }
    });
    item.append(" ", end);
  }
  return item;
}

async function list() {
  const { items } = await api("GET", place());
  get("share-list").replaceChildren(...items.map(line));
  writeTimes(get("share-list"));
}

document.addEventListener("toggle", (event) => {
  if (event.target.closest?.("#share") && event.target.open) list().catch(complain);
}, true);

document.addEventListener("submit", async (event) => {
  if (event.target.id !== "share-new") return;
  event.preventDefault();
  try {
    const made = await api("POST", place(), { expires_in: Number(event.target.expires_in.value) });
    get("share-url").textContent = new URL(made.url, location.href).href;
    get("share-made").hidden = false;
    await list();
  } catch (error) { complain(error); }
});
