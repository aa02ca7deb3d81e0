// Finds and makes elements, and writes sizes.
export const get = (id) => document.getElementById(id);

export const made = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};

export const size = (value) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0, left = value;
  while (left >= 1000 && at < units.length - 1) { left /= 1000; at += 1; }
  return `${at ? left.toPrecision(3) : left} ${units[at]}`;
};
