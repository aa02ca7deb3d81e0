// A form made from a JSON schema as pydantic writes it. make(schema, value) → { element, value(), set(value), find(path) }.
// Numbers with bounds, choices, switches, lists of choices and optional objects have form fields. The rest (a number or an object,
// pairs of numbers) is written as JSON.

const words = (name) => name.replaceAll("_", " ");
let count = 0;

const made = (tag, attributes = {}, ...inside) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...inside);
  return element;
};

export function form(root, path, onChange) {
  const byPath = new Map();
  const followed = (schema) => {
    if (!schema.$ref) return schema;
    const { $ref, ...own } = schema;
    return { ...root.$defs[$ref.split("/").at(-1)], ...own };
  };
  const kinds = (schema) => (schema.anyOf ?? [schema]).map(followed);

  function labelled(name, schema, input, where) {
    const id = `schema-${count += 1}`;
    input.id = id;
    input.dataset.path = where;
    const about = followed(schema).description;
    const field = made("div", { class: "field" }, made("label", { for: id }, words(name)), input);
    const wrong = made("span", { class: "wrong", id: `${id}-wrong` });
    const said = [wrong.id];
    if (about) {
      field.append(made("span", { class: "small", id: `${id}-about` }, about));
      said.unshift(`${id}-about`);
    }
    field.append(wrong);
    input.setAttribute("aria-describedby", said.join(" "));
    input.addEventListener("input", onChange);
    byPath.set(where, { input, wrong });
    return field;
  }

  function numeric(name, schema, where, optional) {
    const of = kinds(schema).find((kind) => kind.type !== "null");
    const input = made("input", { type: "number", step: of.type === "integer" ? "1" : "any", inputmode: "decimal" });
    const low = of.minimum ?? of.exclusiveMinimum, high = of.maximum ?? of.exclusiveMaximum;
    if (low !== undefined) input.min = low;
    if (high !== undefined) input.max = high;
    if (optional) input.placeholder = "none";
    return {
      element: labelled(name, schema, input, where),
      value: () => (input.value === "" ? null : Number(input.value)),
      set: (value) => { input.value = value ?? ""; },
    };
  }

  function choice(name, schema, where, options) {
    const input = made("select");
    options.forEach((option) => input.append(made("option", { value: JSON.stringify(option) }, option === null ? "none" : String(option))));
    return { element: labelled(name, schema, input, where), value: () => JSON.parse(input.value), set: (value) => { input.value = JSON.stringify(value); } };
  }

  function written(name, schema, where, plain) {
    const input = made("input", { autocomplete: "off", spellcheck: "false" });
    if (!plain) input.className = "mono";
    const value = () => {
      if (input.value.trim() === "") return null;
      if (plain) return input.value;
      try { return JSON.parse(input.value); } catch { return input.value; }
    };
    return { element: labelled(name, schema, input, where), value, set: (found) => { input.value = found === null ? "" : plain ? found : JSON.stringify(found); } };
  }

  // A word, or a JSON list with one word per dataset.
  function worded(name, schema, where, optional, options) {
    const input = made("input", { autocomplete: "off", spellcheck: "false" });
    const element = labelled(name, schema, input, where);
    if (options.length) {
      const list = made("datalist", { id: `${input.id}-words` }, ...options.map((option) => made("option", { value: option })));
      input.setAttribute("list", list.id);
      element.append(list);
    }
    const value = () => {
      const text = input.value.trim();
      if (text === "") return optional ? null : schema.default;
      if (text.startsWith("[")) try { return JSON.parse(text); } catch { return text; }
      return text;
    };
    return { element, value, set: (found) => { input.value = found === null ? "" : typeof found === "string" ? found : JSON.stringify(found); } };
  }

  function switched(name, schema, where) {
    const input = made("input", { type: "checkbox" });
    const field = labelled(name, schema, input, where);
    field.classList.add("switch");
    return { element: field, value: () => input.checked, set: (value) => { input.checked = value; } };
  }

  // An optional list has a choice of its own for null, the default; with nothing checked it is empty.
  function several(name, schema, where, options, optional) {
    const box = made("fieldset", { class: "choices" }, made("legend", {}, words(name)));
    const chip = (option, chosen) => {
      const input = made("input", { type: "checkbox", value: option });
      input.addEventListener("input", () => { chosen(input); onChange(); });
      box.append(made("label", { class: "chip" }, input, made("span", {}, words(option))));
      return input;
    };
    const usual = optional ? chip("default", (own) => { if (own.checked) for (const input of inputs) input.checked = false; }) : null;
    const inputs = options.map((option) => chip(option, (own) => { if (usual && own.checked) usual.checked = false; }));
    const about = followed(schema).description;
    if (about) box.append(made("span", { class: "small" }, about));
    const wrong = made("span", { class: "wrong" });
    box.append(wrong);
    byPath.set(where, { input: usual ?? inputs[0], wrong });
    const checked = () => inputs.filter((input) => input.checked).map((input) => input.value);
    return {
      element: box,
      value: () => (usual?.checked ? null : checked()),
      set: (value) => {
        if (usual) usual.checked = (value ?? null) === null;
        for (const input of inputs) input.checked = value?.includes(input.value) ?? false;
      },
    };
  }

  function group(name, schema, where, { optional = false, top = false } = {}) {
    const inner = kinds(schema).find((kind) => kind.type === "object");
    const fields = Object.entries(inner.properties).map(([key, each]) => [key, field(key, each, where ? `${where}.${key}` : key)]);
    const body = made("div", { class: "fields" }, ...fields.map(([, each]) => each.element));
    const about = inner.description?.split("\n")[0];
    const note = about ? [made("p", { class: "small" }, about)] : [];
    const wrong = made("span", { class: "wrong" });
    let use = null, element;
    if (optional) {
      use = made("input", { type: "checkbox" });
      use.dataset.path = where;
      const turn = () => { body.hidden = !use.checked; };
      use.addEventListener("input", () => { turn(); if (use.checked && fresh) { set(defaults(inner)); } onChange(); });
      use.turn = turn;
      element = made(top ? "details" : "fieldset", { class: "group" });
      element.append(
        ...(top ? [made("summary", {}, words(name))] : [made("legend", {}, words(name))]),
        made("label", { class: "check" }, use, ` Use ${words(name)}`), ...note, wrong, body,
      );
    } else if (name) {
      element = made(top ? "details" : "fieldset", { class: "group" }, made(top ? "summary" : "legend", {}, words(name)), ...note, wrong, body);
    } else element = body;
    byPath.set(where, { input: use ?? body.querySelector("input, select"), wrong });
    let fresh = true;
    const whole = defaults(inner);
    const set = (found) => {
      if (use) { use.checked = found !== null; use.turn(); }
      if (found === null) { fresh = true; return; }
      fresh = false;
      for (const [key, each] of fields) each.set(key in found ? found[key] : whole[key]);  // the API leaves out some defaults
    };
    const value = () => {
      if (use && !use.checked) return null;
      return Object.fromEntries(fields.map(([key, each]) => [key, each.value()]));
    };
    return { element, value, set };
  }

  // An object's defaults: each key's default.
  function defaults(inner) {
    return Object.fromEntries(Object.entries(inner.properties).map(([key, each]) => [key, each.default ?? followed(each).default ?? null]));
  }

  function field(name, schema, where) {
    const all = kinds(schema);
    const optional = all.some((kind) => kind.type === "null");
    const real = all.filter((kind) => kind.type !== "null");
    const [one] = real;
    const word = real.find((kind) => kind.enum || kind.type === "string");
    if (word && real.length === 2 && real.some((kind) => kind.type === "array")) return worded(name, schema, where, optional, word.enum ?? []);
    if (real.length > 1) return written(name, schema, where, false);
    if (one.const !== undefined) return { element: made("span", { hidden: true }), value: () => one.const, set: () => {} };
    if (one.properties) return group(name, schema, where, { optional, top: !where.includes(".", path.length + 1) });
    if (one.enum) return choice(name, schema, where, optional ? [null, ...one.enum] : one.enum);
    if (one.type === "boolean") return switched(name, schema, where);
    if (one.type === "integer" || one.type === "number") return numeric(name, schema, where, optional);
    if (one.type === "array" && followed(one.items ?? {}).enum) return several(name, schema, where, followed(one.items).enum, optional);
    return written(name, schema, where, one.type === "string");
  }

  const whole = group("", root, path);
  // Show an error at a field and open its group; without a path, clear all errors.
  function blame(where, cause) {
    for (const { input, wrong } of byPath.values()) { wrong.textContent = ""; input?.removeAttribute("aria-invalid"); }
    let at = where ?? "";
    while (at && !byPath.has(at)) at = at.slice(0, Math.max(0, at.lastIndexOf(".")));
    const found = at && byPath.get(at);
    if (!found) return false;
    found.wrong.textContent = cause;
    found.input?.setAttribute("aria-invalid", "true");
    found.input?.closest("details")?.setAttribute("open", "");
    return true;
  }
  return { ...whole, blame, defaults: () => defaults(root) };
}
