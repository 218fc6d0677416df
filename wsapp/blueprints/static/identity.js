// Who looks: a token in this tab's memory, sent in `auth` and nowhere else.

import { byId } from "./dom.js";
import { notice } from "./notices.js";

const KEPT = "wsapp-token";
const HOW = "The server asks for tokens? Paste one; this tab alone keeps it. "
  + "A link may bring it: #token=…, which is taken out of the address at once.";

export class Identity {
  token = sessionStorage.getItem(KEPT) || "";

  // `link` has `connected`, `again()` and `request(name, payload)`.
  constructor(link) {
    this.link = link;
    byId("identity-open").addEventListener("click", () => {
      if (!byId("identity").hidden) return this.close();
      this.ask(HOW);
      byId("token").focus();
    });
    byId("identify").addEventListener("submit", (event) => {
      event.preventDefault();
      const given = byId("token").value.trim();
      if (given) this.use(given);
    });
    byId("forget").addEventListener("click", () => { this.#change(""); });
    this.#keep(this.token);
  }

  #keep(given) {
    this.token = given;
    if (given) sessionStorage.setItem(KEPT, given);
    else sessionStorage.removeItem(KEPT);
    byId("forget").hidden = !given;
    const open = byId("identity-open");
    open.textContent = given ? "token of " + holder(given) : "token";
    open.hidden = !given && open.dataset.wanted !== "yes";
  }

  ask(why, kind) {
    const open = byId("identity-open");
    open.dataset.wanted = "yes";
    open.hidden = false;
    open.setAttribute("aria-expanded", "true");
    byId("identity").hidden = false;
    byId("identity").dataset.kind = kind || "";
    byId("identity-why").textContent = why;
  }

  close() {
    byId("identity").hidden = true;
    byId("token").value = "";
    byId("identity-open").setAttribute("aria-expanded", "false");
  }

  #change(given) {
    this.#keep(given);
    this.close();
    this.link.again();
  }

  // A link may not make somebody else of this tab without being asked: what is done here would be done in that name.
  offered(given) {
    if (!given) notice("the token in the link cannot be read", "error");
    else if (!this.token) this.use(given);
    else if (given !== this.token) {
      this.ask(`A link brings a token of ${holder(given)}; this tab has one of ${holder(this.token)}. Use the link's?`);
      byId("token").value = given;
    }
  }

  async use(given) {
    if (!this.link.connected || !this.token) return this.#change(given);
    const answer = await this.link.request("refresh-token", given).catch(() => null);
    if (!answer) this.ask("no answer from the server; try again", "error");
    else if (answer.ok) {
      this.#keep(given);
      this.close();
      notice(`the new token holds for ${Math.round(answer.expiresInMs / 1000)} s`, "good");
    } else if (answer.error.code === "forbidden") this.#change(given); // somebody else's: a new session
    else this.ask(`refused: ${answer.error.message} (${answer.error.code})`, "error");
  }
}

// Only to be shown: what is in a token is judged by the server.
function holder(jwt) {
  try {
    const part = jwt.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return String(JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (char) => char.charCodeAt(0)))).sub);
  } catch {
    return "?";
  }
}
