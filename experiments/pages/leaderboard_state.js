"use strict";
// What is chosen, kept in the address after the # so that a link keeps the view.
const view = (() => {
  const group = (condition) => board.models.filter((model) => model.condition === condition);
  const variety = (condition) => new Set(group(condition).filter(({ kind }) => kind === "measured").map(({ method }) => method)).size;
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
      (state.data === "" || item.data === null || item.data === state.data) &&
      (state.condition === "" || item.condition === null || item.condition === state.condition) &&
      (state.method === "" || item.method === state.method) && (state.teacher === "" || item.teacher === state.teacher) &&
      (state.source === "" || (state.source === "failed" ? item.status === "failed" : item.source === state.source)) &&
      words.every((word) => item.words.includes(word)));
  }
  return { usual, read, write, chosen, label };
})();
