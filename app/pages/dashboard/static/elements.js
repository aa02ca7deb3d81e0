// Finds and makes elements, and writes sizes, counts and times.
export const get = (id) => document.getElementById(id);

export const made = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};

const scaled = (value, units) => {
  let at = 0, left = value;
  while (left >= (at ? 999.5 : 1000) && at < units.length - 1) { left /= 1000; at += 1; }
  return `${at ? left.toPrecision(3) : left} ${units[at]}`.trim();
};
export const size = (value) => scaled(value, ["B", "kB", "MB", "GB", "TB"]);
export const count = (value) => scaled(value, ["", "k", "M", "B", "T"]);
export const minutes = (value) => (value < 1.5 ? "about 1 minute" : value < 90 ? `about ${Math.round(value)} minutes` : `about ${Number((value / 60).toPrecision(2))} hours`);
