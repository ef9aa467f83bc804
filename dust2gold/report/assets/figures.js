// The report's figures, drawn from results.json and analyses.json; each mark says its numbers under the pointer.

const WIDTH = 760, MARGIN = { top: 12, right: 24, bottom: 46 };
const VOTES = { sc: BLUE, ws: GREEN, asc: ORANGE };

const rowsOf = (name, dataset) => (DATA.analyses[name] || []).filter((row) => row.dataset === dataset);

/** By the name of a figure, what it shows of a data set. */
const FIGURES = {
  accuracy(dataset) {
    const rows = DATA.results.filter((row) => row.dataset === dataset && row.subject === "all");
    return intervals(rows.map((row) => [row.method, row.accuracy, row.ci_low, row.ci_high, `${row.n} questions`]));
  },
  seeds(dataset) {
    const rows = rowsOf("seeds", dataset).filter((row) => row.subject === "all");
    return intervals(rows.map(({ method, accuracy: a }) => [method, a.mean, a.low, a.high, `${a.seeds} seeds, least to greatest`]));
  },
  "over-n"(dataset) {
    const rows = rowsOf("accuracy over n", dataset);
    const series = Object.keys(rows[0].accuracy).map((method) => ({
      name: method,
      colour: VOTES[method],
      line: true,
      points: rows.map(({ n, accuracy }) => ({ x: n, y: 100 * accuracy[method], tip: `${method}, n = ${n}: ${percent(accuracy[method])}%` })),
    }));
    return chart({ x: "samples per question, n", y: "expected accuracy in %", series, height: 360 });
  },
  ranking(dataset) {
    const rows = rowsOf("ranking", dataset).filter((row) => row.subject !== "all" && row.pairs);
    const tip = (row) => `${row.subject}: ${percent(row.pair_accuracy)}% of ${row.pairs} pairs ordered right, gain ${row.gain.toFixed(2)} points`;
    const points = rows.map((row) => ({ x: 100 * row.pair_accuracy, y: row.gain, tip: tip(row) }));
    const x = "pairs of a right and a wrong sample that M_rank orders right, in % (50 is chance)";
    return chart({ x, y: "gain of ASC over SC, in points", series: [{ name: "a subject", colour: BLUE, points }], height: 360 });
  },
  negatives(dataset) {
    const labels = { nat: "graded by text", "nat-no-negatives": "CoT KD's LoRA instead of M_neg", "nat-semantic": "graded by value" };
    const series = Object.values(labels).map((name, place) => ({ name, colour: [BLUE, GREY, ORANGE][place], line: true, points: [] }));
    for (const row of rowsOf("negatives", dataset)) {
      const name = labels[row.method] || labels.nat, [y, low, high] = [row.accuracy, row.ci_low, row.ci_high].map((share) => 100 * share);
      const tip = `${row.method}: ${y.toFixed(2)}%, 95% interval ${low.toFixed(2)} to ${high.toFixed(2)}`;
      series.find((one) => one.name === name).points.push({ x: row.share, y, low, high, tip });
    }
    return chart({ x: "share of D_neg in %", y: "accuracy in %, 95% interval", series: series.filter((one) => one.points.length), height: 340 });
  },
};

/** The figure of a file: drawn, or the picture beside the page where there is no drawing of its kind. */
function drawn(file, caption) {
  const [kind, dataset] = DATA.figures[file] || [];
  const picture = FIGURES[kind] ? FIGURES[kind](dataset) : make("img", { src: file, alt: "" });
  return make("figure", {}, picture, make("figcaption", {}, ...caption));
}

/** A row per name: [name, share, low end, high end, more for the tip]. */
function intervals(rows) {
  const points = rows.map(([name, share, low, high, more], place) => ({
    x: 100 * share, y: place, low: 100 * low, high: 100 * high,
    tip: `${name}: ${percent(share)}% (${percent(low)} to ${percent(high)}), ${more}`,
  }));
  const baseline = rows.findIndex((row) => row[0] === "cot-kd");
  const series = [
    { name: "method", colour: BLUE, points: points.filter((_, place) => place !== baseline) },
    { name: "baseline cot-kd", colour: ORANGE, points: points.filter((_, place) => place === baseline) },
  ];
  return chart({ x: "accuracy in %", names: rows.map((row) => row[0]), series, height: 80 + 24 * rows.length });
}

