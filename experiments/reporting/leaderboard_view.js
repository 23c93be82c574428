"use strict";
// What is chosen, kept in the address after the # so that a link keeps the view.
const view = (() => {
  const group = (condition) => board.models.filter((model) => model.condition === condition);
  const variety = (condition) => new Set(group(condition).filter(({ source }) => source === "measured").map(({ method }) => method)).size;
  // The conditions under which most methods stand beside each other, of these the ones with the most instances.
  const best = board.conditions.map((_, number) => number)
    .sort((a, b) => variety(b) - variety(a) || (board.conditions[b].instances ?? 0) - (board.conditions[a].instances ?? 0) || a - b)[0];
  const usual = {
    data: board.conditions[best]?.data ?? "", condition: best ?? "", method: "", teacher: "", source: "", search: "", rows: "means",
    score: "score", cost: "macs_full", sort: "score", direction: "descending", more: false, theme: "",
  };

  function label(number) {
    const { protocol, instances, images, detections, choices } = board.conditions[number];
    const counted = detections ? `${format.whole(detections)} boxes` : instances ? `${format.whole(instances)} instances` : "published";
    return `${protocol} \u00b7 ${counted}${images ? ` in ${format.whole(images)} images` : ""}${choices ? ` \u00b7 ${choices}` : ""} (${group(number).length})`;
  }
  const nameOf = (number) => {
    const { data, protocol, instances, images, detections, choices } = board.conditions[number];
    return [data, protocol, instances ?? "", images ?? "", detections ?? "", choices ?? ""].join("|");
  };

  function read() {
    const given = new URLSearchParams(location.hash.slice(1)), state = { ...usual };
    for (const name of ["method", "teacher", "source", "search", "sort"]) if (given.has(name)) state[name] = given.get(name);
    const within = (name, allowed) => { if (allowed.includes(given.get(name))) state[name] = given.get(name); };
    within("rows", ["means", "runs"]);
    within("score", Object.keys(plot.scores));
    within("cost", Object.keys(plot.costs));
    within("direction", ["ascending", "descending"]);
    within("theme", ["light", "dark"]);
    state.more = given.get("more") === "true";
    if (!columns.all.some(({ id }) => id === state.sort)) state.sort = usual.sort;
    if (given.has("data")) {
      state.data = board.conditions.some(({ data }) => data === given.get("data")) ? given.get("data") : "";
      state.condition = "";
    }
    const found = board.conditions.findIndex((_, number) => nameOf(number) === given.get("condition"));
    if (found >= 0) Object.assign(state, { condition: found, data: board.conditions[found].data });
    return state;
  }

  function write(state) {
    const kept = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (value !== usual[name] && name !== "condition" && name !== "data") kept.set(name, value);
    if (state.condition !== usual.condition) state.condition === "" ? kept.set("data", state.data) : kept.set("condition", nameOf(state.condition));
    const address = `#${kept}`;
    if (address !== (location.hash || "#")) history.replaceState(null, "", address);
  }

  // The items that the filters leave.
  function chosen(state) {
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    return board.items(state.rows).filter((item) =>
      (state.data === "" || item.data === state.data || (item.data === null && item.status === "failed")) &&
      (state.condition === "" || item.condition === null || item.condition === state.condition) &&
      (state.method === "" || item.method === state.method) && (state.teacher === "" || item.teacher === state.teacher) &&
      (state.source === "" || (state.source === "failed" ? item.status === "failed" : item.source === state.source)) &&
      words.every((word) => item.words.includes(word)));
  }
  return { usual, read, write, chosen, label };
})();

