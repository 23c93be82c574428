"use strict";
// A colour and a shape for each method: either alone distinguishes them. What two methods trained has the first one's shape in the
// last one's colour. Quantised models have a dot in their method's own, and SAM 2 and its students a rim.
const marks = (() => {
  const known = {
    teacher: ["--c7", "star"], slimsam: ["--c0", "circle"], mobilesam: ["--c1", "square"], tinysam: ["--c2", "diamond"],
    scratch: ["--c3", "triangle-up"], ptq: ["--c4", "pentagon"],
  };
  const others = [["--c5", "triangle-down"], ["--c6", "cross"], ["--c0", "hexagram"], ["--c1", "hourglass"], ["--c2", "bowtie"]];
  const unnamed = ["--c6", "hexagon"];
  const shapes = {
    circle: "M6 1a5 5 0 1 0 .01 0z", square: "M1.5 1.5h9v9h-9z", diamond: "M6 0l6 6-6 6-6-6z", "triangle-up": "M6 1l6 10H0z",
    "triangle-down": "M6 11L0 1h12z", pentagon: "M6 0l6 4.6-2.3 7H2.3L0 4.6z", hexagon: "M6 0l5.4 3v6L6 12 .6 9V3z",
    star: "M6 0l1.6 4.2 4.4.2-3.4 2.8 1.1 4.4L6 9.2l-3.7 2.4 1.1-4.4L0 4.4l4.4-.2z", cross: "M4 0h4v4h4v4H8v4H4V8H0V4h4z",
  };
  const bases = [...new Set(board.items("runs").map((item) => (item.method ?? "").split("+")[0]))].sort();
  const unknown = bases.filter((name) => name && !(name in known) && !name.startsWith("filled_"));
  const of = (method) => {
    const [base, ...then] = (method ?? "").split("+");
    const [own, shape] = known[base] ?? (base ? others[unknown.indexOf(base) % others.length] : null) ?? unnamed;
    const last = then.findLast((name) => name !== "ptq");
    return { colour: known[last]?.[0] ?? own, shape, dot: then.includes("ptq") };
  };
  const family = (item) => /^sam[ _]?2/i.test(item.teacher ?? item.model ?? "") ? "SAM 2" : "SAM";
  const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const symbol = (item) => {
    const { shape, dot } = of(item.method);
    return shape + (item.source === "published" ? "-open" : "") + (dot ? "-dot" : "");
  };
  function swatch(item) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "swatch");
    svg.setAttribute("viewBox", "-1 -1 14 14");
    svg.setAttribute("aria-hidden", "true");
    if ((item.method ?? "").startsWith("filled_") || item.status === "failed") return svg;
    const { colour, shape, dot } = of(item.method);
    const draw = (path, style) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", "path");
      element.setAttribute("d", path);
      element.setAttribute("style", style);
      svg.append(element);
    };
    const hollow = item.source === "published";
    const rim = family(item) === "SAM 2" ? "--ink" : colour;
    draw(shapes[shape] ?? shapes.circle, `fill: ${hollow ? "none" : `var(${colour})`}; stroke: var(${rim}); stroke-width: 1.6`);
    if (dot) draw("M6 4.4a1.8 1.8 0 1 0 .01 0z", `fill: ${hollow ? `var(${colour})` : "var(--ground)"}`);
    return svg;
  }
  return { family, of, paint, symbol, swatch };
})();

