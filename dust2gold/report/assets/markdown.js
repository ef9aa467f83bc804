// report.md, in the Markdown that dust2gold writes: its tables sortable, its figures drawn from the numbers.

const INLINE = /\\(.)|\*\*(.+?)\*\*|`([^`]+)`|\[([^\]]+)\]\(([\w./-]+)\)/g;
const LAST_ROWS = new Set(["all", "questions", "total"]); // sums, which stay at the end of a sorted table

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, escaped, bold, code, link, path] = found;
    nodes.push(text.slice(end, found.index));
    if (escaped) nodes.push(escaped);
    else if (bold) nodes.push(make("b", {}, ...inline(bold)));
    else if (code) nodes.push(make("code", {}, code));
    else nodes.push(make("a", { href: "../" + path.replace(/report\.md$/, "report/index.html") }, ...inline(link)));
    end = found.index + whole.length;
  }
  return [...nodes, text.slice(end)];
}

/** The blocks of Markdown that blank lines part. */
function* blocks(markdown) {
  for (const block of markdown.split(/\n{2,}/)) {
    const lines = block.split("\n").filter((line) => !line.startsWith("<!--")), first = lines[0];
    if (first === undefined) continue;
    const heading = /^(#+) (.*)/.exec(first), figure = /^!\[(.*)\]\(report\/(.*)\)$/.exec(first);
    if (heading) yield make(`h${heading[1].length}`, {}, ...inline(heading[2]));
    else if (figure) yield drawn(figure[2], inline(figure[1]));
    else if (first.startsWith("| ")) yield table(lines);
    else if (first.startsWith("- ")) yield list(lines);
    else yield make("p", {}, ...inline(lines.join(" ")));
  }
}

/** A list, whose items may go on over several lines. */
function list(lines) {
  const items = lines.join("\n").slice(2).split("\n- ");
  return make("ul", {}, ...items.map((item) => make("li", {}, ...inline(item.replaceAll("\n", " ")))));
}

function table(lines) {
  const [heading, rule, ...body] = lines.map((line) => line.slice(2, -2).split(" | ").map((cell) => cell.trim()));
  const kind = rule.map((dashes) => (dashes.endsWith(":") ? "number" : "words"));
  const row = (cells) => make("tr", {}, ...cells.map((cell, place) => make("td", { class: kind[place] }, ...inline(cell))));
  return sortable(heading.map((cell, place) => make("th", { class: kind[place] }, ...inline(cell))), body.map(row));
}

/** A table whose headings sort it: by number where all cells begin with one, otherwise by text. */
function sortable(heading, rows) {
  const body = make("tbody", {}, ...rows);
  heading.forEach((cell, column) => {
    const sort = () => {
      const rising = cell.getAttribute("aria-sort") === "descending";
      heading.forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", rising ? "ascending" : "descending");
      body.append(...sorted(rows, column, rising));
    };
    cell.setAttribute("tabindex", 0);
    cell.addEventListener("click", sort);
    cell.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
  return make("div", { class: "wide" }, make("table", { class: "sortable" }, make("thead", {}, make("tr", {}, ...heading)), body));
}

function sorted(rows, column, rising) {
  const text = (row) => row.cells[column].textContent.trim();
  const number = (row) => parseFloat(text(row).replace(/[,<+]/g, ""));
  const missing = (row) => ["-", ""].includes(text(row));
  const last = (row) => LAST_ROWS.has(row.cells[0].textContent.trim()) * 2 + missing(row);
  const numeric = rows.every((row) => last(row) || !Number.isNaN(number(row)));
  const compare = numeric ? (a, b) => number(a) - number(b) : (a, b) => text(a).localeCompare(text(b));
  return [...rows].sort((a, b) => last(a) - last(b) || (last(a) ? 0 : (rising ? 1 : -1) * compare(a, b)));
}

function reportTab() {
  const text = make("article", {}, ...blocks(DATA.report));
  const contents = [...text.querySelectorAll("h2")].map((heading) => {
    const go = (event) => (event.preventDefault(), heading.scrollIntoView());
    return make("li", {}, make("a", { href: "#report", click: go }, heading.textContent));
  });
  return make("div", { class: "beside" }, make("aside", {}, make("ul", {}, ...contents)), text);
}
