"use strict";
// The rows of the page, and what is shown of them: one item a model, or one a row.
const board = (() => {
  const { rows, models, conditions, pages } = JSON.parse(document.getElementById("leaderboard").textContent);
  const columns = {};
  for (const [name, values] of Object.entries(rows.columns)) {
    columns[name] = Array.isArray(values) ? values : values.at.map((place) => values.of[place]);
  }
  const value = (place, name) => columns[name]?.[place] ?? null;
  const modelOf = new Map(models.flatMap((model) => model.entries.map((place) => [place, model])));

  const link = (place, words) => ({ words, address: pages[value(place, "result_file")] ?? null });
  const searched = (parts) => parts.filter((part) => part !== null && part !== undefined).join(" ").toLowerCase();

  function ofModel(model, number) {
    const places = model.entries;
    const seeds = places.map((place) => value(place, "seed"));
    const links = places.map((place, turn) => link(place, seeds[turn] === null ? "page" : `s${seeds[turn]}`));
    const of = (name) => [...new Set(places.map((place) => value(place, name)).filter((one) => one !== null))].join(" ");
    return {
      key: `m${number}`, places, links, model: model.model, method: model.method ?? value(places[0], "method"),
      teacher: model.teacher ?? value(places[0], "teacher"), source: model.kind, condition: model.condition,
      status: value(places[0], "status"), reason: null,
      data: model.data, protocol: model.protocol, metric: model.metric,
      figures: { ...model, seeds: model.seeds.length || null, seed: null, run: null, status: null, git_sha: null, torch_version: null,
                 paper: model.source ?? (of("paper") || null) },
      words: searched([model.model, model.method, model.teacher, model.student, model.variant, model.choices, model.device,
                       model.source, model.kind, model.data, model.protocol, of("run_id"), of("paper")]),
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
        point: figure("miou_point"), seeds: null, macs_scaled: figure("macs_full_scaled_by_bits"), choices: model?.choices,
        to_teacher: row.method === "teacher" ? null : far(score, model?.score, model?.to_teacher),
        point_to_teacher: row.method === "teacher" ? null : far(figure("miou_point"), model?.point, model?.point_to_teacher),
        source: undefined, run: figure("run_id"), images_seen: figure("images_seen") ?? model?.images_seen,
      },
      words: searched([row.model, row.method, row.teacher, row.student, row.variant, row.device, row.source, row.data,
                       row.protocol, row.run_id, row.paper, row.reason, row.status, row.git_sha]),
    };
  }

  const every = Array.from({ length: rows.count }, (_, place) => place);
  const unscored = every.filter((place) => !modelOf.has(place));
  let means = null, runs = null;
  return {
    conditions,
    models,
    value,
    // Made when they are first asked for: thousands of rows are not always looked at.
    items: (kind) => kind === "means"
      ? (means ??= [...models.map(ofModel), ...unscored.map(ofRow)])
      : (runs ??= every.map(ofRow)),
  };
})();