// Choices, and what follows from them.
(() => {
  const at = (id) => document.getElementById(id);
  let state = view.read();

  function options(select, pairs, value) {
    select.replaceChildren(...pairs.map(([key, words]) => new Option(words, key)));
    select.value = value;
  }
  const distinct = (name) => [...new Set(board.items("runs").map((item) => item[name]).filter((one) => one !== null))].sort();

  function choices() {
    const data = [...new Set(board.conditions.map((condition) => condition.data))].sort();
    options(at("data"), [...data.map((one) => [one, one]), ["", "all (table only)"]], state.data);
    const places = board.conditions.map((_, number) => number).filter((number) => state.data === "" || board.conditions[number].data === state.data);
    const named = (number) => (state.data === "" ? `${board.conditions[number].data} \u00b7 ` : "") + view.label(number);
    options(at("protocol"), [...places.map((number) => [number, named(number)]), ["", "all (table only)"]], state.condition);
    for (const name of ["method", "teacher"]) options(at(name), [["", "all"], ...distinct(name).map((one) => [one, one.replaceAll("_", " ")])], state[name]);
    const failed = board.items("runs").some(({ status }) => status === "failed");
    options(at("source"), [["", "all"], ["measured", "measured"], ["published", "published"], ...(failed ? [["failed", "failed runs"]] : [])], state.source);
    const here = board.models.filter(({ condition }) => condition === state.condition);
    const points = here.some(({ point }) => point !== undefined);
    if (!points) state.score = "score";
    const title = columns.scoreTitle(here.map((model) => ({ ...model, condition: 0 })));
    options(at("score"), [["score", title], ...(points ? [["point", plot.scores.point]] : [])], state.score);
    const known = Object.keys(plot.costs).filter((name) => here.some((model) => model[name] !== undefined));
    // Another cost, where nothing here has the one that was chosen.
    const cost = known.includes(state.cost) ? state.cost : known[0] ?? state.cost;
    state.cost = cost;
    options(at("cost"), (known.length ? known : [cost]).map((name) => [name, plot.costs[name][0]]), cost);
    at("search").value = state.search;
    at("more").checked = state.more;
    for (const radio of document.querySelectorAll("input[name=rows]")) radio.checked = radio.value === state.rows;
  }

  function heading(list) {
    const kind = state.rows === "means" ? "models" : "rows", total = board.items(state.rows).length;
    const failed = list.filter(({ status }) => status === "failed").length;
    at("shown").textContent = `${format.whole(list.length)} of ${format.whole(total)} ${kind}${failed ? `, ${failed} failed` : ""}`;
  }

  function show() {
    if (state.theme) document.documentElement.dataset.theme = state.theme;
    else delete document.documentElement.dataset.theme;
    choices();
    const list = view.chosen(state);
    heading(list);
    table.show(list, state, change);
    plot.show(list, state, table.find);
    view.write(state);
  }
  function change(what) {
    // A new order of rows leaves the plot as it is.
    const order = Object.keys(what).every((name) => ["sort", "direction", "more"].includes(name));
    state = { ...state, ...what };
    if (!order) return show();
    table.show(view.chosen(state), state, change);
    view.write(state);
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("data").addEventListener("change", ({ target }) => {
    const first = board.conditions.map((_, number) => number).filter((number) => board.conditions[number].data === target.value)
      .sort((a, b) => count(b) - count(a))[0];
    change({ data: target.value, condition: first ?? "" });
  });
  const count = (condition) => board.models.filter((model) => model.condition === condition).length;
  at("protocol").addEventListener("change", ({ target }) => change(target.value === "" ? { condition: "" }
    : { condition: Number(target.value), data: board.conditions[Number(target.value)].data }));
  for (const name of ["method", "teacher", "source", "score", "cost"]) at(name).addEventListener("change", ({ target }) => change({ [name]: target.value }));
  let waiting = 0;
  at("search").addEventListener("input", ({ target }) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ search: target.value }), 120);
  });
  at("more").addEventListener("change", ({ target }) => change({ more: target.checked }));
  for (const radio of document.querySelectorAll("input[name=rows]")) radio.addEventListener("change", ({ target }) => change({ rows: target.value }));
  at("reset").addEventListener("click", () => { state = { ...view.usual, theme: state.theme }; show(); });
  at("save").addEventListener("click", () => plot.save());
  at("theme").addEventListener("click", () => {
    const now = state.theme || (dark.matches ? "dark" : "light");
    change({ theme: now === "dark" ? "light" : "dark" });
  });
  dark.addEventListener("change", show);
  window.addEventListener("hashchange", () => { state = view.read(); show(); });
  let width = innerWidth;
  window.addEventListener("resize", () => { if ((innerWidth < 720) !== (width < 720)) show(); width = innerWidth; });
  show();
})();
