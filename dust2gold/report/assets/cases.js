// Every question that was voted on: found by text, subject, level and by who is right, shown with all of its samples.

const PER_PAGE = 100;
const STATES = ["any", "right", "wrong", "tie"];
const state = (share) => (share === undefined ? "" : share === 1 ? "right" : share === 0 ? "wrong" : "tie");
const WEIGHTS = { sc: () => 1, ws: (sample) => Math.exp(sample[2]), asc: (sample) => sample[3] }; // of a sample's vote
const TOTALS = { sc: "votes", ws: "sum of probabilities (WS)", asc: "sum of scores (ASC)" };
const SIGNS = { right: "✓", wrong: "✗", tie: "½", "": "" };

const verdict = (share) => make("span", { class: state(share) }, SIGNS[state(share)]);

function casesTab() {
  const cases = DATA.cases, known = new Set(cases.flatMap((one) => Object.keys(one.correct)));
  const methods = unique(DATA.results.map((row) => row.method)).filter((method) => known.has(method));
  const wanted = { text: "", inSamples: false, dataset: "", subject: "", level: "", states: {} };
  const list = make("div"), detail = make("div", { class: "detail" }), count = make("p", { class: "count", "aria-live": "polite" });
  const text = cases.map((one) => `${one.id}\n${one.question}\n${one.gold}`.toLowerCase());
  let found = [], page = 0, opened = 0;

  function matches(one, place) {
    const asked = wanted.text.toLowerCase();
    return (
      ["dataset", "subject", "level"].every((field) => !wanted[field] || one[field] === wanted[field]) &&
      Object.entries(wanted.states).every(([method, one_of]) => state(one.correct[method]) === one_of) &&
      (!asked || text[place].includes(asked) || (wanted.inSamples && one.samples.some((sample) => sample[0].toLowerCase().includes(asked))))
    );
  }

  function update() {
    found = cases.map((_, place) => place).filter((place) => matches(cases[place], place));
    page = 0;
    show();
  }

  function show() {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE)), votes = Object.keys(WEIGHTS).filter((method) => method in cases[0].elected);
    const row = (place) => {
      const one = cases[place], marks = votes.map((method) => make("td", {}, verdict(one.correct[method])));
      const open = () => (location.hash = `#cases/${place}`);
      const cells = [one.id, one.subject, one.level, one.question.slice(0, 200)].map((cell) => make("td", { class: "clipped" }, cell));
      const current = place === opened && "true"; // the question beside
      return make("tr", { click: open, keydown: (event) => event.key === "Enter" && open(), tabindex: 0, "aria-current": current }, ...cells, ...marks);
    };
    const heading = ["id", "subject", "level", "question", ...votes].map((cell) => make("th", {}, cell));
    const turn = (by, name) => make("button", { click: () => ((page += by), show()), disabled: page + by < 0 || page + by >= pages }, name);
    const rows = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(row);
    count.replaceChildren(`${found.length.toLocaleString("en")} of ${cases.length.toLocaleString("en")} questions`);
    list.replaceChildren(
      make("table", { class: "questions" }, make("thead", {}, make("tr", {}, ...heading)), make("tbody", {}, ...rows)),
      make("div", { class: "pages" }, turn(-1, "previous"), `page ${page + 1} of ${pages}`, turn(1, "next")),
    );
  }

  const chips = methods.map((method) => {
    const turn = (event) => {
      const next = STATES[(STATES.indexOf(wanted.states[method] || "any") + 1) % STATES.length];
      if (next === "any") delete wanted.states[method];
      else wanted.states[method] = next;
      event.currentTarget.className = `chip ${next}`;
      event.currentTarget.textContent = next === "any" ? method : `${method} ${next}`;
      update();
    };
    return make("button", { class: "chip any", click: turn, "data-method": method }, method);
  });
  const search = (event) => ((wanted.text = event.target.value), update());
  const fields = ["dataset", "subject", "level"].map((field) => [field, unique(cases.map((one) => one[field])).sort()]);
  const choices = fields
    .filter(([, values]) => values.length > 1)
    .map(([field, values]) => choice(field, values, (value) => ((wanted[field] = value), update()), "all"));
  const deep = make("input", { type: "checkbox", change: (event) => ((wanted.inSamples = event.target.checked), update()) });
  const filters = make(
    "div",
    { class: "filters" },
    make("input", { type: "search", placeholder: "text of id, question, gold answer", "aria-label": "text", input: search }),
    make("label", {}, deep, "in samples too"),
    ...choices,
    make("div", { class: "chips" }, "Press a method to see where it is right, wrong, tied: ", ...chips),
  );
  update();
  const tab = make("div", {}, filters, count, make("div", { class: "split" }, list, detail));
  tab.opened = (place) => {
    if (!cases[place]) return;
    opened = place;
    detail.replaceChildren(...caseView(cases[place], methods));
    detail.scrollTop = 0;
    show();
    list.querySelector("[aria-current]")?.focus({ preventScroll: true });
    if (getComputedStyle(detail).position === "static") detail.scrollIntoView(); // a narrow screen: it is below the list
  };
  detail.replaceChildren(...caseView(cases[0], methods));
  return tab;
}

/** One question with its answers and samples. */
function caseView(one, methods) {
  const votes = Object.keys(WEIGHTS).filter((method) => method in one.elected);
  const answers = one.answers.map((answer, number) => {
    const own = one.samples.filter((sample) => sample[1] === number);
    const totals = votes.map((method) => own.reduce((sum, sample) => sum + WEIGHTS[method](sample), 0));
    const taken = Object.keys(one.elected).filter((method) => one.elected[method].includes(number));
    return { number, answer, totals, taken };
  });
  answers.sort((a, b) => b.totals[0] - a.totals[0]);
  const cells = ({ number, answer, totals, taken }) => [
    make("td", {}, answer, " ", verdict(Number(number === one.right))),
    ...totals.map((total, place) => make("td", { class: "number" }, place ? total.toFixed(3) : total)),
    make("td", {}, taken.join(", ")),
  ];
  const heading = ["answer", ...votes.map((method) => TOTALS[method]), "elected by"];
  const known = methods.filter((method) => method in one.correct);
  const outcomes = known.map((method) => make("span", { class: "known" }, method, " ", verdict(one.correct[method])));
  const samples = one.samples.map(([rationale, number, logprob, score], place) => {
    const about = [logprob === null ? "" : `probability per token ${Math.exp(logprob).toFixed(3)}`, score === null ? "" : `score ${score.toFixed(3)}`];
    const stated = number < 0 ? ["no answer"] : [one.answers[number], " ", verdict(Number(number === one.right))];
    return make("details", { open: "" }, make("summary", {}, `${place}: `, make("b", {}, ...stated), ...about.filter(Boolean).map((text) => ` · ${text}`)), make("div", { class: "text" }, rationale));
  });
  return [
    make("h2", {}, one.id),
    make("p", { class: "about" }, [one.dataset, one.subject, one.level].filter(Boolean).join(" · ")),
    make("div", { class: "text asked" }, one.question),
    make("p", {}, "Gold answer: ", make("b", { class: "gold" }, one.gold)),
    make("p", { class: "chips" }, ...outcomes),
    sortable(heading.map((cell, place) => make("th", { class: place && place < heading.length - 1 ? "number" : "words" }, cell)), answers.map((answer) => make("tr", {}, ...cells(answer)))),
    make("h3", {}, `${one.samples.length} samples`),
    ...samples,
  ];
}
