// Rationales whose tokens are coloured by NAT's gate, or by NCE's β.

const TOKENS = {
  gate: {
    name: "α_neg",
    low: "subtracts what M_neg knows",
    high: "adds it",
    note: "Answers of NAT. A token's colour is its α_neg, the mean over the layers as the token is read: below 0 (blue) the frozen negative half is subtracted, above 0 (orange) it is added. It lies between −0.5 and 0.5; the strongest colour is the largest size on this page.",
  },
  beta: {
    name: "β",
    low: "M_neg and NAT agree",
    high: "they differ",
    note: "Rationales that NCE is trained on. A token's colour is tanh of KL(P_neg ‖ P_NAT) where it is predicted; β of the rationale is tanh of the mean over its tokens: the larger, the more its distillation weighs. The strongest colour is the largest value on this page.",
  },
};

function tokensTab(kind) {
  const { name, low, high, note } = TOKENS[kind], all = DATA.tokens.filter((row) => row.kind === kind), list = make("div");
  const methods = unique(all.map((row) => row.method));
  function show(method) {
    const rows = all.filter((row) => row.method === method);
    const most = Math.max(1e-6, ...rows.map((row) => Math.max(...row.values.map(Math.abs))));
    const ends = [kind === "gate" ? -most : 0, most].map((end) => end.toFixed(3));
    const legend = make("p", {}, `${name}: ${ends[0]}, ${low} `, make("span", { class: `scale ${kind}` }), ` ${ends[1]}, ${high}`);
    list.replaceChildren(legend, ...rows.map((row) => rationale(row, name, most)));
  }
  show(methods[0]);
  const chosen = methods.length > 1 ? [choice("method", methods, show)] : [];
  return make("div", { class: "tokens" }, make("p", {}, note), ...chosen, list);
}

function rationale(row, name, most) {
  const spans = row.tokens.map((token, place) => {
    const value = row.values[place], span = make("span", { "data-tip": `${name} = ${value.toFixed(4)} at ${JSON.stringify(token)}, token ${place + 1}` }, token);
    const strength = (0.75 * Math.abs(value)) / most;
    span.style.backgroundColor = value < 0 ? `rgba(0, 114, 178, ${strength})` : `rgba(213, 94, 0, ${strength})`;
    return span;
  });
  const mean = row.values.reduce((sum, value) => sum + value, 0) / Math.max(1, row.values.length);
  const whole = row.beta === null ? `mean ${name} ${mean.toFixed(3)}, gold answer ${row.gold}` : `β = ${row.beta.toFixed(3)}`;
  const right = row.correct === null ? [] : [verdict(row.correct)];
  return make("article", { class: "card" }, make("h3", {}, row.id, " ", ...right, make("small", {}, whole)), make("div", { class: "text asked" }, row.question), make("div", { class: "text" }, ...spans));
}
