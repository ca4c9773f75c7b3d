// The searchable list of selected rows. Every text goes in as a text node, never as HTML: rows are other people's
// words. Filters and search run over the rows in the page, 2,000 at most, so each key press is answered at once.
"use strict";
(() => {
  const PER_PAGE = 25;
  const SHORT = 320; // characters of a turn shown at first
  const data = JSON.parse(document.getElementById("picks").textContent);
  if (!data.picks.length) return;
  const at = (name) => document.getElementById(`browser-${name}`);
  const [search, method, source, task, also] = ["search", "method", "source", "task", "also"].map(at);
  const list = at("list");
  const number = new Intl.NumberFormat("en");

  for (const pick of data.picks) {
    const row = data.rows[pick.row];
    pick.words = [row.id, row.source, row.license, pick.target, pick.task, ...row.turns.map((turn) => turn[1])]
      .filter((text) => text !== null).join("\n").toLowerCase();
  }

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // a choice's value is its place in `values`: names from the data may be any text
  const fill = (select, everything, values, labels = values) => {
    select.append(new Option(everything, ""));
    values.forEach((_, place) => select.append(new Option(labels[place], String(place))));
    select.chosen = () => (select.value === "" ? null : values[Number(select.value)]);
    select.addEventListener("change", () => show(0));
  };
  const seen = (values) => [...new Set(values.filter((value) => value !== null))].sort();
  fill(method, "all methods", data.methods.map((_, place) => place), data.methods);
  fill(source, "all sources", seen(data.rows.map((row) => row.source)));
  fill(task, "any capability", seen(data.picks.map((pick) => pick.task)));
  const NOBODY = -1;
  fill(also, "any or none", [NOBODY, ...data.methods.map((_, place) => place)], ["no other method", ...data.methods]);
  method.options[1].defaultSelected = true;

  const others = (pick) => data.rows[pick.row].methods.filter(([other]) => other !== pick.method);
  const matching = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [ofMethod, ofSource, ofTask, ofOther] = [method, source, task, also].map((select) => select.chosen());
    return data.picks.filter((pick) =>
      (ofMethod === null || pick.method === ofMethod)
      && (ofSource === null || data.rows[pick.row].source === ofSource)
      && (ofTask === null || pick.task === ofTask)
      && (ofOther === null
        || (ofOther === NOBODY ? !others(pick).length : others(pick).some(([other]) => other === ofOther)))
      && words.every((word) => pick.words.includes(word)));
  };

  // text with the words that were searched for marked
  const marked = (element, text) => {
    const words = search.value.toLowerCase().split(/\s+/).filter((word) => word.length > 1);
    const lower = text.toLowerCase();
    let from = 0;
    while (words.length && lower.length === text.length) {
      const found = words.map((word) => [lower.indexOf(word, from), word.length]).filter(([place]) => place >= 0);
      if (!found.length) break;
      const [place, length] = found.reduce((a, b) => (b[0] < a[0] ? b : a));
      element.append(text.slice(from, place), make("mark", "", text.slice(place, place + length)));
      from = place + length;
    }
    element.append(text.slice(from));
    return element;
  };

  const conversation = (row) => {
    const box = make("div", "turns");
    const draw = (whole) => {
      box.replaceChildren();
      for (const [role, text] of row.turns) {
        const turn = make("div", `turn ${["user", "assistant", "system"].includes(role) ? role : ""}`);
        const shown = whole || text.length <= SHORT ? text : `${text.slice(0, SHORT).trimEnd()} …`;
        const words = marked(make("p", "text"), shown);
        words.dir = "auto";
        turn.append(make("span", "role", role), words);
        box.append(turn);
      }
      if (whole && row.left) {
        box.append(make("p", "note", `${number.format(row.left)} more characters are in the exported dataset.`));
      }
    };
    draw(false);
    const parts = [box];
    const hidden = row.turns.reduce((sum, turn) => sum + (turn[1].length > SHORT ? turn[1].length - SHORT : 0), 0);
    if (hidden || row.left) {
      const button = make("button", "more", "Show the whole conversation");
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => {
        const whole = button.getAttribute("aria-expanded") !== "true";
        button.setAttribute("aria-expanded", String(whole));
        button.textContent = whole ? "Show less" : "Show the whole conversation";
        draw(whole);
      });
      parts.push(button);
    }
    if (!row.turns.length) parts.push(make("p", "note", "The text is in the exported dataset."));
    return parts;
  };

  const fact = (facts, name, ...values) => {
    const entry = make("div");
    const value = make("dd");
    value.append(...values);
    entry.append(make("dt", "", name), value);
    facts.append(entry);
  };

  const card = (pick) => {
    const row = data.rows[pick.row];
    const item = make("li", "pick");
    const head = make("p", "head");
    head.append(make("span", `rank method-${pick.method % 8}`, `${data.methods[pick.method]} #${number.format(pick.rank)}`));
    head.append(marked(make("code"), row.id), marked(make("span", "tag"), row.source));
    if (row.license) head.append(marked(make("span", "tag plain"), row.license));
    if (pick.task !== null) head.append(marked(make("span", "tag task"), pick.task));
    item.append(head, make("p", "reason", pick.reason), ...conversation(row));
    const facts = make("dl", "facts");
    if (pick.target !== null) fact(facts, "picked for target", marked(make("code"), pick.target));
    if (pick.utility !== null) fact(facts, "utility", String(Number(pick.utility.toPrecision(3))));
    if (pick.share !== null) fact(facts, "chosen again", `${Math.round(pick.share * 100)} % of resamples`);
    if (pick.near) {
      const button = make("button", "link", pick.near[0]);
      button.type = "button";
      button.title = "Search for this row";
      button.addEventListener("click", () => { search.value = pick.near[0]; show(0); search.focus(); });
      fact(facts, "most like it among the selected", button, ` (cosine ${pick.near[1].toFixed(2)})`);
    }
    const rest = others(pick).map(([other, rank]) => `${data.methods[other]} #${number.format(rank)}`);
    if (data.methods.length > 1) fact(facts, "also picked by", rest.length ? rest.join(", ") : "no other method");
    item.append(facts);
    return item;
  };

  let page = 0;
  const show = (wanted) => {
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(Math.max(0, wanted), pages - 1);
    const first = page * PER_PAGE;
    list.replaceChildren(...found.slice(first, first + PER_PAGE).map(card));
    list.start = first + 1;
    at("status").textContent = found.length
      ? `${number.format(first + 1)} to ${number.format(Math.min(first + PER_PAGE, found.length))} of ${number.format(found.length)} picks`
      : "No pick matches; clear a filter or a word.";
    at("page").textContent = `Page ${number.format(page + 1)} of ${number.format(pages)}`;
    // not `disabled`, which would throw the keyboard's place away on the last page
    at("previous").setAttribute("aria-disabled", String(page === 0));
    at("next").setAttribute("aria-disabled", String(page === pages - 1));
  };
  const turn = (by) => () => {
    const before = page;
    show(page + by);
    if (page !== before) at("status").scrollIntoView({ block: "nearest" });
  };
  at("previous").addEventListener("click", turn(-1));
  at("next").addEventListener("click", turn(1));
  search.addEventListener("input", () => show(0));
  const form = search.form;
  form.addEventListener("submit", (event) => event.preventDefault());
  at("clear").addEventListener("click", () => { form.reset(); show(0); });
  document.getElementById("browser").hidden = false;
  document.documentElement.classList.add("browsing");
  show(0);
})();
