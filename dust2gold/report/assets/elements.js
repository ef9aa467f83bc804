"use strict";
// Elements, text of others, and the tip that follows the pointer.

const DATA = JSON.parse(document.getElementById("data").textContent);
const BLUE = "#0072b2", ORANGE = "#d55e00", GREEN = "#009e73", GREY = "#777777"; // of Okabe and Ito (2008)
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** Text with what draws nothing (controls, direction) spelled out. */
function seen(text) {
  return String(text).replace(UNSEEN, (char) => "\\u" + char.charCodeAt(0).toString(16).padStart(4, "0"));
}

/** Fills an element: text only ever goes in as text, listeners as functions. */
function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (child instanceof Node ? child : seen(child))));
  return element;
}

function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** A choice among values, or of `all`. */
function choice(label, values, changed, all = null) {
  const options = values.map((value) => make("option", { value }, value));
  if (all) options.unshift(make("option", { value: "" }, all));
  return make("label", {}, label, make("select", { change: (event) => changed(event.target.value) }, ...options));
}

const percent = (share) => (100 * share).toFixed(2);
const unique = (values) => [...new Set(values)].filter(Boolean);

function showTip(event) {
  const tip = document.getElementById("tip"), about = event.target.closest("[data-tip]");
  tip.hidden = !about;
  if (!about) return;
  tip.textContent = seen(about.dataset.tip);
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}
document.addEventListener("pointermove", showTip);
document.addEventListener("scroll", () => (document.getElementById("tip").hidden = true), true);
