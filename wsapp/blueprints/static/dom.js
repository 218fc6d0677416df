// Elements and times.  Text is only ever set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function button(text, onClick, className) {
  const made = element("button", text, className);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long", hourCycle: "h23" });

export const clock = (ms) => TIME.format(ms);

// A time of today is a time of day; another day is named.
function spelled(ms) {
  const now = new Date(), then = new Date(ms);
  return then.toDateString() === now.toDateString() ? TIME.format(then) : `${DATE.format(then)} ${TIME.format(then)}`;
}

export function timeOf(ms) {
  const made = element("time", spelled(ms));
  made.dateTime = new Date(ms).toISOString();
  made.title = FULL.format(ms);
  return made;
}

// A page that is open at midnight: what was today has a date now.
export function datesPassed() {
  for (const shown of document.querySelectorAll("time")) shown.textContent = spelled(Date.parse(shown.dateTime));
}

// What publishers give is anything; a time that is none is not shown as one.
export const validTime = (ms) => (Number.isFinite(ms) && Math.abs(ms) <= 8.64e15 ? ms : undefined);

// What steers a terminal means nothing here.
const ANSI = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\^_])/g;
export const withoutAnsi = (text) => (text.includes("\u001b") ? text.replace(ANSI, "") : text);

// --- long texts are folded

const LONG = 900, TALL = 12;

function isLong(text) {
  if (text.length > LONG) return true;
  let lines = 1;
  for (let at = text.indexOf("\n"); at >= 0 && lines <= TALL; at = text.indexOf("\n", at + 1)) lines += 1;
  return lines > TALL;
}

// `shown` holds the text; a button that unfolds it comes after it when there is much of it.
export function fold(shown, text) {
  const there = shown.nextElementSibling;
  const toggle = there && there.classList.contains("unfold") ? there : null;
  if (!isLong(text)) return;
  const say = (made) => {
    const open = shown.dataset.open === "yes";
    made.textContent = open ? "Show less" : `Show all ${text.length.toLocaleString("en")} characters`;
    made.setAttribute("aria-expanded", String(open));
    shown.classList.toggle("folded", !open);
  };
  const made = toggle || button("", () => {
    shown.dataset.open = shown.dataset.open === "yes" ? "no" : "yes";
    fold(shown, shown.textContent);
  }, "unfold");
  if (!toggle) shown.after(made);
  say(made);
}
