// The page's own manners: the contents follow the reader, and only boxes that do scroll stop the Tab key. Without this
// script all boxes stop it and the contents still lead everywhere.
"use strict";
(() => {
  const watcher = new ResizeObserver((seen) => seen.forEach(({ target }) => {
    const box = target.closest(".box");
    box.tabIndex = box.scrollWidth > box.clientWidth + 1 ? 0 : -1;
  }));
  document.querySelectorAll(".box, .box > *").forEach((each) => watcher.observe(each));

  const closed = [];
  window.addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((each) => {
    closed.push(each);
    each.open = true;
  }));
  window.addEventListener("afterprint", () => closed.splice(0).forEach((each) => { each.open = false; }));

  const links = [...document.querySelectorAll("nav[aria-label=Contents] a")];
  const sections = links.map((link) => document.getElementById(link.hash.slice(1)));
  const follow = () => {
    const edge = window.innerHeight / 3;
    const passed = sections.filter((section) => section.getBoundingClientRect().top <= edge);
    const now = Math.max(0, passed.length - 1);
    links.forEach((link, number) => {
      if ((number === now) === link.hasAttribute("aria-current")) return;
      if (number === now) {
        link.setAttribute("aria-current", "true");
        const row = link.closest("ol");
        if (row.scrollWidth > row.clientWidth) row.scrollTo({ left: link.parentElement.offsetLeft - 16 });
      } else {
        link.removeAttribute("aria-current");
      }
    });
  };
  let asked = false;
  window.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; follow(); });
  }, { passive: true });
  follow();
})();