// Score against cost, of one data set and protocol: a point for every item that has both figures.
const plot = (() => {
  const place = document.getElementById("plot");
  const about = document.getElementById("about");
  const costs = Object.fromEntries(board.costs.map((id) => [id, [columns.byId[id].label, columns.byId[id].form]]));
  const scores = { score: "score", point: columns.byId.point.title };

  // 1, 2 and 5 times powers of ten within a range, no more than fit.
  function ticks(least, most, room) {
    for (const steps of [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 5], [1]]) {
      const found = [];
      for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); power++) {
        found.push(...steps.map((step) => Number((step * 10 ** power).toPrecision(3))));
      }
      const inside = found.filter((one) => one >= least && one <= most);
      if (inside.length <= room) return inside;
    }
    return [];
  }

  function hover(item, state, title) {
    const [costTitle, form] = costs[state.cost];
    const spread = item.figures[`${state.score}_spread`];
    const value = item.figures[state.score];
    const lines = [`<b>${format.escaped(item.model)}</b>`,
      `${format.escaped(title)} ${format.share(value)}${spread === undefined || spread === null ? "" : ` ± ${format.share(spread)}`}`,
      `${form(item.figures[state.cost])} ${format.escaped(costTitle)}`];
    const seeds = item.places.length > 1 ? `${item.figures.seeds ?? item.places.length} seeds` : item.links[0].words.replace(/^s(?=\d)/, "seed ");
    lines.push(item.source === "published" ? `published: ${format.escaped(item.figures.paper ?? "")}` : seeds === "page" ? "" : seeds);
    return lines.filter(Boolean).join("<br>");
  }

  function traces(points, state, title, small) {
    const groups = new Map(), families = new Set(points.map(({ item }) => marks.family(item)));
    for (const point of points) {
      const of = families.size > 1 ? `, ${marks.family(point.item)}` : "";
      const name = `${point.item.method ?? "other"}${of}${point.item.source === "published" ? ", published" : ""}`;
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(point);
    }
    // Teachers lie below the others, and quantised models, which are smaller marks, above the ones they come from.
    const names = [...groups.keys()].sort((a, b) => a.includes(", pub") - b.includes(", pub") ||
      b.startsWith("teacher") - a.startsWith("teacher") || a.localeCompare(b));
    const size = (item) => (small ? 7 : item.method === "teacher" ? 16 : marks.of(item.method).dot ? 9 : 13);
    return names.map((name) => {
      const group = groups.get(name), item = group[0].item, colour = marks.paint(marks.of(item.method).colour);
      const spreads = group.map((point) => point.item.figures[`${state.score}_spread`] ?? null);
      return {
        type: "scatter", mode: "markers", name: format.escaped(name.replaceAll("_", " ")), x: group.map(({ x }) => x), y: group.map(({ y }) => y),
        customdata: group.map((point) => point.item.key), text: group.map((point) => hover(point.item, state, title)),
        hovertemplate: "%{text}<extra></extra>",
        marker: { symbol: marks.symbol(item), color: colour, size: size(item), opacity: small ? 0.75 : 1,
                  line: marks.family(item) === "SAM 2" ? { width: 2, color: marks.paint("--ink") }
                    : { width: item.source === "published" ? 1.8 : 1, color: item.source === "published" ? colour : marks.paint("--ground") } },
        error_y: { type: "data", array: spreads, visible: spreads.some((one) => one !== null), thickness: 1.3, width: 4, color: colour },
      };
    });
  }

  function frontLine(points, state, source, width) {
    const shown = new Map(points.map((point) => [point.item.key, point]));
    const best = board.front(state, source).map((key) => shown.get(key)).filter(Boolean);
    if (best.length < 2) return [];
    const measured = source === "measured";
    // A name stands left above its point, where no other can be, or right of the first one; it is left out where the last one reaches.
    let until = -Infinity;
    const names = best.map(({ x, item }) => {
      const words = item.model.length > 26 ? `${item.model.slice(0, 25)}…` : item.model;
      // A teacher has its line across.
      if (item.method === "teacher" && measured) return { words: "", place: "top left" };
      const size = 6.4 * words.length, right = width(x) - size < 0, [begin, end] = right ? [width(x), width(x) + size] : [width(x) - size, width(x)];
      if (begin < until) return { words: "", place: "top left" };
      until = end;
      return { words: right ? `\u00a0\u00a0${format.escaped(words)}` : `${format.escaped(words)}\u00a0\u00a0`, place: right ? "top right" : "top left" };
    });
    return [{
      type: "scatter", mode: "lines+text", name: `best for its cost${measured ? "" : ", published"}`, x: best.map(({ x }) => x), y: best.map(({ y }) => y),
      text: names.map(({ words }) => words), textposition: names.map(({ place }) => place), textfont: { size: 11, color: marks.paint("--quiet") }, hoverinfo: "skip", cliponaxis: false,
      line: { color: marks.paint("--quiet"), width: 1.5, dash: measured ? "solid" : "dot", shape: "hv" },
    }];
  }

  // Models without a cost of their own, and the teachers: lines across.
  function references(items, state) {
    const kinds = { teacher: "dash", filled_box: "dot", filled_ellipse: "dot" };
    const found = new Map();
    for (const item of items) {
      const value = item.figures[state.score] ?? null;
      if (item.source === "measured" && item.method in kinds && value !== null && !found.has(item.model)) found.set(item.model, { item, value, dash: kinds[item.method] });
    }
    return [...found.values()].slice(0, 6);
  }

  return {
    costs, scores,
    save: () => Plotly.downloadImage(place, { format: "svg", filename: "leaderboard", width: 1100, height: 600 }),
    show(items, state, clicked) {
      const inside = items.filter((item) => item.condition !== null && item.condition === state.condition);
      const points = inside.map((item) => ({ item, x: item.figures[state.cost] || null, y: item.figures[state.score] ?? null }))
        .filter(({ x, y }) => x !== null && y !== null && x > 0);
      const left = inside.length - points.length;
      place.hidden = points.length === 0;
      about.textContent = state.condition === ""
        ? "Choose a data set and a protocol for a plot: figures under different protocols do not compare."
        : points.length === 0 ? "No row here has both figures." :
          `${format.whole(points.length)} ${state.rows === "means" ? "models" : "rows"} with both figures${left ? `; ${format.whole(left)} without` : ""}. ` +
          "Bars: standard deviation over seeds. The line joins the models that no cheaper one beats, measured and published each by themselves. " +
          "A click on a point goes to its row.";
      if (points.length === 0) { Plotly.purge(place); return; }
      const narrow = place.clientWidth < 640, title = state.score === "score" ? columns.scoreTitle(inside) : scores[state.score];
      const [costTitle, form] = costs[state.cost];
      const lines = references(inside, state);
      const xs = points.map(({ x }) => x), pad = 1.12;
      const widest = [Math.min(...xs), Math.max(...xs)];
      const space = Math.max(0.08 * Math.log10(widest[1] / widest[0]), Math.log10(pad));
      const range = [Math.log10(widest[0]) - space, Math.log10(widest[1]) + space];
      const heights = [...points.flatMap(({ item, y }) => [y - (item.figures[`${state.score}_spread`] ?? 0), y + (item.figures[`${state.score}_spread`] ?? 0)]),
                       ...lines.map(({ value }) => value)];
      const [low, high] = [Math.min(...heights), Math.max(...heights)], above = Math.max(0.09 * (high - low), 0.005);
      // The words of a line stand at its other end, and below it, where another line runs through the place above.
      const close = 0.06 * (high - low + 2.4 * above);
      const crowded = (value) => lines.some((other) => other.value > value && other.value - value < close);
      const end = (value) => (crowded(value) ? { x: 0.996, xanchor: "right", yanchor: "top" } : { x: 0.004, xanchor: "left", yanchor: "bottom" });
      const across = Math.max(place.clientWidth - (narrow ? 60 : 260), 200);
      const onScreen = (x) => across * (Math.log10(x) - range[0]) / (range[1] - range[0]);
      const small = points.length > 400;
      const marked = ticks(10 ** range[0], 10 ** range[1], narrow ? 6 : 11);
      const [ink, quiet, line, ground] = ["--ink", "--quiet", "--line", "--ground"].map(marks.paint);
      const drawn = [...["measured", "published"].flatMap((source) => frontLine(points, state, source, onScreen)), ...traces(points, state, title, small)];
      Plotly.react(place, drawn, {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: narrow ? false : "zoom",
        font: { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily },
        margin: { l: 58, r: narrow ? 8 : 16, t: 14, b: 52 },
        xaxis: { type: "log", range, title: { text: costTitle, standoff: 10 }, tickvals: marked, ticktext: marked.map(form), gridcolor: line, zeroline: false, linecolor: line },
        yaxis: { range: [Math.max(0, low - above), Math.min(1, high + 1.4 * above)], title: { text: title, standoff: 8 }, gridcolor: line, zeroline: false, linecolor: line, tickformat: ".3~f" },
        legend: narrow ? { orientation: "h", y: -0.2, yanchor: "top", x: 0, font: { size: 11 } } : { x: 1.01, y: 1, font: { size: 12 } },
        hoverlabel: { bgcolor: ground, bordercolor: quiet, font: { color: ink, size: 13 }, align: "left" },
        shapes: lines.map(({ value, dash }) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, layer: "below", line: { color: quiet, width: 1.2, dash } })),
        annotations: lines.map(({ item, value }) => ({ xref: "paper", y: value, ...end(value), showarrow: false,
          text: `${format.escaped(item.model)} ${format.share(value)}`, font: { size: 11, color: quiet } })),
      }, { responsive: true, displaylogo: false, displayModeBar: false });
      place.removeAllListeners?.("plotly_click");
      place.on("plotly_click", ({ points: [point] }) => point?.customdata && clicked(point.customdata));
    },
  };
})();
