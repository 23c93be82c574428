"use strict";
// Figures as people read them, by the names of the forms in columns.csv; the exact ones stand in each cell's title.
const format = (() => {
  const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const significant = (value, digits) => String(Number(value.toPrecision(digits)));
  const count = (value) => {
    const [size, unit] = units.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
    return significant(value / size, 4) + (unit && ` ${unit}`);
  };
  const whole = (value) => value.toLocaleString("en");
  return {
    count,
    share: (value) => value.toFixed(4),
    points: (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2),
    megabytes: (value) => (value / 1e6).toFixed(2),
    digits: (value) => (value < 1000 ? significant(value, 3) : value.toFixed(0)),
    seconds: (value) => (value < 100 ? `${value.toFixed(0)} s` : `${(value / 60).toFixed(1)} min`),
    whole,
    seeds: whole,
    text: String,
    // For places where a library takes text for HTML.
    escaped: (words) => String(words).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`),
  };
})();

// The rows of the page, and what is shown of them: one item a model, or one a row.
const board = (() => {
  const { rows, models, conditions, pages, columns: known, costs, fronts } = JSON.parse(document.getElementById("leaderboard").textContent);
  const columns = {};
  for (const [name, values] of Object.entries(rows.columns)) {
    columns[name] = Array.isArray(values) ? values : values.at.map((place) => values.of[place]);
  }
  const value = (place, name) => columns[name]?.[place] ?? null;
  const modelOf = new Map(models.flatMap((model) => model.rows.map((place) => [place, model])));

  const link = (place, words) => ({ words, address: pages[value(place, "result_file")] ?? null });
  const searched = (parts) => parts.filter((part) => part !== null && part !== undefined).join(" ").toLowerCase();

  function ofModel(model, number) {
    const places = model.rows;
    const seeds = places.map((place) => value(place, "seed"));
    const links = places.map((place, turn) => link(place, seeds[turn] === null ? "page" : `s${seeds[turn]}`));
    const of = (name) => [...new Set(places.map((place) => value(place, name)).filter((one) => one !== null))].join(" ");
    return {
      key: `m${number}`, places, links, model: model.model, method: model.method ?? value(places[0], "method"),
      teacher: model.teacher ?? value(places[0], "teacher"), source: model.source, condition: model.condition,
      status: value(places[0], "status"), reason: null,
      data: model.data, protocol: model.protocol, metric: model.metric,
      figures: { ...model, seeds: model.seeds.length || null, paper: model.paper ?? (of("paper") || null) },
      words: searched([model.model, model.method, model.teacher, model.student, model.variant, model.choices, model.device,
                       model.paper, model.source, model.data, model.protocol, of("run_id"), of("paper")]),
    };
  }

  function ofRow(place) {
    const model = modelOf.get(place);
    const row = Object.fromEntries(Object.keys(columns).map((name) => [name, value(place, name)]));
    const metric = row.ap !== null && row.ap !== undefined ? "ap" : "miou";
    const figure = (name) => row[name] ?? null;
    const score = figure(metric);
    const far = (own, mean, difference) =>
      own === null || mean === undefined || difference === undefined ? null : difference + 100 * (own - mean);
    return {
      key: `r${place}`, places: [place], links: [link(place, row.seed === null || row.seed === undefined ? "page" : `s${row.seed}`)],
      model: row.model, method: row.method, teacher: figure("teacher"), source: row.source, status: row.status,
      reason: figure("reason"), condition: model?.condition ?? null, data: figure("data"), protocol: figure("protocol"), metric,
      figures: {
        ...row, score, small: figure(`${metric}_small`), medium: figure(`${metric}_medium`), large: figure(`${metric}_large`),
        point: figure("miou_point"), seeds: null, choices: model?.choices,
        to_teacher: row.method === "teacher" ? null : far(score, model?.score, model?.to_teacher),
        point_to_teacher: row.method === "teacher" ? null : far(figure("miou_point"), model?.point, model?.point_to_teacher),
        images_seen: figure("images_seen") ?? model?.images_seen,
      },
      words: searched([row.model, row.method, row.teacher, row.student, row.variant, row.device, row.source, row.data,
                       row.protocol, row.run_id, row.paper, row.reason, row.status, row.git_sha]),
    };
  }

  const every = Array.from({ length: rows.count }, (_, place) => place);
  const unscored = every.filter((place) => !modelOf.has(place));
  let means = null, runs = null;
  return {
    conditions, models, costs, columns: known,
    // The keys of the items that are best for their cost, cheapest first: made in Python, as leaderboard.md's marks are.
    front: ({ rows: kind, condition, score, cost }, source) => fronts[[kind, condition, source, score, cost].join("|")] ?? [],
    // Made at their first use: thousands of rows are not always looked at.
    items: (kind) => kind === "means"
      ? (means ??= [...models.map(ofModel), ...unscored.map(ofRow)])
      : (runs ??= every.map(ofRow)),
  };
})();

// The columns of the table, from the one list in columns.csv: which are shown, and how.
const columns = (() => {
  const all = board.columns.map((column) => ({ ...column, form: format[column.form] }));
  const byId = Object.fromEntries(all.map((column) => [column.id, column]));
  const value = (item, column) => (column.id === "model" ? item.model : item.figures[column.id]) ?? null;

  // The columns to show for some items: those that say something of one.
  function chosen(items, state) {
    const counted = items.some((item) => (item.figures.macs_full ?? null) !== null);
    const mixed = { data: state.data === "", protocol: state.condition === "", macs_modules: !counted };
    return all.filter((column) => column.id === "model" || column.id === "score" ||
      ((column.usual || state.more || mixed[column.id]) && items.some((item) => value(item, column) !== null)));
  }
  function scoreTitle(items) {
    const metrics = new Set(items.filter((item) => item.condition !== null).map((item) => item.metric));
    const boxes = items.every((item) => item.condition === null || (item.protocol ?? "").startsWith("box_point@"));
    if (metrics.size === 2) return "mIoU or AP";
    return metrics.has("ap") ? "AP" : boxes ? "box mIoU" : "mIoU";
  }
  return { all, byId, value, chosen, scoreTitle };
})();
