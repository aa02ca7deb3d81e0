// Links to the page's sections: shown for those that exist, and the one being read is marked.

const READING = 0.3;  // a section is current once its top is above this share of the window

export function sections(nav) {
  const links = [...nav.querySelectorAll("a")];
  const list = nav.querySelector("ul");
  const target = (link) => document.getElementById(link.hash.slice(1));
  let followed = null;  // the link that was followed, and where it led: it stays marked until the reader scrolls
  let asked = false;

  function current(there) {
    if (followed) return followed.link;
    if (scrollY + innerHeight >= document.documentElement.scrollHeight - 2 && scrollY > 0) return there.at(-1);
    return there.findLast((link) => target(link).getBoundingClientRect().top <= READING * innerHeight) ?? there[0];
  }

  function mark() {
    for (const link of links) link.parentElement.hidden = target(link)?.hidden ?? true;
    const now = current(links.filter((link) => !link.parentElement.hidden));
    for (const link of links) {
      if (link === now) link.setAttribute("aria-current", "location"); else link.removeAttribute("aria-current");
    }
    const { offsetLeft: left, offsetWidth: width } = now;
    if (left < list.scrollLeft || left + width > list.scrollLeft + list.clientWidth) list.scrollLeft = left - 16;
  }

  function follow(link) {
    if (!link || !target(link)) return;
    followed = { link, at: null };
    requestAnimationFrame(() => { if (followed) followed.at = scrollY; mark(); });
  }

  // Charts and log lines come after the page: until the reader scrolls, the section stays where its link led.
  new ResizeObserver(() => {
    if (!followed || followed.at === null) return;
    target(followed.link)?.scrollIntoView({ behavior: "instant" });
    followed.at = scrollY;
  }).observe(nav.parentElement);

  addEventListener("scroll", () => {
    if (followed && followed.at !== null && Math.abs(scrollY - followed.at) > 1) followed = null;
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; mark(); });
  }, { passive: true });
  addEventListener("resize", mark);
  addEventListener("hashchange", () => follow(links.find((link) => link.hash === location.hash)));
  nav.addEventListener("click", (event) => follow(event.target.closest("a")));
  document.addEventListener("lathe:brought", mark);
  follow(links.find((link) => link.hash === location.hash));
  mark();
  return mark;
}
