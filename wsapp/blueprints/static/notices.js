// Short messages over the page; they cover a corner for a few seconds and move nothing.

import { byId, element } from "./dom.js";

const MOST = 4;
const SHOWN_MS = 8000;

export function notice(text, kind) {
  const list = byId("notices");
  const same = [...list.children].find((item) => item.dataset.text === text);
  const item = same || element("li", text);
  const count = Number(item.dataset.count || 0) + 1;
  item.dataset.text = text;
  item.dataset.count = String(count);
  if (count > 1) item.textContent = `${text} (${count} times)`;
  if (kind) item.dataset.kind = kind;
  list.append(item);
  while (list.children.length > MOST) list.firstElementChild.remove();
  setTimeout(() => { if (item.dataset.count === String(count)) item.remove(); }, SHOWN_MS);
}