/** An axis that holds all of the values: its ends, and where its ticks stand. */
function axis(values) {
  const room = 0.04 * (Math.max(...values) - Math.min(...values)) || 0.5;
  const low = Math.min(...values) - room, high = Math.max(...values) + room;
  const rough = (high - low) / 7, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough), first = Math.ceil(low / step);
  const ticks = Array.from({ length: Math.floor(high / step) - first + 1 }, (_, k) => Number(((first + k) * step).toFixed(10)));
  return { low, high, ticks };
}

/** Points, joined by lines or not; ends (`low`, `high`) lie along y, or along x where rows have names. */
function chart({ x, y = "", names = null, series, height }) {
  const points = series.flatMap((one) => one.points), ends = points.flatMap((p) => [p.low, p.high]).filter((end) => end !== undefined);
  const across = axis([...points.map((p) => p.x), ...(names ? ends : [])]);
  const up = names ? { low: -0.5, high: names.length - 0.5, ticks: [...names.keys()] } : axis([...points.map((p) => p.y), ...ends]);
  const left = names ? 20 + 7 * Math.max(...names.map((name) => Math.min(name.length, 28))) : 64;
  const bottom = height - MARGIN.bottom, share = (value, { low, high }) => (value - low) / (high - low);
  const toX = (value) => left + share(value, across) * (WIDTH - MARGIN.right - left);
  const toY = (value) => MARGIN.top + (names ? share(value, up) : 1 - share(value, up)) * (bottom - MARGIN.top);
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img" });
  for (const tick of across.ticks) {
    svg.append(draw("line", { x1: toX(tick), x2: toX(tick), y1: MARGIN.top, y2: bottom, class: "grid" }));
    svg.append(draw("text", { x: toX(tick), y: bottom + 18, "text-anchor": "middle" }, tick));
  }
  for (const tick of up.ticks) {
    const label = names ? (names[tick].length > 28 ? names[tick].slice(0, 27) + "…" : names[tick]) : tick;
    svg.append(draw("line", { x1: left, x2: WIDTH - MARGIN.right, y1: toY(tick), y2: toY(tick), class: "grid" }));
    svg.append(draw("text", { x: left - 8, y: toY(tick) + 4, "text-anchor": "end" }, label));
  }
  svg.append(draw("text", { x: (left + WIDTH - MARGIN.right) / 2, y: height - 8, "text-anchor": "middle" }, x));
  svg.append(draw("text", { transform: `translate(14 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y));
  for (const { colour, line, points: own } of series) {
    const places = own.map((p) => `${toX(p.x)},${toY(p.y)}`);
    if (line) svg.append(draw("polyline", { points: places.join(" "), fill: "none", stroke: colour, "stroke-width": 2 }));
    for (const p of own) {
      const mark = draw("g", { "data-tip": p.tip, class: "mark" });
      const [x1, x2] = names ? [toX(p.low), toX(p.high)] : [toX(p.x), toX(p.x)];
      const [y1, y2] = names || p.low === undefined ? [toY(p.y), toY(p.y)] : [toY(p.low), toY(p.high)];
      mark.append(draw("line", { x1, x2, y1, y2, stroke: colour, "stroke-width": 2 }));
      mark.append(draw("line", { x1, x2, y1, y2, stroke: "transparent", "stroke-width": 18, "stroke-linecap": "round" }));
      mark.append(draw("circle", { cx: toX(p.x), cy: toY(p.y), r: 4.5, fill: colour }));
      svg.append(mark);
    }
  }
  const keys = series.map((one) => draw("svg", { class: "key", viewBox: "0 0 10 10" }, draw("circle", { cx: 5, cy: 5, r: 5, fill: one.colour })));
  const legend = series.filter((one) => one.points.length).map((one) => make("span", {}, keys[series.indexOf(one)], one.name));
  return make("div", {}, svg, make("div", { class: "legend" }, ...(legend.length > 1 ? legend : [])));
}
