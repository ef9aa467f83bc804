// The page's tabs: each is made when it is first looked at. `#cases/17` is a question.

const TABS = [["report", "Report", reportTab]];
if (DATA.cases.length) TABS.push(["cases", "Cases", casesTab]);
if (DATA.tokens.some((row) => row.kind === "gate")) TABS.push(["gate", "NAT's gate, token by token", () => tokensTab("gate")]);
if (DATA.tokens.some((row) => row.kind === "beta")) TABS.push(["beta", "NCE's β, token by token", () => tokensTab("beta")]);
const made = {};

function show() {
  const [asked, place] = location.hash.slice(1).split("/");
  const [name, , tab] = TABS.find((each) => each[0] === asked) || TABS[0];
  const turned = !made[name] || made[name].hidden;
  if (!made[name]) document.getElementById("main").append((made[name] = tab()));
  for (const [each, element] of Object.entries(made)) element.hidden = each !== name;
  if (turned) scrollTo(0, 0);
  for (const link of document.querySelectorAll("#tabs a")) link.toggleAttribute("aria-current", link.hash === `#${name}`);
  if (place !== undefined && made[name].opened) made[name].opened(Number(place));
}

document.getElementById("tabs").append(...TABS.map(([name, title]) => make("a", { href: `#${name}` }, title)));
document.getElementById("main").replaceChildren();
addEventListener("hashchange", show);
show();
