"use strict";
// The table: heads that sort, rows in parts of a few hundred, every word as text and never as HTML.
const table = (() => {
  const part = 300, fewLinks = 8;
  const [head, body] = ["thead", "tbody"].map((name) => document.querySelector(`#rows ${name}`));
  const rest = document.getElementById("rest");
  let shown = part, items = [], using = [], state = null;

  const element = (name, words = null, of = {}) => {
    const made = Object.assign(document.createElement(name), of);
    if (words !== null) made.textContent = words;
    return made;
  };

  function sorted(list, column, direction) {
    const sign = direction === "ascending" ? 1 : -1;
    return [...list].sort((one, other) => {
      const [a, b] = [columns.value(one, column), columns.value(other, column)];
      // What is unknown stands last either way.
      if (a === null || b === null) return (a === null) - (b === null) || one.model.localeCompare(other.model);
      return sign * (column.number ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })) ||
        one.model.localeCompare(other.model, "en", { numeric: true });
    });
  }

  function heads(change) {
    const row = element("tr");
    for (const column of using) {
      const cell = element("th", null, { scope: "col", className: column.number ? "number" : "", title: column.note });
      cell.dataset.column = column.id;
      if (state.sort === column.id) cell.setAttribute("aria-sort", state.direction);
      const button = element("button", column.id === "score" ? columns.scoreTitle(items) : column.title, { type: "button" });
      button.addEventListener("click", () => {
        const turned = { ascending: "descending", descending: "ascending" }[state.direction];
        change({ sort: column.id, direction: state.sort === column.id ? turned : column.best });
        head.querySelector(`th[data-column="${column.id}"] button`)?.focus();
      });
      cell.append(button);
      row.append(cell);
    }
    head.replaceChildren(row);
  }

  const linked = ({ words, address }) => (address ? element("a", words, { href: address }) : element("span", words));

  function name(item) {
    const cell = element("th", null, { scope: "row" });
    cell.append(marks.swatch(item), item.links[0].address && item.links.length === 1
      ? element("a", item.model, { href: item.links[0].address }) : element("span", item.model));
    if (item.source === "published") cell.append(element("span", "published", { className: "tag" }));
    if (item.status === "failed") {
      cell.append(element("span", "failed", { className: "tag bad" }), element("div", item.reason, { className: "small reason" }));
    }
    cell.dataset.value = item.model;
    return cell;
  }

  function figure(item, column) {
    const value = columns.value(item, column);
    const cell = element("td", null, { className: column.number ? "number" : column.wide ? "words" : "" });
    cell.dataset.column = column.id;
    if (value !== null) {
      cell.dataset.value = cell.title = String(value);
      cell.append(column.form(value));
    }
    const spread = column.spread ? item.figures[column.spread] ?? null : null;
    if (spread !== null) {
      cell.dataset.spread = String(spread);
      cell.title += ` ± ${spread}`;
      cell.append(element("span", `± ${format.share(spread)}`, { className: "spread" }));
    }
    if (column.id === "seeds" && item.links.some(({ address }) => address) && item.links.length > 1) {
      const links = element("span", null, { className: "links" });
      links.append(...item.links.slice(0, fewLinks).map(linked), ...(item.links.length > fewLinks ? ["…"] : []));
      cell.append(" ", links);
    }
    return cell;
  }

  function rowOf(item) {
    const row = element("tr", null, { id: item.key, className: item.status === "failed" ? "failed" : "" });
    row.dataset.source = item.source;
    row.append(name(item), ...using.slice(1).map((column) => figure(item, column)));
    return row;
  }

  function fill() {
    body.replaceChildren(...items.slice(0, shown).map(rowOf));
    rest.replaceChildren();
    if (items.length <= shown) return;
    rest.append(`${format.whole(shown)} of ${format.whole(items.length)} are shown. `);
    for (const [words, more] of [[`${part} more`, part], ["All", Infinity]]) {
      const button = element("button", words, { type: "button" });
      button.addEventListener("click", () => { shown = Math.min(items.length, shown + more); fill(); });
      rest.append(button, " ");
    }
  }

  return {
    show(list, current, change) {
      state = current;
      using = columns.chosen(list, state);
      const column = using.find(({ id }) => id === state.sort) ?? using[1];
      items = sorted(list, column, state.direction);
      shown = part;
      heads(change);
      fill();
    },
    // Goes to an item's row and marks it.
    find(key) {
      const place = items.findIndex((item) => item.key === key);
      if (place < 0) return;
      if (place >= shown) { shown = place + part; fill(); }
      for (const row of body.querySelectorAll("tr.found")) row.classList.remove("found");
      const row = document.getElementById(key);
      row.classList.add("found");
      row.scrollIntoView({ block: "center", behavior: "auto" });
    },
  };
})();
